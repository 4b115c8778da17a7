"""Jobs as containers of one engine: what the kernel's own engine and another one have in common."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from docker_kernel import background, labels
from docker_kernel.batch.layers import tar_content, tar_files
from docker_kernel.batch.manifest import MAX_MANIFEST
from docker_kernel.batch.result_store import ResultFolder
from docker_kernel.engine import BindMount, ContainerSpec, ContainerState, Engine, ExecStream, File, VolumeMount
from docker_kernel.errors import Conflict, EngineError, EngineUnavailable, JobError, NotFound
from docker_kernel.guest.run_job import HEED_SECONDS
from docker_kernel.kernel import guest_files
from docker_kernel.targets.base import (
    STOP_SECONDS,
    ConfigT,
    JobTask,
    Note,
    Outcome,
    Output,
    Target,
    partly_started,
    runner_script,
)
from docker_kernel.targets.engine.records import EngineJob, EnginePrepared
from docker_kernel.targets.engine.spare_jobs import SpareJob

T = TypeVar("T")


PreparedT = TypeVar("PreparedT", bound=EnginePrepared)

STOP_PAUSES = (0.2, 0.3, 0.5, 1, 2)
"""The seconds after each signal but the last that tells it to end."""

BACK_SECONDS = 30
"""How long an engine that does not answer may take to come back."""

BACK_PAUSE = 0.5

MANY_BLOBS = 8
"""From more than so many files on, a result's are brought together."""

MASTER_PORT = 29500
"""Where rank 0 listens for the others: torch.distributed's own default."""


