"""The output of a job's replicas as one text: whole lines, each with its rank, whatever the pieces that it comes in."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from docker_kernel.batch.replica_lines import MAX_LINE, ReplicaLines, with_pauses


def joined(pieces: list[tuple[int, bytes]]) -> bytes:
    """What comes of it, also where another process goes on between two pieces."""
    lines, found = ReplicaLines(), b""
    for rank, data in pieces:
        found += lines.feed(rank, data)
        lines = ReplicaLines(json.loads(json.dumps(lines.state)))
    return found + lines.rest()


@given(st.lists(st.tuples(st.integers(0, 2), st.lists(st.sampled_from([b"a", b"b c", b"\n", b"\r\n", "é".encode()])))))
def test_each_line_has_its_rank_once_whatever_the_pieces(printed: list[tuple[int, list[bytes]]]) -> None:
    pieces = [(rank, bytes([byte])) for rank, parts in printed for byte in b"".join(parts)]
    found = joined(pieces).decode().splitlines()
    for rank in range(3):
        whole = b"".join(data for one, data in pieces if one == rank).decode()
        assert [line[4:] for line in found if line.startswith(f"[{rank}] ")] == whole.splitlines()
    assert all(re.match(r"\[[012]\] ", line) for line in found)


def test_lines_of_two_ranks_never_mix() -> None:
    assert joined([(0, b"one "), (1, b"other\nlast"), (0, b"line\n")]) == b"[1] other\n[0] one line\n[1] last\n"


def test_each_state_of_a_progress_bar_has_its_rank() -> None:
    bar = b"\r 10%\r 20%\r100%\ndone\n"
    assert joined([(0, bar)]) == b"[0]  10%\r[0]  20%\r[0] 100%\n[0] done\n"
    for cut in range(len(bar)):
        assert joined([(0, bar[:cut]), (0, bar[cut:])]) == joined([(0, bar)])


def test_another_rank_begins_its_line_below_a_bar() -> None:
    text = joined([(0, b"\r 10%\r 20%"), (1, b"hello\r\n"), (0, b"\r 30%\n")])
    assert text == b"[0]  10%\r\n[1] hello\r\n[0]  20%\r[0]  30%\n"


def test_a_bar_that_never_ends_is_shown_as_it_goes() -> None:
    lines = ReplicaLines()
    assert lines.feed(0, b"\r 10%\r 20%\r") + lines.feed(0, b" 30%") == b"[0]  10%\r[0]  20%\r"


def test_a_line_without_end_is_not_held_back_for_ever() -> None:
    lines = ReplicaLines()
    size = sum(len(lines.feed(0, random.randbytes(1 << 16).hex().encode())) for _ in range(MAX_LINE >> 15))
    assert size > MAX_LINE


def test_a_pause_is_told_once_and_loses_nothing() -> None:
    async def slow() -> AsyncIterator[int]:
        for number in range(3):
            yield number
            await asyncio.sleep(0.2 if number == 0 else 0)

    async def collect() -> list[int | None]:
        return [one async for one in with_pauses(slow(), 0.05)]

    assert asyncio.run(collect()) == [0, None, 1, 2]
