"""Jobs on the nodes of a Docker Swarm: each a service of one task, its image pulled from a registry by digest.

A job's spec and secrets are one Swarm secret. Its result comes in the service's log where it is small, through the
store that `result_url` names where it is not. A result in the log stays on its node until `clean`: the log of our
services keeps its last gigabyte at least, whatever the node's own settings, and a result is the last thing in it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from docker_kernel import background, labels
from docker_kernel.batch.job_log import JobLog
from docker_kernel.batch.layers import Layer, job_layers
from docker_kernel.batch.registry import Registry
from docker_kernel.batch.result_store import ResultFolder, ResultStore, result_store
from docker_kernel.batch.state_image import ARCHITECTURES, bytes_to_push, check_architecture, push
from docker_kernel.batch.targets.base import Check, JobTask, Outcome, Package, Progress, Record, Target
from docker_kernel.batch.targets.containers import partly_started
from docker_kernel.config import SwarmTargetConfig, TargetConfig, format_size
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
    registry_credentials,
)
from docker_kernel.errors import Conflict, DockerKernelError, EngineError, JobError
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle

SPEC = "docker-kernel-job"
"""The file below /run/secrets that has a job's spec."""

MAX_SPEC = 500 << 10
"""Bytes of a Swarm secret (Docker's own limit is 500 KB)."""

INLINE = 48_000
INLINE_BESIDE_STORE = 4096
"""Bytes of a result that go into the log, without and with a result store: that one keeps it also when a node dies."""

LOG = {"max-size": "1g", "max-file": "2"}
"""Of a service's log: rotated late enough that a result, its last lines, is never rotated away."""

TAIL = 1 << 18
"""Bytes of a rank's log that are remembered: an inline result is among them."""

MAX_INLINE_READ = 4 << 20
"""Bytes of inline results that the host takes from a log, whatever is in it."""

INTERVAL = 0.3
NODES_INTERVAL = 2.0
DOWN_SECONDS = 4.0
"""How long a node has to be down before its jobs are given up: a manager that restarts sees all nodes down at first."""

MANAGER_SECONDS = 60.0
"""How long the manager may not answer before its jobs are given up."""

STOP_SECONDS = 10
"""Between SIGTERM and SIGKILL."""

LAST_WORDS = 1.5
"""How long the rest of a log may take to arrive after its task has ended."""

REREAD = 16 << 20
"""Bytes up to which a log is read once more at its end, where the runner's last word is missing."""

log = logging.getLogger(__name__)

REPOSITORY = "docker-kernel-jobs"
"""The repository of all jobs' images, below the registry's prefix."""

MASTER_PORT = 29500
CANCELLED = 143
KILLED = 137


@dataclass(frozen=True)
class _Ending:
    """How one rank ended."""

    exit_code: int
    out_of_memory: bool = False
    lost: str = ""
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.exit_code != 0 or bool(self.lost)


@dataclass
class _Rank:
    """One task of a job.

    Args:
        delivered: bytes of its log that were given out.
        tail: the last of them.
        said: the runner's last word.
        over: the task has ended, or is lost.
    """

    rank: int
    service: str
    nonce: str
    delivered: int = 0
    tail: bytearray = field(default_factory=bytearray)
    said: dict[str, Any] | None = None
    seen: SwarmTask | None = None
    announced: str = ""
    ending: _Ending | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, data: bytes) -> None:
        """Remember what arrived, and look for the runner's last word."""
        self.delivered += len(data)
        at = max(0, len(self.tail) - 1024)
        self.tail += data
        begin = self.tail.rfind(f'##docker-kernel {self.nonce} {{"event":"end"'.encode(), at)
        end = self.tail.find(b"\n", begin)
        if begin >= 0 and end >= 0:
            with contextlib.suppress(ValueError):
                self.said = json.loads(self.tail[self.tail.index(b"{", begin) : end])
        if len(self.tail) > 2 * TAIL:
            del self.tail[:-TAIL]

    def end(self, ending: _Ending) -> None:
        self.ending = ending
        self.over.set()


