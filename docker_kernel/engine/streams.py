"""What flows from and to an engine: a process's input and output, logs, archives."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import requests
import requests.exceptions

from docker_kernel.errors import EngineUnavailable

log = logging.getLogger(__name__)

STREAM_STDOUT = 1
STREAM_STDERR = 2


class ExecStream:
    """A process running in a container, with its standard input, output and error as async streams.

    Args:
        sock: the hijacked connection (docker-py's exec or attach socket).
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> ExecStream:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        else:
            reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Pieces of output, each with its stream (1 output, 2 error), until the process ends.

        The framing is the engine API's: an 8-byte header (stream, 3 zero bytes, big-endian length), then the payload
        (Docker Engine API, "Attach to a container: stream format").
        """
        try:
            while True:
                stream, size = struct.unpack(">BxxxL", await self._reader.readexactly(8))
                while size:
                    data = await self._reader.read(min(size, 1 << 16))
                    if not data:
                        return
                    size -= len(data)
                    yield stream, data
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def write(self, data: bytes) -> None:
        """Send bytes to the process's standard input; raises ConnectionError when it is gone."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close the streams when all that was written is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close the streams now."""
        self._writer.transport.abort()


class ReadAhead:
    """What an engine sends for as long as it is up, read by a thread of its own as it comes."""

    AHEAD = 4 << 20
    """Bytes that wait to be taken; then the thread waits, and with it the engine."""

    def __init__(self, response: requests.Response, thread: str = "docker-kernel-stream") -> None:
        self._response, self._pid = response, os.getpid()
        self._loop = asyncio.get_running_loop()
        self._change = threading.Condition()
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._closed = threading.Event()
        self.error = ""
        """Why it broke off, or what the engine says where it could not read all."""

        threading.Thread(target=self._run, name=thread, daemon=True).start()

    async def read(self) -> bytes:
        """All that has arrived, or what arrives next; b"" at the stream's end, which it may never have."""
        while True:
            with self._change:
                if self._pieces:
                    data = b"".join(self._pieces)
                    self._pieces.clear()
                    self._size = 0
                    self._change.notify()
                    return data
                if self._ended:
                    return b""
                self._arrived.clear()
            await self._arrived.wait()

    def close(self) -> None:
        if self._pid != os.getpid():
            return  # a forked child's copy, collected there: its parent reads on
        self._closed.set()
        # A thread that waits in recv is woken by this alone; close() would wait for it.
        with contextlib.suppress(OSError, AttributeError):
            connection: Any = self._response.raw
            file = connection._fp.fp
            if hasattr(file, "channel"):  # docker-py's, of an `ssh`
                file.channel.close()
            else:
                file.raw._sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            for piece in self._parse(self._response.raw.stream(1 << 18, decode_content=False)):
                if not self._give(piece):
                    return
        except Exception as error:  # of urllib3, http.client or the socket, which close() shuts
            if not self._closed.is_set():
                self.error = self.error or str(error)
        finally:
            self._give(b"")
            with contextlib.suppress(Exception):
                self._response.close()

    def _parse(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What is of use in what arrives."""
        return chunks

    def _give(self, piece: bytes) -> bool:
        """Let a piece be read; b"" is the end. False when the stream was closed."""
        with self._change:
            while self._size > self.AHEAD and not self._closed.is_set():
                self._change.wait(1)
            if piece:
                self._pieces.append(piece)
                self._size += len(piece)
            else:
                self._ended = True
            wake = not piece or len(self._pieces) == 1
        if wake:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and so will this process
                self._loop.call_soon_threadsafe(self._arrived.set)
        return not self._closed.is_set()


class LogStream(ReadAhead):
    """A log: followed logs come from a connection that stays open."""

    def _parse(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The stream's frames, as in ExecStream.frames; stream 3 is a Swarm's manager itself."""
        held = bytearray()
        for chunk in chunks:
            held += chunk
            out: list[bytes] = []
            at = 0
            while len(held) - at >= 8:
                stream, size = struct.unpack_from(">BxxxL", held, at)
                if len(held) - at - 8 < size:
                    break
                payload = bytes(held[at + 8 : at + 8 + size])
                at += 8 + size
                if stream == 3:
                    self.error = payload.decode(errors="replace").strip()
                else:
                    out.append(payload)
            del held[:at]
            if out:
                yield b"".join(out)


class ByteStream:
    """What an engine sends, in pieces, to be read in a thread.

    Raises:
        EngineUnavailable: it breaks off.
    """

    def __init__(self, response: requests.Response, url: str) -> None:
        self._response = response
        self._chunks = response.iter_content(1 << 20)
        self._url = url

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = next(self._chunks)
            return chunk
        except requests.exceptions.RequestException as error:
            log.debug("the engine broke off", exc_info=error)
            raise EngineUnavailable(f"The engine at {self._url} broke off while it was read: is it still up?") from None

    def close(self) -> None:
        self._response.close()


class ChunkReader(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, chunks: ByteStream) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._chunks.close()
        super().close()


def own_socket(wrapper: Any) -> socket.socket:
    """The plain socket below docker-py's wrapper, taken out of it so that closing the HTTP response leaves it open.

    The wrapper is left to the response: Python 3.13 prints a traceback when a response finds its file closed.
    """
    raw = getattr(wrapper, "_sock", wrapper)
    return socket.socket(raw.family, raw.type, raw.proto, fileno=raw.detach())
