"""The process that tests' Python processes are forked from, with their imports done: see tests/warm.py.

It is as an interpreter that has just started: one thread, and an empty `__main__`. So a fork is one, too, and knows
nothing of other tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import marshal
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import CodeType
from typing import Any

MAX_DESCRIPTORS = 64
ABOVE = 512
"""Descriptors from here on hold what a fork is given, while all others are closed."""


class Parent:
    """Forks a process for each request; tells how it ended, sends it the signals that come, and kills it where nobody
    waits for it any more."""

    def __init__(self, listener: socket.socket, lifeline: int) -> None:
        self._listener = listener
        self._lifeline = lifeline
        self._poll = select.poll()
        self._connections: dict[int, socket.socket] = {}
        self._pids: dict[int, int] = {}
        """By the descriptor of the connection, and by that of the process."""
        self._of: dict[int, socket.socket] = {}
        """The connection, by the descriptor of the process."""
        self._path = [one for one in sys.path[1:] if one not in _entries(os.environ)]
        for descriptor in (listener.fileno(), lifeline):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> tuple[dict[str, Any], list[int]] | None:
        """Answer requests; returns one and its descriptors in a fork, None when this process is to end."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._lifeline:
                    for one in self._connections:
                        self._signal(one, signal.SIGKILL)
                    return None
                if descriptor == self._listener.fileno():
                    found = self._fork()
                    if found is not None:
                        return found
                elif descriptor in self._of:
                    self._ended(descriptor)
                elif descriptor in self._connections:
                    self._talk(descriptor)

    def _fork(self) -> tuple[dict[str, Any], list[int]] | None:
        connection, _ = self._listener.accept()
        text, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, MAX_DESCRIPTORS)
        while len(text) < 8 or len(text) < 8 + int.from_bytes(text[:8], "big"):
            more = connection.recv(1 << 16)
            if not more:  # killed while it asked
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.close()
                return None
            text += more
        request: dict[str, Any] = marshal.loads(text[8:])
        pid = os.fork()
        if pid == 0:
            for known in (self._listener, connection, *self._connections.values()):
                known.detach()
            given = _entries(request["env"])
            # What PYTHONPATH has, site does not add once more.
            sys.path[:] = [request["first"], *given, *(one for one in self._path if one not in given)]
            return request, descriptors
        for descriptor in descriptors:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        self._connections[connection.fileno()], self._of[process] = connection, connection
        self._pids[process] = self._pids[connection.fileno()] = pid
        for descriptor in (process, connection.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        return None

    def _talk(self, descriptor: int) -> None:
        numbers = b""
        with contextlib.suppress(ConnectionResetError):
            numbers = self._connections[descriptor].recv(64)
        for number in numbers or [signal.SIGKILL]:
            self._signal(descriptor, number)
        if not numbers:
            self._poll.unregister(descriptor)

    def _signal(self, descriptor: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pids[descriptor], number)

    def _ended(self, process: int) -> None:
        _, status = os.waitpid(self._pids.pop(process), 0)
        connection = self._of.pop(process)
        with contextlib.suppress(OSError):
            connection.sendall(status.to_bytes(4, "big"))
        with contextlib.suppress(KeyError):
            self._poll.unregister(connection.fileno())
        self._poll.unregister(process)
        os.close(process)
        del self._connections[connection.fileno()], self._pids[connection.fileno()]
        connection.close()


def _entries(env: Any) -> list[str]:
    return [one for one in env.get("PYTHONPATH", "").split(os.pathsep) if one]


def become(request: dict[str, Any], descriptors: list[int]) -> tuple[CodeType, dict[str, Any]]:
    """In a fork: be the process that was asked for; returns its program, and the namespace it is to run in."""
    os.setsid()
    above = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, ABOVE) for one in descriptors]
    os.closerange(0, ABOVE)
    for held, number in zip(above, request["descriptors"], strict=True):
        os.dup2(held, number)
        os.close(held)
    gc.enable()
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.executable, sys.argv = request["python"], request["argv"]
    sys.orig_argv = [request["python"], *request["arguments"]]
    namespace = sys.modules["__main__"].__dict__
    kept = {name: namespace[name] for name in ("__name__", "__doc__", "__package__", "__loader__", "__spec__")}
    annotations: dict[str, Any] = {"__annotations__": {}} if "__annotations__" in namespace else {}
    namespace.clear()
    namespace.update(kept, __builtins__=sys.modules["builtins"], **annotations)
    if request["file"]:
        namespace.update(__file__=request["file"], __cached__=None)
    return compile(request["source"], request["file"] or "<string>", "exec", dont_inherit=True), namespace


def main() -> tuple[CodeType, dict[str, Any]]:
    """Import what is asked for and serve; returns, in a fork, its program and the namespace it is to run in."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()
    for name in sys.argv[2:]:
        module, _, function = name.partition(":")
        found = importlib.import_module(module)
        if function:
            getattr(found, function)()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, f"an import of {sys.argv[2:]} starts threads"
    gc.freeze()
    asked = Parent(listener, 0).serve()
    if asked is None:
        os._exit(0)
    return become(*asked)
