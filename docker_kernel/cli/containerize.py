"""containerize, inspect: notebooks as images that run anywhere."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker_kernel.cli.base import Subparsers, command, print_table, printable, with_engine
from docker_kernel.errors import ContainerizeError

if TYPE_CHECKING:
    from docker_kernel.containerize.plan import Plan
    from docker_kernel.containerize.request import Progress, Request, Step
    from docker_kernel.guest.parameters import Parameter

SHOWN = 12
"""Rows of a list that are printed before the rest is counted."""


def add(commands: Subparsers) -> None:
    make = command(commands, "containerize", _containerize, "make a notebook an image that runs anywhere")
    make.add_argument("notebook", type=Path, metavar="NOTEBOOK")
    make.add_argument("-t", "--tag", default="", metavar="NAME[:TAG]", help="what to call the image")
    make.add_argument("--push", action="store_true", help="push it when it is made")
    make.add_argument("--registry", default="", help="where to: one of the config's [registries], or HOST[/PREFIX]")
    which = make.add_mutually_exclusive_group()
    which.add_argument("--kernel", default="", metavar="NAME", help="the kernelspec to take the environment of")
    which.add_argument(
        "--from-kernel", default="", metavar="ID", help="a running kernel: what was installed in it, too"
    )
    which.add_argument("--lock", default="", metavar="FILE|IMAGE", help="build an earlier image's environment anew")
    make.add_argument("-p", "--param", action="append", default=[], metavar="K=V", help="another default for K")
    make.add_argument("--include", action="append", default=[], metavar="PATTERN", help="files that go in after all")
    make.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="files that stay out")
    make.add_argument("--keep-outputs", action="store_true", help="keep the notebook's present outputs")
    make.add_argument("--allow", action="append", default=[], metavar="ID|PATH", help="a finding that is no secret")
    make.add_argument("--output", type=Path, metavar="DIR", help="also write image.tar, lock and parameters there")
    make.add_argument("--dockerfile", action="store_true", help="write what `docker build` needs, and build nothing")
    make.add_argument("--dry-run", action="store_true", help="show what would go in, and build nothing")

    inspect = command(commands, "inspect", _inspect, "show what an image of a notebook is, and its parameters")
    inspect.add_argument("image", metavar="IMAGE")
    inspect.add_argument("--json", action="store_true", help="for programs")


def _containerize(arguments: argparse.Namespace) -> int:
    from docker_kernel.containerize import export, image, plan

    # Ended as by Ctrl-C: what was begun is taken down.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    request = _request(arguments)
    if arguments.dry_run:
        _print_plan(with_engine(lambda engine: plan.plan(request, engine)))
        return 0
    with _progress() as progress:
        if arguments.dockerfile:
            folder = arguments.output or Path(f"{request.notebook.stem}-image")
            with_engine(lambda engine: export.write_context(engine, request, folder, progress))
            print(f"Wrote {folder}: build it with `docker build -t NAME {folder}`.")
            return 0
        made = with_engine(lambda engine: image.containerize(request, progress, engine))
        if arguments.output:
            with_engine(lambda engine: export.save(engine, made, arguments.output, progress))
    _print_plan(made.plan)
    print(f"\nMade {made.reference} ({made.image_id[7:19]})" + (f", pushed as {made.pushed}" if made.pushed else ""))
    print(f"Run it:  {made.command}\n    or:  docker-kernel run {made.reference}")
    return 0


def _request(arguments: argparse.Namespace) -> Request:
    from docker_kernel.containerize import plan
    from docker_kernel.containerize.request import Request
    from docker_kernel.guest import parameters

    changed = None
    if arguments.param:
        found = parameters.find(plan.read_notebook(arguments.notebook)).parameters
        changed = _with_defaults(found, arguments.param)
    return Request(
        notebook=arguments.notebook,
        tag=arguments.tag,
        kernel=arguments.kernel,
        from_kernel=arguments.from_kernel,
        parameters=changed,
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        allow=tuple(arguments.allow),
        keep_outputs=arguments.keep_outputs,
        registry=arguments.registry,
        push=arguments.push,
        lock=_lock(arguments.lock) if arguments.lock else "",
    )


def _lock(where: str) -> str:
    """A lock's text, from its file or a notebook image."""
    from docker_kernel.containerize.inspect import lock_of

    if not Path(where).is_file():
        return with_engine(lambda engine: lock_of(engine, where))
    try:
        return Path(where).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ContainerizeError(f"The lock {where} cannot be read: {error}.") from None


