"""Saves a running kernel's environment as an image and a kernelspec of the user's own, so that it is there tomorrow.

Beside prune.py, as it takes from two layers: batch/ makes the image, kernelspec.py installs it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from docker_kernel import images, kernelspec, labels
from docker_kernel.batch.package import installed_packages
from docker_kernel.batch.running_environment import running_kernel_image
from docker_kernel.containerize.request import Name, parse_name
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import ConfigError, ImageMissing
from docker_kernel.kernel import running

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Saved:
    """A saved kernel.

    Args:
        image: the reference of its image; `size` in bytes.
        kernelspec: the folder of its kernelspec.
        packages: what was installed in the kernel, "NAME VERSION"; "-NAME VERSION" for what was removed.
    """

    image: str
    size: int
    kernelspec: Path
    packages: list[str]


async def save(
    engine: Engine,
    kernel: str,
    name: str,
    spec_name: str = "",
    display_name: str = "",
    replace: bool = False,
    progress: Progress = lambda text: None,
) -> Saved:
    """Save what a running kernel has installed.

    The image has no environment variables, mounts or credentials of the kernel, as it is no commit of its container
    (batch/package.py); the settings of the kernelspec go into the new kernelspec, which stays on this machine.

    Args:
        kernel: the start of its id, or a part of its notebook's name.
        name: of the image, NAME[:TAG].
        spec_name: of the kernelspec; by default the image's, without registry and folders.
        replace: whether an image and a kernelspec that were saved under these names before may go.

    Raises:
        NotFound: there is no such kernel.
        ConfigError, ContainerizeError: a name cannot be used, or is taken.
        JobError: what was installed cannot be copied.
    """
    image = parse_name(name)
    spec_name = spec_name or _proposed(image)
    kernelspec.check_free(spec_name, replace)
    await _check_image_free(engine, image, replace)
    found = await running.find(engine, kernel)
    packages = installed_packages(await engine.containers.diff(found.container.id))
    progress(f"Copies what was installed in the kernel {found.kernel_id[:8]}")
    environment, found = await running_kernel_image(found.kernel_id, engine)
    progress(f"Makes the image {image}")
    await _name(engine, environment, image)
    folder = await _install(engine, found.spec, spec_name, display_name, str(image))
    return Saved(str(image), int((await engine.images.inspect(str(image)))["Size"]), folder, packages)


def _proposed(image: Name) -> str:
    """A kernelspec's name made of an image's."""
    last = image.repository.rpartition("/")[2] + ("" if image.tag == "latest" else f"-{image.tag}")
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower())


async def _check_image_free(engine: Engine, image: Name, replace: bool) -> None:
    try:
        found = await engine.images.inspect(str(image))
    except ImageMissing:
        return
    if labels.SAVED not in ((found.get("Config") or {}).get("Labels") or {}):
        raise ConfigError(f"The image {image} is there, and no saved kernel: choose another name.")
    if not replace:
        raise ConfigError(f"The image {image} is there already: say --replace, or choose another name.")


async def _name(engine: Engine, environment: str, image: Name) -> None:
    """Give an environment's image a name and labels of its own: the same layers, so it costs nothing.

    Without a recipe, it is no cached environment that a job might take (and prune remove).
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    marks = {
        labels.KIND: labels.KIND_ENVIRONMENT,
        labels.SAVED: str(image),
        labels.RECIPE: "",
        "org.opencontainers.image.title": str(image),
        "org.opencontainers.image.created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    context = archive([File("Dockerfile", f"FROM {environment}\n".encode())])
    await engine.images.build(context, str(image), {}, marks, lambda event: None)


async def _install(engine: Engine, like: str, name: str, display_name: str, image: str) -> Path:
    folder = kernelspec.kernels_folder()
    spec = kernelspec.ours().get(like)
    if spec is None:
        # The kernelspec that the kernel was started from is gone: what it set is not known any more.
        settings = kernelspec.stanza(image=image)
        return (await kernelspec.install(engine, folder, settings, name, display_name or None, progress=images.silent))[
            0
        ]
    return kernelspec.install_like(folder, name, image, spec["spec"], display_name)
