"""Executes a notebook with nbclient: the kernel is started by its argv, what it prints is logged and kept in bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat.v4 import new_output

from docker_kernel.guest.memory import oom_kills
from docker_kernel.guest.run_notebook import exit_code
from docker_kernel.runner.kernel import Kernel
from docker_kernel.runner.log import RunLog

STARTUP_SECONDS = 120
OUTPUT_SECONDS = 60
"""How long a cell's outputs may take to come after its reply; what comes later is lost."""

INTERRUPT_SECONDS = 2.0
"""How long a cell may take to end when it is interrupted."""

PARTIAL_SECONDS = 5.0
"""Between two looks at the outputs of a cell that runs."""

MAX_TEXT = 8 << 20
"""Characters of a cell's printed text that the notebook keeps from its start; the log has all of it."""

TAIL_TEXT = 1 << 20
"""Characters that it keeps from the end."""

MAX_DATA = 128 << 20
"""Characters of a cell's rich outputs that the notebook keeps."""

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


class _Finished(Exception):
    """A cell has ended the notebook, as a script may end itself."""


@dataclass
class _Text:
    """What the running cell printed, as far as it is kept."""

    output: Any = None
    parts: list[str] = field(default_factory=list)
    size: int = 0
    tail: deque[tuple[str, str]] = field(default_factory=deque)
    tail_size: int = 0
    dropped: int = 0
    data: int = 0


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


