"""Jobs on another engine: a Docker context, ssh://, tcp:// with TLS, or another socket of this machine.

With a registry, images go through it by digest. Without one, the engine is sent what it lacks, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar

from docker_kernel import background
from docker_kernel.batch.layers import Layer, job_layers
from docker_kernel.batch.registry import Registry
from docker_kernel.batch.state_image import (
    ARCHITECTURES,
    bytes_to_load,
    bytes_to_push,
    check_architecture,
    load,
    push,
    stoppable,
)
from docker_kernel.config import format_size
from docker_kernel.engine import ContainerSpec, Engine, registry_credentials
from docker_kernel.errors import Conflict, DockerKernelError
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import Check, JobTask, Package, Progress
from docker_kernel.targets.engine.config import DockerConfig
from docker_kernel.targets.engine.containers import EngineTarget
from docker_kernel.targets.engine.records import DockerPrepared

NAME = "docker-kernel-jobs"
"""The repository of all jobs' images."""


class DockerTarget(EngineTarget[DockerConfig, DockerPrepared]):
    """One engine that is not the kernel's own."""

    kind = "docker"
    Config: ClassVar = DockerConfig

    def __init__(self, name: str, config: DockerConfig) -> None:
        super().__init__(name, config)
        self._engine: Engine | None = None
        self._connecting = asyncio.Lock()

    async def engine(self) -> Engine:
        async with self._connecting:
            if self._engine is None:
                self._engine = await Engine.connect(self.config.engine, tls=self.config.tls)
        return self._engine

    def _registry(self) -> Registry | None:
        return None if self.config.registry is None else Registry(self.config.registry, registry_credentials)

    async def check(self) -> list[Check]:
        try:
            engine = await self.engine()
            info = await engine.info()
            found = [Check("engine", f"{info.product} {info.version} at {engine.url}, {info.cpus} CPUs", True)]
        except DockerKernelError as error:
            return [Check("engine", "none", False, str(error))]
        machine = (await engine.info()).architecture
        found.append(Check("architecture", ARCHITECTURES.get(machine, machine), True))
        found.append(Check("memory", format_size(info.memory), True))
        registry = await asyncio.to_thread(self._registry)
        if registry is None:
            found.append(Check("registry", "none: images go straight to the engine", True))
            return found
        try:
            said = await background.in_own_thread(registry.check)
            found.append(Check("registry", f"{self.config.registry} {said}", True))
        except DockerKernelError as error:
            found.append(Check("registry", str(self.config.registry), False, str(error)))
            return found
        why_not = await engine.images.why_not_pullable(f"{registry.host}/{registry.repository(NAME)}")
        if why_not:
            fix = f"The engine at {engine.url} cannot pull from {registry.host} ({why_not.rstrip('.')})."
            found.append(Check("pull", "the engine does not reach the registry", False, fix))
        else:
            found.append(Check("pull", "the engine reaches the registry", True))
        return found

    async def _layers(self, kernel: KernelHandle, package: Package) -> list[Layer]:
        engine = await self.engine()
        await check_architecture(kernel.engine, package.image, (await engine.info()).architecture, self.name)
        return await job_layers(kernel, package)

    async def missing(self, kernel: KernelHandle, package: Package) -> int:
        layers, registry = await self._layers(kernel, package), await asyncio.to_thread(self._registry)
        if registry is not None:
            return await bytes_to_push(kernel.engine, package.image, layers, registry, NAME)
        return await bytes_to_load(kernel.engine, package.image, layers, await self.engine())

    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> DockerPrepared:
        layers, engine = await self._layers(kernel, package), await self.engine()
        registry = await asyncio.to_thread(self._registry)
        if registry is not None:
            pushed = await push(kernel.engine, package.image, layers, registry, NAME, progress)
            try:
                image = await stoppable(
                    lambda progress: engine.images.pull_digest(pushed.reference, progress), progress
                )
            except asyncio.CancelledError:
                await engine.images.remove(pushed.reference)  # it had all of it already
                raise
            sent = pushed.sent
        else:
            tag = f"{NAME}:{package.package_id}"
            loaded = await load(kernel.engine, package.image, layers, engine, tag, progress)
            image, sent = loaded.image, loaded.sent
        config = kernel.config
        return {
            "image": image,
            "package": package.package_id,
            "sent": sent,
            "kernel_id": kernel.kernel_id,
            "python": kernel.python,
            "lib": package.lib,
            "user": kernel.user,
            "network": "none" if config.network == "none" else "bridge",
            "memory": config.memory,
            "cpus": config.cpus,
            "pids": config.pids,
            "shm": config.shm,
            "capabilities": config.capabilities,
        }

    def _spec(self, task: JobTask, prepared: DockerPrepared) -> ContainerSpec:
        return ContainerSpec(
            image=prepared["image"],
            command=[],
            user=prepared["user"],
            network=prepared["network"],
            working_dir="/",
            memory=task.memory or prepared["memory"],
            cpus=task.cpus or prepared["cpus"],
            pids=prepared["pids"],
            shm_size=prepared["shm"],
            gpus=task.gpus,
            cap_add=prepared["capabilities"],
        )

    async def abandon(self, package_id: str) -> None:
        # What came through a registry has no name by which it could be told apart from another dispatch's.
        if self.config.registry is None:
            await self._remove_image(f"{NAME}:{package_id}")

    async def release(self, prepared: DockerPrepared) -> None:
        await self._remove_image(prepared["image"] if self.config.registry else f"{NAME}:{prepared['package']}")

    async def _remove_image(self, reference: str) -> None:
        engine = await self.engine()
        with contextlib.suppress(Conflict):  # another dispatch of the same content, or a job that still runs, has it
            await engine.images.remove(reference)
