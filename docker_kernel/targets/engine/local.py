"""Jobs on the kernel's own engine: a fresh container from the kernel's image, with the kernel volume mounted."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from docker_kernel import labels
from docker_kernel.engine import BindMount, ContainerSpec, Engine, File, VolumeMount
from docker_kernel.errors import DockerKernelError, EngineError, JobError
from docker_kernel.kernel import bytecode, guest_files, makers
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.kernel.spares import surroundings
from docker_kernel.targets.base import Check, JobTask, Package, Progress
from docker_kernel.targets.engine.config import LocalConfig
from docker_kernel.targets.engine.containers import EngineTarget, content_of
from docker_kernel.targets.engine.records import EngineJob, LocalPrepared
from docker_kernel.targets.engine.spare_jobs import SpareJob, SpareJobs, SpareTemplate

GONE_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""The seconds between looks whether a container has gone that the engine removes itself."""


class LocalTarget(EngineTarget[LocalConfig, LocalPrepared]):
    """The engine that the kernel itself runs on; nothing is pushed anywhere."""

    kind = "local"
    Config: ClassVar = LocalConfig
    beside_kernel = True

    def __init__(self, name: str, config: LocalConfig) -> None:
        super().__init__(name, config)
        self._engine: Engine | None = None
        self._spares = SpareJobs(self._make_spare)
        self._kernels: dict[str, str] = {}
        """By the container of a job after which a spare is made: whose it is."""

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

    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> LocalPrepared:
        self._engine = kernel.engine
        config = kernel.config
        library = set(await asyncio.to_thread(guest_files.library, package.lib))
        files = [file for file in kernel.guest_files() if file not in library]
        return {
            "kernel_id": kernel.kernel_id,
            "image": package.image,
            "python": kernel.python,
            "lib": package.lib,
            "user": kernel.user,
            "volume": kernel.volume,
            "mounts": [
                (mount.source, mount.target, mount.read_only)
                for mount in kernel.mounts
                if package.live_workspace or mount.source != kernel.workspace
            ],
            "workspace": str(package.workspace) if package.workspace else "",
            "files": [
                (file.path, None if file.data is None else base64.b64encode(file.data).decode(), *_owner(file))
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
            "spares": config.warm_spares if package.live_workspace else 0,
            "env": kernel.env if package.live_workspace else {},
            "container": kernel.container_id,
        }

    def _spec(self, task: JobTask, prepared: LocalPrepared) -> ContainerSpec:
        mounts: list[BindMount | VolumeMount] = [BindMount(*mount) for mount in prepared["mounts"]]
        if prepared["volume"]:
            mounts.append(VolumeMount(prepared["volume"], guest_files.STATE))
        return ContainerSpec(
            image=prepared["image"],
            command=[],
            user=prepared["user"],
            mounts=mounts,
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

    async def _files(self, prepared: LocalPrepared) -> Iterable[File]:
        kept = [
            File(path, None if data is None else base64.b64decode(data), *owner)
            for path, data, *owner in prepared["files"]
        ]
        lib = prepared.get("lib", guest_files.LIB)
        library = await asyncio.to_thread(guest_files.library, lib)
        if lib != guest_files.LIB:
            return [*library, *kept]
        compiled = await asyncio.to_thread(bytecode.of_image, prepared["image"])
        return [*library, *compiled, *kept]

    async def _fill(self, engine: Engine, container: str, prepared: LocalPrepared) -> None:
        if not prepared["workspace"]:
            return
        try:
            file = await asyncio.to_thread(Path(prepared["workspace"]).open, "rb")
        except OSError:
            raise JobError("The copy of the workspace is gone: run the cell again.") from None
        with file:
            await engine.containers.put_stream(container, iter(lambda: file.read(1 << 20), b""))

    # Spares

    async def start(self, task: JobTask, prepared: LocalPrepared) -> EngineJob:
        template = await self._spare_template(task, prepared)
        if template is None:
            return await super().start(task, prepared)
        kernel = str(prepared["kernel_id"])
        spare = await self._spares.take(kernel, template, content_of(task), task.label)
        if spare is None:
            made = await super().start(task, prepared)
        else:
            made = EngineJob(containers=[spare.container], network="")
            self._streams[spare.container] = spare
        self._kernels[made["containers"][0]] = kernel
        return made

    async def clean(self, job: EngineJob) -> None:
        await super().clean(job)
        for container in job["containers"]:
            kernel = self._kernels.pop(container, None)
            if kernel is not None:
                await self._until_gone(container)
                self._spares.prepare(kernel)

    async def forget_kernel(self, kernel_id: str) -> None:
        await self._spares.forget(kernel_id)

    async def _spare_template(self, task: JobTask, prepared: LocalPrepared) -> SpareTemplate | None:
        """What a spare must be made from for this job; None where it cannot have one."""
        local = (await (await self.engine()).info()).local
        # What a folder of PYTHONPATH has may have changed since the spare's worker was started.
        if not (prepared["spares"] and local) or task.inputs or task.replicas > 1 or "PYTHONPATH" in prepared["env"]:
            return None
        spec = self._spec(task, prepared)
        worker = {name: task.spec[name] for name in ("python", "user_base", "outputs")}
        sources = [mount.source for mount in spec.mounts if isinstance(mount, BindMount)]
        found = await asyncio.to_thread(surroundings, sources)
        return SpareTemplate(spec, prepared, {**worker, "env": prepared["env"]}, found)

    async def _make_spare(self, template: SpareTemplate) -> SpareJob:
        name = f"{labels.JOB_NAME}spare-{secrets.token_hex(6)}"
        marks = {labels.MAKER: makers.this_process()}
        spec = dataclasses.replace(template.spec, name=name, labels=marks, open_stdin=True, auto_remove=True)
        engine = await self.engine()
        # Without the kernel's container, there would be another volume.
        await engine.containers.inspect(template.prepared["container"])
        container = await self._make(engine, spec, template.prepared, {"template": template.worker})
        try:
            stream = await engine.containers.attach(container, stdin=True)
            await engine.containers.start(container)
        except BaseException:
            await asyncio.shield(engine.containers.remove(container))
            raise
        return SpareJob(engine, container, spec, stream)

    async def _until_gone(self, container: str) -> None:
        """Wait for the end of a removal that the engine had begun itself: until then the kernel volume is in use."""
        for pause in GONE_PAUSES:
            try:
                await (await self.engine()).containers.inspect(container)
            except EngineError:
                return
            await asyncio.sleep(pause)

    async def release(self, prepared: LocalPrepared) -> None:
        """Nothing was made."""


def _owner(file: File) -> tuple[int, int, int]:
    return file.mode, file.uid, file.gid
