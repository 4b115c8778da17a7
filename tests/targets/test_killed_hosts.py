"""Hosts that are killed while they start a job, at each step of it: it runs once, and nothing is left of the steps.

Each step takes seconds. What differs between engines is how a job is made there, which `test_a_job_runs_once` is about;
replicas and later attempts are the same code on the kernel's own engine, and another on a Swarm.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker_kernel import background, labels
from docker_kernel.batch.job_folder import JobFolder
from docker_kernel.batch.manager import manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import Engine
from tests.conftest import SpecMaker
from tests.doomed import Counter, Killed, counter, killed_follower, killed_sender
from tests.patience import patient, until
from tests.targets.places import Place, at

run = background.run_blocking

MOST_STEPS = 24
"""More answers than the engine gives from a job's start to its removal."""

AT_ONCE = 4
"""How many hosts are killed at the same time, each with a job of its own: a step is mostly waiting."""


@pytest.fixture
def count() -> Iterator[Counter]:
    with counter() as made:
        yield made


@pytest.fixture
def waiting(
    engine: Engine, place: Place, make_spec: SpecMaker, tmp_path: Path
) -> Iterator[Callable[[str], list[JobRecord]]]:
    """Sends jobs that wait for a host to start them: theirs was killed before it started the first of them."""
    sent: list[Killed] = []

    def send(options: str, cell: str) -> list[JobRecord]:
        numbers = f"n=range({MOST_STEPS})"
        cell = f"%%dispatch --on there --sweep {numbers} {options}\n{cell}"
        sent.append(killed_sender(make_spec(grace=2), tmp_path, [cell, "_.wait(100)"], "queue", 0))
        assert len(sent[-1].jobs) == MOST_STEPS and sent[-1].early
        return sent[-1].jobs

    yield send

    async def cancel(jobs: list[JobRecord]) -> None:
        await manager().adopt()
        await asyncio.gather(*(manager().cancel(job.id) for job in jobs))
        await asyncio.gather(*(manager().wait(job.id) for job in jobs))

    def left(one: Killed) -> list[str]:
        found = [state.name for state in run(engine.containers.list({labels.KERNEL_ID: one.kernel_id}))]
        found += [volume["Name"] for volume in run(engine.volumes.list(f"{labels.KERNEL_ID}={one.kernel_id}"))]
        return found + [thing for job in one.jobs[:4] for thing in place.left(job.id)]

    for one in sent:
        run(cancel(one.jobs))
        until(lambda one=one: not left(one), 60, f"the end of {left(one)}")  # type: ignore[misc]


def kept(job: str) -> JobRecord:
    async def get() -> JobRecord:
        return manager().get(job)

    return run(get())


def ended(job: str, seconds: float = 60) -> JobRecord:
    """A job's record when whoever comes next has brought it to its end, and has removed what it left."""

    async def follow() -> JobRecord:
        record = await asyncio.wait_for(manager().wait(job), patient(seconds))
        if not record.settled:
            await manager().catch_up(seconds)
        return manager().get(job)

    return run(follow())


def killed_at_each_step(
    place: Place, jobs: list[JobRecord], begin: str = "start", to_the_end: bool = False
) -> Iterator[tuple[str, JobRecord]]:
    """Have the host of each job killed one step later than the one before; what became of each, and its number.

    Args:
        to_the_end: go on to the job's end, not only until it is kept that it was started.
    """

    def killed(number: int) -> tuple[str, JobRecord, bool]:
        job = jobs[number].id
        early = killed_follower(job, begin, number)
        record = kept(job)
        begun = record.placed is not None and record.attempt == (2 if begin == "again" else 1)
        # What was started comes to its end by itself before anybody looks: only so has it run for sure.
        until(lambda: place.rests(job), 60)
        return str(number), ended(job), not early or (begun and not to_the_end)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, len(jobs), AT_ONCE):
            last = False
            for number, record, over in pool.map(killed, range(first, first + AT_ONCE)):
                yield number, record
                last |= over
            if last:
                assert first, "no step was counted"
                return
    raise AssertionError("the steps do not end")


@at("local", "docker", "swarm")
def test_a_job_runs_once(waiting: Callable[[str, str], list[JobRecord]], place: Place, count: Counter) -> None:
    for number, record in killed_at_each_step(place, waiting("", count.cell(place.host, "n")), to_the_end=True):
        assert (record.state, record.reason, record.attempt) == ("succeeded", "", 1), number
        assert count.seen[number] == 1, number
        assert (JobFolder(record.id).result / "manifests" / record.result[7:]).exists()
        until(lambda record=record: not place.left(record.id), 60, f"the end of {place.left(record.id)}")


@at("local", "swarm")
def test_replicas_of_which_only_some_were_started_are_an_attempt(
    waiting: Callable[[str, str], list[JobRecord]], place: Place, count: Counter
) -> None:
    told = count.cell(place.host, "str(n) + ' ' + os.environ['RANK']")
    cell = f"import time\n{told}time.sleep(1)"
    reasons = set()
    for number, record in killed_at_each_step(place, waiting("--replicas 2", cell)):
        runs = [count.seen[f"{number} {rank}"] for rank in (0, 1)]
        reasons.add(record.reason)
        if record.state == "lost":
            assert "1 of its 2 replicas had begun, and were ended" in record.reason, number
            assert runs[0] <= 1 and runs[1] == 0, number
        else:
            assert (record.state, record.reason, runs) == ("succeeded", "", [1, 1]), number
        assert record.attempt == 1, number
        until(lambda record=record: not place.left(record.id), 60, f"the end of {place.left(record.id)}")
    assert len(reasons) == 2, "none was killed between the two"


@at("local", "swarm")
def test_a_later_attempt_runs_once_and_is_understood_by_who_takes_it_over(
    waiting: Callable[[str, str], list[JobRecord]], place: Place, count: Counter
) -> None:
    cell = f"{count.cell(place.host, 'n')}raise KeyError('again')"
    for number, record in killed_at_each_step(place, waiting("--retries 1", cell), "again"):
        assert (record.state, record.attempt) == ("failed", 2), number
        assert record.reason == "its cell raised KeyError: 'again'", number
        assert count.seen[number] == 2, number
        until(lambda record=record: not place.left(record.id), 60, f"the end of {place.left(record.id)}")
