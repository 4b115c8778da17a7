"""Keeps output.html up to date: a thread that gives the latest version of the notebook to the process of render.py."""

from __future__ import annotations

import contextlib
import html
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from docker_kernel.runner import render
from docker_kernel.runner.sinks import Pieces

SECONDS_BETWEEN = 2.0
SHARE = 4
"""Between two pages passes this times the time that the last one took, or SECONDS_BETWEEN."""

MAX_SECONDS = 120.0
"""How long one page may take."""

TOO_LONG = f"it took longer than {MAX_SECONDS:g} s to make"


class Pages:
    """Makes the pages of one run.

    Args:
        title: of the page.
        no_input: whether the code is left out.
        publish: takes each page.

    Attributes:
        problem: why the last page is not what it should be; empty if it is.
    """

    def __init__(self, title: str, no_input: bool, publish: Callable[[Pieces], None]) -> None:
        self._title, self._no_input, self._publish = title, no_input, publish
        self.problem = ""
        self._changed = threading.Condition()
        self._waiting: tuple[Pieces, str] | None = None
        self._rested = float("inf")
        self._last = False
        self._over = False
        # It loads what it needs while the kernel starts; much of it is here already.
        self._process: _Fork | subprocess.Popen[bytes] = _Fork(no_input)
        threading.Thread(target=self._serve, name="pages", daemon=True).start()

    def put(self, notebook: Pieces, note: str = "") -> None:
        """Have a page made of this version, as soon as it is its turn.

        Args:
            note: what a reader shall see first.
        """
        with self._changed:
            if self._rested == float("inf"):
                self._rested = time.monotonic() + SECONDS_BETWEEN
            self._waiting = notebook, note
            self._changed.notify_all()

    def finish(self, notebook: Pieces, note: str, deadline: Callable[[], float]) -> None:
        """Have the last page made, and wait for it until a time of `time.monotonic`, which may come nearer."""
        with self._changed:
            self._waiting, self._last = (notebook, note), True
            self._changed.notify_all()
            while not self._over and time.monotonic() < deadline():
                self._changed.wait(max(0.0, min(0.5, deadline() - time.monotonic())))
        if not self._over:
            self.problem = "there was no time left to make it"
        self._stop()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None or (not self._last and time.monotonic() < self._rested):
                    wait = None if self._waiting is None else max(0.0, self._rested - time.monotonic())
                    self._changed.wait(wait)
                (notebook, note), self._waiting, last = self._waiting, None, self._last
            begun = time.monotonic()
            page, problem = self._make(notebook, note)
            if page is None and last and problem != TOO_LONG:
                page, problem = self._make(notebook, note)
            if page is None and last:
                self.problem = problem
                page = _plain(self._title, note, problem)
            if page is not None:
                self._publish([page])
            self._rested = time.monotonic() + max(SECONDS_BETWEEN, SHARE * (time.monotonic() - begun))
            if last:
                with self._changed:
                    self._over = True
                    self._changed.notify_all()
                return

    def _start_anew(self) -> subprocess.Popen[bytes]:
        """Replace a process that has ended: by then there are threads, and so no more forks."""
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "render.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, *(["--no-input"] if self._no_input else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _make(self, notebook: Pieces, note: str) -> tuple[bytes | None, str]:
        """One page; None, and the reason, where it could not be made, which may have cost the process."""
        process = self._process
        if process.poll() is not None:
            process = self._start_anew()
        assert process.stdin is not None and process.stdout is not None
        request = {"size": sum(map(len, notebook)), "title": self._title, "note": note}
        end = time.monotonic() + MAX_SECONDS
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.writelines(notebook)
            process.stdin.flush()
            made, size = struct.unpack(">?Q", self._read(process, 9, end))
            content = self._read(process, size, end)
            return (content, "") if made else (None, content.decode(errors="replace"))
        except (OSError, EOFError):
            with contextlib.suppress(OSError):
                process.kill()
            code = process.wait()
            late = time.monotonic() >= end
            return None, TOO_LONG if late else f"what makes it ended with code {code}, maybe for want of memory"

    def _read(self, process: _Fork | subprocess.Popen[bytes], size: int, end: float) -> bytes:
        assert process.stdout is not None
        parts = []
        descriptor = process.stdout.fileno()
        while size:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            data = os.read(descriptor, min(size, 1 << 20)) if ready else b""
            if not data:
                raise EOFError
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


class _Fork:
    """The process of render.py as a fork of this one, with what both need of the faces of `subprocess.Popen`."""

    def __init__(self, no_input: bool) -> None:
        requests, self_requests = os.pipe()
        self_replies, replies = os.pipe()
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                for number in (self_requests, self_replies):
                    os.close(number)
                os.dup2(os.open(os.devnull, os.O_RDWR), 2)
                render.serve(no_input, os.fdopen(requests, "rb"), os.fdopen(replies, "wb"))
            os._exit(0)
        os.close(requests)
        os.close(replies)
        self.stdin = os.fdopen(self_requests, "wb")
        self.stdout = os.fdopen(self_replies, "rb")

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self._code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self._code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _plain(title: str, note: str, problem: str) -> bytes:
    """A page for the case that there is no better one."""
    return (
        f"<!DOCTYPE html><html><head><meta charset=utf-8><title>{html.escape(title)}</title></head><body>"
        f"<p>{html.escape(note)}</p><p>This notebook could not be shown here ({html.escape(problem)}): "
        "output.ipynb has it all.</p></body></html>"
    ).encode()
