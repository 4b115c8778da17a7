"""Jobs outlive the cell, the kernel, and the process that sent them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, labels
from docker_kernel.batch.job_folder import JobFolder, root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.manager import manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import Containers, Engine
from docker_kernel.errors import EngineUnavailable, JobError
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import HOLD, KERNEL_IDS, Notebook, let_go
from tests.patience import patient, until

run = background.run_blocking
ROOT = Path(__file__).parent.parent.parent


async def adopt() -> None:
    await manager().adopt()


async def get(job: str) -> JobRecord:
    return await asyncio.to_thread(manager().get, job)


def wait(job: str, seconds: float = 60) -> JobRecord:
    async def ended() -> JobRecord:
        await adopt()
        return await asyncio.wait_for(manager().wait(job), patient(seconds))

    return run(ended())


def containers(engine: Engine, job: str) -> list[str]:
    found = run(engine.containers.list({labels.KIND: labels.KIND_JOB, labels.JOB_ID: job}))
    return [state.id for state in found]


def state_holders(engine: Engine, kernel: str) -> list[str]:
    return [
        state.id for state in run(engine.containers.list({labels.KIND: labels.KIND_STATE, labels.KERNEL_ID: kernel}))
    ]


def volumes(engine: Engine, kernel: str) -> list[str]:
    found = run(engine.volumes.list(f"{labels.KERNEL_ID}={kernel}"))
    return [volume["Name"] for volume in found]


def test_a_job_goes_on_without_its_kernel_and_leaves_nothing_behind(engine: Engine, start: NotebookMaker) -> None:
    one = start()
    one.run(f"%%dispatch --name later\n{HOLD}answer = list(range(1000))")
    one.run("sent = _")
    job, kernel = one.value("sent.id"), one.container.kernel_id
    one.manager.shutdown_kernel(now=True)
    assert containers(engine, job), "it runs on"
    assert until(lambda: not state_holders(engine, kernel)), "it has what it started from itself"
    let_go(job)
    record = wait(job)
    assert (record.state, record.reason) == ("succeeded", "")
    result = JobFolder(job).result
    assert (result / "manifests" / record.result[7:]).exists() and list((result / "blobs").iterdir())
    left = lambda: [*containers(engine, job), *state_holders(engine, kernel), *volumes(engine, kernel)]  # noqa: E731
    assert until(lambda: not left()), left()


def test_a_sweeps_state_is_kept_until_its_last_job_has_started(engine: Engine, start: NotebookMaker) -> None:
    one = start()
    one.run(f"from docker_kernel import dispatch\nsent = dispatch({HOLD!r}, sweep={{'i': range(9)}})")
    jobs, kernel = one.value("[job.id for job in sent]"), one.container.kernel_id
    one.manager.shutdown_kernel(now=True)
    records = lambda: [run(get(job)) for job in jobs]  # noqa: E731
    until(lambda: sum(one.state == "running" for one in records()) == 8, 60, "the start of eight jobs")
    assert state_holders(engine, kernel), "one waits for its turn"
    let_go(next(one.id for one in records() if one.state == "running"))
    until(lambda: not state_holders(engine, kernel), 60, "the start of the last job")
    assert sum(one.over for one in records()) < len(jobs)
    for record in records():
        if not record.over:
            let_go(record.id)
    assert [wait(job).state for job in jobs] == ["succeeded"] * len(jobs)
    until(lambda: not volumes(engine, kernel), 30, "the end of the kernel's volume")


def test_a_notebooks_next_kernel_has_the_jobs_of_the_one_before(
    engine: Engine, start: NotebookMaker, tmp_path: Path, spec: str
) -> None:
    env = {**os.environ, "JPY_SESSION_NAME": str(tmp_path / "study.ipynb")}
    first = start(env=env)
    first.run(
        "%%dispatch --name one\nfrom docker_kernel import job\n"
        "open(job.outputs + '/f', 'w').write('x')\nkept = {'a': 1}"
    )
    first.run(f"_.wait({patient(30)})")
    first.run(f"%%dispatch --name two\n{HOLD}second = 2")
    job = first.value("_.id")
    first.close()
    second = start(env=env)
    let_go(job)
    limit = patient(30)
    second.run(f"from docker_kernel import jobs\njobs['one'].result({limit}); jobs['two'].result({limit})")
    assert second.value("[kept, second, open(jobs['one'].files['f']).read()]") == [{"a": 1}, 2, "x"]
    other = start(env={**os.environ, "JPY_SESSION_NAME": str(tmp_path / "other.ipynb")})
    assert other.value("len(__import__('docker_kernel').jobs)") == 0


def test_a_renamed_notebooks_next_kernel_has_its_jobs_and_neither_a_copy_nor_a_new_one_has(
    start: NotebookMaker, tmp_path: Path
) -> None:
    def write(name: str, source: str, cell_id: str) -> Path:
        cell = {"id": cell_id, "cell_type": "code", "source": source}
        (tmp_path / name).write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "cells": [cell]}))
        return tmp_path / name

    def kernel(path: Path) -> Notebook:
        one = start(env={**os.environ, "JPY_SESSION_NAME": str(path)})
        one.run("from docker_kernel import jobs")
        return one

    untitled, study = write("Untitled.ipynb", "", "first"), tmp_path / "study.ipynb"
    first = kernel(untitled)
    write("Untitled.ipynb", "x = 1", "first")
    untitled.rename(study)  # as JupyterLab does it, while the kernel runs
    first.run(f"%%dispatch --name one\n{HOLD}kept = 6 * 7")
    job = first.value("_.id")
    assert Ledger(root() / "jobs.sqlite").get(job).notebook == str(study)
    other = kernel(write("Untitled.ipynb", "", "other"))
    assert other.value("len(jobs)") == 0, "a new notebook of the first one's name"
    first.restart()
    first.run("from docker_kernel import jobs")
    assert first.value("jobs['one'].id") == job
    first.close()
    copy = kernel(Path(shutil.copyfile(study, tmp_path / "copy.ipynb")))
    assert copy.value("len(jobs)") == 0
    second = kernel(study.rename(tmp_path / "paper.ipynb"))
    let_go(job)
    second.run("jobs['one'].result()")
    assert second.value("kept") == 42


SERVER = """
import sys, time
from pathlib import Path
from tests.notebook import Notebook
one = Notebook(sys.argv[1], Path(sys.argv[2]))
one.run(sys.argv[3])
one.run("sent = _")
print(one.container.kernel_id, flush=True)
print(one.value("[job.id for job in sent] if hasattr(sent, '__len__') else [sent.id]"), flush=True)
time.sleep(600)
"""


@pytest.fixture
def doomed(make_spec: SpecMaker, tmp_path: Path, engine: Engine) -> Iterator[Any]:
    """Starts a server of its own, sends a cell from it, and kills the server; gives the jobs' ids.

    Its argument `ready` takes these ids, and says whether the server may die now.
    """
    processes: list[subprocess.Popen[str]] = []
    spec = make_spec(grace=2)

    def make(cell: str, ready: Callable[[list[str]], object]) -> list[str]:
        command = [sys.executable, "-c", SERVER, spec, str(tmp_path), cell]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        processes.append(process)
        assert process.stdout is not None
        kernel = process.stdout.readline().strip()
        KERNEL_IDS.add(kernel)
        ids: list[str] = json.loads(process.stdout.readline().replace("'", '"'))
        until(lambda: ready(ids), what="what is to be before the server dies")
        process.kill()
        process.wait()
        assert until(
            lambda: not run(engine.containers.list({labels.KIND: labels.KIND_KERNEL, labels.KERNEL_ID: kernel}))
        )
        return ids

    yield make
    for process in processes:
        process.kill()
        process.wait()


def begun(ids: list[str]) -> bool:
    """Whether the server has heard something of its only job."""
    return bool(JobFolder(ids[0]).output())


def test_a_job_outlives_a_killed_server_and_its_result_is_brought_home(engine: Engine, doomed: Any) -> None:
    (job,) = doomed(f"%%dispatch\nprint('begun', flush=True)\n{HOLD}print('done'); answer = 42", begun)
    let_go(job)
    record = wait(job)
    assert record.state == "succeeded", record.reason
    assert JobFolder(job).output() == b"begun\ndone\n"
    assert (JobFolder(job).result / "manifests" / record.result[7:]).exists()
    assert until(lambda: not containers(engine, job))


def test_a_job_that_ended_while_nobody_followed_it_is_concluded(engine: Engine, doomed: Any) -> None:
    (job,) = doomed(f"%%dispatch\nprint('begun', flush=True)\n{HOLD}raise KeyError('gone')", begun)
    let_go(job)
    until(lambda: not any(one.running for one in run(engine.containers.list({labels.JOB_ID: job}))), what="its end")
    record = wait(job)
    assert (record.state, record.error) == ("failed", "KeyError")
    assert record.reason == "its cell raised KeyError: 'gone'"


def test_jobs_that_waited_are_started_by_the_next_process(engine: Engine, doomed: Any) -> None:
    jobs = doomed(
        f"%%dispatch --sweep i=range(12)\nprint('begun', flush=True)\n{HOLD}y = i",
        lambda ids: any(JobFolder(job).output() for job in ids),
    )
    waiting = [job for job in jobs if not containers(engine, job)]
    assert waiting and waiting != jobs
    run(adopt())
    for job in jobs:
        let_go(job)
    found = [wait(job, 120) for job in jobs]
    assert {record.state for record in found} == {"succeeded"}, [record.reason for record in found]


def test_a_job_can_be_cancelled_by_another_process(engine: Engine, doomed: Any) -> None:
    (job,) = doomed("%%dispatch\nprint('begun', flush=True)\nimport time; time.sleep(600)", begun)

    async def cancel() -> bool:
        return await manager().cancel(job)

    assert run(cancel()) and wait(job).state == "cancelled"
    assert until(lambda: not containers(engine, job))


def test_two_processes_do_not_follow_one_job(start: NotebookMaker) -> None:
    one = start()
    one.run(f"%%dispatch\n{HOLD}x = 1")
    one.run("sent = _")
    job = one.value("sent.id")
    until(lambda: one.value("sent.state") == "running", what="its start")
    code = (
        "import asyncio\nfrom docker_kernel import background\nfrom docker_kernel.batch.manager import manager\n"
        f"async def follow():\n    await manager().adopt()\n    print({job!r} in manager()._running, flush=True)\n"
        f"    print((await asyncio.wait_for(manager().wait({job!r}), {patient(60)})).state)\n"
        "background.run_blocking(follow())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "False\n"
        let_go(job)
        assert other.communicate(timeout=patient(60))[0] == "succeeded\n"
    assert one.run(f"sent.result({patient(30)}); print(x)").text == "1\n"


def test_a_new_config_holds_for_new_jobs_only(start: NotebookMaker, own_folders: Path) -> None:
    config = own_folders / "config.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[targets.mine]\nkind = "local"\nmax_jobs = 1\n')
    try:
        one = start()
        one.run(f"%%dispatch --on mine\n{HOLD}raise ValueError('x')")
        one.run("sent = _")
        job = one.value("sent.id")
        record = manager_of(job)
        old = run(target_for(record))
        config.write_text(f'{before}\n[targets.mine]\nkind = "local"\nmax_jobs = 2\n')
        assert run(target_for(record)) is old and old.config.max_jobs == 1
        config.write_text(before)
        let_go(job)
        one.run(f"sent.wait({patient(30)})")
        assert one.value("sent.reason") == "its cell raised ValueError: x"
        assert one.value("sorted(sent.files)") == [], "its result was brought home"
        assert "There is no target 'mine'" in one.run("sent.retry()").value
    finally:
        config.write_text(before)


def manager_of(job: str) -> JobRecord:
    async def get() -> JobRecord:
        return manager().get(job)

    return run(get())


async def target_for(record: JobRecord) -> Any:
    return await manager()._target_for(record)


def test_a_job_that_is_cancelled_between_two_attempts_is_not_started_again(
    engine: Engine, start: NotebookMaker
) -> None:
    one = start()
    one.run("%%dispatch --retries 50\nimport os; os._exit(1)")
    one.run("sent = _")
    job = one.value("sent.id")

    async def cancel_between() -> bool:
        jobs = manager()
        while True:
            record = jobs.get(job)
            if record.attempt > 1 and record.placed is None:
                return await jobs.cancel(job)
            await asyncio.sleep(0)

    assert run(asyncio.wait_for(cancel_between(), patient(30)))
    one.run(f"sent.wait({patient(20)})")
    (kept,) = Ledger(root() / "jobs.sqlite").find(job=job)
    assert kept.state == "cancelled" == one.value("sent.state") and kept.attempt < 10
    assert until(lambda: not containers(engine, job))


def test_pruned_jobs_are_gone_with_their_results(start: NotebookMaker) -> None:
    one = start()
    one.run("%%dispatch\ny = 1")
    one.run(f"sent = _; sent.wait({patient(30)})")
    job = one.value("sent.id")

    async def prune() -> list[str]:
        return [record.id for record in await manager().prune(0)]

    assert until(lambda: JobFolder(job).result.exists())
    assert job in run(prune())
    assert not JobFolder(job).path.exists()
    with pytest.raises(JobError, match="There is no job"):
        wait(job)


def test_a_start_whose_answer_is_lost_is_the_jobs_end_and_is_not_begun_again(
    engine: Engine, start: NotebookMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start()
    really_start = Containers.start

    async def start_and_lose_the_answer(self: Containers, container: str) -> None:
        await really_start(self, container)
        raise EngineUnavailable("The engine did not answer in time.")

    monkeypatch.setattr(Containers, "start", start_and_lose_the_answer)
    one.run("%%dispatch\nimport time; time.sleep(60)")
    one.run("sent = _; sent.wait(60)")
    assert one.value("sent.state") == "failed"
    assert "the engine went away while the job was started, which may have run" in one.value("sent.reason")
    until(lambda: not containers(engine, one.value("sent.id")))
