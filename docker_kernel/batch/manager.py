"""All jobs that this process follows: queued, started, followed to their end, retried, and taken over after a restart.

One for each process. A job has one follower at a time, on this machine: the process that holds its folder's lock. What
is running is what the target says; a follower that starts later reads the job's log from its beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker_kernel import background, labels
from docker_kernel import config as configuration
from docker_kernel.batch.attempt_log import AttemptLog, LogListener
from docker_kernel.batch.ending import Facts, combined, judge, last_words
from docker_kernel.batch.image_origin import ImageOrigin
from docker_kernel.batch.job_folder import DispatchFolder, JobFolder, Lock, root
from docker_kernel.batch.job_targets import JobTargets
from docker_kernel.batch.kept_task import attempted_task, kept_parts, kept_task, own_part, shared_part
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.notebooks import Notebooks
from docker_kernel.batch.output_folder import bring_files
from docker_kernel.batch.record import JobRecord, State
from docker_kernel.batch.result_store import ResultFolder
from docker_kernel.config import TargetTable
from docker_kernel.engine import Engine
from docker_kernel.errors import DockerKernelError, EngineError, EngineUnavailable, JobError, NotFound
from docker_kernel.free_memory import give_back_memory
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import AnyTarget, JobTask, JobUnknown, Outcome, Package

log = logging.getLogger(__name__)

NOT_HERE = "its result is not here yet:"
"""Begins what is said of a result that could not be brought; it goes from the reason when the result has come."""

LAST_WORDS = 1 << 16
"""Bytes at the end of an image's output where it says why it ended."""

TIMEOUT_SLACK = 30.0
"""Seconds that a job's own runner, which watches the timeout, may be late before the host side stops the job."""

OUT_OF_REACH_SECONDS = 30.0
"""How often a job is looked for whose target could not be reached when it was taken over."""

CLEAN_SECONDS = 30.0
"""How long the process that followed a job may take, after its end, to remove what it left on its target."""

LOCK_SECONDS = 0.1
"""How often it is asked whether it has."""

WATCH_SECONDS = 1.0
"""How often the ledger is read for a job that another process follows: between processes there is no event."""

KEPT_DISPATCHES = 8
"""Of one owner, on one target: what their jobs started from is kept, so that they can be retried."""

Kept = dict[str, Any]
"""JSON of a folder or of a target: what it means is for who wrote it."""

Listener = Callable[[JobRecord, dict[str, Any]], Awaitable[None]]
"""Gets a job's events, on the background loop."""


class _LeftToOthers(Exception):
    """A job was never started, and is not to be in this process."""


class _OutOfReach(Exception):
    """A job was taken over whose target cannot be reached now."""


@dataclass
class Dispatch:
    """The jobs of one dispatch that this process follows, and what they start from."""

    group: str
    target: AnyTarget
    prepared: asyncio.Future[Kept]
    holder: str = ""
    volume: str = ""
    origin: Kept | None = None
    """The notebook image that its jobs run, from which what they start from can be made again; None for a kernel's."""

    jobs: list[str] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    preparing: bool = False
    """Whether what they start from is being sent, or was."""

    shared: Kept | None = None
    """What the tasks of its jobs have in common, once it was read from what is kept."""
    ended: set[str] = field(default_factory=set)
    """Those that ended here, also where a full disk kept the ledger from knowing it."""

    @property
    def folder(self) -> DispatchFolder:
        return DispatchFolder(self.group)


@dataclass
class Running:
    """A job under way.

    Args:
        interrupted: the process that started it was killed over it: nobody knows whether it did.
        unknown: it cannot be told, and so it is not tried again.
        may_start: whether it may be started here, where it has not been.
        why_not: why it cannot be started here, where it has to have been.
        cell_interrupted: whether its cell was: it is not tried again, and the next interrupt stops the job.
    """

    record: JobRecord
    dispatch: Dispatch
    task: JobTask
    folder: JobFolder
    lock: Lock | None = None
    end: str = ""
    """Why we ourselves stop it: "cancelled" or "timeout"."""

    not_started: bool = False
    """Its start failed, which may have left something where its target did not answer."""
    taken_over: bool = False
    """Whether another process started it."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Its runner has begun."""
    note: str = ""
    """Why it waits."""

    why: str = ""
    runner: asyncio.Task[None] | None = None
    interrupted: bool = False
    unknown: bool = False
    may_start: bool = True
    why_not: str = ""
    cell_interrupted: bool = False

    def __post_init__(self) -> None:
        self.log = AttemptLog(self.record, self.folder)

    @property
    def cancelled(self) -> bool:
        return self.end == "cancelled"


