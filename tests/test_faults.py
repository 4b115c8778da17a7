"""Real faults: killed processes, a killed engine and registry, full disks, flipped bits, hostile jobs.

Not tested: a job's clock that differs from the host's, as a container here has its machine's clock (the engine of the
tests has no time namespaces). By reading: created, started and ended are the host's clock; the runner's timeout is
monotonic, and watched by itself; ranks' ends are compared only where one engine wrote them; the times that a job itself
tells (of its metrics) are shown and never compared with the host's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, labels
from docker_kernel.batch.job_folder import JobFolder
from docker_kernel.engine import Engine
from docker_kernel.guest import blob_files, snapshot
from docker_kernel.targets.engine import containers
from docker_kernel.targets.engine.containers import BACK_SECONDS
from tests.conftest import NotebookMaker
from tests.engines import OwnRegistry, SecondEngine
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient, until
from tests.targets.places import docker, docker_registry
from tests.test_cli import run

SLOW = bool(os.environ.get("DOCKER_KERNEL_SLOW"))
"""Let the job that prints a lot print 1 GB."""

root = pytest.mark.skipif(os.geteuid() != 0, reason="it needs root")


def send(kernel: Notebook, options: str, cell: str) -> str:
    """Dispatch a cell; `sent` is the job. Returns its id."""
    reply = kernel.run(f"%%dispatch {options}\n{cell}")
    assert reply.status == "ok", reply.traceback
    kernel.run("sent = _")
    return str(kernel.value("sent.id"))


def ended(kernel: Notebook, seconds: float = 60) -> tuple[str, str]:
    """The state and the reason of `sent` when it has ended."""
    kernel.run(f"over = sent.wait({patient(seconds)})", timeout=seconds + 20)
    assert kernel.value("over"), kernel.run("print(sent)").text
    state, reason = kernel.value("[sent.state, sent.reason]")
    return state, reason


@contextlib.contextmanager
def full_disk(folder: Path, size: str) -> Iterator[None]:
    """A small filesystem of its own over a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def largest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


