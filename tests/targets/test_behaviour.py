"""What every target does, by one suite: a kind that passes it is a target."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background
from docker_kernel.batch.job_folder import JobFolder
from docker_kernel.batch.manager import manager
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient, until
from tests.targets.places import Place

run = background.run_blocking


@pytest.fixture(scope="module")
def kernel(place: Place, spec: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel whose jobs go there."""
    one = Notebook(spec, tmp_path_factory.mktemp("workspace"))
    yield one
    one.close()


def send(kernel: Notebook, options: str, cell: str) -> str:
    reply = kernel.run(f"%%dispatch --on there {options}\n{cell}")
    assert reply.status == "ok", reply.traceback
    kernel.run("sent = _")
    return str(kernel.value("sent[0].id if hasattr(sent, '__len__') else sent.id"))


def ended(kernel: Notebook, seconds: float = 45) -> str:
    assert kernel.run(f"over = sent.wait({patient(seconds)})", timeout=seconds + 20).status == "ok"
    assert kernel.value("over"), kernel.run("print(sent)").text
    return str(kernel.value("sent.state"))


def test_a_job_has_the_state_and_its_values_come_back(kernel: Notebook) -> None:
    kernel.run(
        "x = [1, 2]; alias = x\ndef double(n): return [2 * one for one in n]\nclass Point: pass\np = Point(); p.at = x"
    )
    send(kernel, "", "alias.append(3)\ny = double(x)\nq = Point(); q.at = y\nprint('there', len(p.at))")
    assert ended(kernel) == "succeeded", kernel.value("sent.reason")
    assert kernel.run("sent.result()").status == "ok"
    assert kernel.value("[x, alias is x, p.at is x, y, q.at is y, isinstance(q, Point)]") == [
        [1, 2, 3], True, True, [2, 4, 6], True, True,
    ]  # fmt: skip
    assert "there 3" in kernel.value("sent.logs()")


def test_output_comes_while_the_job_runs(kernel: Notebook, place: Place) -> None:
    job = send(kernel, "", f"print('early', flush=True)\n{HOLD}")
    assert (
        kernel.run("pieces = sent.logs(follow=True)\nfor piece in pieces:\n    if 'early' in piece: break").status
        == "ok"
    )
    assert kernel.value("sent.state") == "running"
    let_go(job, *place.engines)
    assert ended(kernel) == "succeeded"


def test_the_original_exception_comes_back(kernel: Notebook) -> None:
    kernel.run("class Odd(Exception):\n    def __init__(self, a, b): super().__init__(a); self.b = b")
    send(kernel, "", "raise Odd('left', 'right')")
    assert ended(kernel) == "failed"
    reply = kernel.run("sent.result()")
    assert (reply.name, reply.value) == ("Odd", "left") and "raise Odd('left', 'right')" in reply.traceback


def test_a_large_state_and_a_large_result_travel(kernel: Notebook) -> None:
    kernel.run("import os\nlarge = os.urandom(20_000_000)")
    send(
        kernel, "", "back = large[::-1]\nfrom docker_kernel import job\nopen(job.outputs + '/f.bin', 'wb').write(large)"
    )
    assert ended(kernel) == "succeeded", kernel.value("sent.reason")
    kernel.run("sent.result()")
    assert kernel.value("[back == large[::-1], open(sent.files['f.bin'], 'rb').read() == large]") == [True, True]
    kernel.run("del large, back")


def test_workspace_packages_and_environment_travel(kernel: Notebook, tmp_path: Path) -> None:
    from tests.environment import write_wheel

    folder = Path(kernel.container.workspace)
    (folder / "helper.py").write_text("def greet(): return 'from helper'\n")
    (folder / ".env").write_text("SECRET=1")
    write_wheel(folder)
    kernel.run("%pip install --no-index ./shade-1.0-py3-none-any.whl")
    kernel.run("import os, helper, shade\nos.environ['COLOUR'] = 'green'; os.environ['MY_TOKEN'] = 'hidden'")
    send(
        kernel,
        "",
        "seen = [helper.greet(), shade.COLOUR, os.environ.get('COLOUR'), os.environ.get('MY_TOKEN'),"
        " os.path.exists('.env'), os.getuid()]",
    )
    assert ended(kernel) == "succeeded", kernel.value("sent.reason") + kernel.value("sent.logs()")
    kernel.run("sent.result()")
    assert kernel.value("seen") == ["from helper", "teal", "green", None, False, os.getuid()]


