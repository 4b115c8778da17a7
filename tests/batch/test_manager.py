"""Jobs outlive the cell, the kernel, and the process that sent them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, labels
from docker_kernel.batch.job_folder import JobFolder, root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.manager import manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import Engine
from docker_kernel.errors import JobError
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import KERNEL_IDS

run = background.run_blocking
ROOT = Path(__file__).parent.parent.parent


def wait(job: str, seconds: float = 60) -> JobRecord:
    async def ended() -> JobRecord:
        await manager().adopt()
        return await asyncio.wait_for(manager().wait(job), seconds)

    return run(ended())


def containers(engine: Engine, job: str) -> list[str]:
    found = run(engine.containers({labels.KIND: labels.KIND_JOB, labels.JOB_ID: job}))
    return [state.id for state in found]


def state_holders(engine: Engine, kernel: str) -> list[str]:
    return [state.id for state in run(engine.containers({labels.KIND: labels.KIND_STATE, labels.KERNEL_ID: kernel}))]


def volumes(engine: Engine, kernel: str) -> list[str]:
    found = run(engine.volumes(f"{labels.KERNEL_ID}={kernel}"))
    return [volume["Name"] for volume in found]


def until(condition: Any, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def test_a_job_goes_on_without_its_kernel_and_leaves_nothing_behind(engine: Engine, start: NotebookMaker) -> None:
    one = start()
    one.run("%%dispatch --name later\nimport time; time.sleep(4); answer = list(range(1000))")
    one.run("sent = _")
    job, kernel = one.value("sent.id"), one.container.kernel_id
    one.manager.shutdown_kernel(now=True)
    assert containers(engine, job), "it runs on"
    record = wait(job)
    assert (record.state, record.reason) == ("succeeded", "")
    result = JobFolder(job).result
    assert (result / "manifests" / record.result[7:]).exists() and list((result / "blobs").iterdir())
    left = lambda: [*containers(engine, job), *state_holders(engine, kernel), *volumes(engine, kernel)]  # noqa: E731
    assert until(lambda: not left()), left()


def test_a_notebooks_next_kernel_has_the_jobs_of_the_one_before(
    engine: Engine, start: NotebookMaker, tmp_path: Path, spec: str
) -> None:
    env = {**os.environ, "JPY_SESSION_NAME": str(tmp_path / "study.ipynb")}
    first = start(env=env)
    first.run(
        "%%dispatch --name one\nfrom docker_kernel import job\n"
        "open(job.outputs + '/f', 'w').write('x')\nkept = {'a': 1}"
    )
    first.run("_.wait(30)")
    first.run("%%dispatch --name two\nimport time; time.sleep(3); second = 2")
    first.close()
    second = start(env=env)
    second.run("from docker_kernel import jobs\njobs['one'].result(30); jobs['two'].result(30)")
    assert second.value("[kept, second, open(jobs['one'].files['f']).read()]") == [{"a": 1}, 2, "x"]
    other = start(env={**os.environ, "JPY_SESSION_NAME": str(tmp_path / "other.ipynb")})
    assert other.value("len(__import__('docker_kernel').jobs)") == 0


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
    """Starts a server of its own, sends a cell from it, and kills the server; gives the jobs' ids."""
    processes: list[subprocess.Popen[str]] = []
    spec = make_spec(grace=2)

    def make(cell: str, alive: float = 0) -> list[str]:
        command = [sys.executable, "-c", SERVER, spec, str(tmp_path), cell]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        processes.append(process)
        assert process.stdout is not None
        kernel = process.stdout.readline().strip()
        KERNEL_IDS.add(kernel)
        ids: list[str] = json.loads(process.stdout.readline().replace("'", '"'))
        time.sleep(alive)
        process.kill()
        process.wait()
        assert until(lambda: not run(engine.containers({labels.KIND: labels.KIND_KERNEL, labels.KERNEL_ID: kernel})))
        return ids

    yield make
    for process in processes:
        process.kill()
        process.wait()


