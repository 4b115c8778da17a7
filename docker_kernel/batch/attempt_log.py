"""The log of a job's attempt, as it arrives: its text, what its markers say, and up to where it is here."""

from __future__ import annotations

import asyncio
import codecs
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from docker_kernel.batch.job_folder import JobFolder
from docker_kernel.batch.job_log import (
    MARKERS,
    Begin,
    Blob,
    Cell,
    Clear,
    Display,
    End,
    Input,
    Metrics,
    Progress,
    Raised,
    ResultDisplay,
    Taken,
)
from docker_kernel.batch.record import JobRecord
from docker_kernel.batch.replica_lines import ReplicaLines, with_pauses
from docker_kernel.guest.job_log import JobLog
from docker_kernel.targets.base import Note, Output

log = logging.getLogger(__name__)

MAX_METRICS = 1000
"""Names of metrics whose last values a job's record keeps."""

POSITION_SECONDS = 1.0
"""How often it is kept up to where a job's log is here."""

MAX_POSITION = 1 << 16
"""Bytes of lines that have only begun up to which they are kept with it."""

PAUSE_SECONDS = 0.3
"""After which a newline that a replica printed is its own, and not there for the sake of a marker."""


Shown = Progress | Metrics | Cell | Input | Display | ResultDisplay | Clear
"""What a job's owner sees of its markers."""


@dataclass(frozen=True)
class LogListener:
    """Who wants to know what a log says, as it says it.

    Args:
        on_event: gets output, and the markers that a job's owner may see.
        on_begin: gets the time at which the job's runner began, by its machine's clock.
        on_note: gets why the job waits.
        on_position: called when what the record has is kept up to where the log is.
    """

    on_event: Callable[[dict[str, Any]], Awaitable[None]]
    on_begin: Callable[[float], Awaitable[None]]
    on_note: Callable[[str], Awaitable[None]]
    on_position: Callable[[], Awaitable[None]]


class AttemptLog:
    """What one attempt's log has said so far; what is for the job's record goes there.

    Attributes:
        cell: how far the cell is.
        end: the runner's last word.
        raised: the exception that ends the job, in words.
    """

    def __init__(self, record: JobRecord, folder: JobFolder) -> None:
        self._record = record
        self._folder = folder
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._kept_at = 0.0
        self.begin_again()

    def begin_again(self) -> None:
        """Forget all, for another attempt."""
        self.cell: Literal["waits", "runs", "has run"] = "waits"
        self.end: End | None = None
        self.raised = ""
        self._positions: dict[int, str] = {}
        self._parsers: dict[int, JobLog] = {}
        self._lines = ReplicaLines()

    @property
    def positions(self) -> dict[int, str]:
        """By rank, up to where the log is here (Target.output)."""
        return dict(self._positions)

    async def read(self, output: AsyncIterator[Output | Note], listener: LogListener) -> None:
        """Read a log to its end, or the runner's last word."""
        record = self._record
        self._text.reset()
        # A cell shows a line without waiting for its end; among others, and in a terminal, a line ends with its own.
        at_once = record.replicas == 1 and record.kind != "image"
        async for piece in output if at_once else with_pauses(output, PAUSE_SECONDS):
            if piece is None:
                for rank, parser in self._parsers.items():
                    await self._add(listener, rank, parser.pause())
            elif isinstance(piece, Note):
                await listener.on_note(piece.text)
            else:
                parser = self._parsers.setdefault(piece.rank, JobLog(record.nonce))
                for part in parser.feed(piece.data):
                    await self._add(listener, piece.rank, part)
                if self.end is not None and record.replicas == 1:
                    break
                self._positions[piece.rank] = piece.position
                await self._keep_position(listener)
        for rank, parser in self._parsers.items():
            await self._add(listener, rank, parser.rest())
        await self._add_output(listener, self._lines.rest(), last=True)

    async def _add(self, listener: LogListener, rank: int, part: bytes | dict[str, Any]) -> None:
        record = self._record
        if isinstance(part, bytes):
            await self._add_output(listener, part if record.replicas == 1 else self._lines.feed(rank, part))
            return
        try:
            marker = MARKERS.validate_python(part)
        except ValidationError as error:
            log.warning("the job %s wrote a marker that is none: %s", record.id, error)
            return
        if isinstance(marker, End):
            if rank == 0:
                self.end = marker
                record.exit_code, record.result, record.cost = marker.code, marker.result, marker.cost
                record.partial = marker.partial
        elif isinstance(marker, (Taken, Blob)) or rank:
            return
        elif isinstance(marker, Begin):
            await listener.on_begin(marker.time)
        elif isinstance(marker, Raised):
            record.error = marker.name
            self.raised = ": ".join(filter(None, [marker.name, marker.value]))
        else:
            await self._pass_on(listener, marker)

    async def _pass_on(self, listener: LogListener, marker: Shown) -> None:
        record = self._record
        if isinstance(marker, Progress):
            record.progress, record.remaining = marker.value, marker.remaining
        elif isinstance(marker, Metrics):
            if len(record.metrics) + len(marker.values) <= MAX_METRICS:
                record.metrics = {**record.metrics, **marker.values}
        elif isinstance(marker, Cell):
            self.cell = "runs" if marker.running else "has run"
        elif isinstance(marker, Input) and marker.name in record.inputs:
            record.versions = {**record.versions, marker.name: marker.version}
        event = marker.model_dump()
        if not isinstance(marker, (Progress, Clear, Cell)):
            await asyncio.to_thread(self._folder.add_event, event)
        if isinstance(marker, Display) and marker.update and not marker.transient.get("display_id"):
            return
        await listener.on_event(event)

    async def _add_output(self, listener: LogListener, data: bytes, last: bool = False) -> None:
        if data:
            await asyncio.to_thread(self._folder.add_output, data)
        # Of a character that is cut in two, the first part waits for the other.
        if text := self._text.decode(data, last):
            await listener.on_event({"event": "output", "text": text})

    async def _keep_position(self, listener: LogListener) -> None:
        """Keep up to where the log is here, and what followed from it, for who takes the job over.

        Not after it has told how it ends: that is understood only together.
        """
        record, now = self._record, time.monotonic()
        if record.live or now - self._kept_at < POSITION_SECONDS or self.end is not None or self.raised:
            return
        states = {str(rank): parser.state for rank, parser in self._parsers.items()}
        lines = self._lines.state
        if None in states.values() or sum(map(len, lines["begun"].values())) > MAX_POSITION:
            return
        if self._text.getstate()[0]:
            return  # in the middle of a character
        self._kept_at = now
        after = {str(rank): position for rank, position in self._positions.items()}
        kept = {"attempt": record.attempt, "after": after, "parsers": states, "lines": lines, "cell": self.cell}
        await asyncio.to_thread(self._folder.keep_position, kept)
        await listener.on_position()

    async def go_on(self) -> None:
        """Go on where another process was with the log; from its beginning where that is not known."""
        record = self._record
        kept = await asyncio.to_thread(self._folder.go_back_to_position, record.attempt)
        if kept is None or record.placed is None:
            await asyncio.to_thread(self._folder.restart)
            return
        self._positions = {int(rank): position for rank, position in kept["after"].items()}
        self._parsers = {int(rank): JobLog(record.nonce, state) for rank, state in kept["parsers"].items()}
        self._lines = ReplicaLines(kept["lines"])
        self.cell = kept["cell"]
