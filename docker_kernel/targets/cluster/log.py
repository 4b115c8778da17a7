"""The log of one task of a job, read to its end: each byte once, however often the stream that brings it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from docker_kernel.batch.job_log import End
from docker_kernel.errors import EngineError

TAIL = 1 << 18
"""Bytes of a log that are remembered: an inline result is among them."""

LAST_WORDS = 1.5
"""How long the rest of a log may take to arrive after its task has ended."""

REREAD = 16 << 20
"""Bytes up to which a log is read once more at its end, where the runner's last word is missing."""

AGAIN_SECONDS = 0.5
"""How long after a cut a log is asked for again."""

MAX_LAST_WORD = 1024
"""Bytes of the runner's last word that may have come in an earlier piece."""


class ByteLog(Protocol):
    """A log as an engine gives it, from its first byte."""

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the stream, which may be a cut."""
        ...

    def close(self) -> None: ...


class TaskLog:
    """What one task prints.

    A cluster's stream may break, say nothing for a node that is down, and never end by itself: the end is the runner's
    last word, or that of its task, and some time.

    Args:
        nonce: of the job's markers.
        delivered: bytes that were given out, also by an earlier process.
    """

    def __init__(self, nonce: str, delivered: int = 0) -> None:
        self._nonce = nonce
        self.delivered = delivered
        self._tail = bytearray()
        self._cut = delivered > 0
        self.last_word: End | None = None
        """The runner's."""
        self._over = asyncio.Event()
        self._unreadable = False

    def end(self, unreadable: bool = False) -> None:
        """The task has ended; what is left of its log may be had, unless its node has gone."""
        self._unreadable |= unreadable
        self._over.set()

    @property
    def tail(self) -> bytes:
        """Its last lines."""
        return bytes(self._tail[self._tail.find(b"\n") + 1 :] if self._cut else self._tail)

    async def read(self, open: Callable[[bool], Awaitable[ByteLog]], give: Callable[[bytes], Awaitable[None]]) -> None:
        """Give out the log to its end.

        Args:
            open: opens it from its first byte: to be followed, or as it is.
            give: takes what was not given out before.
        """
        while self.last_word is None:
            if self._over.is_set() and (self._unreadable or self.delivered > REREAD):
                return
            follow = not self._over.is_set()
            try:
                stream = await open(follow)
            except EngineError:
                if not follow:
                    return
                await self._pause()
                continue
            try:
                await self._drain(stream, give)
            finally:
                stream.close()
            if not follow:
                return
            if self.last_word is None and not self._over.is_set():
                await self._pause()

    async def _pause(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._over.wait(), AGAIN_SECONDS)

    async def _drain(self, stream: ByteLog, give: Callable[[bytes], Awaitable[None]]) -> None:
        """Give out a log, but for what was given out before, to the stream's or the log's end."""
        skip = self.delivered
        over = asyncio.ensure_future(self._over.wait())
        reading: asyncio.Future[bytes] | None = None
        try:
            while self.last_word is None:
                reading = reading or asyncio.ensure_future(stream.read())
                waits: set[asyncio.Future[bytes] | asyncio.Future[Literal[True]]] = (
                    {reading} if over.done() else {reading, over}
                )
                done, _ = await asyncio.wait(
                    waits, timeout=LAST_WORDS if over.done() else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done or (over.done() and self._unreadable):
                    return
                if reading not in done:
                    continue
                data, reading = reading.result(), None
                if not data:
                    return
                data, skip = data[skip:], max(0, skip - len(data))
                if data:
                    self._take(data)
                    await give(data)
        finally:
            over.cancel()
            if reading is not None:
                reading.cancel()

    def _take(self, data: bytes) -> None:
        """Remember what arrived, and look for the runner's last word."""
        self.delivered += len(data)
        at = max(0, len(self._tail) - MAX_LAST_WORD)
        self._tail += data
        begin = self._tail.rfind(f'##docker-kernel {self._nonce} {{"event":"end"'.encode(), at)
        end = self._tail.find(b"\n", begin)
        if begin >= 0 and end >= 0:
            with contextlib.suppress(ValueError):
                self.last_word = End.model_validate_json(bytes(self._tail[self._tail.index(b"{", begin) : end]))
        if len(self._tail) > 2 * TAIL:
            del self._tail[:-TAIL]
            self._cut = True
