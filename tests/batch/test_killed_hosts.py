"""Hosts that are killed while they send a job, give it to a spare, or cancel it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, labels
from docker_kernel.batch.job_folder import root
from docker_kernel.batch.manager import manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import Engine
from tests.conftest import SpecMaker
from tests.doomed import A_SPARE, Counter, Killed, counter, killed_sender
from tests.engines import SecondEngine, bridge_address
from tests.patience import patient, until

run = background.run_blocking


@pytest.fixture
def count() -> Iterator[Counter]:
    with counter() as made:
        yield made


@pytest.fixture(scope="module")
def host() -> str:
    """This machine's address, as its containers see it."""
    return bridge_address()


def without_kernel(engine: Engine, killed: Killed) -> None:
    """Wait until a killed host's kernel has gone, too."""
    marks = {labels.KIND: labels.KIND_KERNEL, labels.KERNEL_ID: killed.kernel_id}
    until(lambda: not run(engine.containers.list(marks)), 60)


def concluded(killed: Killed) -> list[JobRecord]:
    """The records of a killed host's jobs when the next one has brought them to their end."""

    async def follow() -> list[JobRecord]:
        await manager().adopt()
        for job in killed.jobs:
            await asyncio.wait_for(manager().wait(job.id), patient(60))
        await manager().catch_up(60)
        return [manager().get(job.id) for job in killed.jobs]

    return run(follow())


def nothing_left(engine: Engine, killed: Killed) -> bool:
    def left() -> list[str]:
        found = [state.name for state in run(engine.containers.list({labels.KERNEL_ID: killed.kernel_id}))]
        return found + [volume["Name"] for volume in run(engine.volumes.list(f"{labels.KERNEL_ID}={killed.kernel_id}"))]

    until(lambda: not left(), 60, f"the end of {left()}")
    return True


def kept() -> set[Path]:
    """The folders of all jobs and dispatches."""
    return {path for folder in ("jobs", "dispatches") for path in (root() / folder).glob("*")}


@pytest.mark.parametrize("steps", [0, 1])
def test_a_dispatch_that_the_ledger_did_not_know_yet_goes(
    engine: Engine, make_spec: SpecMaker, tmp_path: Path, steps: int
) -> None:
    (tmp_path / "data.txt").write_text("data")
    before = kept()
    killed = killed_sender(make_spec(grace=1), tmp_path, ["%%dispatch --sweep i=1,2\ni"], "send", steps)
    assert killed.early and killed.jobs == [] and len(kept() - before) == 1
    without_kernel(engine, killed)
    concluded(killed)
    assert kept() == before and nothing_left(engine, killed)


@pytest.mark.parametrize("steps", [2, 4, 5])
def test_an_image_that_was_sent_goes_with_the_jobs_that_cannot_start_from_it(
    engine: Engine, second_engine: SecondEngine, own_folders: Path, make_spec: SpecMaker, tmp_path: Path, steps: int
) -> None:
    config = own_folders / "config.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[targets.there]\nkind = "docker"\nengine = "{second_engine.url}"\n')
    images = set(second_engine.docker("images", "-aq").split())
    try:
        cells = ["%%dispatch --on there\n1", "_.wait(100)"]
        killed = killed_sender(make_spec(grace=1), tmp_path, cells, "prepare", steps)
        assert killed.early
        without_kernel(engine, killed)
        (record,) = concluded(killed)
        assert (record.state, record.settled) == ("lost", True)
        assert record.reason == "its Jupyter server ended before its state was sent: run its cell again"
        until(
            lambda: not set(second_engine.docker("images", "-aq").split()) - images,
            what=f"the end of what was sent, of {second_engine.docker('images', '-a')}",
        )
        assert nothing_left(engine, killed)
        assert not (root() / "dispatches" / record.group / "workspace.tar").exists()
    finally:
        config.write_text(before)


