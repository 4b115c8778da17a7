"""Logs that a cluster gives in pieces, and cuts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from docker_kernel.background import run_blocking as run
from docker_kernel.batch.job_log import End
from docker_kernel.errors import EngineUnavailable
from docker_kernel.targets.cluster.log import TaskLog

LAST_WORD = b'##docker-kernel n0 {"event":"end","code":0,"oom":null,"result":""}\n'


class Cut:
    """A log from its first byte, in small pieces, which ends after so many bytes."""

    def __init__(self, content: bytes, length: int) -> None:
        self._pieces: Iterator[bytes] = iter([content[:length][at : at + 7] for at in range(0, length, 7)])

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return next(self._pieces, b"")

    def close(self) -> None:
        pass


def test_each_byte_is_given_out_once_however_often_the_stream_breaks() -> None:
    content = b"".join(b"line %d\n" % number for number in range(200)) + LAST_WORD
    log, given, opened = TaskLog("n0"), bytearray(), 0

    async def open(follow: bool) -> Cut:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise EngineUnavailable("it went away")
        return Cut(content, min(len(content), 400 * opened))

    async def give(data: bytes) -> None:
        given.extend(data)

    run(log.read(open, give))
    assert bytes(given) == content and opened > 3
    assert log.last_word == End(event="end", code=0, oom=None, result="")


def test_a_log_goes_on_behind_what_an_earlier_process_had() -> None:
    content = b"before\nafter\n" + LAST_WORD
    log, given = TaskLog("n0", delivered=len(b"before\n")), bytearray()

    async def open(follow: bool) -> Cut:
        return Cut(content, len(content))

    async def give(data: bytes) -> None:
        given.extend(data)

    run(log.read(open, give))
    assert bytes(given) == b"after\n" + LAST_WORD


def test_a_log_whose_task_died_without_a_last_word_ends() -> None:
    log, given = TaskLog("n0"), bytearray()

    async def open(follow: bool) -> Cut:
        log.end()
        return Cut(b"killed in mid-", 14)

    async def give(data: bytes) -> None:
        given.extend(data)

    run(log.read(open, give))
    assert bytes(given) == b"killed in mid-" and log.last_word is None
