"""One job of a Swarm that this process follows: how its ranks go, what they print, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from docker_kernel.engine import Swarm, SwarmTask
from docker_kernel.targets.base import Note, Outcome, Output
from docker_kernel.targets.cluster.log import TaskLog
from docker_kernel.targets.swarm.records import SwarmJob
from docker_kernel.targets.swarm.tasks import TaskPoller

log = logging.getLogger(__name__)

DOWN_SECONDS = 4.0
"""How long a node has to be down before its jobs are given up: a manager that restarts sees all nodes down at first."""

MANAGER_SECONDS = 60.0
"""How long the manager may not answer before its jobs are given up."""

APPEAR_SECONDS = 5
"""How long a service may have no task after its creation."""

PULL_SECONDS = 1.0
"""How long a node gets a task ready, before it is told that it does: its image may be large."""

WORD_SECONDS = 15.0
"""How long the manager may take to say how a task ended whose runner has said so."""

VANISH_SECONDS = 30
"""How long it is waited for a task that was not seen yet, and whose service is there."""

CANCELLED = 143
KILLED = 137


@dataclass(frozen=True)
class Ending:
    """How one rank ended."""

    exit_code: int
    out_of_memory: bool | None = False
    lost: str = ""
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.exit_code != 0 or bool(self.lost)


class Rank:
    """One task of a job."""

    def __init__(self, rank: int, service: str, nonce: str, delivered: int) -> None:
        self.rank = rank
        self.service = service
        self.log = TaskLog(nonce, delivered)
        self.seen: SwarmTask | None = None
        self.waits = ""
        """Why it does, "" where it does not."""
        self.prepared_since: float | None = None
        self.ending: Ending | None = None
        self.ended = asyncio.Event()

    @property
    def said_ending(self) -> Ending | None:
        """How its runner says that it ended."""
        word = self.log.last_word
        return None if word is None else Ending(word.code, word.oom)

    @property
    def whole_ending(self) -> Ending | None:
        """By its runner's word, as far as that goes, and the manager's."""
        said, ending = self.said_ending, self.ending
        if said is None or ending is None:
            return ending or said
        # It came to its own end before its node went, unless it was told to end.
        lost = ending.lost if said.exit_code == CANCELLED else ""
        return replace(ending, exit_code=said.exit_code, out_of_memory=said.out_of_memory, lost=lost, reason="")

    def end(self, ending: Ending) -> None:
        self.ending = ending
        self.log.end(unreadable=bool(ending.lost) or ending.exit_code < 0)
        self.ended.set()


class FollowedJob:
    """A job under way.

    Args:
        after: by rank, how many bytes of its log are here already.
        explain: says why a node did not start a task, in words for the user.
    """

    def __init__(
        self,
        job: SwarmJob,
        after: Mapping[int, str],
        swarm: Swarm,
        poller: TaskPoller,
        explain: Callable[[SwarmTask], Awaitable[str]],
    ) -> None:
        self.ranks = [
            Rank(rank, service, job["nonce"], int(after.get(rank, 0))) for rank, service in enumerate(job["services"])
        ]
        self.cancelled = False
        self.failed: Rank | None = None
        self._swarm = swarm
        self._poller = poller
        self._explain = explain
        self._queue: asyncio.Queue[Output | Note | None] = asyncio.Queue(32)
        self._watcher: asyncio.Task[None] | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Task[None] | None = None

    # How it goes

    def _watch_tasks(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())

    async def wait_for_end(self) -> None:
        """Wait until all ranks have ended, in the manager's own words."""
        self._watch_tasks()
        for rank in self.ranks:
            limit = None if rank.log.last_word is None else WORD_SECONDS
            try:
                await asyncio.wait_for(rank.ended.wait(), limit)
            except asyncio.TimeoutError:
                log.info("the manager does not say how the task of %s ended", rank.service)

    async def _watch(self) -> None:
        begun = time.monotonic()
        with self._poller.watching():
            await self._poller.tick(fresh=True)
            while any(rank.ending is None for rank in self.ranks):
                for rank in self.ranks:
                    if rank.ending is None and (ending := await self._ending_of(rank, time.monotonic() - begun)):
                        self._end(rank, ending)
                await self._poller.tick()

    def _end(self, rank: Rank, ending: Ending) -> None:
        if rank.ending is None:
            rank.end(ending)
            self._after_end(rank, ending)

    def _after_end(self, rank: Rank, ending: Ending) -> None:
        if ending.failed and len(self.ranks) > 1 and not self.cancelled and self.failed is None:
            self.failed = rank
            self._stopping = asyncio.create_task(self._stop_others())

    async def _stop_others(self) -> None:
        """Without one rank the others would wait for it, without an end."""
        others = [rank.service for rank in self.ranks if rank.ending is None]
        for done in await asyncio.gather(*(self._swarm.stop(service) for service in others), return_exceptions=True):
            if isinstance(done, Exception):
                log.error("a rank could not be stopped: %s", done)

    async def _ending_of(self, rank: Rank, seconds: float) -> Ending | None:
        """How a rank ended, as the manager sees its task; None where it has not."""
        if self._poller.silent > MANAGER_SECONDS:
            return Ending(-1, lost=f"the Swarm's manager has not answered for a minute: {self._poller.error}")
        if self._poller.silent:
            return None
        task = self._poller.tasks.get(rank.service)
        stopped = self.cancelled or self.failed is not None
        if task is None:
            if rank.seen is None and seconds < APPEAR_SECONDS:
                return None
            if stopped or await self._swarm.has_service(rank.service):
                waits = rank.seen is None and seconds < VANISH_SECONDS and not stopped
                return None if waits else Ending(CANCELLED)
            return Ending(-1, lost="its service was removed from the Swarm")
        rank.seen = task
        if task.state == "rejected":
            return Ending(-1, reason=await self._explain(task))
        if task.state in ("complete", "failed"):
            code = task.exit_code if task.exit_code is not None else 0 if task.state == "complete" else -1
            reason = "" if task.exit_code is not None else await self._explain(task)
            # The manager does not say whether memory was why something was killed.
            return Ending(code, None if code == KILLED and not stopped else False, reason=reason)
        if task.over:
            if stopped or task.desired == "remove":
                return Ending(CANCELLED if task.exit_code is None else task.exit_code)
            return Ending(-1, lost=f"the Swarm stopped it on {self._poller.node_of(task)} ({task.error or task.state})")
        if self._poller.down(task.node) >= DOWN_SECONDS:
            where = self._poller.node_of(task)
            return Ending(-1, lost=f"{where}, where it ran, is down; a retry runs on another node")
        if task.state == "pending" and task.error and "insufficient resources" not in task.error:
            return Ending(-1, reason=f"the Swarm has no place for it: {task.error}")
        await self._note(rank, task)
        return None

    async def _note(self, rank: Rank, task: SwarmTask) -> None:
        """Tell why a rank waits, if it does."""
        waits = ""
        if task.state == "pending" and task.error:
            waits = f"it waits for a place in the Swarm: {task.error}"
        elif task.state == "preparing":
            rank.prepared_since = rank.prepared_since or time.monotonic()
            if time.monotonic() - rank.prepared_since >= PULL_SECONDS:
                waits = f"{self._poller.node_of(task)} gets its image"
        if waits != rank.waits:
            rank.waits = waits
            await self._queue.put(Note(next((one.waits for one in self.ranks if one.waits), "")))

    def outcome(self) -> Outcome:
        """How it ended, after all ranks have."""
        endings = {rank.rank: ending for rank in self.ranks if (ending := rank.whole_ending) is not None}
        failed = [rank for rank, ending in endings.items() if ending.failed]
        worst = self.failed.rank if self.failed is not None else failed[0] if failed else 0
        ending = endings[worst]
        if len(self.ranks) == 1 or not ending.failed:
            return Outcome(ending.exit_code, ending.out_of_memory, ending.lost, ending.reason)
        which = f"rank {worst} of {len(self.ranks)}"
        if ending.lost:
            return Outcome(ending.exit_code, lost=f"{which} is lost, and the others were stopped: {ending.lost}")
        how = ending.reason or (
            "it used more memory than it may" if ending.out_of_memory else f"exit code {ending.exit_code}"
        )
        return Outcome(ending.exit_code, reason=f"{which} failed, and the others were stopped: {how}")

    # What it prints

    async def output(self) -> AsyncIterator[Output | Note]:
        self._watch_tasks()
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

    async def _read(self, rank: Rank) -> None:
        async def give(data: bytes) -> None:
            if (said := rank.said_ending) is not None:
                self._after_end(rank, said)
            await self._queue.put(Output(rank.rank, data, str(rank.log.delivered)))

        await rank.log.read(lambda follow: self._swarm.logs(rank.service, follow), give)