class EngineTarget(Target[ConfigT, PreparedT, EngineJob], Generic[ConfigT, PreparedT]):
    """Runs jobs as containers of one engine. A kind adds how it is reached, and what a container is made from."""

    def __init__(self, name: str, config: ConfigT) -> None:
        super().__init__(name, config)
        self._streams: dict[str, ExecStream | SpareJob] = {}
        self._interrupted: set[str] = set()
        """Containers whose cells were."""

    @abstractmethod
    async def engine(self) -> Engine:
        """The engine, connected."""

    @abstractmethod
    def _spec(self, task: JobTask, prepared: PreparedT) -> ContainerSpec:
        """What a job's container is made from, without what `start` adds: command, name, labels, inputs, network."""

    async def _files(self, prepared: PreparedT) -> Iterable[File]:
        """What the container gets before its start, besides the job's spec."""
        return ()

    async def _fill(self, engine: Engine, container: str, prepared: PreparedT) -> None:
        """Put into a created container what is too large for `_files`."""

    async def start(self, task: JobTask, prepared: PreparedT) -> EngineJob:
        engine = await self.engine()
        made = _job(task, [], "")
        asked = False
        if task.attempt > 1:
            await self._remove_earlier(engine, task)
        try:
            if task.replicas > 1:
                made["network"] = await engine.networks.create(task.label, {labels.JOB_ID: task.job_id})
            for rank in range(task.replicas):
                made["containers"].append(await self._create(engine, task, prepared, rank, made["network"]))
            for container in made["containers"]:
                # Faster than its log, but what is attached to must be this machine's: TLS and ssh have no such socket.
                if (await engine.info()).local:
                    self._streams[container] = await engine.containers.attach(container)
                asked = True
                await engine.containers.start(container)
        except BaseException as error:
            with contextlib.suppress(EngineUnavailable):
                await asyncio.shield(self.clean(made))
            if asked and isinstance(error, EngineUnavailable):
                # What was removed may have run: whoever took the error for an engine out of reach would start it again.
                raise JobError(f"the engine went away while the job was started, which may have run: {error}") from None
            raise
        return made

    async def _remove_earlier(self, engine: Engine, task: JobTask) -> None:
        """Remove what earlier attempts left, as they do where their engine did not answer at their end."""
        having = {labels.JOB_ID: task.job_id}
        for container in await engine.containers.list(having):
            await engine.containers.remove(container.id)
        for network in await engine.networks.list(having):
            await engine.networks.remove(network)

    async def find(self, task: JobTask, prepared: PreparedT) -> EngineJob | None:
        engine = await self.engine()
        found: list[str] = []
        for name in task.names():
            with contextlib.suppress(NotFound):
                if not await engine.containers.remove_unstarted(name):
                    found.append((await engine.containers.inspect(name)).id)
        known = {} if task.replicas == 1 else await engine.networks.list({labels.JOB_ID: task.job_id})
        networks = [network for network, name in known.items() if name == task.label]
        made = _job(task, found, networks[0] if networks else "")
        if len(found) == task.replicas:
            return made
        await self.clean(made)
        if found:
            raise JobError(partly_started(len(found), task))
        return None

    async def _create(self, engine: Engine, task: JobTask, prepared: PreparedT, rank: int, network: str) -> str:
        spec = self._spec(task, prepared)
        several, names = task.replicas > 1, task.names()
        spec.name = names[rank]
        spec.labels = {labels.JOB_ID: task.job_id}
        spec.network = network or spec.network
        inputs: list[BindMount | VolumeMount] = [
            VolumeMount(one.source, one.at, read_only=True)
            if one.volume
            else BindMount(one.source, one.at, read_only=True)
            for one in task.inputs
        ]
        spec.mounts = [*spec.mounts, *inputs]
        content = content_of(task)
        if several:
            content |= {"rank": rank, "world_size": task.replicas, "master_addr": names[0], "master_port": MASTER_PORT}
        return await self._make(engine, spec, prepared, content)

    async def _make(
        self, engine: Engine, spec: ContainerSpec, prepared: PreparedT, content: Mapping[str, object]
    ) -> str:
        """Create a container whose runner finds `content`."""
        spec.command = [prepared["python"], "-I", "-S", runner_script(prepared)]
        spec.labels = {**spec.labels, labels.KIND: labels.KIND_JOB, labels.USER: str(os.getuid())}
        spec.labels[labels.KERNEL_ID] = prepared["kernel_id"]
        uid, _, gid = prepared["user"].partition(":")
        path = f"{guest_files.RUN.lstrip('/')}/job.json"
        container = await _create_anew(engine, spec)
        try:
            await self._fill(engine, container, prepared)
            file = File(path, json.dumps(content).encode(), mode=0o600, uid=int(uid), gid=int(gid))
            await engine.containers.put(container, [*await self._files(prepared), file])
        except BaseException:
            await asyncio.shield(engine.containers.remove(container))
            raise
        return container

    async def output(self, job: EngineJob, after: Mapping[int, str]) -> AsyncIterator[Output | Note]:
        pieces: asyncio.Queue[Output | None] = asyncio.Queue(maxsize=64)

        async def read(rank: int, container: str) -> None:
            try:
                async for piece in self._output_of(rank, container, after):
                    await pieces.put(piece)
            finally:
                await pieces.put(None)

        if len(job["containers"]) == 1:
            async for piece in self._output_of(0, job["containers"][0], after):
                yield piece
            return
        readers = [asyncio.create_task(read(rank, container)) for rank, container in enumerate(job["containers"])]
        ender = asyncio.create_task(self._end_with_the_first_failure(job))
        try:
            left = len(readers)
            while left:
                one = await pieces.get()
                if one is None:
                    left -= 1
                else:
                    yield one
        finally:
            for task in (*readers, ender):
                task.cancel()

    async def _output_of(self, rank: int, container: str, after: Mapping[int, str]) -> AsyncIterator[Output]:
        given = int(after.get(rank, 0))
        attached = self._streams.pop(container, None)
        if attached is not None:
            try:
                async for _, data in attached.frames():
                    given += len(data)
                    yield Output(rank, data, str(given))
            finally:
                attached.close()
        # A stream also ends with its engine's connection, and the job may then end before anybody looks: the log has
        # what it gave, and what came since.
        over = False
        while True:
            skip = given
            try:
                stream = await self._retry_while_unavailable(lambda engine: engine.containers.follow_logs(container))
            except NotFound:
                return
            try:
                while data := await stream.read():
                    data, skip = data[skip:], max(0, skip - len(data))
                    given += len(data)
                    if data:
                        yield Output(rank, data, str(given))
            finally:
                stream.close()
            was_over, over = over, await self._over(container)
            if over and (was_over or not stream.error):
                return

    async def _over(self, container: str) -> bool:
        """Whether a container whose output has ended has, too; the engine may take a moment to see it."""
        for pause in (0, 0.05, 0.2, 0.5, None):
            try:
                state = await self._retry_while_unavailable(lambda engine: engine.containers.inspect(container))
                if not state.running:
                    return True
            except NotFound:
                return True
            if pause is not None:
                await asyncio.sleep(pause)
        return False

    async def _retry_while_unavailable(self, ask: Callable[[Engine], Awaitable[T]]) -> T:
        """Ask an engine, which may only be starting again.

        Raises:
            EngineError: it does not answer for too long.
        """
        engine = await self.engine()
        end = asyncio.get_running_loop().time() + BACK_SECONDS
        while True:
            try:
                return await ask(engine)
            except EngineUnavailable as error:
                if asyncio.get_running_loop().time() > end:
                    raise EngineError(
                        f"the engine went away and did not come back within {BACK_SECONDS} s ({error}); a retry starts "
                        "it anew"
                    ) from None
                await asyncio.sleep(BACK_PAUSE)

    async def _end_with_the_first_failure(self, job: EngineJob) -> None:
        """Tasks that wait for one that has failed would wait for ever."""
        engine = await self.engine()

        async def watch(container: str) -> None:
            if await engine.containers.wait(container):
                if container in self._interrupted:
                    await asyncio.sleep(HEED_SECONDS)  # the others were, too, and are about to end
                await self.cancel(job)

        with contextlib.suppress(EngineError):
            await asyncio.gather(*(watch(container) for container in job["containers"]))

    async def outcome(self, job: EngineJob) -> Outcome:
        states = []
        for container in job["containers"]:
            try:
                states.append(await self._ended(container))
            except NotFound:
                return Outcome(-1, lost="its container was removed")
            except EngineError as error:
                return Outcome(-1, lost=str(error))
        # The one that failed first is the reason of the others' end.
        failed = sorted((state.finished, rank) for rank, state in enumerate(states) if state.exit_code)
        rank = failed[0][1] if failed else 0
        state = states[rank]
        reason = f"its rank {rank} ended with exit code {state.exit_code}" if failed and len(states) > 1 else ""
        # An engine's yes is one. Its no is not: some set the flag too late, or for the main process alone.
        killed = state.exit_code == 128 + signal.SIGKILL
        out_of_memory = True if state.oom_killed else None if killed else False
        return Outcome(state.exit_code, out_of_memory, reason=reason or state.error)

    async def _ended(self, container: str) -> ContainerState:
        await self._retry_while_unavailable(lambda engine: engine.containers.wait(container))
        state = await self._retry_while_unavailable(lambda engine: engine.containers.inspect(container))
        if state.status in ("removing", "dead"):
            raise NotFound("somebody removes it just now")
        return state

    async def interrupt(self, job: EngineJob) -> bool:
        engine = await self.engine()
        self._interrupted.update(job["containers"])
        await asyncio.gather(*(engine.containers.kill(container, signal.SIGINT) for container in job["containers"]))
        return True

    async def cancel(self, job: EngineJob) -> None:
        seconds = job.get("stop_seconds", STOP_SECONDS)
        await asyncio.gather(*(self._stop(container, seconds) for container in job["containers"]))

    async def _stop(self, container: str, seconds: int) -> None:
        engine = await self.engine()
        ended = asyncio.ensure_future(engine.containers.wait(container))
        try:
            # Again, as a main process has no ear for it before it has set its handlers (signal(7), pid_namespaces(7)).
            for pause in (*STOP_PAUSES, seconds - sum(STOP_PAUSES)):
                await engine.containers.kill(container, signal.SIGTERM)
                if (await asyncio.wait([ended], timeout=pause))[0]:
                    break
            else:
                await engine.containers.kill(container, signal.SIGKILL)
        finally:
            ended.cancel()
            with contextlib.suppress(NotFound, asyncio.CancelledError):
                await ended

    async def result(self, job: EngineJob, digest: str, folder: Path) -> None:
        engine, container = await self.engine(), job["containers"][0]
        result = ResultFolder(folder, self.config.max_result)
        if not result.file("manifests", digest).exists():
            await _fetch(engine, container, "manifests", digest, result)
        missing = await asyncio.to_thread(result.missing_blobs, digest)
        if len(missing) > MANY_BLOBS and job.get("state_is_result"):
            await _fetch_all_blobs(engine, container, set(missing), result)
            missing = await asyncio.to_thread(result.missing_blobs, digest)
        for blob in missing:
            await _fetch(engine, container, "blobs", blob, result)

    async def clean(self, job: EngineJob) -> None:
        engine = await self.engine()
        for container in job["containers"]:
            self._interrupted.discard(container)
            stream = self._streams.pop(container, None)
            if stream is not None:
                stream.close()
            await engine.containers.remove(container)
        if job["network"]:
            await engine.networks.remove(job["network"])


