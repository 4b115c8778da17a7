"""What a notebook image is built on: the image of a kernel, by id, and how a kernel starts in it."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import platformdirs

from docker_kernel import config, images, kernelspec, whole_file
from docker_kernel.batch.running_environment import running_kernel_image
from docker_kernel.containerize import lock
from docker_kernel.containerize.rebuild import rebuild_environment
from docker_kernel.containerize.request import Progress, Request, Step
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError, ImageMissing

DEFAULT_KERNEL = "docker-python"


@dataclass(frozen=True)
class Kernel:
    """The kernel that runs a notebook: its kernelspec's name and language, and how it is started."""

    name: str
    language: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """An image that kernels run in.

    Args:
        image: its id on the engine.
        reference: what it was named by.
        python: the Python in it that runs our code, its version, and what its wheels are for.
        machine: as `uname -m` says it.
        kernel: which of its kernels runs the notebook.
        env: what the kernelspec sets.
    """

    image: str
    reference: str
    python: str
    python_version: tuple[int, ...]
    libc: str
    machine: str
    kernel: Kernel
    env: Mapping[str, str]


async def environment(engine: Engine, notebook: Mapping[str, Any], request: Request, progress: Progress) -> Environment:
    """The environment for a notebook: of a running kernel, of an earlier image's lock, or of a kernelspec's image.

    Raises:
        ContainerizeError, ConfigError: there is no such kernelspec, it is none of ours, or a lock cannot be followed.
        NotFound: there is no such kernel.
    """
    image, reference, own = "", "", ""
    if request.from_kernel:
        progress(Step("environment", "Takes what was installed in the running kernel"))
        image, running = await running_kernel_image(request.from_kernel, engine)
        own = running.spec
    elif request.lock:
        locked = lock.load(request.lock)
        image, reference = await rebuild_environment(engine, locked, progress), locked.base.reference
    name, spec = await asyncio.to_thread(_kernelspec, request.kernel, own, notebook)
    settings = (await asyncio.to_thread(config.load)).kernel_config(
        (spec.get("metadata", {}).get("kernel_provisioner") or {}).get("config") or {}, f"The kernelspec {name}"
    )
    reference = reference or settings.image
    try:
        image = str((await engine.images.inspect(image or reference))["Id"])
    except ImageMissing:
        raise ImageMissing(f"The image {reference} is not on the engine: {images.how_to_bring(reference)}.") from None
    facts = await _facts(engine, image)
    python = settings.python or str(facts["python"])
    argv = settings.argv or [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    if not facts["python"]:
        raise ContainerizeError(f"The image {reference} has no Python: a notebook image's own code needs one.")
    return Environment(
        image=image,
        reference=reference,
        python=python,
        python_version=tuple(facts["python_version"]),
        libc=facts["libc"],
        machine=(await engine.info()).architecture,
        kernel=Kernel(name, spec.get("language", ""), tuple(argv)),
        env=settings.env,
    )


def _kernelspec(wanted: str, own: str, notebook: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kernelspec that a user asks for, else the running kernel's `own`, the notebook's, or the default one."""
    ours = kernelspec.ours()
    if wanted:
        if wanted not in ours:
            close = difflib.get_close_matches(wanted, ours, n=1)
            known = f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(ours) or 'none'}."
            raise ContainerizeError(f"There is no kernelspec {wanted!r} of docker-kernel's{known}")
        return wanted, ours[wanted]["spec"]
    named = str(((notebook.get("metadata") or {}).get("kernelspec") or {}).get("name", ""))
    for name in (own, named, DEFAULT_KERNEL):
        if name in ours:
            return name, ours[name]["spec"]
    language = str(((notebook.get("metadata") or {}).get("kernelspec") or {}).get("language", "python"))
    if language.lower() not in ("python", ""):
        raise ContainerizeError(
            f"The notebook is in {language}, and its kernelspec {named!r} is none of docker-kernel's: install one with "
            "`docker-kernel install --image IMAGE --all-kernels`, and name it with --kernel."
        )
    return DEFAULT_KERNEL, {"language": "python"}


async def _facts(engine: Engine, image: str) -> dict[str, Any]:
    """What is in an image, which never changes for an id: kept, as looking takes a container."""
    kept = platformdirs.user_cache_path("docker-kernel") / "probes" / f"{image.removeprefix('sha256:')}.json"
    try:
        found: dict[str, Any] = json.loads(await asyncio.to_thread(kept.read_text))
        if "libc" in found:
            return found
    except (OSError, ValueError):
        pass
    found = dataclasses.asdict(await images.probe(engine, image))
    await asyncio.to_thread(whole_file.keep, kept, json.dumps(found))
    return found
