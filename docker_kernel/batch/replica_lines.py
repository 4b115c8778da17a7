"""The output of a job's replicas as one text, in which each line begins with its rank."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TypedDict, TypeVar

T = TypeVar("T")

MAX_LINE = 1 << 20
"""Bytes of one line; what is longer goes on as another line of its rank."""

END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
"""What ends a line, or begins it anew, as progress bars do. A carriage return at the end may belong to a newline."""


class ReplicaLinesState(TypedDict):
    """Between two pieces: the lines that have begun, by rank, and whose line is written over."""

    begun: dict[str, str]
    open: int | None


class ReplicaLines:
    """Takes what ranks print, in whatever pieces it comes, and gives out whole lines.

    What a progress bar writes over is a line that ends with a carriage return: each state has the rank, too, and other
    ranks begin a line of their own below it.
    """

    def __init__(self, state: ReplicaLinesState | None = None) -> None:
        begun = {} if state is None else state["begun"]
        self._begun = {int(rank): bytearray(text.encode("latin-1")) for rank, text in begun.items()}
        self._open: int | None = None if state is None else state["open"]

    @property
    def state(self) -> ReplicaLinesState:
        """With which another one goes on."""
        begun = {str(rank): line.decode("latin-1") for rank, line in self._begun.items() if line}
        return {"begun": begun, "open": self._open}

    def feed(self, rank: int, data: bytes) -> bytes:
        """The lines that this piece of a rank's output completes."""
        line = self._begun.setdefault(rank, bytearray())
        # What was there before has no end, but perhaps a carriage return at its own.
        at, begin = max(0, len(line) - 1), 0
        line += data
        found = bytearray()
        while end := END.search(line, at):
            found += self._line(rank, bytes(line[begin : end.start()]), end[0])
            at = begin = end.end()
        del line[:begin]
        while len(line) > MAX_LINE:
            found += self._line(rank, bytes(line[:MAX_LINE]), b"\n")
            del line[:MAX_LINE]
        return bytes(found)

    def rest(self) -> bytes:
        """The lines that nothing has ended, when all ranks have."""
        found = b"".join(self.feed(rank, b"\n") for rank in sorted(self._begun) if self._begun[rank])
        return found if self._open is None else found + b"\n"

    def _line(self, rank: int, text: bytes, end: bytes) -> bytes:
        if end == b"\r" and not text:
            return b""  # a bar that begins with the carriage return
        below = b"\n" if self._open not in (None, rank) else b""
        self._open = rank if end == b"\r" else None
        return below + b"[%d] " % rank + text + end


async def with_pauses(stream: AsyncIterator[T], seconds: float) -> AsyncIterator[T | None]:
    """A stream's items, and a None when none has come for so long after one."""
    pending: asyncio.Future[T] | None = None
    wait: float | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(stream))
            done, _ = await asyncio.wait({pending}, timeout=wait)
            if not done:
                wait = None
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            pending, wait = None, seconds
            yield item
    finally:
        if pending is not None:
            pending.cancel()
