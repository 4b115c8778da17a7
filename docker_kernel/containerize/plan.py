"""What will be in a notebook image, and what will not: found by reading, before anything is built."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker_kernel import background, config
from docker_kernel.containerize import files, scan
from docker_kernel.containerize.environment import Environment, environment
from docker_kernel.containerize.request import Name, Progress, Request, Step, parse_name, proposed_name, silent
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError
from docker_kernel.guest import parameters
from docker_kernel.guest.credentials import looks_secret

LARGEST = 256 << 20
"""Bytes that a notebook may have."""

BUDGET = 1 << 30
"""Bytes of a workspace that an image may have; more data belongs where a run can read it from."""


@dataclass(frozen=True)
class Plan:
    """What will be in an image.

    Args:
        name: the image's.
        root: the folder whose files go in; `path` is the notebook's name in it.
        source: the notebook as it goes in; `digest` is of what it says, without outputs.
        notes: what could not be read for parameters, and why.
        files: what goes in, with its size in bytes; `left_out` is what does not, with the reason.
        env: the environment variables that the kernelspec sets.
        size: bytes of the environment's image and the files.
        findings: what may be a secret and was not allowed.
    """

    name: Name
    root: Path
    path: str
    source: bytes
    digest: str
    parameters: tuple[parameters.Parameter, ...]
    notes: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, str], ...]
    env: Mapping[str, str]
    environment: Environment
    size: int
    findings: tuple[scan.Finding, ...]


async def plan(request: Request, engine: Engine | None = None) -> Plan:
    """What `containerize` would make of a request; nothing is built, and nothing in the notebook is run.

    Raises:
        DockerKernelError: it could not be made, with a sentence for the user.
    """
    made = engine or await Engine.connect()
    try:
        return await make_plan(made, request, silent)
    finally:
        if engine is None:
            made.close()


async def make_plan(engine: Engine, request: Request, progress: Progress) -> Plan:
    """As `plan`, with an engine and progress."""
    name = image_name(request)
    given = await asyncio.to_thread(read_notebook, request.notebook)
    notebook = files.clean(given, request.keep_outputs)
    chosen = await background.in_own_thread(
        files.choose, request.notebook.absolute(), request.include, request.exclude, BUDGET
    )
    path = str(request.notebook.absolute().relative_to(chosen.root))
    found = parameters.find(notebook)
    progress(Step("environment", "Finds the environment of the kernel"))
    base = await environment(engine, notebook, request, progress)
    secret = [one for one in base.env if looks_secret(one, base.env[one])]
    env = {one: value for one, value in base.env.items() if one not in secret}
    progress(Step("scan", "Looks for secrets"))
    source = json.dumps(notebook, ensure_ascii=False, indent=1).encode(errors="replace")
    findings = await background.in_own_thread(
        scan.scan, chosen.root, [one for one, _ in chosen.files], path, notebook, env
    )
    about = await engine.images.inspect(base.image)
    findings += scan.scan_environment(_variables(about))
    if request.parameters is not None:
        findings += scan.scan_labels({"parameters": json.dumps(parameters.schema(request.parameters))})
        findings += [_secret_default(one) for one in request.parameters if _looks_secret(one)]
    allowed = set(request.allow)
    unknown = allowed - {key for one in findings for key in (one.id, one.path)}
    if unknown:
        raise ContainerizeError(f"--allow {min(unknown)}: the scan found nothing under that id or path.")
    return Plan(
        name=name,
        root=chosen.root,
        path=path,
        source=source,
        digest=files.digest(notebook),
        parameters=request.parameters if request.parameters is not None else found.parameters,
        notes=found.notes,
        files=tuple(chosen.files),
        left_out=(
            *chosen.left_out,
            *((f"environment variable {one}", "its name or value looks like a credential") for one in secret),
        ),
        env=env,
        environment=base,
        size=int(about["Size"]) + sum(size for _, size in chosen.files),
        findings=tuple(one for one in findings if allowed.isdisjoint((one.id, one.path))),
    )


def _variables(image: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of an image, without the fingerprint of a public key that Python's own images have."""
    given = dict(pair.partition("=")[::2] for pair in (image.get("Config") or {}).get("Env") or [])
    return {name: value for name, value in given.items() if name != "GPG_KEY"}


def _looks_secret(one: parameters.Parameter) -> bool:
    return isinstance(one.default, str) and bool(one.default) and looks_secret(one.name, one.default)


def _secret_default(one: parameters.Parameter) -> scan.Finding:
    where = f"parameter {one.name}"
    return scan.Finding(
        rule="a default that looks like a credential",
        where=where,
        hint="Leave it out, and give the value at each run.",
        id=hashlib.sha256(where.encode()).hexdigest()[:8],
        path=where,
    )


def image_name(request: Request) -> Name:
    """The name of the image that a request is for, with its registry.

    Raises:
        ContainerizeError: it cannot be one.
    """
    text = request.tag or proposed_name(request.notebook)
    if request.registry:
        address = config.load().registries.get(request.registry, request.registry)
        text = f"{address.rstrip('/')}/{text}"
    return parse_name(text)


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook's content.

    Raises:
        ContainerizeError: it cannot be read, or is none.
    """
    try:
        # The notebook's code may have put a pipe there, or a file of any size.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
                raise ContainerizeError(
                    f"{path} is no notebook: it is no file, or larger than the {LARGEST >> 20} MiB that one may have."
                )
            found = json.loads(file.read(LARGEST).decode())
    except OSError as error:
        raise ContainerizeError(f"The notebook {path} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise ContainerizeError(f"{path} is no notebook: its JSON is too deep.") from None
    except ValueError as error:
        raise ContainerizeError(f"{path} is no notebook: it is not JSON ({error}).") from None
    if not isinstance(found, dict) or not (isinstance(found.get("cells"), list) or "worksheets" in found):
        raise ContainerizeError(f"{path} is no notebook: it has no cells.")
    return found