def memory() -> int:
    """Bytes of memory that this process, in which the host side of its kernels is, has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@root
def test_a_job_goes_on_when_its_kernels_process_is_killed(start: NotebookMaker) -> None:
    one = start()
    job = send(one, "--name lasting", f"{HOLD}kept = list(range(10))")
    command = ["docker", "top", one.container.container_id, "-eo", "pid"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    inside = one.value("__import__('os').getpid()")
    # The last id of NSpid is that in the container (proc(5)).
    ids = {
        int(pid): re.search(r"NSpid:.*\s(\d+)", Path(f"/proc/{pid}/status").read_text()) for pid in listed.split()[1:]
    }
    (pid,) = [pid for pid, found in ids.items() if found and int(found[1]) == inside]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not one.manager.is_alive(), what=f"the end of one of these, {listed},")
    one.restart(now=True)
    let_go(job)
    reply = one.run("from docker_kernel import jobs\nsent = jobs['lasting']; sent.result(); print(kept)")
    assert reply.text == f"{list(range(10))}\n", reply.traceback
    assert one.value("[sent.id, sent.state, sent.reason]") == [job, "succeeded", ""]


@root
def test_a_full_disk_stops_a_capture_with_a_reason(tmp_path: Path) -> None:
    variables = {"large": bytearray(os.urandom(3_000_000)), "small": 1}
    with full_disk(tmp_path, "1m"):
        with pytest.raises(blob_files.SnapshotError, match="The state cannot be written: No space left on device"):
            snapshot.capture(variables, variables, str(tmp_path))
        taken = snapshot.capture({"small": 1}, variables, str(tmp_path))
        assert snapshot.restore(str(tmp_path), snapshot.read_manifest(str(tmp_path), taken.digest), {})[0] == {
            "small": 1
        }


def test_a_result_with_a_flipped_bit_is_refused(start: NotebookMaker, tmp_path: Path) -> None:
    env = {**os.environ, "JPY_SESSION_NAME": str(tmp_path / "study.ipynb")}
    first = start(env=env)
    job = send(first, "--name early", "import os; fragile = bytearray(os.urandom(300_000))")
    assert ended(first) == ("succeeded", "")
    first.close()
    blobs = JobFolder(job).result / "blobs"
    assert until(lambda: blobs.exists() and any(blobs.iterdir()))
    flip(largest(blobs))
    second = start(env=env)
    reply = second.run("from docker_kernel import jobs\njobs['early'].result()")
    digest = largest(blobs).name[:12]
    assert digest in reply.value and "changed" in reply.value, reply.traceback
    assert second.value("'fragile' in globals()") is False


def test_the_host_never_runs_what_a_result_wants_to_run(start: NotebookMaker, tmp_path: Path) -> None:
    marker = tmp_path / "outside" / "ran"
    marker.parent.mkdir()
    env = {**os.environ, "JPY_SESSION_NAME": str(tmp_path / "study.ipynb")}
    workspace = tmp_path / "inside"
    workspace.mkdir()
    cell = (
        "class Trap:\n    def __reduce__(self):\n"
        f'        code = "import os; os.makedirs({str(marker.parent)!r}, exist_ok=True); " \\\n'
        f"            \"open({str(marker)!r}, 'w').write(os.uname().nodename)\"\n"
        "        return exec, (code,)\n"
        "trap = Trap()"
    )
    first = start(cwd=workspace, env=env)
    job = send(first, "--name trap", cell)
    assert ended(first) == ("succeeded", "")
    first.close()
    assert until(lambda: (JobFolder(job).result / "blobs").exists())
    second = start(cwd=workspace, env=env)
    look = f"open({str(marker)!r}).read() if __import__('os').path.exists({str(marker)!r}) else ''"
    assert second.value(look) == "", "nothing has run before it is asked for"
    assert second.run("from docker_kernel import jobs\njobs['trap'].result()").status == "ok"
    assert second.value(look) == second.value("__import__('os').uname().nodename"), "it has run in the kernel's sandbox"
    assert not marker.exists(), "and there only"


def test_two_dispatches_at_once_from_one_kernel(start: NotebookMaker) -> None:
    one = start()
    one.run("shared = list(range(1000))")
    cell = (
        "import threading\nfrom docker_kernel import dispatch\nsent, raised = {}, []\n"
        "def go(n):\n    try: sent[n] = dispatch(f'import time; time.sleep(1); sum_{n} = sum(shared) + {n}')\n"
        "    except BaseException as error: raised.append(repr(error))\n"
        "threads = [threading.Thread(target=go, args=(n,)) for n in range(2)]\n"
        "for thread in threads: thread.start()\nfor thread in threads: thread.join()\n"
        "for n in range(2): sent[n].result()"
    )
    reply = one.run(cell)
    assert reply.status == "ok", reply.traceback + str(one.value("raised"))
    assert one.value("[sum_0, sum_1]") == [499500, 499501]


def test_a_job_that_prints_a_lot_costs_the_host_little(start: NotebookMaker) -> None:
    one = start()
    count = 1000 if SLOW else 100
    before, most, over = memory(), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, memory())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        job = send(one, "", f"line = 'x' * 99 + chr(10)\nfor i in range({count}): print(line * 10_000, end='')\nn = i")
        assert ended(one, 500) == ("succeeded", "")
    finally:
        over.set()
        watcher.join()
    assert most - before < 100 << 20, f"{(most - before) >> 20} MiB"
    kept = sum(path.stat().st_size for path in JobFolder(job).path.glob("output.*"))
    assert 30 << 20 < kept < 70 << 20
    assert JobFolder(job).output(100) == b"x" * 99 + b"\n"
    assert one.run("sent.result(); print(n)").text == f"{count - 1}\n"
    command = ["docker", "ps", "-aq", "--filter", f"label={labels.JOB_ID}={job}"]
    # The engine's log of it goes with its container.
    until(lambda: not subprocess.run(command, capture_output=True, check=True).stdout, 60, "its container's end")


def test_output_that_looks_like_our_markers_is_output(start: NotebookMaker) -> None:
    one = start()
    false = '{"event":"end","code":0,"oom":false,"result":"sha256:%s"}' % ("0" * 64)
    lines = [f"##docker-kernel {nonce} {false}" for nonce in ("", "0" * 32, "f" * 16, "NONCE")]
    lines += ["##docker-kernel", "##docker-kernel 1 not json", '##docker-kernel 1 {"event":"progress","value":1}']
    cell = f"import time\nfor line in {lines!r}: print(line, flush=True)\ntime.sleep(1); print('after'); real = 5"
    job = send(one, "", cell)
    assert ended(one) == ("succeeded", "")
    assert JobFolder(job).output().decode().splitlines() == [*lines, "after"]
    assert one.run("sent.result(); print(real)").text == "5\n"


# On another engine


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest, own_folders: Path) -> Iterator[SecondEngine]:
    """The targets `plain`, without a registry and by a socket, and `through`, with one and over TLS; one engine."""
    config = own_folders / "config.toml"
    before = config.read_text()
    with docker(request) as plain, docker_registry(request) as through:
        config.write_text(f"{before}\n[targets.plain]\n{plain.settings}\n[targets.through]\n{through.settings}\n")
        try:
            yield request.getfixturevalue("second_engine")
        finally:
            config.write_text(before)


@pytest.fixture(scope="module")
def kernel(engines: SecondEngine, spec: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel whose jobs go there; both targets have its image."""
    one = Notebook(spec, tmp_path_factory.mktemp("workspace"))
    try:
        for target in ("plain", "through"):
            send(one, f"--on {target}", "1")
            assert ended(one) == ("succeeded", "")
        yield one
    finally:
        one.close()


