"""Warm containers for a kernel's next job: each made before the job is asked for, and used by one.

In such a container the runner (guest/run_job.py) has started a worker, which has imported what every job needs and
nothing of the user's, and waits for the job on its standard input. That is its lifeline, too: when it ends, as it does
with the process that holds the other end, the container ends, and the engine removes it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from docker_kernel.engine import ContainerSpec, Engine, ExecStream, VolumeMount
from docker_kernel.errors import DockerKernelError, EngineError, JobError
from docker_kernel.kernel.spares import MAX_AGE, UPKEEP_SECONDS, memory_is_short
from docker_kernel.targets.engine.records import LocalPrepared

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10
"""How long a spare may take to say that it has the job."""


QUIET_SECONDS = 1.0
"""How long after a job the next one's spare is made: what the notebook does then goes first."""

T = TypeVar("T")


@dataclass(frozen=True)
class SpareTemplate:
    """What a spare is made from, and a job must be like for it.

    Args:
        spec: of the container, without name, labels and command.
        prepared: what the target was told of the kernel.
        worker: what decides how the job's worker is started (guest/run_job.py).
        surroundings: what else the container keeps as it was at its start (kernel/spares.py).
    """

    spec: ContainerSpec
    prepared: LocalPrepared
    worker: dict[str, object]
    surroundings: list[object]


class SpareJob:
    """A container that waits for its job, and afterwards the job's output."""

    def __init__(self, engine: Engine, container: str, spec: ContainerSpec, stream: ExecStream) -> None:
        self._engine = engine
        self.container = container
        self._volumes = [one.name for one in spec.mounts if isinstance(one, VolumeMount) and one.name]
        self._stream = stream
        self._frames = stream.frames()
        self._read: list[tuple[int, bytes]] = []
        self._made = time.monotonic()

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self._made < MAX_AGE

    async def take(self, content: Mapping[str, object], name: str) -> bool:
        """Hand over a job; returns whether the container runs it. If not, it is to be removed, and never will run it,
        as it waits for our word after it has said that it has the job.

        Args:
            name: what the job's container is called; it is before the job begins, so that it can be found.

        Raises:
            JobError: nobody knows whether it runs the job. It is to be removed.
        """
        naming = asyncio.ensure_future(self._engine.containers.rename(self.container, name))
        try:
            await asyncio.wait_for(self._hand_over(content), ANSWER_SECONDS)
            await naming
        except (asyncio.TimeoutError, OSError, EngineError) as error:
            log.info("the spare job container %s does not take its job: %r", self.container[:12], error)
            self._read.clear()
        finally:
            await asyncio.wait([naming])
        if naming.exception() is not None or not self._read:
            return False
        try:
            await self._stream.write(b"\n")
        except OSError as error:
            raise JobError(f"Its container's connection broke while it was given the job ({error}).") from None
        return True

    async def _hand_over(self, content: Mapping[str, object]) -> None:
        await self._stream.write(json.dumps(content).encode() + b"\n")
        taken = f"##docker-kernel {content['nonce']} ".encode()
        said = b""
        async for stream, data in self._frames:
            self._read.append((stream, data))
            said += data
            if taken in said:
                return
        self._read.clear()

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """What the job prints, as ExecStream gives it."""
        for frame in self._read:
            yield frame
        async for frame in self._frames:
            yield frame

    def close(self) -> None:
        self._stream.close()

    async def remove(self) -> None:
        """Remove the container, and a kernel volume that only it still has."""
        try:
            await self._engine.containers.remove(self.container)
            for volume in self._volumes:
                await self._engine.volumes.remove(volume)
        except DockerKernelError as error:
            log.error("the spare job container %s could not be removed: %s", self.container[:12], error)
        self.close()


class SpareJobs:
    """One spare for each kernel that has run a cell beside it, and may do so again.

    Args:
        make: makes one; raises DockerKernelError or OSError where that cannot be done.
    """

    def __init__(self, make: Callable[[SpareTemplate], Awaitable[SpareJob]]) -> None:
        self._make = make
        self._expected: dict[str, SpareTemplate] = {}
        """By kernel: what its last job was like."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._made: dict[str, tuple[SpareTemplate, asyncio.Task[SpareJob | None]]] = {}
        """By kernel: what waits, or is being made."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def take(
        self, kernel: str, template: SpareTemplate, content: Mapping[str, object], name: str
    ) -> SpareJob | None:
        """Give a job to the kernel's spare; None where there is none for it, and a fresh container is to be made.

        A spare that is being made is waited for: making another container would not be faster.
        """
        self._expected[kernel] = template
        self._stop_timer(kernel)
        fits, making = self._made.pop(kernel, (None, None))
        if making is None:
            return None
        if fits != template:
            self.spawn(_discard(making))
            return None
        spare = await asyncio.shield(making)
        if spare is None:
            return None
        taken = False
        try:
            taken = spare.fresh and await spare.take(content, name)
        finally:
            if not taken:
                await asyncio.shield(spare.remove())
        return spare if taken else None

    def prepare(self, kernel: str) -> None:
        """Make a spare for a kernel's next job, soon."""
        if kernel in self._expected and kernel not in self._made:
            self._stop_timer(kernel)
            self._timers[kernel] = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._begin, kernel)

    async def forget(self, kernel: str) -> None:
        """Remove the spare of a kernel that ends, and make none any more."""
        self._expected.pop(kernel, None)
        self._stop_timer(kernel)
        _, making = self._made.pop(kernel, (None, None))
        if making is not None:
            await _discard(making)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something in the background."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _stop_timer(self, kernel: str) -> None:
        timer = self._timers.pop(kernel, None)
        if timer is not None:
            timer.cancel()

    def _begin(self, kernel: str) -> None:
        self._timers.pop(kernel, None)
        if not memory_is_short():
            template = self._expected[kernel]
            self._made[kernel] = template, self.spawn(self._try(template))
            self._look_later(kernel)

    def _look_later(self, kernel: str) -> None:
        self._timers[kernel] = asyncio.get_running_loop().call_later(UPKEEP_SECONDS, self._look_again, kernel)

    def _look_again(self, kernel: str) -> None:
        """Let a spare go whose memory the machine has become short of."""
        self._timers.pop(kernel)
        if memory_is_short():
            _, making = self._made.pop(kernel)
            self.spawn(_discard(making))
        else:
            self._look_later(kernel)

    async def _try(self, template: SpareTemplate) -> SpareJob | None:
        try:
            return await self._make(template)
        except (DockerKernelError, OSError) as error:
            # A fresh container will tell what is wrong, if it still is.
            log.info("no spare job container was made: %s", error)
            return None


async def _discard(making: asyncio.Task[SpareJob | None]) -> None:
    spare = await making
    if spare is not None:
        await spare.remove()
