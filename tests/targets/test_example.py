"""What the contract gives a target that has a queue, on the one of docs/targets.md: notes, the clock, its log."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, labels
from docker_kernel.batch import manager as jobs
from docker_kernel.batch.job_folder import JobFolder
from docker_kernel.batch.manager import manager
from docker_kernel.batch.record import JobRecord
from tests.conftest import SpecMaker
from tests.doomed import killed_sender
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient, until
from tests.targets.places import Place, at
from tests.test_cli import run as command

run = background.run_blocking
pytestmark = at("example")


@pytest.fixture(scope="module")
def kernel(place: Place, spec: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    one = Notebook(spec, tmp_path_factory.mktemp("workspace"))
    yield one
    one.close()


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """A job that a test leaves would keep its slot."""
    yield

    async def cancel() -> None:
        for record in await asyncio.to_thread(manager().jobs):
            if not record.over:
                await manager().cancel(record.id)

    run(cancel())


def send(kernel: Notebook, options: str, cell: str) -> str:
    reply = kernel.run(f"%%dispatch --on there {options}\n{cell}")
    assert reply.status == "ok", reply.traceback
    kernel.run("sent = _")
    return str(kernel.value("sent.id"))


def kept(job: str) -> JobRecord:
    async def get() -> JobRecord:
        return manager().get(job)

    return run(get())


def ended(job: str, seconds: float = 60) -> JobRecord:
    async def end() -> JobRecord:
        return await asyncio.wait_for(manager().wait(job), patient(seconds))

    return run(end())


def container(job: str) -> str:
    """A job's only container."""
    found = ["docker", "ps", "-aq", "--no-trunc", "--filter", f"label={labels.JOB_ID}={job}"]
    return subprocess.run(found, capture_output=True, text=True, check=True).stdout.strip()


def test_a_job_that_waits_says_why_and_its_time_begins_with_it(
    kernel: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TIMEOUT_SLACK", 0.0)
    first = [send(kernel, "", f"{HOLD}x = 1") for _ in range(2)]
    until(lambda: all(kept(job).state == "running" for job in first), 60, "their start")
    waits = send(kernel, "--timeout 3", "y = 2")
    until(lambda: kept(waits).reason.endswith("slots are taken"), 60, "its note")
    assert (kept(waits).state, kept(waits).reason, kept(waits).started) == ("starting", "all 2 slots are taken", None)
    assert "all 2 slots are taken" in kernel.run("print(sent)").text
    listed = json.loads(command("jobs", "list", "--all", "--json").stdout)
    assert [one["reason"] for one in listed if one["id"] == waits] == ["all 2 slots are taken"]
    assert not kernel.value("sent.wait(5)"), "it may wait for longer than it may run"
    for job in first:
        let_go(job)
    record = ended(waits)
    assert (record.state, record.reason) == ("succeeded", "")
    assert record.started is not None and record.started - record.created > 5
    assert [ended(job).state for job in first] == ["succeeded", "succeeded"]


def test_a_job_that_somebody_removed_is_lost(kernel: Notebook) -> None:
    job = send(kernel, "", f"print('on', flush=True)\n{HOLD}")
    until(lambda: JobFolder(job).output() == b"on", 60, "its output")
    subprocess.run(["docker", "rm", "--force", container(job)], check=True, capture_output=True)
    record = ended(job)
    assert record.state == "lost" and "its container has gone" in record.reason


def test_what_is_killed_without_a_word_is_only_probably_out_of_memory(kernel: Notebook) -> None:
    job = send(kernel, "", f"print('on', flush=True)\n{HOLD}")
    until(lambda: JobFolder(job).output() == b"on", 60, "its output")
    subprocess.run(["docker", "kill", container(job)], check=True, capture_output=True)
    record = ended(job)
    assert record.state == "failed"
    assert "it was killed, and nothing tells why; probably out of memory" in record.reason


def test_a_log_is_gone_on_with_though_its_beginning_is_gone(place: Place, make_spec: SpecMaker, tmp_path: Path) -> None:
    cell = (
        "from docker_kernel import job\nimport time\nprint('first', flush=True); job.log(loss=1.0)\ntime.sleep(1.5)\n"
        f"print('second', flush=True)\n{HOLD}job.log(loss=0.5)\nprint('third')"
    )
    ((record),) = killed_sender(
        make_spec(grace=2), tmp_path, [f"%%dispatch --on there\n{cell}", "_.wait(8)"], "never", 0
    ).jobs
    folder = JobFolder(record.id)
    assert int(folder.read("position.json")["after"]["0"]) > len("first\n")
    asked = ["docker", "inspect", "--format", "{{.LogPath}}", container(record.id)]
    log = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    log.write_bytes(log.read_bytes().replace(b"first", b"?????"))  # as if it had been rotated away
    folder.add_output(b"written after the position was kept, and so read once more")

    async def adopt() -> None:
        await manager().adopt()

    run(adopt())
    let_go(record.id)
    record = ended(record.id)
    assert (record.state, record.metrics) == ("succeeded", {"loss": 0.5}), record.reason
    assert folder.output() == b"first\nsecond\nthird\n"
    assert [one["values"]["loss"] for one in folder.events("metrics")] == [1.0, 0.5]
