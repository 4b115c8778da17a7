"""Executes a notebook in an image: as a job does (guest/notebook_cells.py), but that the kernel is started by its argv,
what it prints is logged and kept in bounds, and the run may be stopped at any time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from docker_kernel.guest.memory import oom_kills
from docker_kernel.guest.notebook_cells import Cells, Ended, Talk
from docker_kernel.runner.bounds import BoundedOutputs
from docker_kernel.runner.kernel import Kernel, KernelEnded
from docker_kernel.runner.log import RunLog

INTERRUPT_SECONDS = 2.0
"""How long a cell may take to end when it is interrupted."""

PARTIAL_SECONDS = 5.0
"""Between two looks at the outputs of a cell that runs."""

MAX_EVENT = 1 << 16


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Args:
        code: the exit code.
        reason: one sentence; empty if all went well.
        name, value: of the exception, where there is one.
    """

    code: int
    reason: str = ""
    name: str = ""
    value: str = ""
    out_of_memory: bool = False


class Stop:
    """A wish to end the run, which may come at any time, from a signal or a clock."""

    def __init__(self) -> None:
        self.code = 0
        self.reason = ""
        self._event: asyncio.Event | None = None

    def __call__(self, code: int, reason: str) -> None:
        if not self.code:
            self.code, self.reason = code, reason
            if self._event is not None:
                self._event.set()

    async def wait(self) -> None:
        """Wait for it; called from the loop in whose thread it is wished."""
        self._event = asyncio.Event()
        if not self.code:
            await self._event.wait()


class Run:
    """One execution.

    Args:
        notebook: nbformat 4, with its parameters in place; its outputs are replaced.
        kernel: started, and needs not be ready.
        changed: is called with a cell's index when it has ended, and now and then while it runs.
    """

    def __init__(
        self,
        notebook: Any,
        kernel: Kernel,
        log: RunLog,
        stop: Stop,
        changed: Callable[[int], None],
        cell_timeout: float | None,
    ) -> None:
        self._notebook = notebook
        self._kernel = kernel
        self._out = log
        self._stop = stop
        self._changed = changed
        self._cell_timeout = cell_timeout
        self._talk = Talk(kernel.manager.client(), kernel.check, log.say)
        self._outputs = BoundedOutputs(notebook, self._talk.send_comm, changed)
        self._cells = Cells(notebook, self._talk, self._outputs, self._show)
        self._stirred = False
        self._index = -1

    async def run(self) -> Ending:
        """Execute all cells, or until one fails, the kernel dies, or it is stopped. The kernel then still runs."""
        ooms = oom_kills() or 0
        work = asyncio.ensure_future(self._execute())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._interrupt(work)
            await work
        except asyncio.CancelledError:
            if not self._stop.code:
                raise
        except Ended as ended:
            if ended.error is not None and not self._stop.code:
                return self._failed(ended.code, ended.error)
        except (KernelEnded, RuntimeError, OSError) as error:
            if not self._stop.code:
                return self._died(error, (oom_kills() or 0) > ooms)
        finally:
            stopping.cancel()
            self._talk.end()
        if self._stop.code:
            self._mark("Stopped", self._stop.reason)
            return Ending(self._stop.code, self._stop.reason)
        return Ending(0)

    async def _execute(self) -> None:
        if self._kernel.failure is not None:
            raise self._kernel.failure
        self._notebook["metadata"]["language_info"] = await self._talk.begin()
        self._kernel.echoed(True)
        watching = asyncio.ensure_future(self._watch())
        code = self._cells.code
        try:
            for number, index in enumerate(code):
                self._out.cell(number, len(code))
                await self._execute_one(index)
        finally:
            watching.cancel()
            self._say_last_words()
            self._kernel.echoed(False)
            # Widgets are shown as they were at the end, also where that is an error.
            self._outputs.add_widgets()
        self._out.cell(len(code), len(code))

    async def _execute_one(self, index: int) -> None:
        self._index = index
        clock = None
        if self._cell_timeout is not None:
            text = f"A cell took longer than {self._cell_timeout:g} s, the most that one may take."
            clock = asyncio.get_running_loop().call_later(self._cell_timeout, self._stop, 124, text)
        try:
            await self._cells.run(index)
        finally:
            if clock is not None:
                clock.cancel()
            self._changed(index)

    def _say_last_words(self) -> None:
        """Log what a process printed that ended before it came as an output."""
        try:
            self._kernel.check()
        except KernelEnded:
            outputs = [one for index in self._cells.code for one in self._notebook["cells"][index].get("outputs", [])]
            shown = "".join(one["text"] for one in outputs if one["output_type"] == "stream")
            for line in list(self._kernel.lines):
                if line.strip() and line not in shown:
                    self._out.say(line)

    def _show(self, message: dict[str, Any]) -> None:
        self._stirred = True
        if message["header"]["msg_type"] == "stream":
            self._out.text(message["content"]["text"].encode("utf-8", errors="replace"))

    async def _watch(self) -> None:
        """Have what a long cell puts out written before it ends."""
        pause = PARTIAL_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            if self._stirred and self._index >= 0:
                self._stirred = False
                begun = loop.time()
                self._outputs.settle()
                self._changed(self._index)
                pause = max(PARTIAL_SECONDS, 50 * (loop.time() - begun))

    async def _interrupt(self, work: asyncio.Future[None]) -> None:
        """Interrupt the cell, and give up on it when it does not end."""
        with contextlib.suppress(Exception):
            await self._kernel.manager.interrupt_kernel()
            await asyncio.wait({work}, timeout=INTERRUPT_SECONDS)
        if not work.done():
            work.cancel()
            with contextlib.suppress(BaseException):
                await work

    # How it ends

    def _failed(self, code: int, error: dict[str, Any]) -> Ending:
        name, value = str(error["ename"]), " ".join(str(error["evalue"]).split())[:500]
        self._out.traceback(list(error["traceback"]) or [f"{name}: {value}"])
        return Ending(code, f"{self._which()} failed: {name}: {value}".rstrip(": "), name[:200], value)

    def _died(self, error: Exception, oom: bool) -> Ending:
        code = error.code if isinstance(error, KernelEnded) else None
        where = self._which()
        if oom and code in (None, -signal.SIGKILL):
            reason = f"{where} ran out of memory: the kernel was killed; give the container more memory."
            name = "MemoryError"
        elif self._index < 0:
            said = self._kernel.said or str(error)
            reason, name = f"The kernel could not be started: {said[-500:]}", "KernelDied"
        else:
            reason, name = f"{where} ended the kernel: {error}.", "KernelDied"
        self._mark(name, reason)
        return Ending(1, reason, name, reason, oom)

    def _which(self) -> str:
        if self._index < 0:
            return "The notebook"
        code = self._cells.code
        return f"Cell {code.index(self._index) + 1} of {len(code)}"

    def _mark(self, name: str, reason: str) -> None:
        """Leave in the notebook, too, why its cell has not ended."""
        if self._index >= 0:
            error = {"output_type": "error", "ename": name, "evalue": reason, "traceback": [f"{name}: {reason}"]}
            self._notebook["cells"][self._index].setdefault("outputs", []).append(error)
            self._changed(self._index)


class Events:
    """Takes what the notebook tells by `job.progress` and `job.log` (guest/in_job.py), from a socket."""

    def __init__(self, path: str, log: RunLog) -> None:
        self._log = log
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def read(self) -> None:
        """Log all that has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(MAX_EVENT)
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    event = json.loads(data)
                    if event["event"] in ("progress", "metrics"):
                        self._log.event(event)


def names(words: Sequence[str], most: int = 5) -> str:
    """Some names in a sentence."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
