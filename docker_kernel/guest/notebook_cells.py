"""Runs a notebook's code cells in a kernel, one after the other, as nbclient does: in jobs and in notebook images.

It needs a client of the kernel and nothing else: a job's image need not have nbclient.
"""

from __future__ import annotations

import asyncio
import time
from queue import Empty
from typing import Any, Callable

from docker_kernel.guest.notebook_outputs import NotebookOutputs

LOOK_SECONDS = 0.1
"""How often a channel is looked at, whether or not it has said that there is a message: ZeroMQ says so but once, and a
send takes that away (zmq_getsockopt(3), ZMQ_FD)."""

START_SECONDS = 120
HEARD_SECONDS = 0.2
"""How long a kernel that answers may take to be heard, before it is asked again: what it showed before is lost."""

OUTPUT_SECONDS = 60
"""How long a cell's outputs may take to come after its reply; what comes later is lost."""

CELL_ERROR = 1

EXIT_CODE = (
    "(lambda builtins, code: '0' if code is None else builtins.str(builtins.int(code)) "
    "if builtins.isinstance(code, builtins.int) else 'text')(__import__('builtins'), __import__('sys').last_value.code)"
)
"""Says in a kernel how the SystemExit of its last cell ends a process: a number is its code, all else is a text for
stderr, and the code 1. The message of such an error does not tell 2 and "2" apart."""

MOST_ASKED = 10
"""How often something is asked of a kernel that turns requests down, as it does for a moment after an error."""


class Ended(Exception):
    """The notebook is over before its last cell: it failed, or wanted to end.

    Args:
        code: the exit code.
        error: of the cell, as its output has it; None where it wanted to end.
        text: what a cell that wanted to end gave in place of a code.
    """

    def __init__(self, code: int, error: dict[str, Any] | None = None, text: str = "") -> None:
        self.code, self.error, self.text = code, error, text


def exit_code(value: str) -> int:
    """The exit code of a SystemExit, from its message or what EXIT_CODE says."""
    if value in ("", "None", "False"):
        return 0
    try:
        return int(value) & 0xFF or (0 if int(value) == 0 else 1)
    except ValueError:
        return 1


