"""Reads a job's log: what its cell printed, and one-line markers that tell how it goes (written by run_job.py).

A marker is a line `##docker-kernel NONCE {json}`. The nonce is the job's own, known to its runner and its host side
only: a line that looks like a marker but has another nonce is the user's output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypedDict

MAX_MARKER = 12 << 20
"""Bytes one marker may have, less than a message on the link; a longer line is passed on as output."""

PIECE = 1 << 16
"""Bytes that are split at once: what splitting costs grows faster than they do."""


class JobLogState(TypedDict):
    """Between two pieces of a log.

    Attributes:
        newline: whether a newline is held back, which may be a marker's.
    """

    newline: bool
    at_line_start: bool


class JobLog:
    """Splits a job's output, arriving in pieces, into text (bytes) and markers (dicts), in order."""

    def __init__(self, nonce: str, state: JobLogState | None = None) -> None:
        self._prefix = f"##docker-kernel {nonce} ".encode()
        self._held = b""
        self._newline = b"\n" if state is not None and state["newline"] else b""
        self._at_line_start = state is None or state["at_line_start"]

    @property
    def state(self) -> JobLogState | None:
        """With which another one goes on behind the bytes that were fed; None in the middle of what may be a marker."""
        return None if self._held else {"newline": bool(self._newline), "at_line_start": self._at_line_start}

    def feed(self, data: bytes) -> Iterator[bytes | dict[str, Any]]:
        """The parts that these bytes complete.

        Held back is only what may yet become a marker, and a newline, which may be there for the sake of a marker.
        """
        pieces = (data[at : at + PIECE] for at in range(0, len(data), PIECE))
        for part in (part for piece in pieces for part in self._split(piece)):
            if isinstance(part, dict):
                if self._newline and not part.pop("joined", False):
                    yield self._newline
                self._newline = b""
                yield part
                continue
            text = self._newline + part
            self._newline = b"\n" if text.endswith(b"\n") else b""
            if text := text[:-1] if text.endswith(b"\n") else text:
                yield text

    def _split(self, data: bytes) -> Iterator[bytes | dict[str, Any]]:
        data, self._held = self._held + data, b""
        while data:
            if self._at_line_start and self._may_be_marker(data):
                end = data.find(b"\n")
                if end < 0 and len(data) <= MAX_MARKER:
                    self._held = data
                    return
                marker = self._marker(data[:end]) if end >= 0 else None
                if marker is not None:
                    data = data[end + 1 :]
                    yield marker
                    continue
            end = data.find(b"\n")
            line, data = (data, b"") if end < 0 else (data[: end + 1], data[end + 1 :])
            while data and not self._may_be_marker(data) and (end := data.find(b"\n")) >= 0:
                line, data = line + data[: end + 1], data[end + 1 :]
            self._at_line_start = line.endswith(b"\n")
            yield line

    def _may_be_marker(self, data: bytes) -> bool:
        return data.startswith(self._prefix) or self._prefix.startswith(data)

    def _marker(self, line: bytes) -> dict[str, Any] | None:
        try:
            marker = json.loads(line[len(self._prefix) :])
        except ValueError:
            return None
        return marker if isinstance(marker, dict) else None

    def pause(self) -> bytes:
        """The newline that was held back, when nothing has come for a moment: a marker's own comes together with it."""
        newline, self._newline = self._newline, b""
        return newline

    def rest(self) -> bytes:
        """What was held back when the stream ended."""
        held, self._held, self._newline = self._newline + self._held, b"", b""
        return held