class JobManager:
    """Follows jobs. Its coroutines run on the background loop."""

    def __init__(self) -> None:
        self.ledger = Ledger(root() / "jobs.sqlite")
        self.notebooks = Notebooks(self.ledger)
        self._running: dict[str, Running] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._targets = JobTargets()
        self._listeners: dict[str, list[Listener]] = {}
        self._collecting: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dispatches: dict[str, Dispatch] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._engine: Engine | None = None
        self._polling_cancels: asyncio.Task[None] | None = None
        self._watching_ledger: asyncio.Task[None] | None = None

    # Who asks

    def listen(self, owner: str, listener: Listener) -> None:
        """Send events of an owner's jobs to a listener."""
        self._listeners.setdefault(owner, []).append(listener)
        if self._watching_ledger is None or self._watching_ledger.done():
            self._watching_ledger = self._spawn(self._watch_ledger())

    def unlisten(self, owner: str, listener: Listener) -> None:
        self._listeners[owner].remove(listener)
        if not self._listeners[owner]:
            del self._listeners[owner]

    def target(self, name: str, table: TargetTable) -> AnyTarget:
        """The target of a name with these settings."""
        return self._targets.get(name, table)

    async def _target_for(self, record: JobRecord) -> AnyTarget:
        sent = await asyncio.to_thread(DispatchFolder(record.group).read, "dispatch.json")
        return self._targets.of_dispatch(record.target, sent)

    def jobs(
        self, owner: str | None = None, limit: int = 100_000, skip: int = 0, group: str | None = None
    ) -> list[JobRecord]:
        """Jobs, the newest first, as they stand now, so many of them skipped. Blocks: it reads the ledger.

        Args:
            group: only those of this dispatch.
        """
        found = self.ledger.find(owner=owner, limit=limit, skip=skip, group=group)
        return [self._running[one.id].record if one.id in self._running else one for one in found]

    def get(self, job: str) -> JobRecord:
        """One job by its id, or the beginning of it; raises JobError."""
        return self._running[job].record if job in self._running else self.ledger.get(job)

    def secret_names(self, record: JobRecord) -> list[str]:
        """The secrets that a job was sent with, whose values nobody keeps. Blocks: it reads the job's folder."""
        kept = kept_parts(self._shared(record), JobFolder(record.id).read("task.json"))
        return [] if kept is None else list(kept["secrets"])

    def ended(self, older_than: float, owner: str | None = None) -> list[JobRecord]:
        """The jobs that ended longer ago than so many seconds. Blocks: it reads the ledger."""
        end = time.time() - older_than
        return [one for one in self.jobs(owner) if one.over and (one.ended or 0) <= end]

    def follows(self, job: str) -> bool:
        """Whether it is this process that follows a job."""
        return job in self._running

    async def forget_kernel(self, kernel_id: str) -> None:
        """Let go of what targets keep ready for a kernel that ends."""
        await self._targets.forget_kernel(kernel_id)

    # Starting

    async def submit(
        self, kernel: KernelHandle, target: AnyTarget, package: Package, jobs: Iterable[tuple[JobRecord, JobTask]]
    ) -> None:
        """Take over the jobs of a dispatch: its state is sent, and its jobs run, while the caller goes on."""
        loop = asyncio.get_running_loop()
        origin = kernel.to_dict() if isinstance(kernel, ImageOrigin) else None
        dispatch = Dispatch(package.package_id, target, loop.create_future(), package.holder, kernel.volume, origin)
        self._dispatches[dispatch.group] = dispatch
        self._engine = kernel.engine
        started = list(jobs)
        dispatch.jobs = [record.id for record, _ in started]
        source = started[0][1].spec["source"]
        try:
            if not package.live_workspace:
                await asyncio.to_thread(self.ledger.keep_source, source)
                await asyncio.to_thread(self._keep, dispatch, None)
                await asyncio.to_thread(dispatch.folder.write, "task.json", shared_part(started[0][1]))
            for record, task in started:
                folder = JobFolder(record.id)
                await self._take(Running(record, dispatch, task, folder))
                if not record.live:
                    await asyncio.to_thread(folder.write, "task.json", own_part(task))
        except BaseException as error:
            await self._drop(dispatch)
            if isinstance(error, OSError):
                raise JobError(f"The job cannot be kept in {root()}: {error.strerror or error}.") from None
            raise
        await asyncio.to_thread(self.ledger.save, *(record for record, _ in started), source=source)
        dispatch.preparing = True
        preparing = self._spawn(self._prepare(kernel, dispatch, package))
        for record, _ in started:
            running = self._running[record.id]
            running.runner = self._spawn(self._run(running))
            running.runner.add_done_callback(lambda _: dispatch.under_way or preparing.cancel())

    async def _drop(self, dispatch: Dispatch) -> None:
        """Forget the jobs of a dispatch that could not be taken over."""
        self._dispatches.pop(dispatch.group, None)
        for job in list(dispatch.under_way):
            running = self._running.pop(job, None)
            if running is not None and running.lock is not None:
                running.lock.close()
            await asyncio.to_thread(JobFolder(job).remove)

    def _keep(self, dispatch: Dispatch, prepared: Kept | None) -> None:
        """Write down what another process needs to go on with a dispatch."""
        target = dispatch.target
        kept: Kept = {"target": target.name, "config": self._targets.settings(target)}
        kept |= {"volume": dispatch.volume, "holder": dispatch.holder}
        kept |= {"jobs": dispatch.jobs, "origin": dispatch.origin, "prepared": prepared}
        dispatch.folder.write("dispatch.json", kept)

    async def _take(self, running: Running) -> None:
        record = running.record
        running.dispatch.under_way.add(record.id)
        running.lock = running.lock or await asyncio.to_thread(running.folder.lock)
        if running.lock is None:
            raise JobError(f"The job {record.id} is followed by another process already.")
        self._running[record.id] = running

    async def _prepare(self, kernel: KernelHandle, dispatch: Dispatch, package: Package) -> None:
        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:
            asyncio.run_coroutine_threadsafe(self._note(dispatch, text), loop)

        try:
            prepared = await dispatch.target.prepare(kernel, package, progress)
            if not package.live_workspace:
                await asyncio.to_thread(self._keep, dispatch, prepared)
        except asyncio.CancelledError:
            dispatch.prepared.cancel()
            raise
        except DockerKernelError as error:
            dispatch.prepared.set_exception(error)
        except OSError as error:
            text = f"What the job starts from cannot be kept in {root()}: {error.strerror or error}."
            dispatch.prepared.set_exception(JobError(text))
        except Exception as error:
            log.exception("the state of dispatch %s could not be sent", dispatch.group)
            dispatch.prepared.set_exception(JobError(f"its host side failed, whose log has the details ({error!r})"))
        else:
            if not dispatch.prepared.done():
                dispatch.prepared.set_result(prepared)
            await self._let_holder_go(dispatch)
        dispatch.prepared.exception()  # also where no job waits for it any more

    def _prepare_again(self, dispatch: Dispatch) -> None:
        """Send what the jobs of a notebook image start from, where that was not done, or was let go of after them."""
        if dispatch.origin is not None and not dispatch.preparing and not dispatch.prepared.done():
            dispatch.preparing = True
            self._spawn(self._prepare_image(dispatch, dispatch.origin))

    async def _prepare_image(self, dispatch: Dispatch, origin: Kept) -> None:
        try:
            image = ImageOrigin.from_dict(await self._kernels_engine(), origin)
        except DockerKernelError as error:
            dispatch.prepared.set_exception(error)
            dispatch.prepared.exception()  # also where no job waits for it any more
            return
        package = Package(dispatch.group, image.image, "", "", lib=guest_files.JOB_LIB)
        await self._prepare(image, dispatch, package)

    async def _note(self, dispatch: Dispatch, text: str) -> None:
        for job in dispatch.under_way:
            running = self._running.get(job)
            if running is not None and running.record.state == "queued":
                running.record.reason = text
                await self._tell(running.record, {"event": "state", **running.record.public()})

    async def _run(self, running: Running) -> None:
        record = running.record
        if self._polling_cancels is None or self._polling_cancels.done():
            self._polling_cancels = self._spawn(self._poll_cancel_requests())
        try:
            try:
                state, reason = await self._attempts(running)
            except asyncio.CancelledError:
                if running.end != "cancelled":
                    raise
                state, reason = "cancelled", running.why
            if record.kept and not record.live:
                collecting = self._spawn(self._collect(record, running.dispatch.target, running.folder))
                self._collecting[record.id] = collecting
                collecting.add_done_callback(lambda _: self._collecting.pop(record.id, None))
                # Until then no other process may begin the job again, whose record would be overwritten.
                lock, running.lock = running.lock, None
                if lock is not None:
                    collecting.add_done_callback(lambda _: lock.close())
            await self._change(record, state, reason)
            await asyncio.to_thread(running.folder.forget_cancel)
            if record.live or not record.kept:
                await self._clean(running)
        except _LeftToOthers:
            pass
        except _OutOfReach as error:
            # It may well run, or have a result: nothing is lost before somebody has looked.
            await self._change(record, record.state, str(error))
            self._watching[record.id] = self._spawn(self._watch(record, OUT_OF_REACH_SECONDS))
        finally:
            self._running.pop(record.id, None)
            running.dispatch.under_way.discard(record.id)
            if record.over:
                running.dispatch.ended.add(record.id)
            if running.lock is not None:
                running.lock.close()
            if not running.dispatch.under_way:
                group = running.dispatch.group
                self._closing[group] = ending = self._spawn(self._over(running.dispatch))
                ending.add_done_callback(lambda _: self._closing.pop(group, None))

    async def _attempts(self, running: Running) -> tuple[State, str]:
        """Try a job as often as it may be: how the last attempt ended, and why."""
        record = running.record
        while True:
            state, reason = await self._attempt(running)
            wanted = not (running.end or running.cell_interrupted or running.unknown)
            if state not in ("failed", "lost") or not wanted or record.attempt > record.retries:
                return state, reason
            await self._clean(running)
            record.begin_again()
            running.task = _of_attempt(running.task, record)
            running.log.begin_again()
            running.note, running.taken_over, running.not_started = "", False, False
            running.begun.clear()
            await asyncio.to_thread(running.folder.restart)
            if running.cancelled:
                return "cancelled", running.why
            again = f"attempt {record.attempt - 1} of {record.retries + 1} {state}: {reason}; it is tried again"
            await self._change(record, "queued", again)

    async def _attempt(self, running: Running) -> tuple[State, str]:
        """Start a job, unless it runs already, and follow it: how it ended, and why."""
        record, dispatch = running.record, running.dispatch
        taken_over = record.placed is not None or running.interrupted
        try:
            if running.interrupted and (why := await self._find(running)):
                return "lost", why
            if record.placed is not None:
                return await self._follow(running)
            if running.cancelled:
                return "cancelled", running.why
            if not running.may_start:
                raise _LeftToOthers
            prepared = await asyncio.shield(dispatch.prepared)
            if record.live:
                await self._start(running, prepared)
                return await self._follow(running)
            async with self._targets.slot(dispatch.target):
                await self._start(running, prepared)
                return await self._follow(running)
        except DockerKernelError as error:
            if taken_over and isinstance(error, EngineUnavailable):
                raise _OutOfReach(str(error)) from None
            return "failed" if record.placed is None else "lost", str(error)
        except asyncio.CancelledError:
            if running.end != "cancelled":
                raise
            return "cancelled", running.why
        except _LeftToOthers:
            raise
        except Exception:
            log.exception("the job %s failed on the host side", record.id)
            return "lost", "its host side failed, whose log has the details"

    async def _find(self, running: Running) -> str:
        """Look for an attempt whose start a killed process may have come to; why it is lost, "" where it is not.

        Raises:
            _OutOfReach: its target does not answer.
        """
        record, dispatch = running.record, running.dispatch
        prepared = dispatch.prepared.result() if dispatch.prepared.done() else {}
        try:
            record.placed = await dispatch.target.find(running.task, prepared)
        except EngineError as error:
            raise _OutOfReach(str(error)) from None
        except DockerKernelError as error:
            running.unknown, running.interrupted = isinstance(error, JobUnknown), False
            return str(error)
        running.interrupted = False
        if record.placed is None:
            return running.why_not
        await self._keep_placed(record)
        return ""

    async def _start(self, running: Running, prepared: Kept) -> None:
        record = running.record
        await self._change(record, "starting")
        starting = asyncio.ensure_future(running.dispatch.target.start(running.task, prepared))
        try:
            record.placed = await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(DockerKernelError):
                record.placed = await starting
            raise
        except DockerKernelError:
            running.not_started = True
            raise
        await self._keep_placed(record)

    async def _keep_placed(self, record: JobRecord) -> None:
        """Write down by what a job's target finds it: from now on, whoever comes next can follow it."""
        if not record.live:
            await asyncio.to_thread(self.ledger.save, record)

    async def _follow(self, running: Running) -> tuple[State, str]:
        record, target = running.record, running.dispatch.target
        assert record.placed is not None
        self._spawn(self._let_holder_go(running.dispatch))
        if running.end:
            await target.cancel(record.placed)  # it came before there was anything to stop
        watch = self._spawn(self._stop_late(running)) if record.timeout is not None else None
        try:
            output = target.output(record.placed, running.log.positions)
            await running.log.read(output, self._log_listener(running))
            outcome = await self._outcome(running)
        finally:
            if watch is not None:
                watch.cancel()
        end = running.log.end
        last = await asyncio.to_thread(running.folder.output, LAST_WORDS) if record.kind == "image" else b""
        facts = Facts(outcome, end, running.log.raised, last_words(last), running.end, running.why)
        if running.end or facts.timed_out or facts.unheeded:
            # The exception of an interrupted cell is not what ended it.
            record.result, record.partial = "", record.kept
        return judge(record, facts)

    def _log_listener(self, running: Running) -> LogListener:
        record = running.record

        async def keep_record() -> None:
            await asyncio.to_thread(self.ledger.save, record)

        return LogListener(
            on_event=lambda event: self._tell(record, event),
            on_begin=lambda at: self._begun(running, at),
            on_note=lambda text: self._note_waiting(running, text),
            on_position=keep_record,
        )

    async def _outcome(self, running: Running) -> Outcome:
        """How a job ended, by its runner's last word and its engine's own.

        A runner that delivers its cell's result has the last word: nothing can take that away. Whatever else it said,
        the engine may know better why: who told it to end, or that memory ran out.
        """
        record, end = running.record, running.log.end
        if end is not None and end.code == 0 and end.result and not running.end and record.replicas == 1:
            return Outcome(0)
        try:
            outcome = await running.dispatch.target.outcome(record.placed)
        except DockerKernelError as error:
            if end is None or record.replicas > 1:
                raise
            log.info("nobody tells how the job %s ended but its runner: %s", record.id, error)
            return Outcome(end.code, end.oom)
        return outcome if end is None or record.replicas > 1 else combined(end, outcome)

    async def _note_waiting(self, running: Running, text: str) -> None:
        """Tell why a job waits, before it runs."""
        if text != running.note:
            running.note = text
            await self._change(running.record, running.record.state, text)

    async def _begun(self, running: Running, at: float) -> None:
        """A job's runner has begun: so does its time, and nothing that kept it waiting is true any more."""
        record, now = running.record, time.time()
        if record.started is None:
            # Its machine's clock may be wrong; but it is all that is known where nobody heard it then.
            record.started = min(now, max(at, record.created)) if running.taken_over else now
        if record.replicas == 1:
            running.note = ""
        await self._change(record, "running", running.note)
        running.begun.set()

    async def _stop_late(self, running: Running) -> None:
        """Stop a job whose runner did not, which watches its timeout. What waits for its turn may wait."""
        record = running.record
        assert record.timeout is not None and record.placed is not None
        if record.started is None:
            await running.begun.wait()
        begun = record.started or time.time()
        await asyncio.sleep(max(0.0, begun + record.timeout + TIMEOUT_SLACK - time.time()))
        running.end = "timeout"
        await running.dispatch.target.cancel(record.placed)

    async def _clean(self, running: Running) -> None:
        """Remove what an attempt left on its target. Where that fails, the next one's start does it, or fails, too; or,
        where there is no next one, whoever adopts jobs."""
        try:
            if running.record.placed is not None:
                await running.dispatch.target.clean(running.record.placed)
            elif running.not_started:
                await _remove_unplaced(running.dispatch.target, running.task, running.dispatch.prepared.result())
        except DockerKernelError as error:
            log.error("the job %s left something behind: %s", running.record.id, error)
            return
        if running.record.over:
            await self._settled(running.record)

    async def _let_holder_go(self, dispatch: Dispatch) -> None:
        """Remove what keeps a dispatch's state from going with its kernel, when none of its jobs has yet to start from
        that: if this process ends before the last of them, nobody would for long."""
        prepared = dispatch.prepared
        if not (dispatch.holder and dispatch.jobs and prepared.done()) or prepared.cancelled() or prepared.exception():
            return
        if any(_needs_holder(self._running[job].record) for job in dispatch.under_way if job in self._running):
            return
        known = await asyncio.to_thread(self.ledger.of_ids, dispatch.jobs)
        current = [self._running[one.id].record if one.id in self._running else one for one in known or ()]
        if known is None or not dispatch.holder or any(map(_needs_holder, current)):
            return
        holder, dispatch.holder = dispatch.holder, ""
        try:
            await (await self._kernels_engine()).containers.remove(holder)
            await asyncio.to_thread(dispatch.folder.forget_holder)
        except (EngineError, OSError) as error:
            dispatch.holder = holder
            log.warning("the state of the dispatch %s is kept until its jobs are over: %s", dispatch.group, error)
        else:
            await asyncio.to_thread(give_back_memory)

    async def _over(self, dispatch: Dispatch) -> None:
        """No job of a dispatch is under way: what kept its state from going with its kernel goes."""
        collecting = [
            task
            for job, task in list(self._collecting.items())
            if await asyncio.to_thread(self._group_of, job) == dispatch.group
        ]
        await asyncio.gather(*collecting, return_exceptions=True)
        known = await asyncio.to_thread(self.ledger.find, unsettled=True)
        if dispatch.under_way or any(
            one.group == dispatch.group and not one.over and one.id not in dispatch.ended for one in known
        ):
            return  # one of them is tried again, or waits for a process that starts it
        self._dispatches.pop(dispatch.group, None)
        try:
            if not dispatch.prepared.done():
                await asyncio.to_thread(dispatch.folder.workspace.unlink, missing_ok=True)
                await dispatch.target.abandon(dispatch.group)
        except (DockerKernelError, OSError) as error:
            log.error("the dispatch %s left something on %s: %s", dispatch.group, dispatch.target.name, error)
        await self._let_go_of_image(dispatch)
        try:
            engine = await self._kernels_engine()
            if dispatch.holder:
                await engine.containers.remove(dispatch.holder)
            if dispatch.volume:
                await engine.volumes.remove(dispatch.volume)  # stays while its kernel, or another job, has it
            await asyncio.to_thread(dispatch.folder.forget_holder)
        except (EngineError, OSError) as error:
            log.error("the dispatch %s left something behind: %s", dispatch.group, error)
        if dispatch.holder:
            await asyncio.to_thread(give_back_memory)

    async def _let_go_of_image(self, dispatch: Dispatch) -> None:
        """Remove what the jobs of a notebook image started from, which can be sent again."""
        if dispatch.origin is None or not dispatch.prepared.done():
            return
        try:
            if not dispatch.prepared.cancelled() and dispatch.prepared.exception() is None:
                await dispatch.target.release(dispatch.prepared.result())
            await asyncio.to_thread(self._keep, dispatch, None)
        except (DockerKernelError, OSError) as error:
            log.error("the dispatch %s left something on %s: %s", dispatch.group, dispatch.target.name, error)

    async def _kernels_engine(self) -> Engine:
        if self._engine is None:
            self._engine = await Engine.connect()
        return self._engine

    def _group_of(self, job: str) -> str:
        with contextlib.suppress(JobError):
            return self.get(job).group
        return ""

    async def _change(self, record: JobRecord, state: Any, reason: str = "") -> None:
        record.state, record.reason = state, reason
        if record.over and record.ended is None:
            record.ended = time.time()
        await asyncio.to_thread(self.ledger.save, record)
        await self._tell(record, {"event": "state", **record.public()})

    async def _tell(self, record: JobRecord, event: dict[str, Any]) -> None:
        for listener in list(self._listeners.get(record.owner, [])):
            try:
                await listener(record, event)
            except Exception:
                # Whoever cannot hear of a job does not end it.
                log.exception("what listens to the job %s failed", record.id)

    # Results

    async def _collect(self, record: JobRecord, target: AnyTarget, folder: JobFolder) -> None:
        """Bring a result to the host, and only then remove what the job left on its target."""
        assert record.placed is not None
        try:
            await target.result(record.placed, record.kept, folder.result)
            if record.output:
                await background.in_own_thread(_bring_home, record, folder)
        except DockerKernelError as error:
            if not record.result and not record.output:
                log.warning("what the job %s left cannot be brought: %s", record.id, error)
                record.partial = ""
            else:
                if record.state != "lost":
                    again = "The next docker-kernel command" if record.output else "`.result()`"
                    text, before = f"{NOT_HERE} {error} {again} tries again.", _without_not_here(record.reason)
                    await self._change(record, record.state, f"{before}; {text}" if before else text)
                return
        if NOT_HERE in record.reason:
            await self._change(record, record.state, _without_not_here(record.reason))
        try:
            await target.clean(record.placed)
        except DockerKernelError as error:
            log.error("the job %s left something behind: %s", record.id, error)
            return
        await self._settled(record)

    async def collected(self, record: JobRecord) -> JobFolder:
        """A job's folder, with its result in it.

        Raises:
            JobError: it is not there, and cannot be had.
        """
        folder = JobFolder(record.id)
        if record.id in self._collecting:
            await asyncio.shield(self._collecting[record.id])
        if not record.kept or record.placed is None:
            raise JobError(f"The job {record.id} has no result: it {record.state}.")
        if not await asyncio.to_thread(ResultFolder(folder.result).complete, record.kept):
            if record.live:
                raise JobError(f"The result of {record.id} went with the kernel that it was made for; run it again.")
            target = await self._target_for(record)
            await target.result(record.placed, record.kept, folder.result)
            await target.clean(record.placed)
            record.settled = True
            await self._change(record, record.state, _without_not_here(record.reason))
        return folder

    # Stopping, and again

    async def interrupt(self, job: str) -> bool:
        """Interrupt a job's cell, as a notebook's is; returns whether the job was under way. What the cell did is its
        result.

        The job is cancelled where its cell does not run yet, was interrupted before, or cannot be reached.

        Raises:
            JobError: there is no such job.
        """
        running = self._running.get(job)
        if running is not None and running.record.placed is not None and not running.end:
            if running.log.cell == "has run" and not running.record.over:
                return True  # what it did is on its way
            if running.log.cell == "runs" and not running.cell_interrupted:
                running.cell_interrupted = await running.dispatch.target.interrupt(running.record.placed)
                if running.cell_interrupted:
                    return True
        return await self.cancel(job, "it was interrupted")

    async def cancel(self, job: str, why: str = "it was cancelled") -> bool:
        """Stop a job; returns whether it was still under way. Another process that follows it stops it within seconds.

        Raises:
            JobError: there is no such job.
        """
        running = self._running.get(job)
        if running is None:
            record = await asyncio.to_thread(self.ledger.get, job)
            if record.over:
                return False
            await self._take_over(record)
            await asyncio.sleep(0)  # a task that is cancelled before its first step has no clean-up
            running = self._running.get(job)
        if running is None:
            await asyncio.to_thread(JobFolder(job).ask_to_cancel, why)
            return True
        if running.record.over or running.end:
            return False
        running.end, running.why = "cancelled", why
        with contextlib.suppress(OSError):
            await asyncio.to_thread(running.folder.ask_to_cancel, why)  # for who takes over, if we end over this
        if running.record.placed is not None:
            try:
                await running.dispatch.target.cancel(running.record.placed)
            except BaseException:
                running.end = ""  # it can be asked again
                await asyncio.to_thread(running.folder.forget_cancel)
                raise
        elif running.record.state == "queued" and running.runner is not None:
            running.runner.cancel()
        return True

    async def _poll_cancel_requests(self) -> None:
        """Stop the jobs of this process that another one asks to be stopped: between processes there is no event."""
        while self._running:
            await asyncio.sleep(WATCH_SECONDS)
            folders = [JobFolder(job) for job in self._running]
            for job, why in await asyncio.to_thread(_asked_to_cancel, folders):
                self._spawn(self.cancel(job, why))

    async def _watch_ledger(self) -> None:
        """Watch the jobs of listeners that another process begins again, as the command line may."""
        seen = 0
        while self._listeners:
            await asyncio.sleep(WATCH_SECONDS)
            changed = await asyncio.to_thread(self.ledger.changed)
            if changed == seen:
                continue
            seen = changed
            for job, owner in await asyncio.to_thread(self.ledger.under_way):
                if owner in self._listeners and job not in self._running and job not in self._watching:
                    with contextlib.suppress(JobError):
                        record = await asyncio.to_thread(self.ledger.get, job)
                        if job in self._running or job in self._watching:
                            continue  # it was taken over meanwhile
                        self._watching[job] = self._spawn(self._watch(record))
                        await self._tell(record, {"event": "state", **record.public()})

    async def retry(self, job: str, secrets: dict[str, str] | None = None) -> JobRecord:
        """Run a job that has ended once more, under its own id.

        Raises:
            JobError: it is under way, or what it started from is gone.
        """
        record = await asyncio.to_thread(self.get, job)
        if not record.over:
            raise JobError(f"The job {record.id} is {record.state}: only one that has ended can be retried.")
        # What the last attempt still does would be taken for this one's.
        ending = self._running.get(record.id)
        if ending is not None and ending.runner is not None:
            await asyncio.wait([ending.runner])
        if record.id in self._collecting:
            await asyncio.wait([self._collecting[record.id]])
        lock = await self._lock_of_ended(record.id)
        try:
            record = await asyncio.to_thread(self.ledger.get, record.id)
            if not record.over:
                raise JobError(f"The job {record.id} is {record.state}: only one that has ended can be retried.")
            # A target that was taken out of the config gets no more work.
            (await asyncio.to_thread(configuration.load)).target(record.target)
            running = await self._kept(record, secrets or {})
            running.lock = lock
            if record.placed is not None:
                await running.dispatch.target.clean(record.placed)
            record.begin_again()
            running.task = _of_attempt(running.task, record)
            await asyncio.to_thread(running.folder.restart)
            await asyncio.to_thread(running.folder.forget_cancel)  # what was too late for the last attempt
            await self._take(running)
        except BaseException:
            lock.close()
            raise
        self._prepare_again(running.dispatch)
        await self._change(record, "queued", f"attempt {record.attempt}")
        running.runner = self._spawn(self._run(running))
        return record

    async def _lock_of_ended(self, job: str) -> Lock:
        """The lock of a job that has ended, when the process that followed it has cleaned up behind it."""
        end = time.monotonic() + CLEAN_SECONDS
        while (lock := await asyncio.to_thread(JobFolder(job).lock)) is None:
            if time.monotonic() > end:
                raise JobError(f"The job {job} is followed by another process still: try again.")
            await asyncio.sleep(LOCK_SECONDS)
        return lock

    async def _kept(self, record: JobRecord, secrets: dict[str, str]) -> Running:
        """A job made ready to start again from what its folders keep."""
        folder = JobFolder(record.id)
        own = await asyncio.to_thread(folder.read, "task.json")
        sent = await asyncio.to_thread(DispatchFolder(record.group).read, "dispatch.json")
        known = self._dispatches.get(record.group)
        shared = known.shared if known else None
        if shared is None:
            shared = await asyncio.to_thread(self._shared, record)
        kept = kept_parts(shared, own)
        if kept is None or sent is None:
            raise JobError(f"What the job {record.id} started from is gone: run its cell again.")
        lacking = sorted(set(kept["secrets"]) - set(secrets))
        if lacking:
            how = f"run its image again with -e {lacking[0]}"
            if record.kind != "image":
                how = f"run the cell of {record.id} again with --secret {lacking[0]}"
            raise JobError(f"Secrets are not kept: {how}.")
        if record.volume and not await self._has_volume(record.volume):
            raise JobError(f"What the job {record.id} started from went with its kernel: run its cell again.")
        if sent["prepared"] is None and sent.get("origin") is None:
            raise JobError(f"What the job {record.id} was to start from was not sent: run its cell again.")
        dispatch = self._known_dispatch(record, sent)
        dispatch.shared = shared
        return Running(record, dispatch, kept_task(record, kept, secrets), folder)

    def _shared(self, record: JobRecord) -> Kept:
        """What the tasks of a job's dispatch have in common, as far as it is kept. Blocks."""
        shared: Kept = DispatchFolder(record.group).read("task.json") or {"spec": {}}
        source = self.ledger.source(record)
        return shared if source is None else {**shared, "spec": {**shared["spec"], "source": source}}

    async def _has_volume(self, name: str) -> bool:
        """Whether a kernel volume is still there: mounting one that is gone would make an empty one."""
        found = await (await self._kernels_engine()).volumes.list(f"{labels.KIND}={labels.KIND_VOLUME}")
        return name in {volume["Name"] for volume in found}

    def _known_dispatch(self, record: JobRecord, sent: Kept | None) -> Dispatch:
        """The dispatch that a job is of, from what its folder keeps of it."""
        known = self._dispatches.get(record.group)
        if known is None:
            sent = sent or {}
            prepared: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
            if sent.get("prepared") is not None:
                prepared.set_result(sent["prepared"])
            known = Dispatch(
                record.group,
                self._targets.of_dispatch(record.target, sent),
                prepared,
                sent.get("holder", ""),
                sent.get("volume", record.volume),
                sent.get("origin"),
                sent.get("jobs", []),
            )
            self._dispatches[record.group] = known
        return known

    # After a restart

    async def adopt(self, start: bool = True) -> None:
        """Follow the jobs that no process follows any more, and watch those of our listeners that another one does.

        Args:
            start: also start those that wait for their turn.
        """
        for record in await asyncio.to_thread(self.ledger.find, unsettled=True):
            if record.id in self._running or record.id in self._watching:
                continue
            sent = await asyncio.to_thread(DispatchFolder(record.group).read, "dispatch.json")
            begun = record.placed is not None or record.state == "starting"
            if start or begun or sent is None or sent.get("prepared") is None:
                try:
                    await self._take_over(record, start)
                except (DockerKernelError, OSError) as error:
                    log.info("the job %s cannot be followed: %s", record.id, error)
        await self._sweep()

    async def catch_up(self, seconds: float) -> None:
        """Conclude the jobs that ended while no process followed them: for a process that does not stay itself.

        Args:
            seconds: how long to look after those that may still run, or whose target may not answer; results may take
                ten times as long. Jobs that wait for their turn go on waiting.
        """
        await asyncio.wait([self._spawn(self.adopt(start=False))], timeout=seconds)
        runners = [one.runner for one in self._running.values() if one.runner is not None]
        if runners:
            await asyncio.wait(runners, timeout=seconds)
        if ending := [*self._collecting.values(), *self._closing.values()]:
            await asyncio.wait(ending, timeout=10 * seconds)

    async def _take_over(self, record: JobRecord, start: bool = True) -> None:
        folder = JobFolder(record.id)
        lock = await asyncio.to_thread(folder.lock)
        if lock is None:
            if record.owner in self._listeners and record.id not in self._watching:
                self._watching[record.id] = self._spawn(self._watch(record))
            return
        try:
            await self._take_over_locked(record, folder, lock, start)
        finally:
            if record.id not in self._running:
                lock.close()

    async def _take_over_locked(self, record: JobRecord, folder: JobFolder, lock: Lock, start: bool) -> None:
        record = await asyncio.to_thread(self.ledger.get, record.id)
        sent = await asyncio.to_thread(DispatchFolder(record.group).read, "dispatch.json")
        if record.over:
            await self._settle(record)
            return
        try:
            running = await self._kept(record, {})
        except JobError as error:
            dispatch = self._known_dispatch(record, sent)
            if record.placed is None and record.state != "starting":
                why = "its Jupyter server ended before its state was sent: run its cell again"
                if dispatch.prepared.done():
                    why = f"its Jupyter server ended before it was started. {error}"
                record.settled = True
                await self._change(record, "lost", why)
                await self._over(dispatch)
                return
            record.retries = 0
            why = f"its Jupyter server ended while it was started. {error}"
            running = Running(record, dispatch, attempted_task(record), folder, why_not=why)
        if why := await asyncio.to_thread(folder.asked_to_cancel):
            running.end, running.why = "cancelled", why
        running.may_start = start
        running.interrupted = record.placed is None and record.state == "starting"
        running.taken_over = record.placed is not None or running.interrupted
        if running.taken_over:
            await running.log.go_on()
        running.lock = lock
        running.dispatch.under_way.add(record.id)
        self._running[record.id] = running
        if start:
            self._prepare_again(running.dispatch)
        running.runner = self._spawn(self._run(running))

    async def _settle(self, record: JobRecord) -> None:
        """Bring home what a job that has ended left on its target, after a process that was ended over it."""
        sent = await asyncio.to_thread(DispatchFolder(record.group).read, "dispatch.json")
        target = self._targets.of_dispatch(record.target, sent)
        if record.kept and not record.live:
            await self._collect(record, target, JobFolder(record.id))
            return
        if record.placed is not None:
            await target.clean(record.placed)
        elif sent is not None and sent["prepared"] is not None:
            await _remove_unplaced(target, attempted_task(record), sent["prepared"])
        await self._settled(record)

    async def _settled(self, record: JobRecord) -> None:
        record.settled = True
        await asyncio.to_thread(self.ledger.save, record)

    async def _watch(self, record: JobRecord, every: float = WATCH_SECONDS) -> None:
        """Pass on the states of a job that another process follows; follow it when that process has gone."""
        state = record.state
        try:
            while True:
                await asyncio.sleep(every)
                record = await asyncio.to_thread(self.ledger.get, record.id)
                if record.state != state:
                    state = record.state
                    await self._tell(record, {"event": "state", **record.public()})
                if record.over:
                    return
                lock = await asyncio.to_thread(JobFolder(record.id).lock)
                if lock is not None:
                    lock.close()
                    self._spawn(self.adopt())
                    return
        finally:
            self._watching.pop(record.id, None)

    async def wait(self, job: str) -> JobRecord:
        """Wait for a job's end, whoever follows it."""
        while not (record := await asyncio.to_thread(self.get, job)).over:
            running = self._running.get(record.id)
            if running is not None and running.runner is not None:
                await asyncio.wait([running.runner])
            elif record.id in self._watching:
                await asyncio.wait([self._watching[record.id]])
            else:
                await self._take_over(record)
                if record.id not in self._running and record.id not in self._watching:
                    self._watching[record.id] = self._spawn(self._watch(record))
        if record.id in self._collecting:
            await asyncio.shield(self._collecting[record.id])
        if record.group in self._closing:
            await asyncio.shield(self._closing[record.group])
        with contextlib.suppress(JobError):  # it was forgotten meanwhile
            record = await asyncio.to_thread(self.get, record.id)  # that its result did not come may have been added
        return record

    # Tidying

    async def prune(self, older_than: float, owner: str | None = None) -> list[JobRecord]:
        """Forget jobs that ended longer ago than so many seconds, with their results; returns them."""
        gone = await asyncio.to_thread(self.ended, older_than, owner)
        for record in gone:
            if record.placed is not None:
                with contextlib.suppress(DockerKernelError):
                    await (await self._target_for(record)).clean(record.placed)
            await asyncio.to_thread(JobFolder(record.id).remove)
        # The ledger last: of what it does not know nobody would ask again.
        ids = {record.id for record in gone}
        left = {record.group for record in await asyncio.to_thread(self.jobs) if record.id not in ids}
        for group in {record.group for record in gone} - left:
            await self._release(group)
        await asyncio.to_thread(self.ledger.delete, *(record.id for record in gone))
        return gone

    async def _release(self, group: str) -> None:
        """Remove what a dispatch's jobs started from."""
        folder = DispatchFolder(group)
        sent = await asyncio.to_thread(folder.read, "dispatch.json")
        if sent is not None:
            await self._let_go(sent["target"], sent)
        await asyncio.to_thread(folder.remove)

    async def _let_go(self, target: str, sent: Kept) -> None:
        """Remove from a target what a dispatch's jobs started from."""
        with contextlib.suppress(DockerKernelError):
            if sent["prepared"] is not None:
                await self._targets.of_dispatch(target, sent).release(sent["prepared"])

    async def _sweep(self) -> None:
        """Do what processes were killed over: remove dispatches that the ledger had not come to know, and let go of
        what kept the state of those whose jobs are over."""
        for folder in await asyncio.to_thread(_unfinished_dispatches):
            group = folder.path.name
            lock = None if group in self._dispatches else await asyncio.to_thread(folder.lock)
            if lock is None:
                continue
            try:
                await self._sweep_locked(folder)
            except (DockerKernelError, OSError) as error:
                log.info("the dispatch %s cannot be removed: %s", group, error)
            finally:
                lock.close()

    async def _sweep_locked(self, folder: DispatchFolder) -> None:
        group = folder.path.name
        sent = await asyncio.to_thread(folder.read, "dispatch.json") or {"jobs": [], "prepared": None}
        known = await asyncio.to_thread(self.ledger.of_ids, sent["jobs"]) if "jobs" in sent else None
        if known is None:
            return
        if known:
            if sent["holder"] and all(one.over and one.settled for one in known):
                await self._over(self._known_dispatch(known[0], sent))
                self._dispatches.pop(group, None)
            return
        if sent["prepared"] is not None:
            return  # the ledger was lost
        for job in sent["jobs"]:
            lock = await asyncio.to_thread(Lock.take, job)
            if lock is None:
                return  # so it was, and the process that follows this job goes on
            lock.close()
            await asyncio.to_thread(JobFolder(job).remove)
        engine = await self._kernels_engine()
        with contextlib.suppress(NotFound):
            holder = await engine.containers.inspect(labels.STATE_NAME + group)
            await engine.containers.remove(holder.id)
            for volume in holder.volumes.values():
                await engine.volumes.remove(volume)
        await asyncio.to_thread(folder.remove)

    async def forget_old_dispatches(self, owner: str, target: str) -> None:
        """Let go of what an owner's older dispatches started from; their jobs' records and results stay."""
        groups: dict[str, bool] = {}
        for record in await asyncio.to_thread(self.jobs, owner):
            if record.target == target:
                groups[record.group] = groups.get(record.group, True) and record.over
        for group in [group for group in list(groups)[KEPT_DISPATCHES:] if groups[group]]:
            folder = DispatchFolder(group)
            sent = await asyncio.to_thread(folder.read, "dispatch.json")
            if sent is not None:
                await self._let_go(target, sent)
                await asyncio.to_thread(folder.remove)

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _remove_unplaced(target: AnyTarget, task: JobTask, prepared: Kept) -> None:
    """Remove what is left of a start that failed; raises EngineError where nobody can look."""
    try:
        placed = await target.find(task, prepared)
    except EngineError:
        raise
    except DockerKernelError:
        return  # it is removed, or the target cannot tell
    if placed is not None:
        await target.clean(placed)