def running(kernel: Notebook) -> None:
    """Wait until `sent` has begun."""
    until(lambda: "begun" in kernel.value("sent.logs()"), what="the job's beginning")


@pytest.mark.parametrize("target", ["plain", "through"])
def test_a_job_whose_engine_starts_again_has_an_end(kernel: Notebook, engines: SecondEngine, target: str) -> None:
    send(kernel, f"--on {target}", "import time; print('begun', flush=True); time.sleep(8); lasting = 1")
    running(kernel)
    engines.kill()
    time.sleep(2)
    engines.start()
    state, reason = ended(kernel, BACK_SECONDS + 20)
    assert state == "succeeded" or (state == "lost" and "retry" in reason), (state, reason)
    send(kernel, f"--on {target}", "later = 2")
    assert ended(kernel) == ("succeeded", ""), "the next one runs"


def test_a_registry_that_is_killed_while_it_is_sent_to_fails_the_job(
    kernel: Notebook, own_registry: OwnRegistry
) -> None:
    kernel.run("import os\nlarge = os.urandom(300_000_000)")
    try:
        send(kernel, "--on through", "size = len(large)")
        until(lambda: kernel.value("sent.reason").startswith("sends "), what="that it is sent")
        own_registry.kill()
        state, reason = ended(kernel)
    finally:
        own_registry.kill()
        own_registry.start()
    assert state == "failed" and f"The registry {own_registry.address} " in reason, reason
    assert reason.count("\n") == 0 and len(reason) < 500 and "Traceback" not in reason
    assert "run its cell again" in kernel.run("sent.retry()").value
    send(kernel, "--on through", "size = len(large)")
    assert ended(kernel) == ("succeeded", "")
    assert kernel.run("sent.result(); print(size)").text == "300000000\n"
    kernel.run("del large")


def test_what_a_registry_has_lost_is_sent_again(
    kernel: Notebook, own_registry: OwnRegistry, engines: SecondEngine
) -> None:
    kernel.run("import os\nstate = os.urandom(1_000_000)")
    send(kernel, "--on through", "size = len(state)")
    assert ended(kernel) == ("succeeded", "")
    kernel.run("sent.result()")
    own_registry.kill()
    shutil.rmtree(own_registry.folder / "data")
    own_registry.start()
    until(lambda: not engines.docker("ps", "-aq"))
    engines.docker("image", "prune", "-af")
    assert not engines.docker("images", "-aq")
    send(kernel, "--on through", "size = len(state) + 1")
    assert ended(kernel) == ("succeeded", "")
    assert kernel.run("sent.result(); print(size)").text == "1000001\n"


