"""Steps of a script that run side by side: each is seen to be alive, and none outlives the script.

Only the standard library: it runs before anything is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME = 0.2
"""Seconds between two pictures on a terminal."""
STILL_RUNNING = 15.0
"""Seconds between two lines on what still runs, where no terminal shows it."""
LINE = 120
"""The length of such a line."""
CLEAN_UP = 15.0
"""Seconds that an interrupted step has to take down what it started."""
TAIL = 25
"""Lines of a failed step's output that are shown."""


class StepFailed(Exception):
    """A step ended with an error: its text says which, after what the step printed."""


class Activity:
    """Something that runs.

    Attributes:
        detail: what it does just now.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class Display:
    """What runs now: a line each that counts the seconds on a terminal; elsewhere, lines at begin and end and between.

    Use it as an asynchronous context.
    """

    def __init__(self, output: TextIO = sys.stdout) -> None:
        self._output = output
        self._live = output.isatty()
        self._running: list[Activity] = []
        self._drawn = 0
        self._clock: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Display:
        self._clock = asyncio.ensure_future(self._tick())
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._clock is not None
        self._clock.cancel()
        self._show([])

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self._show(text.splitlines())

    @contextlib.contextmanager
    def running(self, title: str) -> Iterator[Activity]:
        """Show an activity while the context lasts, and how long it took."""
        activity = Activity(title)
        self._running.append(activity)
        if not self._live:
            self.say(f"{title} …")
        try:
            yield activity
        except BaseException:
            self._running.remove(activity)
            raise
        self._running.remove(activity)
        self.say(f"{title}: done in {activity.seconds:.0f} s")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(FRAME if self._live else STILL_RUNNING)
            if self._live:
                self._show([])
                continue
            for one in self._running:
                if one.seconds >= STILL_RUNNING:
                    self.say(_line(one)[:LINE])

    def _show(self, lines: list[str]) -> None:
        """Print lines above what runs, and that anew."""
        picture = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        picture += "".join(f"{line}\n" for line in lines)
        self._drawn = 0
        if self._live and self._clock is not None and not self._clock.cancelled():
            width = shutil.get_terminal_size().columns - 1
            spin = SPINNER[int(time.monotonic() / FRAME) % len(SPINNER)]
            picture += "".join(f"{f'{spin} {_line(one)}'[:width]}\n" for one in self._running)
            self._drawn = len(self._running)
        self._output.write(picture)
        self._output.flush()


def _line(activity: Activity) -> str:
    detail = "".join(one for one in activity.detail if one.isprintable())
    return f"{activity.title}: {activity.seconds:.0f} s{f', {detail}' if detail else ''}"


async def step(display: Display, title: str, *command: str) -> list[str]:
    """Run a command as a step, and return the last lines of its output.

    Each is shown in passing, and all are in the exception's text when the step fails. When the step is cancelled, the
    command is interrupted, with all that it started.

    Raises:
        StepFailed: the command could not be run, or ended with an error.
    """
    with display.running(title) as activity:
        process = _begin(title, command)
        try:
            tail = await asyncio.to_thread(_follow, process, activity)
        finally:
            await _end(process)
        if process.returncode:
            raise StepFailed("\n".join([*tail, "", f"{title}: failed, and what it printed last is above."]))
    return tail


def _begin(title: str, command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process with a group of its own."""
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise StepFailed(f"{title}: {command[0]} cannot be run ({error.strerror}).") from None


def _follow(process: subprocess.Popen[str], activity: Activity) -> list[str]:
    """The last lines of a process's output, when it has ended."""
    tail: deque[str] = deque(maxlen=TAIL)
    with process:
        assert process.stdout is not None
        for line in map(str.strip, process.stdout):
            if line:
                activity.detail = line
                tail.append(line)
    return list(tail)


async def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt a process that still runs, as Ctrl-C does, so that it takes down what it started; kill what is left."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, CLEAN_UP)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait)


async def together(*steps: Coroutine[Any, Any, T]) -> list[T]:
    """Run steps side by side and return their results; where one fails, the others are stopped."""
    tasks = [asyncio.ensure_future(one) for one in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        # Each is cancelled once only: a second time would cut its clean-up short.
        stopped = [task for task in tasks if task.cancel()]
        await asyncio.wait(tasks)
    return [task.result() for task in tasks if task not in stopped]


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a script's steps and return its exit code; Ctrl-C, SIGTERM and SIGHUP stop the steps first."""

    async def stoppable() -> int:
        work = asyncio.ensure_future(main)
        asked = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        stop = asyncio.ensure_future(asked.wait())
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
        if not stop.cancel():
            work.cancel()
        try:
            return await work
        except StepFailed as error:
            print(error, file=sys.stderr)
            return 1
        except asyncio.CancelledError:
            print("Stopped: its steps have ended, and the next run goes on from what is there.", file=sys.stderr)
            return 130

    return asyncio.run(stoppable())
