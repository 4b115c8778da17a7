"""Jobs on the nodes of a Docker Swarm: each a service of one task, its image pulled from a registry by digest.

A job's spec and secrets are one Swarm secret. Its result comes in the service's log where it is small, through the
store that `result_url` names where it is not. A result in the log stays on its node until `clean`: the log of our
services keeps its last gigabyte at least, whatever the node's own settings, and a result is the last thing in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

from docker_kernel import labels
from docker_kernel.batch.layers import Layer, job_layers
from docker_kernel.batch.state_image import check_architecture
from docker_kernel.engine import (
    BindMount,
    Engine,
    LogStream,
    Swarm,
    SwarmFile,
    SwarmNode,
    SwarmTask,
    TaskSpec,
    VolumeMount,
)
from docker_kernel.errors import Conflict, DockerKernelError, JobError
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import (
    IMAGE_STOP_SECONDS,
    STOP_SECONDS,
    Check,
    JobTask,
    Note,
    Outcome,
    Output,
    Package,
    Progress,
    Target,
    partly_started,
    runner_script,
)
from docker_kernel.targets.cluster.images import JobImages
from docker_kernel.targets.cluster.results import JobResults
from docker_kernel.targets.cluster.spec import encoded, task_spec
from docker_kernel.targets.swarm import nodes
from docker_kernel.targets.swarm.config import SwarmConfig
from docker_kernel.targets.swarm.followed import Ending, FollowedJob
from docker_kernel.targets.swarm.records import SwarmJob, SwarmPrepared
from docker_kernel.targets.swarm.tasks import TaskPoller

SPEC = "docker-kernel-job"
"""The file below /run/secrets that has a job's spec."""

MAX_SPEC = 500 << 10
"""Bytes of a Swarm secret (Docker's own limit is 500 KB)."""

LOG = {"max-size": "1g", "max-file": "2"}
"""Of a service's log: rotated late enough that a result, its last lines, is never rotated away."""

NODES_SECONDS = 5.0
"""How old what is known of the nodes may be when a job is started."""

MASTER_PORT = 29500