def test_a_secret_reaches_the_job_and_nothing_that_is_kept(kernel: Notebook, place: Place) -> None:
    secret = f"s3cr3t-{secrets.token_hex(8)}"
    kernel.run(f"import os\nos.environ['DB_PASSWORD'] = {secret!r}")
    job = send(kernel, "--secret DB_PASSWORD", f"import os\nok = os.environ['DB_PASSWORD'][:6]\n{HOLD}")
    until(lambda: kernel.value("sent.state") == "running", 60, "its start")
    assert secret not in place.inspect(job)
    let_go(job, *place.engines)
    assert ended(kernel) == "succeeded", kernel.value("sent.reason")
    kernel.run("sent.result(); del os.environ['DB_PASSWORD']")
    assert kernel.value("ok") == "s3cr3t"
    for path in JobFolder(job).path.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_job_is_cancelled_and_leaves_nothing(kernel: Notebook, place: Place) -> None:
    job = send(
        kernel, "", "import time\nprint('on', flush=True)\ntry: time.sleep(300)\nfinally: print('tidied', flush=True)"
    )
    kernel.run("for piece in sent.logs(follow=True):\n    if 'on' in piece: break")
    assert kernel.value("sent.cancel()") is True
    assert ended(kernel) == "cancelled"
    assert kernel.run("sent.result()").name == "JobCancelled"
    assert nothing_left(place, job), place.left(job)


def test_limits_and_timeouts_end_a_job_with_a_reason(kernel: Notebook) -> None:
    send(kernel, "--memory 200m", "hog = bytearray(800 << 20)")
    assert ended(kernel) == "failed" and "out of memory" in kernel.value("sent.reason")
    send(kernel, "--timeout 2", "import time; time.sleep(100)")
    assert ended(kernel) == "failed" and "timeout of 2 s" in kernel.value("sent.reason")
    send(kernel, "", "import os; os._exit(7)")
    assert ended(kernel) == "failed" and "exit code 7" in kernel.value("sent.reason")


def test_a_sweep_sends_its_state_once_and_a_failed_one_is_retried(kernel: Notebook) -> None:
    kernel.run("base = 100")
    send(kernel, "--sweep i=0,1,2,3", "assert i != 2, 'two'\nz = base + i\nfrom docker_kernel import job\njob.log(z=z)")
    kernel.run(f"sent.wait({patient(120)})", timeout=140)
    assert kernel.value("[job.state for job in sent]") == ["succeeded", "succeeded", "failed", "succeeded"]
    kernel.run(f"again = sent.retry(); sent.wait({patient(60)})", timeout=80)
    assert kernel.value("[len(again), sent[2].state, sent[2].record['attempt']]") == [1, "failed", 2]
    assert kernel.value("[one['z'] for one in sent.result() if isinstance(one, dict)]") == [100, 101, 103]
    assert kernel.value("[job.last_metrics.get('z') for job in sent]") == [100, 101, None, 103]


def test_replicas_find_each_other(kernel: Notebook) -> None:
    cell = f"""import os, socket, time
rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
told = []
if rank == 0:
    server = socket.create_server(('', address[1]))
    server.settimeout({patient(40)})
    while len(told) < size - 1:
        peer, _ = server.accept()
        told.append(peer.recv(100).decode())
    del server, peer
else:
    for _ in range({int(patient(200))}):
        try:
            socket.create_connection(address, 5).sendall(b'rank %d' % rank)
            break
        except OSError:
            time.sleep(.2)"""
    send(kernel, "--replicas 3", cell)
    assert ended(kernel) == "succeeded", kernel.value("sent.reason") + kernel.value("sent.logs()")
    kernel.run("sent.result()")
    assert kernel.value("sorted(told)") == ["rank 1", "rank 2"]


def test_a_job_goes_on_without_its_kernel(place: Place, spec: str, tmp_path: Path) -> None:
    one = Notebook(spec, tmp_path)
    try:
        job = send(one, "", f"{HOLD}late = 'yes'")
    finally:
        one.close()
    let_go(job, *place.engines)

    async def follow() -> Any:
        return await manager().wait(job)

    record = run(follow())
    assert record.state == "succeeded", record.reason
    assert (JobFolder(job).result / "manifests" / record.result[7:]).exists()
    assert nothing_left(place, job), place.left(job)


def test_a_dry_run_counts_what_is_new_there(kernel: Notebook, place: Place) -> None:
    kernel.run("import os\nfresh = os.urandom(3_000_000)")
    text = kernel.run("%%dispatch --on there --dry-run\nfresh").text
    (line,) = [line for line in text.split("\n") if line.startswith("new to the target: ")]
    if place.sends:
        assert "2.9 MiB" in line or "3.0 MiB" in line or float(line.split()[-2]) > 2.8, line
    else:
        assert line == "new to the target: 0 B"
    kernel.run("del fresh")


def test_the_target_is_checked(place: Place) -> None:
    async def check() -> Any:
        from docker_kernel import config

        return await manager().target("there", config.load().target("there")).check()

    checks = run(check())
    assert checks and all(one.ok for one in checks), checks


def nothing_left(place: Place, job: str, seconds: float = 20) -> bool:
    return until(lambda: not place.left(job), seconds, f"the end of what {job} has there")
