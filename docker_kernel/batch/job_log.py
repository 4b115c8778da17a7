"""A job's log stream: what its cell printed, and one-line markers that tell the host how it goes.

A marker is a line `##docker-kernel NONCE {json}`. The nonce is the job's own, known to its runner and its host side
only: a line that looks like a marker but has another nonce is the user's output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from docker_kernel.batch.record import Cost

MAX_MARKER = 12 << 20
"""Bytes one marker may have, less than a message on the link; a longer line is passed on as output."""


PIECE = 1 << 16
"""Bytes that are split at once: what splitting costs grows faster than they do."""


class _Marker(BaseModel):
    model_config = ConfigDict(strict=True)


class Display(_Marker):
    """A rich output, or a new version of one."""

    event: Literal["display"]
    data: dict[str, Any]
    metadata: dict[str, Any]
    transient: dict[str, Any]
    update: bool


class ResultDisplay(_Marker):
    """The value of a cell's last expression."""

    event: Literal["result_display"]
    data: dict[str, Any]
    metadata: dict[str, Any]


class Clear(_Marker):
    """What was shown so far goes."""

    event: Literal["clear"]
    wait: bool


class Progress(_Marker):
    """How far the job is: from 0 to 1, None where it cannot tell; `remaining` in seconds, as far as known."""

    event: Literal["progress"]
    value: Annotated[float, Field(ge=0, le=1)] | None
    remaining: Annotated[float, Field(ge=0)] | None = None
    text: Annotated[str, Field(max_length=200)] = ""


class Metrics(_Marker):
    """What the job measured, at one step of its own."""

    event: Literal["metrics"]
    step: float | None
    values: Annotated[dict[Annotated[str, Field(max_length=200)], float], Field(max_length=1000)]
    time: float


class Input(_Marker):
    """Data that the job fetched, with what its store calls this version of it."""

    event: Literal["input"]
    name: Annotated[str, Field(max_length=200)]
    version: Annotated[str, Field(max_length=1000)]


class Raised(_Marker):
    """The exception that ends the job."""

    event: Literal["raised"]
    name: Annotated[str, Field(max_length=200)]
    value: Annotated[str, Field(max_length=500)]


class Begin(_Marker):
    """The runner has begun, at this time of its machine's clock: what waited before was no part of the job."""

    event: Literal["begin"]
    time: float


class Taken(_Marker):
    """A container that waited for a job has this one."""

    event: Literal["taken"]


class Blob(_Marker):
    """A piece of a small result: part `index` of `count`, in base64 (guest/deliver.py)."""

    event: Literal["blob"]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(gt=0)]
    data: str


class End(_Marker):
    """The runner's last word.

    Attributes:
        oom: whether its worker was killed for memory; None where nobody tells.
        result: the digest of the result's manifest, "" if there is none.
        partial: that of what a job which was stopped, or died, had written until then.
    """

    event: Literal["end"]
    code: int
    oom: bool | None
    result: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
    partial: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    timeout: bool = False
    cost: Cost | None = None


Marker = Display | ResultDisplay | Clear | Progress | Metrics | Input | Raised | Begin | Taken | Blob | End
MARKERS: TypeAdapter[Marker] = TypeAdapter(Annotated[Marker, Field(discriminator="event")])


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
            if text := text.removesuffix(b"\n"):
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