def _job(task: JobTask, containers: list[str], network: str) -> EngineJob:
    job: EngineJob = {"containers": containers, "network": network}
    if task.spec.get("kind") == "image":
        job["state_is_result"] = True
        job["stop_seconds"] = task.stop_seconds
    return job


def content_of(task: JobTask) -> dict[str, object]:
    """What a job's runner reads."""
    return {**task.spec, "secrets": dict(task.secrets)}


async def _create_anew(engine: Engine, spec: ContainerSpec) -> str:
    """Create a container; one of its name that never ran, which a start that was cut off left, goes first."""
    assert spec.name is not None
    end = asyncio.get_running_loop().time() + STOP_SECONDS
    while True:
        try:
            return await engine.containers.create(spec)
        except Conflict:
            # The engine may still be at that one's creation, or removal.
            if asyncio.get_running_loop().time() > end:
                raise
        if not await engine.containers.remove_unstarted(spec.name) and not await _is_going(engine, spec.name):
            raise JobError(f"The engine has a container {spec.name} that ran already: it is left alone.")
        await asyncio.sleep(BACK_PAUSE)


async def _is_going(engine: Engine, container: str) -> bool:
    """Whether a container's removal is under way, or over."""
    try:
        return (await engine.containers.inspect(container)).status in ("removing", "dead", "stopping")
    except NotFound:
        return True


async def _fetch_all_blobs(engine: Engine, container: str, wanted: set[str], result: ResultFolder) -> None:
    """Bring the files of a state folder in one answer: one for each would cost a request's time for each."""

    def take() -> None:
        for name, content in tar_files(chunks):
            if f"sha256:{name}" in wanted:
                result.write("blobs", f"sha256:{name}", content)

    try:
        chunks = await engine.containers.get_stream(container, f"{guest_files.STATE}/blobs")
    except NotFound:
        raise JobError("The result is gone: its container has it no more.") from None
    with contextlib.closing(chunks):
        await background.in_own_thread(take)


async def _fetch(engine: Engine, container: str, kind: str, digest: str, result: ResultFolder) -> None:
    """Bring one file of a container's state folder; raises JobError where it is gone, or was changed."""
    try:
        chunks = await engine.containers.get_stream(container, f"{guest_files.STATE}/{kind}/{digest[7:]}")
    except NotFound:
        raise JobError("The result is gone: its container has it no more.") from None
    limit = MAX_MANIFEST if kind == "manifests" else None
    with contextlib.closing(chunks):
        await background.in_own_thread(result.write, kind, digest, tar_content(chunks), limit)