class Talk:
    """What is asked of a kernel, and what it shows meanwhile.

    Args:
        client: jupyter_client's, asynchronous, whose channels are not open yet.
        check: raises if the kernel's process has ended.
        say: takes a sentence for the user.
    """

    def __init__(self, client: Any, check: Callable[[], None], say: Callable[[str], None]) -> None:
        self.client, self.say, self._check = client, say, check
        self._open = False
        # What is shown faster than it is taken is lost where a queue has an end (zmq_socket(3), ZMQ_SUB).
        client.context.rcvhwm = 0

    async def begin(self) -> dict[str, Any]:
        """Wait until the kernel answers, and is heard; returns what it says of its language.

        Its heartbeat is no sign: it comes late on a busy machine.
        """
        self._open = True
        self.client.start_channels(stdin=False, hb=False)
        self.client.allow_stdin = False
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self.client.kernel_info()
            for get, seconds in ((self.client.get_shell_msg, 1.0), (self.client.get_iopub_msg, HEARD_SECONDS)):
                try:
                    await get(timeout=seconds)
                except Empty:
                    break
            else:
                info = await self.ask(self.client.kernel_info(), lambda message: None)
                return dict(info["content"].get("language_info") or {})
            self._check()
        raise RuntimeError("it has not answered within %d s" % START_SECONDS)

    async def ask(self, request: str, take: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """The reply to a request, when all that it shows has been given to `take`."""
        reply: dict[str, Any] = {}

        async def listen() -> None:
            idle = False
            while not idle:
                message = await self._next(self.client.get_iopub_msg)
                if message["parent_header"].get("msg_id") == request:
                    idle = message["header"]["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
                    take(message)
                elif message["header"]["msg_type"] != "status":
                    take(message)

        listening = asyncio.ensure_future(listen())
        try:
            while reply.get("parent_header", {}).get("msg_id") != request:
                try:
                    reply = await self._next(self.client.get_shell_msg)
                except Exception:
                    # It has ended, and may have shown why.
                    await asyncio.wait([listening], timeout=OUTPUT_SECONDS)
                    if listening.done():
                        listening.exception()
                    raise
            try:
                await asyncio.wait_for(listening, OUTPUT_SECONDS)
            except asyncio.TimeoutError:
                self.say("docker-kernel: a cell's last outputs did not come, and are missing.")
        finally:
            listening.cancel()
        return reply

    async def _next(self, get: Callable[..., Any]) -> dict[str, Any]:
        while True:
            try:
                message: dict[str, Any] = await get(timeout=LOOK_SECONDS)
                return message
            except Empty:
                self._check()

    def end(self) -> None:
        """Say no more, and hear no more."""
        if self._open:
            self.client.stop_channels()

    def send_comm(self, content: dict[str, Any], parent: dict[str, Any]) -> None:
        message = self.client.session.msg("comm_msg", content=content, parent=parent)
        self.client.shell_channel.send(message)


class Cells:
    """The code cells of a notebook that is executed.

    Args:
        notebook: nbformat 4, as JSON has it; its outputs are replaced.
        show: takes what the kernel shows, as it comes, before the outputs do.
    """

    def __init__(
        self,
        notebook: dict[str, Any],
        talk: Talk,
        outputs: NotebookOutputs,
        show: Callable[[dict[str, Any]], None],
    ) -> None:
        self._notebook, self._talk, self._outputs, self._show = notebook, talk, outputs, show
        self._executed = 0
        self.code = [index for index, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"]

    async def run(self, index: int) -> None:
        """Run one of the notebook's code cells, unless it is empty or tagged `skip-execution`.

        Raises:
            Ended: that was the last one, as it failed and is not tagged `raises-exception`, or ended the notebook.
        """
        cell = self._notebook["cells"][index]
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        tags = cell.get("metadata", {}).get("tags", [])
        if not source.strip() or "skip-execution" in tags:
            return
        tolerant = "raises-exception" in tags
        self._executed += 1
        self._outputs.begin(index)
        metadata = cell.setdefault("metadata", {})
        metadata["execution"] = {}
        times = metadata["execution"]  # which may be another object than was set

        def take(message: dict[str, Any]) -> None:
            if message["parent_header"].get("msg_id") == request:
                _note_time(times, message)
            try:
                self._show(message)
                self._outputs.take(index, message)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                # A kernel that is none of Jupyter's best, or a cell, sent what the protocol does not know.
                kind = message["header"].get("msg_type")
                self._talk.say("docker-kernel: a message of the kernel (%s) is left out: %r." % (kind, error))

        client = self._talk.client
        request = client.execute(source, store_history=True, allow_stdin=False, stop_on_error=not tolerant)
        try:
            answer = await self._talk.ask(request, take)
        finally:
            self._outputs.end(index)
        _note_time(times, answer)
        reply = answer["content"]
        cell["execution_count"] = self._executed
        if reply["status"] == "error" and not tolerant:
            code, text = await self._how_to_end(reply) if reply["ename"] == "SystemExit" else (CELL_ERROR, "")
            shown = [one for one in cell["outputs"] if one["output_type"] == "error"]
            error = shown[-1] if shown else {name: reply[name] for name in ("ename", "evalue", "traceback")}
            raise Ended(code, error if code else None, text)
        if any(one.get("source") == "ask_exit" for one in reply.get("payload") or []):
            raise Ended(0)  # exit() and quit()

    async def _how_to_end(self, reply: dict[str, Any]) -> tuple[int, str]:
        """The exit code that a cell's SystemExit asks for, or its text and that text's code."""
        for _ in range(MOST_ASKED):
            asking = {"silent": True, "store_history": False, "allow_stdin": False, "stop_on_error": False}
            request = self._talk.client.execute("", user_expressions={"code": EXIT_CODE}, **asking)
            answer = (await self._talk.ask(request, lambda message: None))["content"]
            if answer["status"] != "aborted":
                break
        said = (answer.get("user_expressions") or {}).get("code") or {}
        code = (said.get("data") or {}).get("text/plain") if said.get("status") == "ok" else None
        value = str(reply["evalue"])
        code = value if code is None else str(code).strip("'")
        return exit_code(code), value if code == "text" else ""


def _note_time(times: dict[str, str], message: dict[str, Any]) -> None:
    """When a cell began and ended, as nbclient notes it."""
    kind = message["header"]["msg_type"]
    if kind == "status":
        kind = "iopub.status.%s" % message["content"]["execution_state"]
    elif kind == "execute_input":
        kind = "iopub.execute_input"
    elif kind == "execute_reply":
        kind = "shell.execute_reply"
    else:
        return
    date = message["header"].get("date")
    times[kind] = date.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if hasattr(date, "strftime") else str(date)