class Run(NotebookClient):  # type: ignore[misc]
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
        super().__init__(
            notebook,
            km=kernel.manager,
            timeout=None,
            startup_timeout=STARTUP_SECONDS,
            iopub_timeout=OUTPUT_SECONDS,
            ipython_hist_file="",
        )
        self._kernel = kernel
        self._out = log
        self._stop = stop
        self._changed = changed
        self._cell_timeout = cell_timeout
        self._text = _Text()
        self._stirred = False
        self._index = -1

    async def run(self) -> Ending:
        """Execute all cells, or until one fails, the kernel dies, or it is stopped. The kernel then still runs."""
        ooms = oom_kills()
        work = asyncio.ensure_future(self._execute())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._interrupt(work)
            await work
        except _Finished:
            pass
        except CellExecutionError as error:
            if not self._stop.code:
                return self._failed(error)
        except (DeadKernelError, RuntimeError, OSError) as error:
            if not self._stop.code:
                return await self._died(error, oom_kills() > ooms)
        finally:
            stopping.cancel()
        if self._stop.code:
            self._mark("Stopped", self._stop.reason)
            return Ending(self._stop.code, self._stop.reason)
        return Ending(0)

    async def _execute(self) -> None:
        cells = [index for index, cell in enumerate(self.nb.cells) if cell.cell_type == "code"]
        if self._kernel.failure is not None:
            raise self._kernel.failure
        await self.async_start_new_kernel_client()
        info = await self.async_wait_for_reply(self.kc.kernel_info())
        if info is not None:
            self.nb.metadata["language_info"] = info["content"]["language_info"]
        watching = asyncio.ensure_future(self._watch())
        try:
            for number, index in enumerate(cells):
                self._out.cell(number, len(cells))
                await self._execute_one(index)
        finally:
            watching.cancel()
            # Widgets are shown as they were at the end, also where that is an error.
            self.set_widgets_metadata()
        self._out.cell(len(cells), len(cells))

    async def _execute_one(self, index: int) -> None:
        cell = self.nb.cells[index]
        self._index, self._text = index, _Text()
        clock = None
        if self._cell_timeout is not None:
            text = f"A cell took longer than {self._cell_timeout:g} s, the most that one may take."
            clock = asyncio.get_running_loop().call_later(self._cell_timeout, self._stop, 124, text)
        try:
            await self.async_execute_cell(cell, index, execution_count=self.code_cells_executed + 1)
        finally:
            if clock is not None:
                clock.cancel()
            self._settle(cell.get("outputs"))
            self._changed(index)

    async def _check_raise_for_error(self, cell: Any, cell_index: int, exec_reply: Any) -> None:
        content = exec_reply["content"] if exec_reply else {}
        tolerant = "raises-exception" in cell.metadata.get("tags", [])
        if content.get("ename") == "SystemExit" and not exit_code(str(content.get("evalue"))) and not tolerant:
            raise _Finished
        await super()._check_raise_for_error(cell, cell_index, exec_reply)
        if any(one.get("source") == "ask_exit" for one in content.get("payload") or []):
            raise _Finished  # exit() and quit()

    async def _watch(self) -> None:
        """Have what a long cell puts out written before it ends."""
        pause = PARTIAL_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            if self._stirred and self._index >= 0:
                self._stirred = False
                begun = loop.time()
                self._join()
                self._changed(self._index)
                pause = max(PARTIAL_SECONDS, 50 * (loop.time() - begun))

    async def _interrupt(self, work: asyncio.Future[None]) -> None:
        """Interrupt the cell, and give up on it when it does not end."""
        with contextlib.suppress(Exception):
            if self.kc is not None:
                await self.km.interrupt_kernel()
                await asyncio.wait({work}, timeout=INTERRUPT_SECONDS)
        if not work.done():
            work.cancel()
            with contextlib.suppress(BaseException):
                await work

    # How it ends

    def _failed(self, error: CellExecutionError) -> Ending:
        outputs = self.nb.cells[self._index].outputs if self._index >= 0 else []
        raised = next((one for one in reversed(outputs) if one.output_type == "error"), None)
        lines = list(raised.traceback) if raised is not None else []
        self._out.traceback(lines or [f"{error.ename}: {error.evalue}"])
        value = " ".join(str(error.evalue).split())[:500]
        reason = f"{self._which()} failed: {error.ename}: {value}".rstrip(": ")
        code = exit_code(str(error.evalue)) if error.ename == "SystemExit" else 1
        return Ending(code, reason, str(error.ename)[:200], value)

    async def _died(self, error: Exception, oom: bool) -> Ending:
        code = None
        with contextlib.suppress(Exception):
            code = await asyncio.wait_for(self._kernel.exit_code(), 2)
        where = self._which()
        if oom and code in (None, -signal.SIGKILL):
            reason = f"{where} ran out of memory: the kernel was killed; give the container more memory."
            name = "MemoryError"
        elif self._index < 0:
            said = self._kernel.said or str(error)
            reason, name = f"The kernel could not be started: {said[-500:]}", "KernelDied"
        else:
            how = "its process ended" if code is None else _how(code)
            reason, name = f"{where} ended the kernel: {how}.", "KernelDied"
        self._mark(name, reason)
        return Ending(1, reason, name, reason, oom)

    def _which(self) -> str:
        if self._index < 0:
            return "The notebook"
        cells = [index for index, cell in enumerate(self.nb.cells) if cell.cell_type == "code"]
        return f"Cell {cells.index(self._index) + 1} of {len(cells)}"

    def _mark(self, name: str, reason: str) -> None:
        """Leave in the notebook, too, why its cell has not ended."""
        if self._index >= 0:
            error = new_output("error", ename=name, evalue=reason, traceback=[f"{name}: {reason}"])
            self.nb.cells[self._index].setdefault("outputs", []).append(error)
            self._changed(self._index)

    # What the kernel says

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        self._stirred = True
        try:
            if msg["msg_type"] == "stream":
                self._out.text(msg["content"]["text"].encode("utf-8", errors="replace"))
            return super().process_message(msg, cell, cell_index)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # A kernel that is none of Jupyter's best, or a cell, sent what the protocol does not know.
            self._out.say(f"docker-kernel: a message of the kernel ({msg.get('msg_type')}) is left out: {error!r}.")
            return None

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:
        """As nbclient's own, but that texts which follow each other are one, and that there are bounds."""
        hooked = bool(self.output_hook_stack[msg["parent_header"].get("msg_id")])
        if hooked or self.clear_before_next_output:
            self._join()
            return super().output(outs, msg, display_id, cell_index)
        content = msg["content"]
        if msg["msg_type"] == "stream":
            return self._printed(outs, content["name"], content["text"])
        self._join()
        if "data" in content:
            self._text.data += sum(len(value) for value in content["data"].values() if isinstance(value, str))
            if self._text.data > MAX_DATA:
                note = f"[This output is left out: the cell has more than {MAX_DATA >> 20} MiB of them.]"
                msg = {**msg, "content": {**content, "data": {"text/plain": note}}}
        return super().output(outs, msg, display_id, cell_index)

    def _printed(self, outs: list[Any], name: str, text: str) -> Any:
        kept = self._text
        room = MAX_TEXT - kept.size
        head, rest = text[:room] if room > 0 else "", text[max(0, room) :]
        if head:
            kept.size += len(head)
            if not (outs and outs[-1] is kept.output and kept.output.name == name):
                self._join()
                kept.output = new_output("stream", name=name, text="")
                outs.append(kept.output)
            kept.parts.append(head)
        if rest:
            kept.tail.append((name, rest[-TAIL_TEXT:]))
            kept.dropped += len(rest)
            kept.tail_size += len(kept.tail[-1][1])
            while kept.tail_size - len(kept.tail[0][1]) >= TAIL_TEXT:
                kept.tail_size -= len(kept.tail.popleft()[1])
        return kept.output

    def _join(self) -> None:
        """Put what was printed into the output that it belongs to."""
        kept = self._text
        if kept.parts:
            kept.output["text"] = "".join([kept.output["text"], *kept.parts])
            kept.parts.clear()

    def _settle(self, outs: list[Any] | None) -> None:
        """Complete a cell's outputs when it has ended."""
        self._join()
        kept = self._text
        if outs is None or not kept.dropped:
            return
        left_out = kept.dropped - kept.tail_size
        if left_out > 0:
            note = f"\n[… {left_out} characters are left out here: the log has them …]\n"
            outs.append(new_output("stream", name="stderr", text=note))
        for name, text in kept.tail:
            if outs and outs[-1].output_type == "stream" and outs[-1].name == name:
                outs[-1]["text"] += text
            else:
                outs.append(new_output("stream", name=name, text=text))

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        super()._update_display_id(display_id, msg)
        for index in self._display_id_map.get(display_id, ()):
            if index != self._index:
                self._changed(index)


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


def _how(code: int) -> str:
    return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def names(words: Sequence[str], most: int = 5) -> str:
    """Some names in a sentence."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
