"""Jobs on the kernel's own engine: a fresh container from the kernel's image, with the kernel volume mounted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

from docker_kernel import labels
from docker_kernel.batch.package import workspace_copy
from docker_kernel.batch.targets.base import JobTask, Outcome, Target
from docker_kernel.engine import BindMount, ContainerSpec, ExecStream, VolumeMount
from docker_kernel.errors import EngineError, NotFound
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle

STOP_SECONDS = 10
"""How long a cancelled job may take to end by itself."""


class LocalTarget(Target):
    """The engine that the kernel itself runs on; nothing is pushed anywhere."""

    def __init__(self, kernel: KernelHandle) -> None:
        self._kernel = kernel
        self._containers: dict[str, str] = {}
        self._streams: dict[str, ExecStream] = {}

    async def prepare(self, task: JobTask) -> None:
        kernel, engine = self._kernel, self._kernel.engine
        container = await engine.create(self._spec(task))
        self._containers[task.job_id] = container
        try:
            if not task.live_workspace and kernel.workspace is not None:
                uid, _, gid = kernel.user.partition(":")
                with await asyncio.to_thread(workspace_copy, kernel.workspace, int(uid), int(gid)) as copy:
                    await engine.put_stream(container, iter(lambda: copy.read(1 << 20), b""))
            await engine.put(container, task.files)
            self._streams[task.job_id] = await engine.attach(container)
        except BaseException:
            await self.clean(task.job_id)
            raise

    def _spec(self, task: JobTask) -> ContainerSpec:
        kernel, config = self._kernel, self._kernel.config
        mounts: list[BindMount | VolumeMount] = [
            mount for mount in kernel.mounts if task.live_workspace or mount.source != kernel.workspace
        ]
        mounts.append(VolumeMount(kernel.volume, guest_files.STATE))
        return ContainerSpec(
            image=task.image,
            command=[kernel.python, "-I", "-S", f"{guest_files.LIB}/docker_kernel/guest/run_job.py"],
            name=f"docker-kernel-job-{task.job_id}",
            user=kernel.user,
            labels={
                labels.KIND: labels.KIND_JOB,
                labels.JOB_ID: task.job_id,
                labels.KERNEL_ID: kernel.kernel_id,
                labels.USER: str(os.getuid()),
            },
            mounts=mounts,
            network=config.network,
            working_dir="/",
            memory=task.memory or config.memory,
            cpus=task.cpus or config.cpus,
            pids=config.pids,
            shm_size=config.shm,
            gpus=config.gpus,
            cap_add=config.capabilities,
            group_add=kernel.group_add,
            userns_mode=kernel.userns_mode,
        )

    async def start(self, job_id: str) -> None:
        await self._kernel.engine.start(self._containers[job_id])

    async def output(self, job_id: str) -> AsyncIterator[bytes]:
        async for _, data in self._streams[job_id].frames():
            yield data

    async def outcome(self, job_id: str) -> Outcome:
        engine, container = self._kernel.engine, self._containers[job_id]
        try:
            await engine.wait(container)
            state = await engine.inspect(container)
        except NotFound:
            return Outcome(-1, lost="its container was removed")
        except EngineError as error:
            return Outcome(-1, lost=str(error))
        return Outcome(state.exit_code, state.oom_killed)

    async def cancel(self, job_id: str) -> None:
        container = self._containers.get(job_id)
        if container is None:
            return
        engine = self._kernel.engine
        await engine.kill(container, signal.SIGTERM)
        try:
            await asyncio.wait_for(engine.wait(container), STOP_SECONDS)
        except asyncio.TimeoutError:
            await engine.kill(container, signal.SIGKILL)
        except NotFound:
            pass

    async def clean(self, job_id: str) -> None:
        stream = self._streams.pop(job_id, None)
        if stream is not None:
            stream.close()
        container = self._containers.pop(job_id, None)
        if container is not None:
            await self._kernel.engine.remove(container)