@pytest.mark.parametrize(("begin", "runs"), [("start", 0), ("keep", 1)])
def test_a_job_whose_secret_went_with_its_host_runs_only_if_it_was_started(
    engine: Engine, host: str, make_spec: SpecMaker, tmp_path: Path, count: Counter, begin: str, runs: int
) -> None:
    told = count.cell(host, "os.environ['KEY']")
    cells = ["import os; os.environ['KEY'] = 'k'", f"%%dispatch --secret KEY\n{told}", "_.wait(100)"]
    killed = killed_sender(make_spec(grace=1), tmp_path, cells, begin, 0)
    without_kernel(engine, killed)
    (record,) = concluded(killed)
    assert count.seen["k"] == runs
    if runs:
        assert (record.state, record.reason) == ("succeeded", "")
    else:
        assert record.state == "lost" and "Secrets are not kept: run the cell of" in record.reason
    assert nothing_left(engine, killed)


def test_a_job_that_was_cancelled_is_not_tried_again(
    engine: Engine, host: str, make_spec: SpecMaker, tmp_path: Path, count: Counter
) -> None:
    cell = f"%%dispatch --retries 3\n{count.cell(host, repr('run'))}import time; time.sleep(60)"
    wait = "sent = _\nwhile sent.state != 'running': pass"
    killed = killed_sender(make_spec(grace=1), tmp_path, [cell, wait, "sent.cancel()"], "cancel", 1)
    assert killed.early
    without_kernel(engine, killed)
    (record,) = concluded(killed)
    assert (record.state, record.reason, record.attempt) == ("cancelled", "it was cancelled", 1)
    assert count.seen["run"] <= 1 and nothing_left(engine, killed)


@pytest.mark.parametrize("steps", range(4))
def test_a_spares_job_runs_at_most_once(
    engine: Engine, host: str, make_spec: SpecMaker, tmp_path: Path, count: Counter, steps: int
) -> None:
    told = count.cell(host, "word")
    cells = ["word = 'first'", f"%%local\n{told}", A_SPARE, "word = 'run'", f"%%local\n{told}"]
    killed = killed_sender(make_spec(grace=1, warm_spares=1), tmp_path, cells, "spare", steps)
    assert killed.early
    without_kernel(engine, killed)
    *_, record = concluded(killed)
    assert count.seen["first"] == 1
    # Its name and its job come before the word to begin.
    assert count.seen["run"] <= (1 if steps == 3 else 0)
    assert record.over and record.attempt == 1 and record.settled
    assert nothing_left(engine, killed)


def test_a_plugin_that_cannot_be_asked_starts_no_job_twice(
    engine: Engine,
    own_folders: Path,
    host: str,
    make_spec: SpecMaker,
    tmp_path: Path,
    count: Counter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages = tmp_path / "packages"
    (packages / "plain-1.0.dist-info").mkdir(parents=True)
    (packages / "plain-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
    (packages / "plain-1.0.dist-info" / "entry_points.txt").write_text(
        "[docker_kernel.targets]\nplain = plain_target:PlainTarget\n"
    )
    (packages / "plain_target.py").write_text(
        "from docker_kernel.targets.base import Target\n"
        "from docker_kernel.targets.engine.local import LocalTarget\n"
        "class PlainTarget(LocalTarget):\n    kind = 'plain'\n    find = Target.find\n"
    )
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", str(packages), prepend=os.pathsep)
    config = own_folders / "config.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[targets.there]\nkind = "plain"\n')
    try:
        cell = f"%%dispatch --on there --retries 3\n{count.cell(host, repr('run'))}"
        killed = killed_sender(make_spec(grace=1), tmp_path, [cell, "_.wait(100)"], "keep", 0)
        without_kernel(engine, killed)
        (record,) = concluded(killed)
        assert (record.state, record.attempt) == ("lost", 1)
        assert "a target of the kind 'plain' cannot be asked whether it runs" in record.reason
        assert until(lambda: count.seen["run"], 60) == 1
    finally:
        config.write_text(before)
        for state in run(engine.containers.list({labels.KERNEL_ID: killed.kernel_id})):
            run(engine.containers.remove(state.id))
    run(_remove_volumes(engine, killed))


async def _remove_volumes(engine: Engine, killed: Killed) -> None:
    for volume in await engine.volumes.list(f"{labels.KERNEL_ID}={killed.kernel_id}"):
        await engine.volumes.remove(volume["Name"])
