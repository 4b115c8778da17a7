"""Notebook images as files: an archive that any engine loads, or what `docker build` makes the same image of."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker_kernel import background, checkout, whole_file
from docker_kernel.batch.layers import CHUNK, Layer
from docker_kernel.containerize import contents, index, lock
from docker_kernel.containerize.image import NotebookImage, Settings, documents
from docker_kernel.containerize.plan import make_plan
from docker_kernel.containerize.request import Progress, Request, Step
from docker_kernel.containerize.runner_layers import runner_layers
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError
from docker_kernel.guest import parameters

RUNNER = ("packages.tar", "code.tar")
"""What runs notebooks, as `docker build` unpacks it."""

PIP = "PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1"


async def save(engine: Engine, image: NotebookImage, folder: Path, progress: Progress) -> None:
    """Write an image to a folder: `image.tar` for `docker load` or `podman load`, its lock, and its parameters' schema.

    Raises:
        ContainerizeError: the folder cannot be written.
    """
    progress(Step("save", f"Writes {folder / 'image.tar'}"))
    archive = await engine.images.save(image.reference)

    def write() -> None:
        _make(folder)
        with archive:
            whole_file.write(folder / "image.tar", iter(lambda: archive.read(CHUNK), b""))
        whole_file.write(folder / "lock.json", [image.lock.model_dump_json(indent=1).encode()])
        schema = json.dumps(parameters.schema(image.plan.parameters), indent=1)
        whole_file.write(folder / "parameters.json", [schema.encode()])

    await _written(folder, background.in_own_thread(write))


async def write_context(engine: Engine, request: Request, folder: Path, progress: Progress) -> None:
    """Write what `docker build` needs to make the image: a Dockerfile, the notebook's files, what runs them, the lock.

    Args:
        folder: is made; it must not be there yet, or be empty.

    Raises:
        ContainerizeError: it has files, or cannot be written.
    """
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise ContainerizeError(f"{folder} is not empty, or no folder: name another folder with --output, or empty it.")
    plan = await make_plan(engine, request, progress)
    runner = await runner_layers(engine, plan.environment, progress)
    locked = await lock.make(engine, plan.environment.image, plan.environment.python)
    settings = Settings(plan, await checkout.of(plan.root), locked)

    def write(added: bool) -> None:
        with tempfile.TemporaryDirectory() as spool:
            own = contents.layers(
                plan.root,
                [name for name, _ in plan.files],
                plan.path,
                plan.source,
                documents(plan, locked),
                Path(spool),
            )
            _unpack(own, folder / "files")
        for name, layer in zip(RUNNER, runner, strict=True):
            with (folder / name).open("wb") as file:
                file.writelines(layer.open())
        (folder / "lock.json").write_text(locked.model_dump_json(indent=1))
        (folder / "Dockerfile").write_text(_dockerfile(locked, added, settings.of_container({}, {})))

    async def make() -> None:
        _make(folder)
        await background.in_own_thread(write, await _fetch_added(engine, locked, folder))

    progress(Step("layers", f"Writes {folder}"))
    await _written(folder, make())


def _make(folder: Path) -> None:
    if folder.is_symlink():
        raise ContainerizeError(f"{folder} is a link, which the notebook's code may have made: name another folder.")
    folder.mkdir(parents=True, exist_ok=True)


async def _written(folder: Path, writing: Awaitable[None]) -> None:
    try:
        await writing
    except OSError as error:
        raise ContainerizeError(f"{error.filename or folder} cannot be written: {error.strerror or error}.") from None


async def _fetch_added(engine: Engine, locked: lock.Lock, folder: Path) -> bool:
    """Write the wheels of what was installed on the base, and their hashes, for a build that needs no index.

    Returns:
        Whether there are any.

    Raises:
        ContainerizeError: one of them is in no package index, or cannot be fetched.
    """
    if not locked.environment:
        return False
    base = {(one.key, one.version) for one in (await lock.look(engine, locked.base.id)).packages}
    added = [one for one in locked.packages if (one.key, one.version) not in base]
    unknown = [f"{one.name} {one.version}" for one in added if not one.hashes]
    if unknown:
        raise ContainerizeError(
            f"A Dockerfile cannot install {', '.join(unknown)}, which no package index gives with a hash: make the "
            "image itself, which has them."
        )
    requirements, wheels = folder / "requirements.txt", folder / "wheels"
    wheels.mkdir(parents=True)
    requirements.write_text(locked.model_copy(update={"packages": tuple(added)}).requirements())
    ran = await index.download(requirements, wheels, lock.tags_of(locked.python))
    if ran.code:
        raise ContainerizeError(f"The packages that were installed cannot be fetched: {ran.last}")
    return bool(added)


def _unpack(layers: Sequence[Layer], folder: Path) -> None:
    """Write the files of layers below a folder, as the user's own."""
    for layer in layers:
        with tempfile.TemporaryFile() as spool:
            spool.writelines(layer.open())
            spool.seek(0)
            with tarfile.open(fileobj=spool) as tar:
                for member in tar.getmembers():
                    member.uid = member.gid = -1
                    tar.extract(member, folder, set_attrs=not member.isdir(), numeric_owner=True)


def _dockerfile(locked: lock.Lock, packages: bool, config: Mapping[str, Any]) -> str:
    """A Dockerfile; every value in it is JSON, which its instructions take as they take quoted text."""
    base = locked.base
    lines = ["# The image of a notebook, made by docker-kernel: build it with `docker build -t NAME .`"]
    if not base.digests:
        lines.append(f"# {base.reference} is in no registry: it was {base.id} where this was made.")
    lines += [f"FROM {base.digests[0] if base.digests else base.reference}", "USER 0:0"]
    if packages:
        lines += [
            "COPY requirements.txt /tmp/docker-kernel/",
            "COPY wheels/ /tmp/docker-kernel/wheels/",
            f"RUN {PIP} {locked.python.executable} -m pip install --no-index --find-links /tmp/docker-kernel/wheels "
            "--require-hashes --no-deps -r /tmp/docker-kernel/requirements.txt && rm -r /tmp/docker-kernel",
        ]
    user, folder = str(config["User"]), str(config["WorkingDir"])
    lines += [
        *(f"ADD {name} /" for name in RUNNER),
        "COPY files/opt/ /opt/",
        f"COPY --chown={user} files/{folder.strip('/')}/ {folder}/",
        f"RUN mkdir -m 0777 /{contents.OUTPUT}",
        *_assignments("ENV", (pair.partition("=")[::2] for pair in config["Env"])),
        *_assignments("LABEL", config["Labels"].items()),
        f"USER {user}",
        f"WORKDIR {folder}",
        f"ENTRYPOINT {json.dumps(config['Entrypoint'])}",
        "CMD []",
    ]
    return "\n".join(lines) + "\n"


def _assignments(instruction: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Instructions that set names to values, whatever is in them."""
    lines = []
    for name, value in pairs:
        # A backslash and a u would be no character there, and a dollar a build argument (Dockerfile reference).
        quoted = json.dumps(value, ensure_ascii=False).replace("$", "\\$")
        lines.append(f"{instruction} {name}={quoted}")
    return lines
