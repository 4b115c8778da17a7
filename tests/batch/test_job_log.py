"""A job's log stream: markers are found, whatever the pieces it arrives in, and all else is passed on as it is."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from docker_kernel.batch.job_log import MARKERS
from docker_kernel.guest.job_log import MAX_MARKER, JobLog
from docker_kernel.guest.run_job import Log

NONCE = "0123456789abcdef" * 2
PIECE = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"\n", b"#", f"##docker-kernel {NONCE} ".encode(), f"##docker-kernel {NONCE[::-1]} {{}}\n".encode()]
    ),
    st.fixed_dictionaries({"event": st.text(max_size=10)}),
)


def parse(data: bytes, cuts: list[int]) -> list[bytes | dict[str, Any]]:
    """The parts of a stream that arrives in pieces, with neighbouring text joined.

    Between two pieces another process may go on with it.
    """
    log = JobLog(NONCE)
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    parts: list[bytes | dict[str, Any]] = []
    for start, end in itertools.pairwise(edges):
        parts += log.feed(data[start:end])
        if log.state is not None:
            log = JobLog(NONCE, json.loads(json.dumps(log.state)))
    parts.append(log.rest())
    joined: list[bytes | dict[str, Any]] = []
    for part in parts:
        if isinstance(part, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += part
        elif part != b"":
            joined.append(part)
    return joined


@given(st.lists(PIECE, max_size=12), st.lists(st.integers(0, 400), max_size=12))
def test_what_the_runner_writes_is_what_is_read(pieces: list[bytes | dict[str, Any]], cuts: list[int]) -> None:
    # Text that forges this very nonce is the runner's own to write: only it knows the nonce.
    pieces = [b"?" + piece if isinstance(piece, bytes) and NONCE.encode() in piece else piece for piece in pieces]
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            log = Log(NONCE)
            for piece in pieces:
                if isinstance(piece, bytes):
                    log.text(piece)
                else:
                    log.marker(dict(piece))
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        data = file.read()
    expected: list[bytes | dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, bytes) and expected and isinstance(expected[-1], bytes):
            expected[-1] += piece
        elif piece != b"":
            expected.append(piece)
    found = [part if isinstance(part, bytes) else {"event": part["event"]} for part in parse(data, cuts)]
    assert found == expected


def test_another_jobs_marker_and_a_broken_one_are_output() -> None:
    for line in (
        f'##docker-kernel {NONCE[::-1]} {{"event":"end"}}\n',
        f"##docker-kernel {NONCE} not json\n",
        f"##docker-kernel {NONCE} [1]\n",
        f'text ##docker-kernel {NONCE} {{"event":"end"}}\n',
    ):
        assert parse(line.encode(), [3, 20]) == [line.encode()]


def test_a_marker_without_end_is_not_held_back_for_ever() -> None:
    log = JobLog(NONCE)
    start = f"##docker-kernel {NONCE} ".encode()
    size = sum(len(part) for part in log.feed(start))
    for _ in range(MAX_MARKER // (1 << 20) + 2):
        size += sum(len(part) for part in log.feed(b"x" * (1 << 20)))
    assert size > MAX_MARKER


def test_output_is_passed_on_at_once() -> None:
    log = JobLog(NONCE)
    assert b"".join(part for part in log.feed(b"progress 10%") if isinstance(part, bytes)) == b"progress 10%"
    assert b"".join(part for part in log.feed(b"\rprogress 20%\rx") if isinstance(part, bytes)) == b"\rprogress 20%\rx"


@pytest.mark.parametrize(
    "marker",
    [
        {"event": "state", "state": "succeeded"},
        {"event": "end", "code": "0", "oom": False, "result": ""},
        {"event": "end", "code": 0, "oom": False, "result": "../../etc/passwd"},
        {"event": "display", "data": [], "metadata": {}, "transient": {}, "update": False},
        {},
    ],
)
def test_a_marker_that_is_none_is_refused(marker: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MARKERS.validate_python(json.loads(json.dumps(marker)))
