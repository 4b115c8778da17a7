"""Jobs on the kernel's own engine: a fresh container from the kernel's image, with the kernel volume mounted."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docker_kernel.batch.targets.base import Check, JobTask, Package, Progress, Record
from docker_kernel.batch.targets.containers import EngineTarget
from docker_kernel.engine import BindMount, ContainerSpec, Engine, File, VolumeMount
from docker_kernel.errors import DockerKernelError, JobError
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle


class LocalTarget(EngineTarget):
    """The engine that the kernel itself runs on; nothing is pushed anywhere."""

    kind = "local"

    def __init__(self, name: str, config: Any) -> None:
        super().__init__(name, config)
        self._engine: Engine | None = None

    async def engine(self) -> Engine:
        if self._engine is None:
            self._engine = await Engine.connect()
        return self._engine

    async def check(self) -> list[Check]:
        try:
            info = await (await self.engine()).info()
        except DockerKernelError as error:
            return [Check("engine", "none", False, str(error))]
        return [Check("engine", f"{info.product} {info.version}, {info.cpus} CPUs", True)]

    async def missing(self, kernel: KernelHandle, package: Package) -> int:
        return 0

    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> Record:
        self._engine = kernel.engine
        config = kernel.config
        library = set(guest_files.library())
        files = [file for file in kernel.guest_files() if file not in library]
        return {
            "kernel_id": kernel.kernel_id,
            "image": package.image,
            "python": kernel.python,
            "user": kernel.user,
            "volume": kernel.volume,
            "mounts": [
                dataclasses.astuple(mount)
                for mount in kernel.mounts
                if package.live_workspace or mount.source != kernel.workspace
            ],
            "workspace": str(package.workspace) if package.workspace else "",
            "files": [
                [file.path, None if file.data is None else base64.b64encode(file.data).decode(), *_owner(file)]
                for file in files
            ],
            "network": config.network,
            "memory": config.memory,
            "cpus": config.cpus,
            "pids": config.pids,
            "shm": config.shm,
            "gpus": config.gpus,
            "capabilities": config.capabilities,
            "groups": list(kernel.group_add),
            "userns_mode": kernel.userns_mode,
        }

    def _spec(self, task: JobTask, prepared: Record) -> ContainerSpec:
        mounts: list[BindMount | VolumeMount] = [BindMount(*mount) for mount in prepared["mounts"]]
        return ContainerSpec(
            image=prepared["image"],
            command=[],
            user=prepared["user"],
            mounts=[*mounts, VolumeMount(prepared["volume"], guest_files.STATE)],
            network=prepared["network"],
            working_dir="/",
            memory=task.memory or prepared["memory"],
            cpus=task.cpus or prepared["cpus"],
            pids=prepared["pids"],
            shm_size=prepared["shm"],
            gpus=task.gpus or prepared["gpus"],
            cap_add=prepared["capabilities"],
            group_add=prepared["groups"],
            userns_mode=prepared["userns_mode"],
        )

    async def _files(self, task: JobTask, prepared: Record) -> Iterable[File]:
        kept = [
            File(path, None if data is None else base64.b64decode(data), *owner)
            for path, data, *owner in prepared["files"]
        ]
        return [*guest_files.library(), *kept]

    async def _fill(self, engine: Engine, container: str, prepared: Record) -> None:
        if not prepared["workspace"]:
            return
        try:
            file = await asyncio.to_thread(Path(prepared["workspace"]).open, "rb")
        except OSError:
            raise JobError("The copy of the workspace is gone: run the cell again.") from None
        with file:
            await engine.put_stream(container, iter(lambda: file.read(1 << 20), b""))

    async def release(self, prepared: Record) -> None:
        """Nothing was made."""


def _owner(file: File) -> tuple[int, int, int]:
    return file.mode, file.uid, file.gid
