"""What a job's log tells while it arrives, without a job: pieces of text as a target gives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.batch import attempt_log
from docker_kernel.batch.attempt_log import AttemptLog, LogListener
from docker_kernel.batch.job_folder import JobFolder
from docker_kernel.batch.record import JobRecord
from docker_kernel.targets.base import Note, Output
from tests.patience import patient

NONCE = "f" * 32


def marker(**content: Any) -> str:
    return f"##docker-kernel {NONCE} {json.dumps({**content, 'joined': False})}\n"


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.begun: list[float] = []
        self.notes: list[str] = []
        self.positions = 0

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["event"] == "output")

    @property
    def listener(self) -> LogListener:
        async def on_event(event: dict[str, Any]) -> None:
            self.events.append(event)

        async def on_begin(at: float) -> None:
            self.begun.append(at)

        async def on_note(text: str) -> None:
            self.notes.append(text)

        async def on_position() -> None:
            self.positions += 1

        return LogListener(on_event, on_begin, on_note, on_position)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFolder:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one = JobFolder("a" * 12)
    one.make()
    return one


def record(**more: Any) -> JobRecord:
    given = {"id": "a" * 12, "group": "0", "owner": "o", "kernel_id": "", "target": "t", "nonce": NONCE, "placed": {}}
    return JobRecord.model_validate({**given, **more})


def read(log: AttemptLog, heard: Heard, pieces: Sequence[str | Note | tuple[int, str]]) -> None:
    async def output() -> AsyncIterator[Output | Note]:
        given = 0
        for piece in pieces:
            if isinstance(piece, Note):
                yield piece
                continue
            rank, text = (0, piece) if isinstance(piece, str) else piece
            given += len(text)
            yield Output(rank, text.encode(), str(given))

    asyncio.run(log.read(output(), heard.listener))


def test_text_and_markers_come_as_they_are(folder: JobFolder) -> None:
    one, heard = record(inputs={"data": "s3://x"}), Heard()
    log = AttemptLog(one, folder)
    pieces = [
        Note("it waits for a place"), marker(event="begin", time=5.0), "first\n", marker(event="cell", running=True),
        marker(event="progress", value=0.5, text="half"),
        marker(event="metrics", step=1, values={"loss": 2.0}, time=1.0),
        marker(event="input", name="data", version="7"), "last\n", marker(event="raised", name="E", value="why"),
        marker(event="end", code=1, oom=False, result=""), "not read any more",
    ]  # fmt: skip
    read(log, heard, pieces)
    assert heard.text == "first\nlast\n" and heard.notes == ["it waits for a place"] and heard.begun == [5.0]
    assert (one.progress, one.metrics, one.versions, one.error) == (0.5, {"loss": 2.0}, {"data": "7"}, "E")
    assert log.end is not None and (log.end.code, log.raised, log.cell) == (1, "E: why", "runs")
    assert [event["event"] for event in heard.events if event["event"] != "output"] == [
        "cell", "progress", "metrics", "input",
    ]  # fmt: skip
    assert folder.output() == b"first\nlast\n"


def test_what_is_no_marker_costs_only_itself(folder: JobFolder) -> None:
    heard = Heard()
    log = AttemptLog(record(), folder)
    read(log, heard, [marker(event="progress", value=7), "text\n", marker(event="unknown"), "more\n"])
    assert heard.text == "text\nmore\n"


@pytest.mark.parametrize(("kind", "at_once"), [("image", True), ("cell", False)])
def test_a_line_of_an_image_ends_while_nothing_follows(folder: JobFolder, kind: str, at_once: bool) -> None:
    heard = Heard()
    log = AttemptLog(record(kind=kind), folder)

    async def follow() -> str:
        async def output() -> AsyncIterator[Output | Note]:
            yield Output(0, b"ready\n", "6")
            await asyncio.sleep(patient(60))

        reading = asyncio.ensure_future(log.read(output(), heard.listener))
        await asyncio.sleep(3 * attempt_log.PAUSE_SECONDS)
        seen = heard.text
        reading.cancel()
        return seen

    assert asyncio.run(follow()) == ("ready\n" if at_once else "ready")


def test_who_takes_over_goes_on_where_the_log_was(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_log, "POSITION_SECONDS", 0)
    one, heard = record(), Heard()
    log = AttemptLog(one, folder)
    read(log, heard, [marker(event="cell", running=True), "one\n", "two\n"])
    assert heard.positions
    later, now = AttemptLog(one, folder), Heard()
    asyncio.run(later.go_on())
    assert later.cell == "runs" and later.positions == log.positions
    read(later, now, ["three\n"])
    assert folder.output() == b"one\ntwo\nthree\n"


def test_another_attempt_begins_anew(folder: JobFolder) -> None:
    log = AttemptLog(record(), folder)
    read(log, Heard(), [marker(event="cell", running=True), marker(event="end", code=1, oom=False, result="")])
    log.begin_again()
    assert (log.end, log.cell, log.raised, log.positions) == (None, "waits", "", {})
