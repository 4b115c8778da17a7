"""Makes a notebook image: its environment's image, the layer that runs notebooks, and the notebook's own on top.

No build and no commit: the engine is given the layers that it lacks and a config of ours (state_image.load). What is in
the image is decided in plan.py; what it promises is in docs/notebook-image.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker_kernel import __version__, background, checkout, config, labels
from docker_kernel.batch.compressed import SPOOL
from docker_kernel.batch.layers import Layer
from docker_kernel.batch.state_image import load
from docker_kernel.containerize import contents, lock
from docker_kernel.containerize.lock import Lock
from docker_kernel.containerize.plan import Plan, make_plan
from docker_kernel.containerize.request import Name, Progress, Request, Step, silent
from docker_kernel.containerize.runner_layers import runner_layers
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError, EngineError
from docker_kernel.guest import parameters
from docker_kernel.kernel.guest_files import LIB, USER_BASE

CONTRACT = 1
"""The version of what an image promises; it changes when old images could no longer be run as new ones."""

OCI = "org.opencontainers.image."
BUILDING = "docker-kernel/notebook-being-made"


@dataclass(frozen=True)
class NotebookImage:
    """A notebook image that was made.

    Args:
        reference: its name, with the tag.
        image_id: its id on the engine.
        size: bytes.
        pushed: its reference by digest in the registry, "" if it was not pushed.
        command: how it is run, for a shell.
        plan: what went in; `lock` is of its environment.
    """

    reference: str
    image_id: str
    size: int
    pushed: str
    command: str
    plan: Plan
    lock: Lock


async def containerize(request: Request, progress: Progress = silent, engine: Engine | None = None) -> NotebookImage:
    """Make a notebook image, and push it if that is asked for. When it fails or is cancelled, nothing is left behind.

    Raises:
        DockerKernelError: with a sentence for the user.
    """
    with contextlib.ExitStack() as stack:
        if engine is None:
            engine = await Engine.connect()
            stack.callback(engine.close)
        plan = await make_plan(engine, request, progress)
        if request.push:
            refuse_secrets(plan)
        spool = SPOOL if os.access(SPOOL, os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docker-kernel-", dir=spool)))
        return await _make(engine, request, plan, folder, progress)


def refuse_secrets(plan: Plan) -> None:
    """Raise ContainerizeError if a scan found what may be a secret and the user has not allowed it."""
    if plan.findings:
        listed = "; ".join(f"{one.where}: {one.rule} (--allow {one.id})" for one in plan.findings)
        raise ContainerizeError(
            f"The image is not pushed, as secrets may be in it: {listed}. Take them out, or allow each that is none."
        )


async def _make(engine: Engine, request: Request, plan: Plan, folder: Path, progress: Progress) -> NotebookImage:
    environment = plan.environment
    runner = await runner_layers(engine, environment, progress)
    progress(Step("lock", "Notes the versions of all packages"))
    locked = await lock.make(engine, environment.image, environment.python)
    progress(Step("layers", f"Copies {len(plan.files)} files"))
    names = [name for name, _ in plan.files]
    own = await background.in_own_thread(
        contents.layers, plan.root, names, plan.path, plan.source, documents(plan, locked), folder
    )
    progress(Step("image", f"Makes the image {plan.name}"))
    settings = Settings(plan, await checkout.of(plan.root), locked)
    made = await _load(engine, plan, [*runner, *own], settings, progress)
    pushed = await push(engine, plan.name, progress) if request.push else ""
    size = int((await engine.images.inspect(made))["Size"])
    return NotebookImage(str(plan.name), made, size, pushed, command(str(plan.name), plan.parameters), plan, locked)


def documents(plan: Plan, locked: Lock) -> dict[str, bytes]:
    """What the runner must know, and the lock, by their paths in the image."""
    return {
        contents.SPEC: json.dumps(_spec(plan), indent=1, sort_keys=True).encode(),
        contents.LOCK: locked.model_dump_json(indent=1).encode(),
    }


def _spec(plan: Plan) -> dict[str, Any]:
    return {
        "contract": CONTRACT,
        "notebook": plan.path,
        "python": plan.environment.python,
        "kernel": dataclasses.asdict(plan.environment.kernel),
        "parameters": [one.to_dict() for one in plan.parameters],
        "timeout": None,
    }


async def _load(engine: Engine, plan: Plan, layers: Sequence[Layer], settings: Settings, progress: Progress) -> str:
    """Bring the image to the engine under a name of its own, and give it the user's when it is whole."""
    tag = uuid.uuid4().hex
    report = lambda text: progress(Step("image", text))  # noqa: E731
    loaded = await load(engine, plan.environment.image, layers, engine, f"{BUILDING}:{tag}", report, settings.apply)
    try:
        await engine.images.tag(loaded.image, plan.name.repository, plan.name.tag)
    finally:
        await asyncio.shield(engine.images.untag(loaded.image, BUILDING, tag))
    return loaded.image


