"""The images that are being made, and those that were since the server's start.

All of it lives on the server's loop; an image is made on the engine's own (background.py), and what it tells comes over
a few times a second at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from docker_kernel import background
from docker_kernel.containerize.image import NotebookImage
from docker_kernel.containerize.request import Progress, Step
from docker_kernel.errors import ContainerizeError, DockerKernelError

log = logging.getLogger(__name__)

MOST_RUNNING = 8
MOST_KEPT = 50
PAUSE = 0.1
"""Seconds between two looks at what a build tells."""

STOP_PATIENCE = 10.0
"""Seconds that a server's end waits for builds to take down what they started."""

State = Literal["running", "cancelling", "made", "failed", "cancelled"]
Make = Callable[[Progress], Coroutine[Any, Any, NotebookImage]]


@dataclass
class Stage:
    """All that a build told of one step: `text` as it began, `detail` what it said last, `done` from 0 to 1."""

    name: str
    text: str
    detail: str = ""
    done: float | None = None


@dataclass
class Build:
    """One image in the making.

    Args:
        notebook: its path, as the contents API names it.
        name: of the image.
        steps: what it did and does, the last one now.
        message: why it failed, in one sentence.
        version: of all builds together, when this one last changed.
    """

    id: str
    notebook: str
    name: str
    started: float
    state: State = "running"
    ended: float | None = None
    steps: list[Stage] = field(default_factory=list)
    message: str = ""
    image: NotebookImage | None = None
    version: int = 0

    def as_json(self) -> dict[str, Any]:
        """As the browser gets it."""
        image = self.image
        return {
            "id": self.id,
            "notebook": self.notebook,
            "name": self.name,
            "state": self.state,
            "started": self.started,
            "ended": self.ended,
            "steps": [
                {"name": one.name, "text": one.text, "detail": one.detail, "done": one.done} for one in self.steps
            ],
            "message": self.message,
            "image": image
            and {
                "reference": image.reference,
                "id": image.image_id,
                "size": image.size,
                "pushed": image.pushed,
                "command": image.command,
            },
            "version": self.version,
        }


class Builds:
    """Starts, follows and cancels builds."""

    def __init__(self) -> None:
        self._builds: dict[str, Build] = {}
        self._running: dict[str, tuple[_Work, asyncio.Task[None]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._version = int(time.time() * 1000)

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    @property
    def version(self) -> int:
        """Changes with each change of any build, and with the server's start."""
        return self._version

    def all(self) -> list[Build]:
        """All, the newest first."""
        return list(reversed(self._builds.values()))

    def get(self, build: str) -> Build | None:
        return self._builds.get(build)

    def start(self, notebook: str, name: str, make: Make) -> Build:
        """Make an image.

        Args:
            make: makes it, on the engine's loop.

        Raises:
            ContainerizeError: too many are being made.
        """
        if self.running >= MOST_RUNNING:
            raise ContainerizeError(f"{MOST_RUNNING} images are being made at once: wait for one, or cancel one.")
        build = Build(uuid.uuid4().hex, notebook, name, time.time())
        self._builds[build.id] = build
        ended = [one.id for one in self._builds.values() if one.ended is not None]
        for old in ended[: max(0, len(self._builds) - MOST_KEPT)]:
            del self._builds[old]
        work = _Work(make)
        self._running[build.id] = work, asyncio.ensure_future(self._run(build, work))
        self._changed(build)
        return build

    def cancel(self, build: Build) -> None:
        """Cancel a build, if it still runs; it ends when it has taken down what it started."""
        if build.id in self._running:
            self._running[build.id][0].cancel()
            build.state = "cancelling"
            self._changed(build)

    async def wait(self, since: int, seconds: float) -> None:
        """Wait until something changes, or a time is over."""
        if since != self._version:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(future, seconds)
        finally:
            self._waiting.discard(future)

    async def stop(self) -> None:
        """Cancel all, and wait for their ends."""
        for build in self.all():
            self.cancel(build)
        if self._running:
            await asyncio.wait([task for _, task in self._running.values()], timeout=STOP_PATIENCE)

    async def _run(self, build: Build, work: _Work) -> None:
        working = asyncio.wrap_future(background.submit(work.run()))
        following = asyncio.ensure_future(self._follow(build, work))
        try:
            build.image = await working
            build.state = "made"
        except asyncio.CancelledError:
            build.state = "cancelled"
        except DockerKernelError as error:
            build.state, build.message = "failed", str(error)
        except Exception as error:
            log.exception("Making the image %s failed", build.name)
            build.state, build.message = "failed", f"The image could not be made: {type(error).__name__}: {error}."
        finally:
            following.cancel()
            self._take(build, work)
            build.ended = time.time()
            del self._running[build.id]
            self._changed(build)

    async def _follow(self, build: Build, work: _Work) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            self._take(build, work)

    def _take(self, build: Build, work: _Work) -> None:
        for step in work.take():
            if not build.steps or build.steps[-1].name != step.name:
                build.steps.append(Stage(step.name, step.text))
            stage = build.steps[-1]
            stage.detail = step.text if step.text != stage.text else ""
            stage.done = step.done
            self._changed(build)

    def _changed(self, build: Build) -> None:
        self._version += 1
        build.version = self._version
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class _Work:
    """What goes on for a build on the engine's loop: told and cancelled from the server's."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._steps: list[Step] = []
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    async def run(self) -> NotebookImage:
        with self._lock:
            self._task = asyncio.current_task()
            if self._cancelled:
                raise asyncio.CancelledError
        return await self._make(self._told)

    def cancel(self) -> None:
        """Cancel it, once: its end comes when it has cleaned up."""
        with self._lock:
            if not self._cancelled and self._task is not None:
                background.loop().call_soon_threadsafe(self._task.cancel)
            self._cancelled = True

    def take(self) -> list[Step]:
        """What it told since the last call: of each step how it began, and the latest."""
        with self._lock:
            steps, self._steps = self._steps, []
        return steps

    def _told(self, step: Step) -> None:
        with self._lock:
            if len(self._steps) > 1 and self._steps[-1].name == self._steps[-2].name == step.name:
                self._steps.pop()
            self._steps.append(step)
