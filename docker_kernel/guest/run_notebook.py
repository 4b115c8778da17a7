"""Runs a whole notebook in a job: in a kernel of its own, as nbclient does, and writes the executed notebook after each
cell."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any, Callable

from docker_kernel.guest import parameters
from docker_kernel.guest.in_job import EVENTS, job
from docker_kernel.guest.notebook_cells import CELL_ERROR, Cells, Ended, Talk
from docker_kernel.guest.notebook_outputs import NotebookOutputs
from docker_kernel.guest.widget_values import without_view

NAME = "output.ipynb"

DIED = "KernelDied"
"""The error in a cell that ended its kernel."""

INTERRUPTED = 130
CANNOT_START = 3

END_SECONDS = 5
"""How long the kernel may take for what it wants to do at its end."""

MAX_EVENT = 1 << 16
SAID = 4000
"""Bytes of what the kernel's process itself printed, to say why it ended."""

BEGIN = "__import__('docker_kernel.guest.notebook_kernel', fromlist=['begin']).begin(%r)"


def with_parameters(notebook: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The notebook with values for its parameters, as they go into a notebook image.

    Raises:
        ParameterError: one is unknown, missing or of another type.
    """
    found = parameters.find(notebook).parameters
    return parameters.inject(notebook, found, parameters.check(found, params))


class KernelDied(Exception):
    """The kernel's process has ended.

    Args:
        code: its exit code; negative for a signal.
    """

    def __init__(self, code: int, said: str) -> None:
        how = "was killed by %s" % signal.Signals(-code).name if code < 0 else "ended with exit code %d" % code
        super().__init__("the kernel's process %s" % how)
        self.code, self.said = code, said


class _Kernel:
    """The kernel's process and the talk with it; its sockets, and the file with their key, are in a private folder."""

    def __init__(self, room: str) -> None:
        from jupyter_client.asynchronous import AsyncKernelClient
        from jupyter_client.connect import write_connection_file

        path = os.path.join(room, "kernel.json")
        write_connection_file(path, transport="ipc", ip=os.path.join(room, "kernel"), key=os.urandom(32).hex().encode())
        client = AsyncKernelClient()
        client.load_connection_file(path)
        self.talk = Talk(client, self._check, lambda text: print(text, file=sys.stderr))
        read, write = os.pipe()
        boot = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot.py")
        self._process = subprocess.Popen(
            [sys.executable, boot, "-f", path, "--HistoryManager.hist_file=:memory:"],
            stdin=subprocess.DEVNULL, stdout=write, stderr=write,
            env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
        )  # fmt: skip
        os.close(write)
        self._said = b""
        asyncio.get_running_loop().add_reader(read, self._read, read)

    def _read(self, descriptor: int) -> None:
        data = os.read(descriptor, 1 << 16)
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        # ipykernel sends the same as a cell's output.
        self._said = (self._said + data)[-SAID:]

    def _check(self) -> None:
        """Raise KernelDied if it has."""
        code = self._process.poll()
        if code is not None:
            raise KernelDied(code, self._said.decode(errors="replace").strip())

    async def end(self) -> None:
        """Let it do what it wants to do at its end, and end it."""
        if self._process.poll() is None:
            self.talk.client.shutdown()
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(None, self._process.wait, END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.talk.end()


class _Run:
    """One run of a notebook.

    Args:
        notebook: with its parameters in place; its outputs are replaced.
        show: takes what the kernel shows, as it comes.
        changed: is called when a cell has ended.
    """

    def __init__(
        self,
        notebook: dict[str, Any],
        kernel: _Kernel,
        show: Callable[[dict[str, Any]], None],
        changed: Callable[[], None],
    ) -> None:
        self._notebook, self._talk, self._show, self._changed = notebook, kernel.talk, show, changed
        self.stopped = False
        self.outputs = NotebookOutputs(notebook, kernel.talk.send_comm)
        self.cells = Cells(notebook, kernel.talk, self.outputs, show)
        self.index: int | None = None

    async def all(self, begin: str) -> None:
        """Prepare the kernel, and run all cells.

        Raises:
            Ended: it is over before.
            KernelDied: so has the kernel.
        """
        talk, code = self._talk, self.cells.code
        self._notebook.setdefault("metadata", {})["language_info"] = await talk.begin()
        begun = (await talk.ask(talk.client.execute(begin, silent=True, allow_stdin=False), self._show))["content"]
        if begun["status"] != "ok":
            raise Ended(CANNOT_START, {"ename": "", "evalue": begun.get("evalue", ""), "traceback": []})
        for number, index in enumerate(code):
            if self.stopped:
                return
            job.progress(number / len(code), "cell %d of %d" % (number + 1, len(code)))
            self.index = index
            await self.cells.run(index)
            self._changed()
        job.progress(1.0, "%d cells" % len(code))


class _Display:
    """Shows in the log what the kernel shows: what is printed as it is, the rest as events."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send

    def __call__(self, message: dict[str, Any]) -> None:
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "stream":
            sys.stdout.buffer.write(content["text"].encode("utf-8", errors="replace"))
            sys.stdout.flush()
        elif kind in ("display_data", "update_display_data"):
            data, metadata = without_view(content["data"], content["metadata"])
            self._send(
                {
                    "event": "display",
                    "data": data,
                    "metadata": metadata,
                    "transient": content.get("transient") or {},
                    "update": kind == "update_display_data",
                }
            )
        elif kind == "execute_result":
            data, metadata = without_view(content["data"], content["metadata"])
            self._send({"event": "result_display", "data": data, "metadata": metadata})
        elif kind == "clear_output":
            self._send({"event": "clear", "wait": bool(content.get("wait"))})


class _Events:
    """Takes what the notebook tells by `job.progress` and `job.log`, from a socket."""

    def __init__(self, path: str, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self.read)

    def read(self) -> None:
        """Pass on all that has come."""
        while True:
            try:
                event = json.loads(self._socket.recv(MAX_EVENT))
            except BlockingIOError:
                return
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") in ("progress", "metrics"):
                self._send(event)


def run_notebook(spec: dict[str, Any], send: Callable[[dict[str, Any]], None], outputs: str) -> int:
    """Run a notebook's code cells until one fails, unless that is tagged `raises-exception`; none where the parameters
    do not fit. This process has the job's environment, and the executed notebook is in `outputs` afterwards.

    Args:
        spec: the job's.
        send: takes events, the result's digest among them.

    Returns:
        The job's exit code. Where the kernel died of a signal, so does this process.
    """
    job._begin(spec, send, outputs)
    params = spec.get("params") or {}
    error: dict[str, Any] | None = None
    raised, code = "", 0
    try:
        made = with_parameters(json.loads(spec["source"]), params)
    except parameters.ParameterError as refused:
        print("docker-kernel: %s" % refused, file=sys.stderr)
        name = type(refused).__name__
        error, code = {"ename": name, "evalue": str(refused), "traceback": ["%s: %s" % (name, refused)]}, CELL_ERROR
    else:
        room = tempfile.mkdtemp(prefix="docker-kernel-")
        kept = os.path.join(room, "raised")
        try:
            with open(os.path.join(room, "begin.json"), "w") as file:
                json.dump({**{name: spec[name] for name in spec if name != "source"}, "error": kept}, file)
            code, error = asyncio.run(_run(made, send, outputs, room))
            if error is not None and os.path.exists(kept):
                with open(kept) as file:
                    raised = file.read()
        finally:
            shutil.rmtree(room, ignore_errors=True)
    job.flush()
    if code == INTERRUPTED and error is None:
        return code
    return _finish(spec, send, outputs, code, error, raised)


async def _run(
    notebook: dict[str, Any], send: Callable[[dict[str, Any]], None], outputs: str, room: str
) -> tuple[int, dict[str, Any] | None]:
    """The exit code, and the error that ended the notebook."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    os.environ[EVENTS] = os.path.join(room, "events")
    events = _Events(os.environ[EVENTS], send)
    kernel = _Kernel(room)
    run = _Run(notebook, kernel, _Display(send), lambda: _write(notebook, outputs))

    def stop() -> None:
        # The kernel is in this process's group, and so interrupted as well.
        run.stopped = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop)
    code, error = 0, None
    try:
        await run.all(BEGIN % os.path.join(room, "begin.json"))
    except Ended as ended:
        code, error = ended.code, ended.error
        if ended.text:
            print(ended.text, file=sys.stderr)
    except (KernelDied, RuntimeError) as died:
        if run.index is None:
            said = "The kernel could not be started: %s. %s" % (died, getattr(died, "said", ""))
            code, error = CANNOT_START, {"ename": "", "evalue": said.strip(), "traceback": []}
        else:
            code = _mark(notebook, run.index, died)
    run.outputs.settle()
    run.outputs.add_widgets()
    if run.index is not None:
        _write(notebook, outputs)
    await kernel.end()
    events.read()
    return (INTERRUPTED, None) if run.stopped else (code, error)


def _mark(notebook: dict[str, Any], index: int, died: Exception) -> int:
    """Leave in a cell that it ended its kernel; returns the kernel's exit code, which is no success."""
    code = [number for number, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"]
    text = "Cell %d of %d ended the kernel: %s." % (code.index(index) + 1, len(code), died)
    print("docker-kernel: %s" % text, file=sys.stderr)
    error = {"output_type": "error", "ename": DIED, "evalue": text, "traceback": ["%s: %s" % (DIED, text)]}
    notebook["cells"][index]["outputs"].append(error)
    return getattr(died, "code", CELL_ERROR) or CELL_ERROR


def _finish(
    spec: dict[str, Any],
    send: Callable[[dict[str, Any]], None],
    outputs: str,
    code: int,
    error: dict[str, Any] | None,
    raised: str,
) -> int:
    """Keep what came of the notebook as the job's result, but of one that has none."""
    from docker_kernel.guest import snapshot
    from docker_kernel.guest.worker import output_files

    if error is not None:
        send({"event": "raised", "name": error["ename"][:200], "value": error["evalue"][:500]})
    if error is not None and code == CANNOT_START and not error["ename"]:
        print("docker-kernel: %s" % error["evalue"], file=sys.stderr)
        return code
    if code and error is None:
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)  # as a cell would end this process that is no notebook's
        return code
    context: dict[str, Any] = {"deleted": [], "files": output_files(outputs, spec["state"])}
    if error is not None:
        context["error"] = {"name": error["ename"], "value": error["evalue"], "traceback": error["traceback"]}
    if raised:
        digest = snapshot.with_context(spec["state"], raised, **context).digest
    else:
        digest = snapshot.capture({}, {}, spec["state"], **context).digest
    if spec.get("result"):
        from docker_kernel.guest.deliver import deliver

        deliver(spec["state"], digest, spec["result"], send)
    send({"event": "result", "digest": digest})
    return code


def _write(notebook: dict[str, Any], outputs: str) -> None:
    path = os.path.join(outputs, NAME)
    with open(path + ".new", "w", encoding="utf-8", errors="backslashreplace") as file:
        json.dump(notebook, file, ensure_ascii=False, indent=1)
    os.replace(path + ".new", path)
