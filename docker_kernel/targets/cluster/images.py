"""Jobs' images in the registry from which a cluster's nodes pull: pushed by digest, and explained when one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from docker_kernel import background
from docker_kernel.batch.layers import Layer
from docker_kernel.batch.registry import Registry
from docker_kernel.batch.state_image import Pushed, bytes_to_push, push
from docker_kernel.engine import registry_credentials
from docker_kernel.errors import DockerKernelError, JobError
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import Check, Package, Progress

REPOSITORY = "docker-kernel-jobs"
"""The repository of all jobs' images, below the registry's prefix."""


class JobImages:
    """The images of a target's jobs.

    Args:
        address: HOST[:PORT]/PREFIX of the registry, as all nodes reach it.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def registry(self) -> Registry:
        """The registry; blocks for the CA bundle."""
        return Registry(self.address, registry_credentials)

    async def check(self) -> Check:
        try:
            said = await background.in_own_thread(lambda: self.registry().check())
        except DockerKernelError as error:
            return Check("registry", self.address, False, str(error))
        return Check("registry", f"{self.address} {said}", True)

    async def missing(self, kernel: KernelHandle, package: Package, layers: Sequence[Layer]) -> int:
        """How many bytes `push` would send."""
        registry = await asyncio.to_thread(self.registry)
        return await bytes_to_push(kernel.engine, package.image, layers, registry, REPOSITORY)

    async def push(self, kernel: KernelHandle, package: Package, layers: Sequence[Layer], progress: Progress) -> Pushed:
        """Bring a dispatch's image to the registry."""
        registry = await asyncio.to_thread(self.registry)
        return await push(kernel.engine, package.image, layers, registry, REPOSITORY, progress)

    async def why_not_pullable(self, reference: str) -> str:
        """Why nobody can pull an image that was pushed; empty where the registry has all of it."""
        return await background.in_own_thread(self._what_is_lost, reference)

    def _what_is_lost(self, reference: str) -> str:
        name, _, digest = reference.partition("@")
        repository, registry = name.partition("/")[2], self.registry()
        try:
            found = registry.manifest(repository, digest)
            if found is None:
                return f"the registry has no more the image {name}; dispatch it again"
            for part in (found.content["config"], *found.content["layers"]):
                if not registry.has_blob(repository, part["digest"]):
                    return f"the registry has no more the blob {part['digest'][:19]} of {name}; dispatch it again"
        except JobError as error:
            return str(error)
        return ""