def test_a_job_outlives_a_killed_server_and_its_result_is_brought_home(engine: Engine, doomed: Any) -> None:
    (job,) = doomed(
        "%%dispatch\nprint('begun', flush=True)\nimport time; time.sleep(6); print('done'); answer = 42", 1.5
    )
    record = wait(job)
    assert record.state == "succeeded", record.reason
    assert JobFolder(job).output() == b"begun\ndone\n"
    assert (JobFolder(job).result / "manifests" / record.result[7:]).exists()
    assert until(lambda: not containers(engine, job))


def test_a_job_that_ended_while_nobody_followed_it_is_concluded(engine: Engine, doomed: Any) -> None:
    (job,) = doomed("%%dispatch\nimport time; time.sleep(2); raise KeyError('gone')", 0.5)
    time.sleep(4)
    record = wait(job)
    assert (record.state, record.error) == ("failed", "KeyError")
    assert record.reason == "its cell raised KeyError: 'gone'"


def test_jobs_that_waited_are_started_by_the_next_process(engine: Engine, doomed: Any) -> None:
    jobs = doomed("%%dispatch --sweep i=range(12)\nimport time; time.sleep(2); y = i", 1)
    found = [wait(job, 120) for job in jobs]
    assert {record.state for record in found} == {"succeeded"}, [record.reason for record in found]


def test_a_job_can_be_cancelled_by_another_process(engine: Engine, doomed: Any) -> None:
    (job,) = doomed("%%dispatch\nimport time; time.sleep(600)", 1.5)

    async def cancel() -> bool:
        return await manager().cancel(job)

    assert run(cancel()) and wait(job).state == "cancelled"
    assert until(lambda: not containers(engine, job))


def test_two_processes_do_not_follow_one_job(start: NotebookMaker) -> None:
    one = start()
    one.run("%%dispatch\nimport time; time.sleep(5); x = 1")
    one.run("sent = _; import time; time.sleep(1)")
    job = one.value("sent.id")
    code = (
        "import asyncio\nfrom docker_kernel import background\nfrom docker_kernel.batch.manager import manager\n"
        f"async def follow():\n    await manager().adopt()\n    print({job!r} in manager()._running)\n"
        f"    print((await asyncio.wait_for(manager().wait({job!r}), 60)).state)\n"
        "background.run_blocking(follow())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["False", "succeeded"], done.stderr
    assert one.run("sent.result(30); print(x)").text == "1\n"


def test_a_new_config_holds_for_new_jobs_only(start: NotebookMaker, own_folders: Path) -> None:
    config = own_folders / "config.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[targets.mine]\nkind = "local"\nmax_jobs = 1\n')
    try:
        one = start()
        one.run("%%dispatch --on mine\nimport time; time.sleep(2); raise ValueError('x')")
        one.run("sent = _")
        job = one.value("sent.id")
        record = manager_of(job)
        old = run(target_for(record))
        config.write_text(f'{before}\n[targets.mine]\nkind = "local"\nmax_jobs = 2\n')
        assert run(target_for(record)) is old and old.config.max_jobs == 1
        config.write_text(before)
        one.run("sent.wait(30)")
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

    assert run(asyncio.wait_for(cancel_between(), 30))
    one.run("sent.wait(20)")
    (kept,) = Ledger(root() / "jobs.sqlite").find(job=job)
    assert kept.state == "cancelled" == one.value("sent.state") and kept.attempt < 10
    assert until(lambda: not containers(engine, job))


def test_pruned_jobs_are_gone_with_their_results(start: NotebookMaker) -> None:
    one = start()
    one.run("%%dispatch\ny = 1")
    one.run("sent = _; sent.wait(30)")
    job = one.value("sent.id")

    async def prune() -> list[str]:
        return [record.id for record in await manager().prune(0)]

    assert until(lambda: JobFolder(job).result.exists())
    assert job in run(prune())
    assert not JobFolder(job).path.exists()
    with pytest.raises(JobError, match="There is no job"):
        wait(job)
