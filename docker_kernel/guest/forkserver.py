"""The process that kernel processes are forked from, so that a start costs no imports.

The supervisor starts it as a script, with the environment of the kernel; it imports what a kernel imports, and nothing
of the user's, and then forks a kernel process for each request. When the packages have changed since, so that a kernel
could come out different, it says so and ends: the supervisor then starts an interpreter, as it does when this process
has died or hangs, or when other variables are wanted that act while an interpreter starts.

A fork is the child of process 1 at once, as an interpreter started by the supervisor would be.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
from typing import Any

REQUIRED = ("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "docker_kernel.guest.extension")
OPTIONAL = (
    "IPython.core.completerlib", "IPython.core.debugger", "IPython.core.debugger_backport", "IPython.core.oinspect",
    "IPython.extensions.storemagic", "IPython.utils.wildcard",
    "debugpy.server.api", "ipykernel.debugger", "ipykernel.eventloops", "ipykernel.subshell_manager",
    "encodings.ascii", "encodings.idna", "encodings.latin_1",
    "faulthandler", "gzip", "mimetypes", "pdb", "psutil", "pydoc", "resource", "sqlite3", "stringprep", "sysconfig",
    "tornado.gen", "tornado.locks", "tornado.platform.asyncio", "tornado.queues", "unicodedata", "xmlrpc.server",
)  # fmt: skip
"""What a kernel imports between its start and its first reply (ipykernel 6 and 7), where it is there."""

SEEDED_AT_IMPORT = ("numpy.random", "torch", "jax", "tensorflow")
"""What has random or device state of its own from its import on, which two forks would share."""


def import_kernel() -> None:
    """Import what a kernel does. Raises ImportError where it could not start either."""
    for name in REQUIRED:
        importlib.import_module(name)
    for name in OPTIONAL:
        try:
            importlib.import_module(name)
        except ImportError:
            pass


def why_unfit() -> str | None:
    """Why nothing can be forked from this process; None when it can."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return "a package of the image starts threads at its import"
    for name in SEEDED_AT_IMPORT:
        if name in sys.modules:
            return "%s is imported at every start of Python" % name
    return None


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def import_stamps() -> dict[str, tuple[int, int, int] | None]:
    """What tells whether the same imports would find the same again: the folders of `sys.path`, the .pth files there,
    and the files of all modules."""
    paths = set(sys.path)
    for folder in sys.path:
        try:
            paths.update(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".pth"))
        except OSError:
            pass  # not there yet, or a zip file
    paths.update(str(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None))
    return {path: _stamp(path) for path in paths}


def why_unsure(stamps: dict[str, tuple[int, int, int] | None]) -> str | None:
    """Why an interpreter that is started now might come out different; None when it would not."""
    for path, stamp in stamps.items():
        if _stamp(path) != stamp:
            return "%s has changed" % path
    return None


def fork() -> tuple[int, int]:
    """Fork a process that process 1 inherits; returns its id, and the writing end of a pipe.

    In that process, returns 0 and the reading end: see `pass_gate`.
    """
    reader, writer = os.pipe()
    gate, key = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(writer, b"%d" % pid)
            os._exit(0)
        for descriptor in (reader, writer, key):
            os.close(descriptor)
        return 0, gate
    os.close(writer)
    os.close(gate)
    with os.fdopen(reader, "rb") as answer:
        text = answer.read()
    os.waitpid(middle, 0)
    if not text:
        os.close(key)
        raise OSError("no process could be forked")
    return int(text), key


def pass_gate(gate: int) -> None:
    """Wait in a fork until the supervisor takes it for the kernel; it ends where that cannot happen any more."""
    if not os.read(gate, 1):
        os._exit(1)
    os.close(gate)


def become_kernel(request: dict[str, Any]) -> None:
    """In a fork: be the kernel process that an interpreter started by the supervisor would be."""
    from docker_kernel.guest import boot
    from docker_kernel.guest.memory import set_oom_score

    gc.enable()
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # which it has from our own start
    os.setsid()
    set_oom_score(int(request["oom_score"]))
    for name, value in request["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(str(request["cwd"]))
    sys.orig_argv = list(request["argv"])
    sys.argv = sys.orig_argv[sys.orig_argv.index(boot.__file__) :]
    boot.run_kernel(sys.argv[1:], lambda: pass_gate(request["gate"]))


def serve(sock: socket.socket) -> dict[str, Any] | None:
    """Answer the supervisor's requests; returns the request in a fork that is to be a kernel, None at the end."""
    import json

    from docker_kernel.guest.link import LineBuffer, encode
    from docker_kernel.guest.memory import set_oom_score

    reason = why_unfit()
    if reason is not None:
        sock.sendall(encode({"type": "unfit", "reason": reason}))
        return None
    stamps = import_stamps()
    gc.freeze()
    sock.sendall(encode({"type": "loaded"}))
    lines = LineBuffer()
    key = -1
    while True:
        data = sock.recv(1 << 16)
        if not data:
            return None
        for line in lines.feed(data):
            request: dict[str, Any] = json.loads(line)
            if request["type"] == "go":
                os.write(key, b"1")
                os.close(key)
                continue
            set_oom_score(0)
            unsure = None
            try:
                pid, key = fork()
            except OSError as error:
                unsure = str(error)
            else:
                if pid == 0:
                    sock.close()
                    return {**request, "gate": key}
                # Meanwhile the fork reads its settings.
                unsure = why_unsure(stamps)
                if unsure is None:
                    sock.sendall(encode({"type": "forked", "pid": pid}))
            if unsure is not None:
                sock.sendall(encode({"type": "unsure", "reason": unsure}))
                return None


def main() -> None:
    from docker_kernel.guest.boot import load_guest

    # As gc.freeze's documentation says; collections would take a fifth of the imports' time, too.
    gc.disable()
    # As ipykernel does between cells: an interrupt of a kernel that still starts would end it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_guest()
    import_kernel()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        become_kernel(request)


if __name__ == "__main__":
    lib = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[0 : 0 if getattr(sys.flags, "safe_path", False) else 1] = [lib]
    main()
