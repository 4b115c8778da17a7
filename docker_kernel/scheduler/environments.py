"""What notebook jobs can run in: our kernelspecs, notebook images, and what jupyter-scheduler itself offers."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_scheduler.environments import CondaEnvironmentManager
from jupyter_scheduler.models import RuntimeEnvironment

from docker_kernel import background, kernelspec, labels
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError

KERNEL = "Container: "
"""Begins the name of an environment that is a kernelspec of ours."""

IMAGE = "Image: "
"""Begins the name of an environment that is a notebook image."""

FORMATS = ["ipynb", "html"]


def is_ours(name: str) -> bool:
    """Whether jobs in an environment run in containers."""
    return name.startswith((KERNEL, IMAGE))


class DockerEnvironments(CondaEnvironmentManager):  # type: ignore[misc]
    """Containers first, then the environments on the host, in which jobs run as they did."""

    async def list_environments(self) -> list[RuntimeEnvironment]:
        """All environments; without an engine, those that need none."""
        try:
            images = await background.run(_notebook_images())
        except EngineError:
            return await self._on_the_host()
        specs = await asyncio.to_thread(kernelspec.ours)
        found = [
            _environment(KERNEL + name, f"A container as that of the kernel {one['spec']['display_name']}")
            for name, one in specs.items()
        ]
        found += [_environment(IMAGE + name, f"The image of the notebook {path}") for name, path in images]
        return found + await self._on_the_host()

    async def _on_the_host(self) -> list[RuntimeEnvironment]:
        found: list[RuntimeEnvironment] = await asyncio.to_thread(super().list_environments)
        return found


def _environment(name: str, description: str) -> Any:
    # The user interface of 2.12 shows the name and sends the label: they must be the same.
    return RuntimeEnvironment(
        name=name,
        label=name,
        description=description,
        file_extensions=["ipynb"],
        output_formats=FORMATS,
        metadata={},
    )


async def _notebook_images() -> list[tuple[str, str]]:
    """The notebook images that have a name: the name, and the notebook's."""
    engine = await Engine.connect()
    try:
        found = await engine.images.list(f"{labels.KIND}={labels.KIND_NOTEBOOK_IMAGE}")
    finally:
        engine.close()
    return sorted(
        (tag, str((image.get("Labels") or {}).get(f"{labels.NOTEBOOK_IMAGE}path", "")))
        for image in found
        for tag in image.get("RepoTags") or []
        if tag != "<none>:<none>" and not tag.startswith(f"{OWN_IMAGES}:")
    )


OWN_IMAGES = "docker-kernel/scheduled"
"""The repository of the images that are made for one run."""