def _of_attempt(task: JobTask, record: JobRecord) -> JobTask:
    """A job's task for the attempt that its record is at."""
    return dataclasses.replace(task, spec={**task.spec, "nonce": record.nonce}, attempt=record.attempt)


def _needs_holder(record: JobRecord) -> bool:
    """Whether a job may yet start from a kernel volume that it has no container with."""
    return bool(record.volume) and not record.over and (record.placed is None or record.attempt <= record.retries)


def _bring_home(record: JobRecord, folder: JobFolder) -> None:
    """Bring a job's files to the folder that was asked for; they are not kept twice."""
    bring_files(ResultFolder(folder.result), record.kept, Path(record.output))
    shutil.rmtree(folder.result / "blobs", ignore_errors=True)


def _without_not_here(reason: str) -> str:
    return reason.partition(NOT_HERE)[0].removesuffix("; ")


def _unfinished_dispatches() -> list[DispatchFolder]:
    """Those that were not sent, or whose state is kept from going with its kernel."""
    names = [path.name for path in (root() / "dispatches").glob("*") if re.fullmatch("[0-9a-f]+", path.name)]
    found = [(folder, folder.read("dispatch.json")) for folder in map(DispatchFolder, names)]
    return [folder for folder, sent in found if sent is None or sent.get("prepared") is None or sent.get("holder")]


def _asked_to_cancel(folders: list[JobFolder]) -> list[tuple[str, str]]:
    """Which jobs are to be stopped, and why."""
    return [(folder.path.name, why) for folder in folders if (why := folder.asked_to_cancel())]


_manager: dict[Any, JobManager] = {}


def manager() -> JobManager:
    """This process's manager. Call it on the background loop."""
    loop = asyncio.get_running_loop()
    key = (loop, root())
    if key not in _manager:
        _manager.clear()
        _manager[key] = JobManager()
    return _manager[key]