class _Poller:
    """Knows all tasks of the target's jobs, and the nodes: one request for all jobs, while any runs.

    The Engine API has no events for tasks (1.41; nor has 1.50), so they have to be asked for.
    """

    def __init__(self, swarm: Callable[[], Awaitable[Swarm]]) -> None:
        self._swarm = swarm
        self._labels = {labels.KIND: labels.KIND_JOB, labels.USER: str(os.getuid())}
        self._watchers = 0
        self._loop: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._started = self._finished = 0
        self.tasks: dict[str, SwarmTask] = {}
        self.nodes: dict[str, SwarmNode] = {}
        self.nodes_at = float("-inf")
        self._down: dict[str, float] = {}
        self._silent_since: float | None = None
        self.error = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Poll inside of this context."""
        self._watchers += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._watchers -= 1

    async def tick(self, fresh: bool = False) -> None:
        """Wait for the next poll, or for the first that has not begun yet."""
        first = self._started + 1
        while True:
            if self._next is None or self._next.done():
                self._next = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._next)
            if not fresh or self._finished >= first:
                return

    def down(self, node: str) -> float:
        """For how many seconds a node has been down; 0 if it is not."""
        since = self._down.get(node)
        return 0.0 if since is None else time.monotonic() - since

    @property
    def silent(self) -> float:
        """For how many seconds the manager has not answered."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    async def read_nodes(self) -> None:
        nodes = await (await self._swarm()).nodes()
        self.nodes = {node.id: node for node in nodes}
        self.nodes_at = time.monotonic()
        down = {node.id for node in nodes if node.state == "down"}
        self._down = {node: self._down.get(node, time.monotonic()) for node in down}

    async def _run(self) -> None:
        while self._watchers:
            begun = time.monotonic()
            self._started = number = self._started + 1
            try:
                swarm = await self._swarm()
                found = await swarm.tasks(self._labels)
                if begun - self.nodes_at >= NODES_INTERVAL:
                    await self.read_nodes()
                # A service has one task; but a node that was lost and comes back may report an old one.
                self.tasks = {task.service: task for task in sorted(found, key=lambda task: task.created)}
                self._silent_since, self.error = None, ""
            except Exception as error:
                if not isinstance(error, EngineError):
                    log.exception("the tasks of a Swarm could not be read")
                self._silent_since, self.error = self._silent_since or begun, str(error)
            self._finished = number
            if self._next is not None and not self._next.done():
                self._next.set_result(None)
            await asyncio.sleep(max(0.05, INTERVAL - (time.monotonic() - begun)))