class Settings:
    """What containers of an image start with."""

    def __init__(self, plan: Plan, origin: checkout.Origin, locked: Lock) -> None:
        self._plan, self._origin, self._lock = plan, origin, locked

    def apply(self, config: dict[str, Any]) -> None:
        """Change the `config` of the environment's image (OCI image spec, "Image Configuration") to the notebook's."""
        for key in ("Cmd", "ExposedPorts", "Healthcheck", "OnBuild", "Volumes", "StopSignal", "ArgsEscaped", "Image"):
            config.pop(key, None)
        given = dict(pair.partition("=")[::2] for pair in config.get("Env") or [])
        config.update(self.of_container(given, config.get("Labels") or {}))

    def of_container(self, env: Mapping[str, str], marks: Mapping[str, str]) -> dict[str, Any]:
        """The settings, over the environment's own variables and labels."""
        plan = self._plan
        return {
            "User": f"{contents.UID}:0",
            "WorkingDir": f"/{contents.FOLDER}",
            "Entrypoint": [plan.environment.python, "-I", "-S", f"{LIB}/docker_kernel/runner/main.py"],
            "Env": [f"{name}={value}" for name, value in {**env, "PYTHONUSERBASE": USER_BASE, **plan.env}.items()],
            "Labels": self._labels(marks),
        }

    def _labels(self, given: Mapping[str, str]) -> dict[str, str]:
        plan, ours = self._plan, labels.NOTEBOOK_IMAGE
        kernel = plan.environment.kernel
        base = "" if self._lock.environment or not self._lock.base.digests else self._lock.base.digests[0]
        kept = {key: value for key, value in given.items() if not key.startswith((labels.PREFIX, OCI))}
        made = {
            labels.KIND: labels.KIND_NOTEBOOK_IMAGE,
            OCI + "title": plan.path,
            OCI + "created": _now(),
            OCI + "version": plan.name.tag,
            OCI + "revision": self._origin.revision,
            OCI + "source": self._origin.source,
            OCI + "base.name": plan.environment.reference,
            OCI + "base.digest": base.partition("@")[2],
            ours + "contract": str(CONTRACT),
            ours + "path": plan.path,
            ours + "digest": plan.digest,
            ours + "parameters": json.dumps(parameters.schema(plan.parameters), sort_keys=True),
            ours + "kernel": json.dumps({"name": kernel.name, "language": kernel.language}),
            ours + "built-by": f"docker-kernel {__version__}",
            ours + "lock": self._lock.digest,
        }
        return {**kept, **{key: value for key, value in made.items() if value}}


def _now() -> str:
    """The time of the build, or what SOURCE_DATE_EPOCH says (reproducible-builds.org), as RFC 3339 wants it."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    zone = datetime.timezone.utc
    when = datetime.datetime.fromtimestamp(int(seconds), zone) if seconds.isdigit() else datetime.datetime.now(zone)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


async def push(engine: Engine, name: Name, progress: Progress) -> str:
    """Push an image; what a registry has of an earlier, broken push is not sent again.

    Returns:
        Its reference by digest.

    Raises:
        ContainerizeError: it has no registry, or that cannot take it; the image stays on the engine.
    """
    if not name.registry:
        names = ", ".join(config.load().registries) or "none yet"
        raise ContainerizeError(
            f"The image {name} has no registry in its name to be pushed to: write HOST/NAME:TAG, or name one of the "
            f"config's registries with --registry ({names})."
        )
    progress(Step("push", f"Pushes {name}"))
    try:
        await engine.images.push(name.repository, name.tag, lambda text: progress(Step("push", text)))
    except EngineError as error:
        raise ContainerizeError(
            f"The image {name} was made, but {name.registry} did not take it ({error.reason or error}): "
            f"`docker push {name}` goes on from what was sent."
        ) from None
    found = await engine.images.inspect(str(name))
    digests = [str(one) for one in found.get("RepoDigests") or [] if str(one).startswith(f"{name.repository}@")]
    return digests[0] if digests else ""


def command(reference: str, found: Sequence[parameters.Parameter]) -> str:
    """How an image is run, for a shell: with its required parameters, and the folder for results.

    The folder is made first, as docker would make it root's, and the run is its owner's.
    """
    required = "".join(f" -p {one.name}=…" for one in found if one.required)
    run = f'docker run --rm --user "$(id -u):0" -v "$PWD/out:/{contents.OUTPUT}"'
    return f"mkdir -p out && {run} {reference}{required}"
