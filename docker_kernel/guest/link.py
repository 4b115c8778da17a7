"""The guest's end of the link: how code in a container talks to its host side.

The supervisor listens on a Unix socket. The host side reaches it through an exec stream whose process is this file run
as a script, a relay between its standard streams and the socket. The kernel process reaches it with `Channel`. What
travels are JSON lines (docs/how-it-works.md has the messages).
"""

from __future__ import annotations

import json
import os
import socket
import sys

RUN = "/run/docker-kernel"
"""A tmpfs for sockets and connection files, private to the kernel's user: nothing there outlives the container."""

SOCKET = RUN + "/link.sock"
CONNECTION_FILE = RUN + "/connection.json"
PARENT_FILE = RUN + "/parent.json"
"""The header of the message that the kernel handles, kept by the kernel for the case that it dies."""

PORTS_FILE = RUN + "/ports.json"
"""Where the ports that a notebook opens can be reached on the host, by container port."""

STARTED_LINE = b"docker-kernel: started\n"
WANTED_LINE = b"docker-kernel: wanted\n"
"""On the main process's output, until there has been a link: the first kernel process is there, and all is imported;
and somebody waits for the host side."""

LEASE_EXIT = 199
"""How the main process ends when no host side has been there for the grace period; no signal does (128 and its number),
and hardly a kernel."""

LISTENING_FILE = RUN + "/listening.json"
"""The descriptors of the sockets that kernel processes inherit (listening.py), by port."""

VERSION = 2
MAX_LINE = 16 << 20
"""Bytes one message may have; a longer one breaks the link."""


MAX_REQUEST = MAX_LINE - 4096
"""Bytes that a request may have; on its way it gets a longer id."""


class LinkFailed(Exception):
    """The host side cannot be reached, or the link broke while an answer was awaited."""


class RemoteError(Exception):
    """The host side refused a request; the message says why."""


class LineBuffer:
    """Cuts a byte stream into lines and refuses a line that is too long."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines completed by these bytes; raises ValueError when a line exceeds MAX_LINE."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts, self._size = [], 0
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise ValueError("a message is longer than %d bytes" % MAX_LINE)
        return lines


def encode(message: dict[str, object]) -> bytes:
    """One message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Channel:
    """A kernel process's connection to its host side; safe to use from several threads.

    A reader thread delivers replies and events. Make it with `Channel.connect()`.
    """

    def __init__(self, sock: socket.socket) -> None:
        import threading

        self._sock = sock
        self._lock = threading.Lock()
        self._waiting: dict[int, object] = {}
        self._subscribers: list[object] = []
        self._last = 0
        self.broken = False
        """Whether this connection has ended; another can be made."""
        threading.Thread(target=self._read, name="docker-kernel-link", daemon=True).start()

    @classmethod
    def connect(cls, path: str = SOCKET) -> Channel:
        """Connect to the supervisor.

        Raises:
            LinkFailed: there is none, as in a process that is no Docker kernel.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            sock.sendall(encode({"role": "kernel"}))
        except OSError as error:
            sock.close()
            raise LinkFailed("This process has no link to a Docker kernel's host side.") from error
        return cls(sock)

    def request(self, method: str, params: dict[str, object], timeout: float | None = None) -> dict[str, object]:
        """Ask the host side for something and wait for its answer.

        Args:
            timeout: seconds; None waits for as long as the link lives.

        Raises:
            RemoteError: the request was refused, or is too large.
            LinkFailed: the link is gone, or no answer came in time.
        """
        import queue

        answers: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        with self._lock:
            if self.broken:
                raise LinkFailed("The link to the kernel's host side is broken.")
            self._last += 1
            number = self._last
            line = encode({"type": "request", "id": number, "method": method, "params": params})
            if len(line) > MAX_REQUEST:
                text = "The request %r is larger than the %d MB that can be sent." % (method, MAX_REQUEST / 1e6)
                raise RemoteError(text)
            self._waiting[number] = answers
            try:
                self._sock.sendall(line)
            except OSError as error:
                del self._waiting[number]
                raise LinkFailed("The link to the kernel's host side is broken.") from error
        try:
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            raise LinkFailed("The host side did not answer %r within %s s." % (method, timeout)) from None
        finally:
            self._waiting.pop(number, None)
        if "broken" in answer:
            raise LinkFailed("The link to the kernel's host side broke before %r was answered." % method)
        if "error" in answer:
            raise RemoteError(str(answer["error"]))
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def subscribe(self, callback: object) -> None:
        """Call `callback(event: dict)` for every event from the host side, on the reader thread."""
        self._subscribers.append(callback)

    def _read(self) -> None:
        lines = LineBuffer()
        try:
            while True:
                data = self._sock.recv(1 << 16)
                if not data:
                    break
                for line in lines.feed(data):
                    self._deliver(json.loads(line))
        except (OSError, ValueError):
            pass
        self.broken = True
        for answers in list(self._waiting.values()):
            answers.put({"broken": True})  # type: ignore[attr-defined]

    def _deliver(self, message: dict[str, object]) -> None:
        if message.get("type") == "reply":
            answers = self._waiting.get(message["id"])  # type: ignore[call-overload]
            if answers is not None:
                answers.put(message)
        elif message.get("type") == "event":
            for callback in list(self._subscribers):
                try:
                    callback(message["event"])  # type: ignore[operator]
                except Exception as error:
                    print("docker-kernel: an event's handler failed: %r" % error, file=sys.__stderr__)


def relay() -> None:
    """Copy standard input to the supervisor's socket and the socket to standard output, until either ends."""
    import time

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The exec may be started before the supervisor listens; the first line tells that the host side is there.
    first = os.read(0, 1 << 16)
    for _ in range(500):
        try:
            sock.connect(SOCKET)
            break
        except OSError:
            time.sleep(0.01)
    else:
        sys.exit("docker-kernel: the supervisor does not listen")
    sock.sendall(encode({"role": "host"}) + first)
    try:
        _pump({0: sock.fileno(), sock.fileno(): 1})
    except OSError:
        pass  # one of the ends is gone


def _pump(routes: dict[int, int]) -> None:
    """Copy descriptors to others until one has ended. None waits for another: while the host side takes no more
    requests, it gets rid of an answer all the same."""
    import select

    held = dict.fromkeys(routes, b"")
    for descriptor in (*routes, *routes.values()):
        os.set_blocking(descriptor, False)
    while True:
        wanted: dict[int, int] = {}
        for source, target in routes.items():
            descriptor, event = (target, select.POLLOUT) if held[source] else (source, select.POLLIN)
            wanted[descriptor] = wanted.get(descriptor, 0) | event
        poll = select.poll()
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        poll.poll()
        for source, target in routes.items():
            try:
                if held[source]:
                    held[source] = held[source][os.write(target, held[source]) :]
                else:
                    held[source] = os.read(source, 1 << 16)
                    if not held[source]:
                        return
            except BlockingIOError:
                pass


if __name__ == "__main__":
    relay()