class SwarmTarget(Target[SwarmConfig, SwarmPrepared, SwarmJob]):
    """The nodes of a Swarm. What waits for a free place there, waits in the Swarm's own queue."""

    kind: ClassVar[str] = "swarm"
    Config: ClassVar = SwarmConfig
    default_max_jobs: ClassVar[int] = 32

    def __init__(self, name: str, config: SwarmConfig) -> None:
        super().__init__(name, config)
        self._engine: Engine | None = None
        self._connecting = asyncio.Lock()
        self._images = JobImages(config.registry)
        self._results = JobResults(config.result_url, config.max_result)
        self._poller = TaskPoller(self._swarm)
        self._followed: dict[str, FollowedJob] = {}

    async def _connected(self) -> Engine:
        async with self._connecting:
            if self._engine is None:
                engine = await Engine.connect(self.config.engine, tls=self.config.tls)
                await engine.swarm.manager()
                self._engine = engine
        return self._engine

    async def _swarm(self) -> Swarm:
        return (await self._connected()).swarm

    async def _usable_nodes(self) -> list[SwarmNode]:
        usable = await self._poller.usable_nodes(NODES_SECONDS)
        if not usable:
            raise JobError(f"No node of {self.name} is ready for jobs: see `docker node ls`.")
        return usable

    # Before

    async def check(self) -> list[Check]:
        try:
            found = await (await self._swarm()).nodes()
        except DockerKernelError as error:
            return [Check("manager", "none", False, str(error))]
        return [
            Check("manager", f"{self.config.engine}, of {len(found)} nodes", True),
            nodes.check(found),
            await self._images.check(),
            await self._results.check(),
        ]

    async def _layers(self, kernel: KernelHandle, package: Package) -> tuple[list[Layer], list[str]]:
        """A job's layers, and the constraints by which its image runs only where it can."""
        if kernel.config.network == "none":
            raise JobError(
                f"This kernel may have no network, and a Swarm gives every job one: {self.name} is not for it. Send "
                "the job elsewhere, or start a kernel whose `network` is not 'none'."
            )
        own = str((await kernel.engine.images.inspect(package.image)).get("Architecture", ""))
        there, constraints = nodes.architecture(own, await self._usable_nodes())
        await check_architecture(kernel.engine, package.image, there, self.name)
        return await job_layers(kernel, package), constraints

    async def missing(self, kernel: KernelHandle, package: Package) -> int:
        layers, _ = await self._layers(kernel, package)
        return await self._images.missing(kernel, package, layers)

    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> SwarmPrepared:
        layers, constraints = await self._layers(kernel, package)
        pushed = await self._images.push(kernel, package, layers, progress)
        config = kernel.config
        return {
            "image": pushed.reference,
            "sent": pushed.sent,
            "constraints": constraints,
            "kernel_id": kernel.kernel_id,
            "python": kernel.python,
            "lib": package.lib,
            "user": kernel.user,
            "pids": config.pids,
            "shm": config.shm,
            "capabilities": config.capabilities,
        }

    async def release(self, prepared: SwarmPrepared) -> None:
        """Remove the image from the manager's node; other nodes, and the registry, have collectors of their own."""
        engine = await self._connected()
        with contextlib.suppress(Conflict):  # a job that still runs has it
            await engine.images.remove(prepared["image"])

    # A job's start

    async def start(self, task: JobTask, prepared: SwarmPrepared) -> SwarmJob:
        if task.attempt > 1:
            await self._remove_earlier(task)
        with contextlib.suppress(Conflict):
            return await self._create(task, prepared)
        # What a killed process had asked for comes late: a manager that is busy was still at it when it was looked for.
        found = await self.find(task, prepared)
        return found if found is not None else await self._create(task, prepared)

    async def _remove_earlier(self, task: JobTask) -> None:
        """Remove what earlier attempts left, as they do where the manager did not answer at their end."""
        swarm, having = await self._swarm(), {labels.JOB_ID: task.job_id}
        job = _new_job(task, "")
        job["services"], job["secrets"] = [*await swarm.services(having)], [*await swarm.secrets(having)]
        await self._remove(job)
        for network in await swarm.networks(having):
            await swarm.remove_network(network)  # one that a dead node's task still has stays until the job's end

    async def find(self, task: JobTask, prepared: SwarmPrepared) -> SwarmJob | None:
        swarm, having = await self._swarm(), {labels.JOB_ID: task.job_id}
        services = {name: service for service, name in (await swarm.services(having)).items()}
        kept = {name: secret for secret, name in (await swarm.secrets(having)).items()}
        networks = {name: network for network, name in (await swarm.networks(having)).items()}
        job = _new_job(task, prepared.get("image", ""))
        job["services"] = [services[name] for name in task.names() if name in services]
        job["secrets"] = [kept[name] for name in task.names() if name in kept]
        job["network"] = networks.get(task.label)
        if len(job["services"]) == task.replicas:
            return job
        await self._remove(job)
        if job["services"]:
            raise JobError(partly_started(len(job["services"]), task))
        return None

    async def _create(self, task: JobTask, prepared: SwarmPrepared) -> SwarmJob:
        swarm = await self._swarm()
        generic = nodes.generic_resources(task, await self._usable_nodes(), self.name)
        marks = {
            labels.KIND: labels.KIND_JOB,
            labels.JOB_ID: task.job_id,
            labels.KERNEL_ID: prepared["kernel_id"],
            labels.USER: str(os.getuid()),
        }
        result = await self._results.settings(task)
        job = _new_job(task, prepared["image"])
        try:
            if task.replicas > 1:
                job["network"] = await swarm.create_network(task.label, marks)
            for rank, name in enumerate(task.names()):
                spec = encoded(task_spec(task, rank, result, task.names()[0], MASTER_PORT), MAX_SPEC, "a Swarm")
                secret = await swarm.create_secret(name, spec, marks)
                job["secrets"].append(secret)
                made = self._task_spec(task, prepared, name, secret, marks, generic, job["network"])
                job["services"].append(await swarm.create(made))
        except BaseException:
            await asyncio.shield(self._remove(job))
            raise
        return job

    def _task_spec(
        self,
        task: JobTask,
        prepared: SwarmPrepared,
        name: str,
        secret: str,
        marks: dict[str, str],
        generic: dict[str, int],
        network: str | None,
    ) -> TaskSpec:
        """What one rank's service is made from."""
        uid, _, gid = prepared["user"].partition(":")
        mounts: list[BindMount | VolumeMount] = [
            VolumeMount(one.source, one.at, read_only=True)
            if one.volume
            else BindMount(one.source, one.at, read_only=True)
            for one in task.inputs
        ]
        runner = runner_script(prepared)
        return TaskSpec(
            name=name,
            image=prepared["image"],
            command=[prepared["python"], "-I", "-S", runner, f"/run/secrets/{SPEC}"],
            labels=marks,
            user=prepared["user"],
            files=[SwarmFile(secret, name, SPEC, int(uid), int(gid or uid))],
            mounts=mounts,
            tmpfs={"/dev/shm": int(prepared["shm"])} if prepared["shm"] else {},
            memory=task.memory,
            cpus=task.cpus,
            pids=prepared["pids"],
            generic=generic,
            constraints=[*self.config.constraints, *prepared["constraints"]],
            network=network,
            cap_add=prepared["capabilities"],
            stop_seconds=task.stop_seconds,
            log_options=LOG,
        )

    # A job under way

    async def _follow(self, job: SwarmJob, after: Mapping[int, str] | None = None) -> FollowedJob:
        name = job["name"]
        if name not in self._followed:
            swarm = await self._swarm()
            new = FollowedJob(job, after or {}, swarm, self._poller, lambda task: self._explain(job, task))
            self._followed.setdefault(name, new)
        return self._followed[name]

    async def _explain(self, job: SwarmJob, task: SwarmTask) -> str:
        """Why a node did not start a task, in words for the user."""
        where = self._poller.node_of(task)
        if "No such image" in task.error or "manifest unknown" in task.error:
            lost = await self._images.why_not_pullable(job["image"])
            return f"{where} could not get its image: {lost or task.error}"
        return f"{where} could not start it: {task.error.rstrip('.')}"

    async def output(self, job: SwarmJob, after: Mapping[int, str]) -> AsyncIterator[Output | Note]:
        if old := self._followed.pop(job["name"], None):
            old.stop_reading()
        followed = await self._follow(job, after)
        followed.cancelled = old is not None and old.cancelled
        async for piece in followed.output():
            yield piece

    async def outcome(self, job: SwarmJob) -> Outcome:
        followed = await self._follow(job)
        await followed.wait_for_end()
        return followed.outcome()

    async def cancel(self, job: SwarmJob) -> None:
        followed = await self._follow(job)
        with self._poller.watching():
            await self._poller.tick(fresh=True)
            tasks = [self._poller.tasks.get(service) for service in job["services"]]
            ended = all(rank.whole_ending is not None for rank in followed.ranks)
            if ended or all(task and task.over for task in tasks):
                return  # its log, which may have its result, stays
            followed.cancelled = True
            swarm = await self._swarm()
            await asyncio.gather(*(swarm.stop(service) for service in job["services"]))
            try:
                await asyncio.wait_for(self._stopped(followed), IMAGE_STOP_SECONDS + 20)
            except asyncio.TimeoutError:
                raise JobError(
                    f"The Swarm was told to stop {job['job']}, and it still runs: see `docker service ps`."
                ) from None

    async def _stopped(self, followed: FollowedJob) -> None:
        """Wait until a job's containers have stopped; its runners say their last word before."""
        await followed.wait_for_end()
        while not all(rank.ending and rank.ending.lost for rank in followed.ranks):
            await self._poller.tick(fresh=True)
            tasks = [self._poller.tasks.get(rank.service) for rank in followed.ranks]
            if all(task is None or task.over for task in tasks):
                return

    # After its end

    async def result(self, job: SwarmJob, digest: str, folder: Path) -> None:
        async def log(tail: int | None) -> LogStream:
            return await (await self._swarm()).logs(job["services"][0], follow=False, tail=tail)

        followed = self._followed.get(job["name"])
        tail = None if followed is None else followed.ranks[0].log.tail
        if not await self._results.fetch(job["name"], job["nonce"], digest, folder, tail, log):
            raise JobError(
                f"The result of {job['job']} is not in its log any more: its node is down, or its service was removed. "
                "Run it again; a result_url in the target's settings keeps results apart from the nodes."
            )

    async def clean(self, job: SwarmJob) -> None:
        followed = self._followed.pop(job["name"], None)
        if followed is not None:
            followed.stop_reading()
            for rank in followed.ranks:
                if rank.ending is None:
                    rank.end(Ending(-1, lost="it was removed"))
        await self._remove(job)
        await self._results.remove(job["name"])

    async def _remove(self, job: SwarmJob) -> None:
        swarm = await self._swarm()
        await asyncio.gather(*(swarm.remove(service) for service in job["services"]))
        await asyncio.gather(*(swarm.remove_secret(secret) for secret in job["secrets"]))
        if job["network"] is not None:
            for _ in range(2 * STOP_SECONDS + 10):
                left = [*await swarm.networks({labels.JOB_ID: job["job"]})]
                if all([await swarm.remove_network(network) for network in left]):
                    return
                await asyncio.sleep(0.5)
            raise JobError(f"The overlay network {job['name']} is still in use, and was left in the Swarm.")

    async def close(self) -> None:
        for followed in self._followed.values():
            followed.stop_reading()
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _new_job(task: JobTask, image: str) -> SwarmJob:
    """What is kept of an attempt, before anything is made for it."""
    return {
        "job": task.job_id,
        "name": task.label,
        "nonce": str(task.spec["nonce"]),
        "image": image,
        "services": [],
        "secrets": [],
        "network": None,
    }