class _Run:
    """One job that this process follows."""

    def __init__(self, job: Record, swarm: Swarm, poller: _Poller, explain: Callable[[SwarmTask], Awaitable[str]]):
        self.ranks = [_Rank(rank, service, job["nonce"]) for rank, service in enumerate(job["services"])]
        self.cancelled = False
        self.failed: _Rank | None = None
        self._swarm = swarm
        self._poller = poller
        self._explain = explain
        self._queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(32)
        self._watcher: asyncio.Task[None] | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None

    # How it goes

    def watch(self) -> asyncio.Task[None]:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        return self._watcher

    async def ended(self) -> None:
        """Wait until all ranks have ended."""
        self.watch()
        for rank in self.ranks:
            await rank.over.wait()

    async def _watch(self) -> None:
        begun = time.monotonic()
        with self._poller.watching():
            await self._poller.tick(fresh=True)
            while any(rank.ending is None for rank in self.ranks):
                for rank in self.ranks:
                    if rank.ending is None and (ending := await self._judge(rank, time.monotonic() - begun)):
                        self._end(rank, ending)
                await self._poller.tick()

    def _end(self, rank: _Rank, ending: _Ending) -> None:
        if rank.ending is not None:
            return
        rank.end(ending)
        if ending.failed and len(self.ranks) > 1 and not self.cancelled and self.failed is None:
            self.failed = rank
            self._stopping = asyncio.create_task(self._stop_others())

    async def _stop_others(self) -> None:
        """Without one rank the others would wait for it, without an end."""
        others = [rank.service for rank in self.ranks if rank.ending is None]
        for done in await asyncio.gather(*(self._swarm.stop(service) for service in others), return_exceptions=True):
            if isinstance(done, Exception):
                log.error("a rank could not be stopped: %s", done)

    async def _judge(self, rank: _Rank, seconds: float) -> _Ending | None:
        if self._poller.silent > MANAGER_SECONDS:
            return _Ending(-1, lost=f"the Swarm's manager has not answered for a minute: {self._poller.error}")
        if self._poller.silent:
            return None
        task = self._poller.tasks.get(rank.service)
        stopped = self.cancelled or self.failed is not None
        if task is None:
            if rank.seen is None and seconds < 5:
                return None
            if stopped or await self._swarm.has_service(rank.service):
                return None if rank.seen is None and seconds < 30 and not stopped else _Ending(CANCELLED)
            return _Ending(-1, lost="its service was removed from the Swarm")
        rank.seen = task
        if task.state == "rejected":
            return _Ending(-1, reason=await self._explain(task))
        if task.state in ("complete", "failed"):
            code = task.exit_code if task.exit_code is not None else 0 if task.state == "complete" else -1
            reason = "" if task.exit_code is not None else await self._explain(task)
            return _Ending(code, code == KILLED and not stopped, reason=reason)
        if task.over:
            if stopped or task.desired == "remove":
                return _Ending(CANCELLED if task.exit_code is None else task.exit_code)
            return _Ending(-1, lost=f"the Swarm stopped it on {self._node(task)} ({task.error or task.state})")
        if self._poller.down(task.node) >= DOWN_SECONDS:
            return _Ending(-1, lost=f"{self._node(task)}, where it ran, is down; a retry runs on another node")
        if task.state == "pending" and task.error:
            if "insufficient resources" not in task.error:
                return _Ending(-1, reason=f"the Swarm has no place for it: {task.error}")
            if task.error != rank.announced:
                rank.announced = task.error
                text = f"docker-kernel: it waits for a place in the Swarm: {task.error}\n"
                await self._queue.put((rank.rank, text.encode()))
        return None

    def _node(self, task: SwarmTask) -> str:
        node = self._poller.nodes.get(task.node)
        return f"the node {node.name if node else task.node or 'it had'}"

    def outcome(self) -> Outcome:
        """How it ended, after all ranks have."""
        worst = self.failed or next((rank for rank in self.ranks if rank.ending and rank.ending.failed), self.ranks[0])
        ending = worst.ending
        assert ending is not None
        if len(self.ranks) == 1 or not ending.failed:
            return Outcome(ending.exit_code, ending.out_of_memory, ending.lost, ending.reason)
        which = f"rank {worst.rank} of {len(self.ranks)}"
        if ending.lost:
            return Outcome(ending.exit_code, lost=f"{which} is lost, and the others were stopped: {ending.lost}")
        how = ending.reason or (
            "it used more memory than it may" if ending.out_of_memory else f"exit code {ending.exit_code}"
        )
        return Outcome(ending.exit_code, reason=f"{which} failed, and the others were stopped: {how}")

    # What it prints

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        self.watch()
        self._readers = [asyncio.create_task(self._read(rank)) for rank in self.ranks]
        left = len(self._readers)
        for reader in self._readers:
            reader.add_done_callback(lambda _: asyncio.ensure_future(self._queue.put(None)))
        try:
            while left:
                piece = await self._queue.get()
                if piece is None:
                    left -= 1
                else:
                    yield piece
            for reader in self._readers:
                reader.result()
        finally:
            self.stop_reading()

    def stop_reading(self) -> None:
        for reader in self._readers:
            reader.cancel()

    async def _read(self, rank: _Rank) -> None:
        """Give out a rank's log to its end.

        The manager's stream may break, say nothing for a node that is down, and never ends by itself: the end is the
        runner's last word, or that of its task, and some time.
        """
        while rank.said is None:
            if rank.over.is_set() and (self._gone(rank) or rank.delivered > REREAD):
                return
            follow = not rank.over.is_set()
            try:
                stream = await self._swarm.logs(rank.service, follow)
            except EngineError:
                if not follow:
                    return
                await self._pause(rank)
                continue
            try:
                await self._drain(rank, stream)
            finally:
                stream.close()
            if not follow:
                return
            if rank.said is None and not rank.over.is_set():
                await self._pause(rank)

    @staticmethod
    def _gone(rank: _Rank) -> bool:
        return rank.ending is not None and (bool(rank.ending.lost) or rank.ending.exit_code < 0)

    @staticmethod
    async def _pause(rank: _Rank) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rank.over.wait(), 0.5)

    async def _drain(self, rank: _Rank, stream: LogStream) -> None:
        """Give out a log, but for what was given out before, to the stream's or the log's end."""
        skip = rank.delivered
        over = asyncio.ensure_future(rank.over.wait())
        reading: asyncio.Future[bytes] | None = None
        try:
            while rank.said is None:
                reading = reading or asyncio.ensure_future(stream.read())
                waits: set[asyncio.Future[Any]] = {reading} if over.done() else {reading, over}
                done, _ = await asyncio.wait(
                    waits, timeout=LAST_WORDS if over.done() else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done or (over.done() and self._gone(rank)):
                    return
                if reading not in done:
                    continue
                data, reading = reading.result(), None
                if not data:
                    return
                data, skip = data[skip:], max(0, skip - len(data))
                if data:
                    rank.take(data)
                    if rank.said is not None:
                        self._end(rank, _Ending(int(rank.said["code"]), bool(rank.said.get("oom"))))
                    await self._queue.put((rank.rank, data))
        finally:
            over.cancel()
            if reading is not None:
                reading.cancel()


class SwarmTarget(Target):
    """The nodes of a Swarm. What waits for a free place there, waits in the Swarm's own queue."""

    kind: ClassVar[str] = "swarm"
    default_max_jobs: ClassVar[int] = 32

    def __init__(self, name: str, config: TargetConfig) -> None:
        super().__init__(name, config)
        assert isinstance(config, SwarmTargetConfig)
        self._settings = config
        self._engine: Engine | None = None
        self._connecting = asyncio.Lock()
        self._poller = _Poller(self._swarm)
        self._runs: dict[str, _Run] = {}
        self._results: ResultStore | None = None

    async def _swarm(self) -> Swarm:
        async with self._connecting:
            if self._engine is None:
                engine = await Engine.connect(self._settings.engine, tls=self._settings.tls)
                await engine.swarm.manager()
                self._engine = engine
        return self._engine.swarm

    def _registry(self) -> Registry:
        return Registry(self._settings.registry, registry_credentials)

    async def _store(self) -> ResultStore | None:
        if self._results is None and self._settings.result_url is not None:
            self._results = await background.in_own_thread(
                result_store, self._settings.result_url, registry_credentials
            )
        return self._results

    # Before

    async def check(self) -> list[Check]:
        try:
            swarm = await self._swarm()
            nodes = await swarm.nodes()
        except DockerKernelError as error:
            return [Check("manager", "none", False, str(error))]
        usable = [node for node in nodes if node.usable]
        found = [
            Check("manager", f"{self._settings.engine}, of {len(nodes)} nodes", True),
            Check(
                "nodes",
                ", ".join(
                    f"{node.name} ({node.cpus:g} CPUs, {format_size(node.memory)})"
                    if node.usable
                    else f"{node.name} ({node.state}, {node.availability})"
                    for node in nodes
                ),
                bool(usable),
                "" if usable else "No node takes jobs: see `docker node ls`, and start their engines.",
            ),
        ]
        registry = self._settings.registry
        try:
            said = await background.in_own_thread(lambda: self._registry().check())
            found.append(Check("registry", f"{registry} {said}", True))
        except DockerKernelError as error:
            found.append(Check("registry", registry, False, str(error)))
        if self._settings.result_url is None:
            found.append(Check("results", f"in the log, up to {INLINE // 1000} kB; result_url is not set", True))
        else:
            try:
                store = await self._store()
                assert store is not None
                said = await background.in_own_thread(store.check)
                found.append(Check("results", f"{store.url} {said}", True))
            except DockerKernelError as error:
                found.append(Check("results", self._settings.result_url, False, str(error)))
        return found

    async def _layers(self, kernel: KernelHandle, package: Package) -> tuple[list[Layer], list[str]]:
        """A job's layers, and the constraints by which its image runs only where it can."""
        if kernel.config.network == "none":
            raise JobError(
                f"This kernel may have no network, and a Swarm gives every job one: {self.name} is not for it. Send "
                "the job elsewhere, or start a kernel whose `network` is not 'none'."
            )
        nodes = [node for node in await (await self._swarm()).nodes() if node.usable]
        if not nodes:
            raise JobError(f"No node of {self.name} is ready for jobs: see `docker node ls`.")
        own = str((await kernel.engine.images.inspect(package.image)).get("Architecture", ""))
        kinds = sorted({node.architecture for node in nodes})
        fitting = [kind for kind in kinds if ARCHITECTURES.get(kind, kind) == own]
        await check_architecture(kernel.engine, package.image, (fitting or kinds)[0], self.name)
        constraints = [f"node.platform.arch == {fitting[0]}"] if fitting and len(kinds) > 1 else []
        return await job_layers(kernel, package), constraints

    async def missing(self, kernel: KernelHandle, package: Package) -> int:
        layers, _ = await self._layers(kernel, package)
        registry = await asyncio.to_thread(self._registry)
        return await bytes_to_push(kernel.engine, package.image, layers, registry, REPOSITORY)

    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> Record:
        layers, constraints = await self._layers(kernel, package)
        registry = await asyncio.to_thread(self._registry)
        pushed = await push(kernel.engine, package.image, layers, registry, REPOSITORY, progress)
        config = kernel.config
        return {
            "image": pushed.reference,
            "sent": pushed.sent,
            "constraints": constraints,
            "kernel_id": kernel.kernel_id,
            "python": kernel.python,
            "user": kernel.user,
            "pids": config.pids,
            "shm": config.shm,
            "capabilities": config.capabilities,
        }

    async def release(self, prepared: Record) -> None:
        """Remove the image from the manager's node; other nodes, and the registry, have collectors of their own."""
        await self._swarm()
        assert self._engine is not None
        with contextlib.suppress(Conflict):  # a job that still runs has it
            await self._engine.images.remove(prepared["image"])

    # A job

    async def start(self, task: JobTask, prepared: Record) -> Record:
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
        record = self._record(task, {})
        record["services"], record["secrets"] = [*await swarm.services(having)], [*await swarm.secrets(having)]
        await self._remove(record)
        for network in await swarm.networks(having):
            await swarm.remove_network(network)  # one that a dead node's task still has stays until the job's end

    async def find(self, task: JobTask, prepared: Record) -> Record | None:
        swarm, having = await self._swarm(), {labels.JOB_ID: task.job_id}
        services = {name: service for service, name in (await swarm.services(having)).items()}
        kept = {name: secret for secret, name in (await swarm.secrets(having)).items()}
        networks = {name: network for network, name in (await swarm.networks(having)).items()}
        record = self._record(task, prepared)
        record["services"] = [services[name] for name in task.names() if name in services]
        record["secrets"] = [kept[name] for name in task.names() if name in kept]
        record["network"] = networks.get(task.label)
        if len(record["services"]) == task.replicas:
            return record
        await self._remove(record)
        if record["services"]:
            raise JobError(partly_started(len(record["services"]), task))
        return None

    @staticmethod
    def _record(task: JobTask, prepared: Record) -> Record:
        return {
            "job": task.job_id,
            "name": task.label,
            "nonce": str(task.spec["nonce"]),
            "image": prepared.get("image", ""),
            "services": [],
            "secrets": [],
            "network": None,
        }

    async def _create(self, task: JobTask, prepared: Record) -> Record:
        swarm = await self._swarm()
        generic = await self._fits(task)
        uid, _, gid = str(prepared["user"]).partition(":")
        name, names = task.label, task.names()
        marks = {
            labels.KIND: labels.KIND_JOB,
            labels.JOB_ID: task.job_id,
            labels.KERNEL_ID: str(prepared["kernel_id"]),
            labels.USER: str(os.getuid()),
        }
        spec = {**task.spec, "secrets": dict(task.secrets), "result": await self._result_settings(task, name)}
        record = self._record(task, prepared)
        mounts: list[BindMount | VolumeMount] = [
            VolumeMount(one.source, one.at, read_only=True)
            if one.volume
            else BindMount(one.source, one.at, read_only=True)
            for one in task.inputs
        ]
        try:
            if task.replicas > 1:
                record["network"] = await swarm.create_network(name, marks)
            for rank in range(task.replicas):
                service = names[rank]
                if task.replicas > 1:
                    spec.update(rank=rank, world_size=task.replicas, master_addr=names[0], master_port=MASTER_PORT)
                if rank:
                    spec["result"] = None  # only rank 0's is asked for
                secret = await swarm.create_secret(service, _checked(spec), marks)
                record["secrets"].append(secret)
                made = await swarm.create(
                    TaskSpec(
                        name=service,
                        image=prepared["image"],
                        command=[
                            str(prepared["python"]), "-I", "-S", f"{guest_files.LIB}/docker_kernel/guest/run_job.py",
                            f"/run/secrets/{SPEC}",
                        ],
                        labels=marks,
                        user=str(prepared["user"]),
                        files=[SwarmFile(secret, service, SPEC, int(uid), int(gid or uid))],
                        mounts=mounts,
                        tmpfs={"/dev/shm": int(prepared["shm"])} if prepared["shm"] else {},
                        memory=task.memory,
                        cpus=task.cpus,
                        pids=prepared["pids"],
                        generic=generic,
                        constraints=[*self._settings.constraints, *prepared["constraints"]],
                        network=record["network"],
                        cap_add=prepared["capabilities"],
                        stop_seconds=STOP_SECONDS,
                        log_options=LOG,
                    )
                )  # fmt: skip
                record["services"].append(made)
        except BaseException:
            await asyncio.shield(self._remove(record))
            raise
        return record

    async def _result_settings(self, task: JobTask, name: str) -> dict[str, Any]:
        store = await self._store()
        if store is None:
            return {"inline": INLINE, "store": None}
        settings = await background.in_own_thread(store.settings, name, task.spec.get("timeout"))
        return {"inline": INLINE_BESIDE_STORE, "store": settings}

    async def _fits(self, task: JobTask) -> dict[str, int]:
        """Refuse what no node could ever run; returns the generic resources that stand for the job's GPUs."""
        if time.monotonic() - self._poller.nodes_at > 5:
            await self._poller.read_nodes()
        usable = [node for node in self._poller.nodes.values() if node.usable]
        if not usable:
            raise JobError(f"No node of {self.name} is ready for jobs: see `docker node ls`.")
        kind, gpus = _gpus(task.gpus, usable, self.name)
        for node in usable:
            if (
                node.memory >= (task.memory or 0)
                and node.cpus >= (task.cpus or 0)
                and node.generic.get(kind, 0) >= gpus
            ):
                return {kind: gpus} if gpus else {}
        asked = [f"{format_size(task.memory)} of memory"] if task.memory else []
        asked += [f"{task.cpus:g} CPUs"] if task.cpus else []
        asked += [f"{gpus} of {kind}"] if gpus else []
        largest = max(usable, key=lambda node: (node.memory, node.cpus))
        raise JobError(
            f"No node of {self.name} has {', '.join(asked)}: the largest that is ready, {largest.name}, has "
            f"{format_size(largest.memory)} and {largest.cpus:g} CPUs."
        )

    async def _run(self, job: Record) -> _Run:
        name = job["name"]
        if name not in self._runs:
            swarm = await self._swarm()
            self._runs.setdefault(name, _Run(job, swarm, self._poller, lambda task: self._explain(job, task)))
        return self._runs[name]

    async def _explain(self, job: Record, task: SwarmTask) -> str:
        """Why a node did not start a task, in words for the user."""
        node = self._poller.nodes.get(task.node)
        where = f"the node {node.name if node else task.node}"
        if "No such image" in task.error or "manifest unknown" in task.error:
            lost = await background.in_own_thread(self._what_is_lost, str(job["image"]))
            return f"{where} could not get its image: {lost or task.error}"
        return f"{where} could not start it: {task.error.rstrip('.')}"

    def _what_is_lost(self, reference: str) -> str:
        """Why nobody can pull an image that was pushed; empty where the registry has all of it."""
        name, _, digest = reference.partition("@")
        repository, registry = name.partition("/")[2], self._registry()
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

    async def output(self, job: Record) -> AsyncIterator[tuple[int, bytes]]:
        if old := self._runs.pop(job["name"], None):
            old.stop_reading()
        run = await self._run(job)
        run.cancelled = old is not None and old.cancelled
        async for rank, data in run.output():
            yield rank, data

    async def outcome(self, job: Record) -> Outcome:
        run = await self._run(job)
        await run.ended()
        return run.outcome()

    async def cancel(self, job: Record) -> None:
        run = await self._run(job)
        with self._poller.watching():
            await self._poller.tick(fresh=True)
            tasks = [self._poller.tasks.get(service) for service in job["services"]]
            if all(rank.ending is not None for rank in run.ranks) or all(task and task.over for task in tasks):
                return  # its log, which may have its result, stays
            run.cancelled = True
            swarm = await self._swarm()
            await asyncio.gather(*(swarm.stop(service) for service in job["services"]))
            try:
                await asyncio.wait_for(self._stopped(run), STOP_SECONDS + 20)
            except asyncio.TimeoutError:
                raise JobError(
                    f"The Swarm was told to stop {job['job']}, and it still runs: see `docker service ps`."
                ) from None

    async def _stopped(self, run: _Run) -> None:
        """Wait until a job's containers have stopped; its runners say their last word before."""
        await run.ended()
        while not all(rank.ending and rank.ending.lost for rank in run.ranks):
            await self._poller.tick(fresh=True)
            tasks = [self._poller.tasks.get(rank.service) for rank in run.ranks]
            if all(task is None or task.over for task in tasks):
                return

    async def result(self, job: Record, digest: str, folder: Path) -> None:
        place = ResultFolder(folder, self.config.max_result)
        if await asyncio.to_thread(place.complete, digest):
            return
        run = self._runs.get(job["name"])
        if run is not None and await background.in_own_thread(_keep, [bytes(run.ranks[0].tail)], job, digest, place):
            return
        store = await self._store()
        if store is not None:
            try:
                await background.in_own_thread(store.fetch, job["name"], digest, place)
                return
            except JobError:
                if not await self._from_log(job, digest, place):
                    raise
            return
        if not await self._from_log(job, digest, place):
            raise JobError(
                f"The result of {job['job']} is not in its log any more: its node is down, or its service was removed. "
                "Run it again; a result_url in the target's settings keeps results apart from the nodes."
            )

    async def _from_log(self, job: Record, digest: str, place: ResultFolder) -> bool:
        """Look for the result in the log once more: in its last lines, then in all of it."""
        swarm = await self._swarm()
        for tail in (1000, None):
            try:
                stream = await swarm.logs(job["services"][0], follow=False, tail=tail)
            except EngineError:
                return False
            collector = _Collector(job["nonce"])
            try:
                while data := await asyncio.wait_for(stream.read(), 30):
                    await asyncio.to_thread(collector.feed, data)
            except asyncio.TimeoutError:
                pass
            finally:
                stream.close()
            if await background.in_own_thread(collector.keep, digest, place):
                return True
        return False

    async def clean(self, job: Record) -> None:
        run = self._runs.pop(job["name"], None)
        if run is not None:
            run.stop_reading()
            for rank in run.ranks:
                if rank.ending is None:
                    rank.end(_Ending(-1, lost="it was removed"))
        await self._remove(job)
        store = await self._store()
        if store is not None:
            await background.in_own_thread(store.remove, job["name"])

    async def _remove(self, job: Record) -> None:
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
        for run in self._runs.values():
            run.stop_reading()
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class _Collector:
    """Picks the pieces of an inline result out of a log."""

    def __init__(self, nonce: str) -> None:
        self._log = JobLog(nonce)
        self._pieces: dict[str, dict[int, bytes]] = {}
        self._size = 0

    def feed(self, data: bytes) -> None:
        for part in self._log.feed(data):
            if not isinstance(part, dict) or part.get("event") != "blob":
                continue
            with contextlib.suppress(KeyError, TypeError, ValueError, binascii.Error):
                piece = base64.b64decode(part["data"], validate=True)
                self._size += len(piece)
                if self._size <= MAX_INLINE_READ:
                    self._pieces.setdefault(str(part["digest"]), {})[int(part["index"])] = piece

    def keep(self, digest: str, place: ResultFolder) -> bool:
        """Write the result, if all of it is here; raises JobError where a piece was changed."""
        if digest not in self._pieces:
            return False
        place.write("manifests", digest, self._in_order(digest))
        blobs = place.missing_blobs(digest)
        if not all(blob in self._pieces for blob in blobs):
            return False
        for blob in blobs:
            place.write("blobs", blob, self._in_order(blob))
        return True

    def _in_order(self, digest: str) -> list[bytes]:
        return [piece for _, piece in sorted(self._pieces[digest].items())]


def _keep(log: list[bytes], job: Record, digest: str, place: ResultFolder) -> bool:
    collector = _Collector(job["nonce"])
    for data in log:
        # The remembered part of a log may begin inside of a line.
        collector.feed(data if len(data) < TAIL else data[data.find(b"\n") + 1 :])
    return collector.keep(digest, place)


def _checked(spec: dict[str, Any]) -> bytes:
    data = json.dumps(spec).encode()
    if len(data) > MAX_SPEC:
        raise JobError(
            f"The job's code, parameters and secrets have {format_size(len(data))}, and a Swarm takes "
            f"{format_size(MAX_SPEC)} apart from the notebook's state: make variables of what is large, and use them."
        )
    return data


def _gpus(asked: str | None, nodes: list[SwarmNode], target: str) -> tuple[str, int]:
    """Which generic resource stands for GPUs, and how many of it a job needs."""
    if asked is None:
        return "", 0
    kinds = sorted({kind for node in nodes for kind in node.generic if "gpu" in kind.lower()})
    if not kinds:
        raise JobError(
            f"No node of {target} offers GPUs: let their engines name them, with "
            '"node-generic-resources": ["NVIDIA-GPU=UUID"] in /etc/docker/daemon.json.'
        )
    if asked != "all" and not asked.isdigit():
        raise JobError("A Swarm itself chooses which GPUs a job gets: ask for a number of them, or 'all'.")
    most = max(node.generic.get(kinds[0], 0) for node in nodes)
    return kinds[0], most if asked == "all" else int(asked)