def _with_defaults(found: tuple[Parameter, ...], given: list[str]) -> tuple[Parameter, ...]:
    """The parameters, with other defaults for some."""
    from docker_kernel.guest import parameters

    pairs = dict(text.partition("=")[::2] for text in given if "=" in text)
    if len(pairs) != len(given):
        raise ContainerizeError("--param is given as NAME=VALUE, and each name once.")
    optional = tuple(dataclasses.replace(one, required=False) for one in found)
    try:
        values = parameters.check(optional, {name: parameters.Text(text) for name, text in pairs.items()})
    except parameters.ParameterError as error:
        raise ContainerizeError(str(error)) from None
    return tuple(
        dataclasses.replace(one, default=parameters.as_json(values[one.name]), required=False, default_source="")
        if one.name in pairs
        else one
        for one in found
    )


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows steps as they begin; what changes within one is shown on a terminal only."""
    from docker_kernel.cli.base import progress_display
    from docker_kernel.images import Event

    with progress_display() as show:
        last = ""

        def on_step(step: Step) -> None:
            nonlocal last
            begins, last = step.name != last, step.name
            show(Event(step.text, detail=not begins))

        yield on_step


def _print_plan(plan: Plan) -> None:
    from docker_kernel.config import format_size

    print(f"{plan.path} on {plan.environment.reference} ({plan.environment.image[7:19]}), {format_size(plan.size)}")
    if plan.parameters:
        rows = [
            (one.name, one.type, "required" if one.required else json.dumps(one.default), one.help)
            for one in plan.parameters
        ]
        print_table(["parameter", "type", "default", "help"], rows)
    for note in plan.notes:
        print(printable(f"Note: {note}"))
    print(f"Files: {_listed([f'{name} ({format_size(size)})' for name, size in plan.files])}")
    if plan.left_out:
        print(f"Left out: {_listed([f'{name} ({reason})' for name, reason in plan.left_out])}")
    for one in plan.findings:
        print(printable(f"May be a secret: {one.where}: {one.rule}. {one.hint} (--allow {one.id})"))


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return printable(", ".join(parts[:SHOWN]) + more)


def _inspect(arguments: argparse.Namespace) -> int:
    from docker_kernel.config import format_size
    from docker_kernel.containerize.inspect import describe

    found = with_engine(lambda engine: describe(engine, arguments.image))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    rows: list[tuple[str, Any]] = [
        ("notebook", found.notebook),
        ("digest", found.notebook_digest),
        ("kernel", " ".join(filter(None, (found.kernel.get("name"), found.kernel.get("language"))))),
        ("base", " ".join(filter(None, (found.base, found.base_digest)))),
        ("commit", " ".join(filter(None, (found.revision, found.source)))),
        ("made", f"{found.created} by {found.built_by}"),
        ("image", " ".join(filter(None, (found.image_id, found.digest)))),
        ("size", f"{format_size(found.size)}, {found.architecture}, runs as {found.user}"),
        ("lock", found.lock),
    ]
    print_table(["", "of the image"], rows, box=False)
    properties: dict[str, Any] = found.schema.get("properties") or {}
    required = set(found.schema.get("required") or ())
    if properties:
        print_table(
            ["parameter", "type", "default", "help"],
            [
                (
                    name,
                    _type(one),
                    "required" if name in required else json.dumps(one.get("default")),
                    one.get("description", ""),
                )
                for name, one in properties.items()
            ],
        )
    return 0


def _type(schema: dict[str, Any]) -> str:
    """A JSON Schema's type for a reader."""
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type", "any")
    name = " | ".join(kind) if isinstance(kind, list) else str(kind)
    return f"{name} ({schema['format']})" if "format" in schema else name