@root
def test_a_full_disk_on_the_host_keeps_a_result_where_it_is(kernel: Notebook, engines: SecondEngine) -> None:
    job = send(kernel, "--on plain", f"{HOLD}big = os.urandom(8_000_000)")
    folder = JobFolder(job).result
    folder.mkdir(parents=True)
    with full_disk(folder, "1m"):
        let_go(job, engines.url)
        assert ended(kernel)[0] == "succeeded"
        until(lambda: "No space left on device" in kernel.value("sent.reason"))
        reply = kernel.run("sent.result()")
        assert "No space left on device" in reply.value and str(folder) in reply.value, reply.traceback
    reply = kernel.run("sent.result(); print(len(big))")
    assert reply.text == "8000000\n", reply.traceback
    until(lambda: kernel.value("[sent.state, sent.reason]") == ["succeeded", ""])


@root
def test_a_result_that_the_host_has_not_yet_stays_in_the_kernel_volume(start: NotebookMaker) -> None:
    one = start()
    job = send(one, "", f"{HOLD}big = bytes(8_000_000)")
    folder = JobFolder(job).result
    folder.mkdir(parents=True)
    with full_disk(folder, "1m"):
        let_go(job)
        assert ended(one)[0] == "succeeded"
        until(lambda: "No space left on device" in one.value("sent.reason"))
        one.run(
            "import docker_kernel.guest.garbage as garbage, docker_kernel.guest.session as session\n"
            "garbage.YOUNG_SECONDS = 0; session.KEPT_SNAPSHOTS = session.KEPT_RESULTS = 1"
        )
        for number in range(3):
            one.run(f"changing = {number}")
            assert one.run("%local changing").shown == str(number)
    assert one.run("sent.result(); print(len(big))").text == "8000000\n"
    assert run("jobs", "list").returncode == 0 and list(folder.iterdir()), "any command brings it home"


@root
@pytest.mark.parametrize("target", ["plain", "through"])
def test_state_with_a_flipped_bit_is_not_sent(kernel: Notebook, target: str) -> None:
    kernel.run("import os\nfragile = bytearray(os.urandom(400_000))\nfrom docker_kernel.guest import snapshot")
    kernel.run("kept = snapshot.capture({'fragile': fragile}, globals(), '/opt/docker-kernel/state')")
    name = kernel.value("__import__('json').loads(kept.manifest)['packs'][0]['buffers'][0][0][7:]")
    command = ["docker", "volume", "inspect", "--format", "{{.Mountpoint}}", kernel.container.volume]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    blob = Path(found) / "blobs" / name
    flip(blob)
    try:
        send(kernel, f"--on {target}", "len(fragile)")
        state, reason = ended(kernel)
    finally:
        flip(blob)
    assert state == "failed" and f"sha256:{blob.name[:12]}" in reason and "\n" not in reason, (state, reason)
    send(kernel, f"--on {target}", "length = len(fragile)")
    assert ended(kernel) == ("succeeded", "")


def test_a_job_whose_engine_is_gone_for_good_is_lost(
    kernel: Notebook, engines: SecondEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "BACK_SECONDS", 8)
    send(kernel, "--on plain", "import time; print('begun', flush=True); time.sleep(600)")
    running(kernel)
    begun = time.monotonic()
    engines.kill()
    try:
        state, reason = ended(kernel, 28)
        assert (state, "retry" in reason and "did not come back" in reason) == ("lost", True), reason
        assert time.monotonic() - begun < 8 + patient(15)
        assert reason in kernel.run("sent.result()").value
    finally:
        engines.start()


def test_a_host_without_space_refuses_a_job_and_keeps_nothing_of_it(
    start: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small filesystem needs root")
    small = tmp_path / "small"
    small.mkdir()
    one = start()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setenv("XDG_DATA_HOME", str(small))
        reply = one.run(f"%%dispatch\nx = 1  # {'long ' * 40_000}")
        assert reply.name == "JobFailed" and "No space left on device" in reply.value, reply.traceback
        one.run("%%dispatch\nx = 1")
        one.run("sent = _; sent.wait()")
        assert one.value("sent.state") == "failed" and "No space left" in one.value("sent.reason")
        filters = {labels.KIND: labels.KIND_STATE, labels.KERNEL_ID: one.container.kernel_id}
        until(lambda: not background.run_blocking(engine.containers.list(filters)))
    finally:
        monkeypatch.undo()
        subprocess.run(["umount", "-l", str(small)], check=True)
