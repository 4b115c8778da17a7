"""The Swarm target on two real nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from docker_kernel import background, images, labels
from docker_kernel.engine import Engine
from docker_kernel.errors import JobError
from docker_kernel.guest import snapshot
from docker_kernel.guest.job_log import JobLog
from docker_kernel.kernel import guest_files
from docker_kernel.targets.base import InputMount, JobTask, Note, Outcome, Output, Package
from docker_kernel.targets.swarm.config import SwarmConfig
from docker_kernel.targets.swarm.records import SwarmJob, SwarmPrepared
from docker_kernel.targets.swarm.target import SwarmTarget
from tests import kept
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import HOLD, Notebook, captured, let_go
from tests.patience import patient, until
from tests.swarm import WORKER, TwoNodes

ON_WORKER = [f"node.hostname == {WORKER}"]
SLEEP = "import time; print('goes on', flush=True); time.sleep(100)"


@dataclass
class Done:
    """One job's end."""

    outcome: Outcome
    text: str
    markers: list[dict[str, Any]]
    seconds: float
    job: SwarmJob
    notes: list[str]
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> dict[str, Any]:
        return next((one for one in self.markers if one["event"] == "end"), {})


Act = Callable[[SwarmJob], Awaitable[None]]


class Cluster:
    """What a test does with the target."""

    def __init__(self, nodes: TwoNodes, notebook: Notebook, folder: Path) -> None:
        self.nodes = nodes
        self.notebook = notebook
        self.folder = folder
        self.prepared: SwarmPrepared
        self.digest = ""
        self._heard = asyncio.Event()

    async def heard(self) -> None:
        """Wait until the job that runs now has printed something."""
        await asyncio.wait_for(self._heard.wait(), patient(60))

    def target(self, **settings: Any) -> SwarmTarget:
        config = {"registry": f"{self.nodes.registry}/team", **settings}
        return SwarmTarget("cluster", SwarmConfig.model_validate({"kind": "swarm", **config}))

    def package(self) -> Package:
        return captured(self.notebook)

    def prepare(self, target: SwarmTarget) -> SwarmPrepared:
        package = self.package()
        self.digest = package.digest
        return background.run_blocking(target.prepare(self.notebook.container, package, lambda text: None))

    def task(self, source: str, **settings: Any) -> JobTask:
        job = secrets.token_hex(6)
        spec = {
            "job": job, "name": "", "nonce": secrets.token_hex(16), "manifest": self.digest,
            "state": guest_files.STATE, "outputs": "/outputs", "kind": "cell", "source": source, "params": {},
            "cwd": "/tmp", "python": self.notebook.container.python, "user_base": guest_files.USER_BASE,
            "env": {}, "timeout": None, "inputs": {},
        }  # fmt: skip
        return JobTask(job, "", spec, **settings)

    async def follow(self, target: SwarmTarget, job: SwarmJob, begun: float, clean: bool = True) -> Done:
        """Follow a started job to its end, and clean up."""
        parser, text, markers = JobLog(job["nonce"]), b"", []
        parsers: dict[int, JobLog] = {}
        notes: list[str] = []
        try:
            async for piece in target.output(job, {}):
                if isinstance(piece, Note):
                    notes.append(piece.text)
                    continue
                for part in parsers.setdefault(piece.rank, JobLog(job["nonce"])).feed(piece.data):
                    if isinstance(part, bytes):
                        text += part
                        self._heard.set()
                    elif piece.rank == 0:
                        markers.append(part)
            for parser in parsers.values():
                text += parser.rest()
            done = Done(await target.outcome(job), text.decode(), markers, time.monotonic() - begun, job, notes)
            if digest := done.end.get("result"):
                folder = self.folder / secrets.token_hex(4)
                await target.result(job, digest, folder)
                manifest = snapshot.read_manifest(str(folder), digest)
                done.variables, _ = snapshot.restore(str(folder), manifest, {})
            return done
        finally:
            if clean:
                await target.clean(job)
                await target.clean(job)

    def run(
        self,
        source: str,
        act: Act | None = None,
        target: SwarmTarget | None = None,
        limit: float = 120,
        **settings: Any,
    ) -> Done:
        """Run a cell as a job."""
        place = target or self.target()

        async def go() -> Done:
            begun, self._heard = time.monotonic(), asyncio.Event()
            job = await place.start(self.task(source, **settings), self.prepared)
            acting = asyncio.ensure_future(act(job)) if act is not None else None
            try:
                done = await asyncio.wait_for(self.follow(place, job, begun), patient(limit))
            finally:
                if acting is not None:
                    await acting
            return done

        try:
            return background.run_blocking(go())
        finally:
            if target is None:
                background.run_blocking(place.close())


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes, notebook: Notebook, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    one = Cluster(two_nodes, notebook, tmp_path_factory.mktemp("results"))
    assert notebook.run("x = 41\nsquares = [n * n for n in range(1000)]").status == "ok"
    target = one.target()
    one.prepared = one.prepare(target)
    # The worker pulls the kernel image once, which is no part of what tests measure.
    place = one.target(constraints=ON_WORKER)
    assert one.run("1", target=place).outcome.exit_code == 0
    background.run_blocking(target.close())
    background.run_blocking(place.close())
    return one


@pytest.fixture(autouse=True)
def nothing_left(two_nodes: TwoNodes) -> Iterator[None]:
    """After each test there is no service, secret, network or container of a job's, on either node."""
    yield
    until(lambda: not _left(two_nodes), 15, "the end of all that jobs had there")


def _left(nodes: TwoNodes) -> list[str]:
    from tests.swarm import _run

    mark = f"label={labels.KIND}={labels.KIND_JOB}"
    left = _run("docker", "service", "ls", "-q", "--filter", mark)
    left += _run("docker", "secret", "ls", "-q", "--filter", mark)
    left += _run("docker", "network", "ls", "-q", "--filter", mark, "--filter", "driver=overlay")
    left += _run("docker", "ps", "-aq", "--filter", mark, "--filter", "label=com.docker.swarm.task")
    left += nodes.on_worker("ps", "-aq", "--filter", mark)
    return left.split()


async def running_on_all(job: SwarmJob, count: int, seconds: float = 240) -> list[str]:
    """Wait until so many tasks of a job run or have run; the names of their nodes."""
    engine = await Engine.connect()
    nodes = {node.id: node.name for node in await engine.swarm.nodes()}
    end = time.monotonic() + patient(seconds)
    try:
        while time.monotonic() < end:
            tasks = await engine.swarm.tasks({labels.JOB_ID: job["job"]})
            begun = [task for task in tasks if task.state in ("running", "complete")]
            if len(begun) == count:
                return [nodes[task.node] for task in begun]
            await asyncio.sleep(0.1)
    finally:
        engine.close()
    raise AssertionError("it does not run")


async def running_on(job: SwarmJob) -> str:
    """Wait until a job's task runs; the node's name."""
    return (await running_on_all(job, 1, 30))[0]


def test_a_job_runs_and_its_values_come_back(cluster: Cluster) -> None:
    done = cluster.run("print(x)\ny = x + 1\nlarge = bytes(30_000)")
    assert done.outcome == Outcome(0)
    assert done.text == "41\n"
    assert done.variables == {"y": 42, "large": bytes(30_000)}
    assert done.seconds < patient(5)


def test_a_cell_that_raises(cluster: Cluster) -> None:
    done = cluster.run("1 / 0")
    assert done.outcome == Outcome(1)
    assert isinstance(done.variables["__docker_kernel_error__"], ZeroDivisionError)


def test_a_job_may_have_no_more_memory_than_it_asked_for(cluster: Cluster) -> None:
    done = cluster.run("block = bytearray(300 << 20)", memory=100 << 20)
    assert (done.outcome.exit_code, done.outcome.out_of_memory) == (137, True)


def test_secrets_are_in_no_image_label_or_environment(cluster: Cluster) -> None:
    from tests.swarm import _run

    seen: list[str] = []

    async def look(job: SwarmJob) -> None:
        await running_on(job)
        seen.append(await asyncio.to_thread(_run, "docker", "service", "inspect", *job["services"]))
        for on in ([], ["-H", cluster.nodes.worker_url]):
            ids = await asyncio.to_thread(_run, "docker", *on, "ps", "-aq", "--filter", "label=com.docker.swarm.task")
            if ids:
                seen.append(await asyncio.to_thread(_run, "docker", *on, "inspect", *ids.split()))
        seen.append(await asyncio.to_thread(_run, "docker", "secret", "inspect", *job["secrets"]))
        await asyncio.to_thread(let_go, job["job"], "", cluster.nodes.worker_url)

    source = f"import os; print(os.environ['TOKEN'][::-1])\n{HOLD}"
    done = cluster.run(source, look, secrets={"TOKEN": "hush-hush-7"})
    assert done.text == "7-hsuh-hsuh\n"
    assert len(seen) >= 3 and not any("hush" in text or done.job["nonce"] in text for text in seen)


def test_a_spec_that_is_too_large_is_refused(cluster: Cluster) -> None:
    with pytest.raises(JobError, match=r"have 58\d\.\d KiB, and a Swarm takes 500 KiB apart from the notebook's state"):
        cluster.run("#" * 600_000)


def test_what_no_node_has_is_refused_at_once(cluster: Cluster) -> None:
    with pytest.raises(JobError, match=r"No node of cluster has 1 TiB of memory: the largest that is ready"):
        cluster.run("1", memory=1 << 40)
    with pytest.raises(JobError, match=r"No node of cluster has 500 CPUs"):
        cluster.run("1", cpus=500)
    with pytest.raises(JobError, match=r"offers GPUs: let their engines name them"):
        cluster.run("1", gpus="1")


def test_constraints_that_no_node_fits_are_told_at_once(cluster: Cluster) -> None:
    done = cluster.run("1", target=cluster.target(constraints=["node.labels.disk == ssd"]))
    assert "no place for it: no suitable node (scheduling constraints not satisfied on 2 nodes)" in done.outcome.reason
    assert done.seconds < patient(3)


def test_a_job_that_waits_for_a_place_says_so_and_runs_then(cluster: Cluster) -> None:
    cpus = float(os.cpu_count() or 1)
    place = cluster.target()

    async def go() -> list[Done]:
        begun = time.monotonic()
        source = "import time; time.sleep(3)"
        jobs = [await place.start(cluster.task(source, cpus=cpus), cluster.prepared) for _ in range(3)]
        return list(await asyncio.gather(*(cluster.follow(place, job, begun) for job in jobs)))

    found = background.run_blocking(go())
    background.run_blocking(place.close())
    assert [done.outcome.exit_code for done in found] == [0, 0, 0]
    waited = [done for done in found if any("place in the Swarm: no suitable node" in note for note in done.notes)]
    assert len(waited) == 1 and waited[0].seconds > 5
    assert waited[0].notes[-1] == "" and waited[0].text == "", "it says no more that it waits, and its log never did"


def test_the_output_is_whole_whatever_a_job_prints(cluster: Cluster) -> None:
    source = """
import os, sys
for number in range(20_000):
    print(number, 'x' * 300)
os.write(1, b'##docker-kernel 0123456789abcdef0123456789abcdef {"event":"end","code":7,"oom":false,"result":""}\\n')
os.write(1, b'y' * 50_000 + b'\\n')
os.write(2, b'on standard error\\n')
sys.stdout.write('no newline')"""
    done = cluster.run(source, target=cluster.target(constraints=ON_WORKER))
    lines = done.text.split("\n")
    assert [line.split()[0] for line in lines[:20_000]] == [str(number) for number in range(20_000)]
    assert '"code":7' in lines[20_000]
    assert lines[20_001] == "y" * 50_000
    assert lines[20_002:] == ["on standard error", "no newline"]
    assert done.outcome == Outcome(0)


def test_a_host_process_that_starts_later_goes_on(cluster: Cluster) -> None:
    """Output is gone on with, or read from its first byte, and a result from the log, by an instance that knows the
    record alone."""
    first, later = cluster.target(), cluster.target()

    async def go() -> tuple[Done, Done]:
        begun = time.monotonic()
        job = await first.start(cluster.task("print('one'); import time; time.sleep(2); y = x + 1"), cluster.prepared)
        position = ""
        async for piece in first.output(job, {}):
            if isinstance(piece, Output) and piece.data.endswith(b"one\n"):
                position = piece.position
                break
        await first.close()
        job = json.loads(json.dumps(job))
        next_one = cluster.target()
        rest = [piece async for piece in next_one.output(job, {0: position}) if isinstance(piece, Output)]
        assert rest and b"one" not in b"".join(piece.data for piece in rest)
        await next_one.close()
        done = await cluster.follow(later, job, begun, clean=False)
        again = cluster.target()
        folder = cluster.folder / "again"
        await again.result(job, done.end["result"], folder)
        assert await again.outcome(job) == Outcome(0)
        await again.cancel(job)
        finished = await cluster.follow(again, job, begun)
        await again.close()
        return done, finished

    for done in background.run_blocking(go()):
        assert (done.outcome, done.text, done.variables["y"]) == (Outcome(0), "one\n", 42)
    assert (cluster.folder / "again" / "manifests").is_dir()
    background.run_blocking(later.close())


def test_cancel_leaves_nothing_running(cluster: Cluster) -> None:
    place = cluster.target(constraints=ON_WORKER)
    took: list[float] = []

    async def cancel(job: SwarmJob) -> None:
        await running_on(job)
        await cluster.heard()
        begun = time.monotonic()
        await place.cancel(job)
        took.append(time.monotonic() - begun)
        assert not await asyncio.to_thread(cluster.nodes.on_worker, "ps", "-q", "--filter", f"label={labels.JOB_ID}")

    done = cluster.run("try:\n    import time; print('on', flush=True); time.sleep(100)\nfinally:\n    print('off')",
                       cancel, place)  # fmt: skip
    assert done.outcome.exit_code == 143
    assert done.text.startswith("on\noff\n")
    assert took[0] < patient(5)


def test_a_job_that_will_not_end_is_killed(cluster: Cluster) -> None:
    place = cluster.target()

    async def cancel(job: SwarmJob) -> None:
        await running_on(job)
        await cluster.heard()
        await place.cancel(job)

    source = """
import time
print('deaf', flush=True)
while True:
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        pass"""
    done = cluster.run(source, cancel, place)
    assert done.outcome.exit_code in (137, 143)
    assert not done.outcome.out_of_memory
    assert 8 < done.seconds < patient(25)


def test_a_job_is_cancelled_while_it_waits_for_a_place(cluster: Cluster) -> None:
    place = cluster.target()
    cpus = float(os.cpu_count() or 1)

    async def go() -> list[Done]:
        begun = time.monotonic()
        jobs = [await place.start(cluster.task(SLEEP, cpus=cpus), cluster.prepared) for _ in range(3)]
        following = [asyncio.ensure_future(cluster.follow(place, job, begun)) for job in jobs]
        await asyncio.sleep(patient(2))  # two of them have begun, and have an ear for SIGTERM
        for job in reversed(jobs):
            await place.cancel(job)
        return list(await asyncio.gather(*following))

    found = background.run_blocking(go())
    assert [done.outcome.exit_code for done in found] == [143, 143, 143]
    background.run_blocking(place.close())


def test_a_result_that_is_too_large_for_the_log_needs_a_store(cluster: Cluster) -> None:
    done = cluster.run("large = bytes(100_000)")
    assert done.outcome.exit_code == 3
    assert "set result_url in the target's settings" in done.text


def test_a_large_result_comes_through_the_registry(cluster: Cluster) -> None:
    url = f"oci+http://{cluster.nodes.address}:{cluster.nodes.port}/team"
    for where in ([], ON_WORKER):
        place = cluster.target(result_url=url, constraints=where)
        done = cluster.run("large = bytes(range(256)) * 40_000; small = x", target=place)
        assert done.variables == {"large": bytes(range(256)) * 40_000, "small": 41}
        assert not [one for one in done.markers if one["event"] == "blob"]
        found = requests.get(f"http://{cluster.nodes.registry}/v2/team/results/tags/list", timeout=patient(5)).json()
        assert not found.get("tags")
        background.run_blocking(place.close())


@pytest.fixture
def s3(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """S3 at an address that containers on both nodes reach."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address=cluster.nodes.address, port=0, verbose=False
    )
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-jobs")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert requests.put(f"{url}/bucket", timeout=patient(10)).ok
    yield "s3://bucket/results"
    server.stop()


def test_a_large_result_comes_through_s3(cluster: Cluster, s3: str) -> None:
    place = cluster.target(result_url=s3, constraints=ON_WORKER)
    done = cluster.run("large = bytes(range(256)) * 40_000", target=place)
    assert done.variables == {"large": bytes(range(256)) * 40_000}
    background.run_blocking(place.close())


class Proxy:
    """A socket in front of an engine's, whose connections a test can cut."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect("/var/run/docker.sock")
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()


def test_a_log_that_breaks_off_goes_on_where_it_was(cluster: Cluster, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path / "engine.sock")
    place = cluster.target(engine=proxy.url)

    async def cut(job: SwarmJob) -> None:
        await running_on(job)
        for _ in range(3):
            await asyncio.sleep(0.7)
            proxy.cut()

    source = "import time\nfor number in range(30):\n    print(number, flush=True)\n    time.sleep(.1)\ny = 1"
    try:
        done = cluster.run(source, cut, place)
    finally:
        background.run_blocking(place.close())
        proxy.close()
    assert done.outcome == Outcome(0)
    assert done.text.split() == [str(number) for number in range(30)]
    assert done.variables["y"] == 1


def test_ranks_find_each_other(cluster: Cluster) -> None:
    source = """
import os, socket
rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
if rank == 0:
    with socket.create_server(('', address[1])) as server:
        found = sorted(server.accept()[0].recv(10).decode() for _ in range(size - 1))
    print('found', found)
else:
    import time
    for _ in range(1000):
        try:
            peer = socket.create_connection(address, 1)
            break
        except OSError:
            time.sleep(.1)
    peer.send(str(rank).encode())
"""
    done = cluster.run(source, replicas=3)
    assert done.outcome == Outcome(0)
    assert done.text == "found ['1', '2']\n"
    assert done.variables["found"] == ["1", "2"]


@pytest.fixture(scope="module")
def torch_folder(engine: Engine, python_image: str) -> Path:
    """PyTorch for CPUs, for the kernel image's Python; skips where pip finds no wheel of it."""
    torch = "torch==2.13.0"

    def make(folder: Path) -> None:
        version = background.run_blocking(images.probe(engine, python_image)).python_version
        assert version is not None
        command = [
            sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--only-binary", ":all:",
            "--python-version", ".".join(map(str, version[:2])), "--target", str(folder), torch,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=patient(280), check=False)
        if done.returncode:
            pytest.skip(f"pip has no PyTorch here: {done.stderr.strip()[-200:]}")
        # Writes the bytecode of what is imported, so that no rank has to compile it.
        docker = ["docker", "run", "--rm", "--user", "0", "--network", "none", "--volume", f"{folder}:/torch"]
        code = "import sys; sys.path.append('/torch'); import torch.distributed"
        subprocess.run([*docker, python_image, "python3", "-c", code], check=True, timeout=patient(120))

    return kept.folder("torch", (torch, background.run_blocking(engine.images.inspect(python_image))["Id"]), make)


def test_torch_reduces_across_both_nodes(cluster: Cluster, torch_folder: Path) -> None:
    source = """
import sys
sys.path.append("/inputs/torch")
import torch
import torch.distributed as distributed

distributed.init_process_group("gloo")
rank = distributed.get_rank()
total = torch.full((1000,), float(rank + 1))
distributed.all_reduce(total)
distributed.barrier()
distributed.destroy_process_group()
print(rank, total.sum().item())
total = total[0].item()"""
    on: list[str] = []

    async def look(job: SwarmJob) -> None:
        on.extend(await running_on_all(job, 2))

    done = cluster.run(source, look, replicas=2, inputs=[InputMount("torch", str(torch_folder), volume=False)])
    assert done.outcome == Outcome(0)
    assert {"0 3000.0", "1 3000.0"} <= set(done.text.split("\n"))
    assert done.variables["total"] == 3.0
    assert len(set(on)) == 2


def test_a_rank_that_fails_ends_the_others_and_is_named(cluster: Cluster) -> None:
    source = "import os, time\nif os.environ['RANK'] == '1':\n    raise ValueError('here')\ntime.sleep(100)"
    done = cluster.run(source, replicas=3)
    assert done.outcome.exit_code == 1
    assert done.outcome.reason == "rank 1 of 3 failed, and the others were stopped: exit code 1"
    assert done.seconds < patient(20)


def test_a_second_dispatch_sends_what_changed(cluster: Cluster) -> None:
    before = cluster.digest
    place = cluster.target()
    try:
        cluster.notebook.run("large = __import__('os').urandom(20_000_000)\nsmall = 1")
        first = cluster.prepare(place)
        cluster.notebook.run("small = 2")
        missing = background.run_blocking(place.missing(cluster.notebook.container, cluster.package()))
        second = cluster.prepare(place)
        assert first["sent"] > 20_000_000
        assert 0 < missing < 100_000 and 0 < second["sent"] < 100_000
        assert background.run_blocking(place.missing(cluster.notebook.container, cluster.package())) == 0
    finally:
        cluster.notebook.run("del large, small")
        cluster.digest = before
        background.run_blocking(place.release(first))
        background.run_blocking(place.release(first))
        background.run_blocking(place.close())


def test_check_says_what_is_there_and_what_to_do(cluster: Cluster) -> None:
    url = f"oci+http://{cluster.nodes.address}:{cluster.nodes.port}/team"
    good = background.run_blocking(cluster.target(result_url=url).check())
    assert [(one.name, one.ok) for one in good] == [
        ("manager", True), ("nodes", True), ("registry", True), ("results", True),
    ]  # fmt: skip
    assert WORKER in good[1].found
    bad = cluster.target(registry="127.0.0.1:1/team", result_url="oci+http://127.0.0.1:1/team")
    found = {one.name: one for one in background.run_blocking(bad.check())}
    assert not found["registry"].ok and "127.0.0.1:1 cannot be reached" in found["registry"].fix
    assert not found["results"].ok and "cannot be reached from here" in found["results"].fix
    worker = background.run_blocking(cluster.target(engine=cluster.nodes.worker_url).check())
    assert [one.ok for one in worker] == [False] and "is a worker of its Swarm" in worker[0].fix


def test_a_kernel_without_network_gets_no_job_with_one(
    cluster: Cluster, make_spec: SpecMaker, start: NotebookMaker
) -> None:
    notebook = start(make_spec(network="none"))
    alone = Cluster(cluster.nodes, notebook, cluster.folder)
    with pytest.raises(JobError, match="may have no network, and a Swarm gives every job one"):
        alone.prepare(alone.target())


def test_an_image_that_the_registry_lost_is_named_at_once(cluster: Cluster) -> None:
    """The registry lost it between push and pull: all of it, or a part."""
    cluster.notebook.run("fresh = 1")
    prepared, before = cluster.prepared, cluster.digest
    place = cluster.target(constraints=ON_WORKER)
    try:
        cluster.prepared = cluster.prepare(place)
        name, _, digest = str(cluster.prepared["image"]).partition("@")
        repository = name.partition("/")[2]
        accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
        base = f"http://{cluster.nodes.registry}/v2/{repository}"
        manifest = requests.get(f"{base}/manifests/{digest}", headers=accept, timeout=patient(5)).json()
        layer = manifest["layers"][-1]["digest"]
        data = cluster.nodes.store / "docker/registry/v2/blobs/sha256" / layer[7:9] / layer[7:]
        data.rename(data.with_name("away"))
        done = cluster.run("1", target=place)
        assert f"the registry has no more the blob {layer[:19]}" in done.outcome.reason
        assert "dispatch it again" in done.outcome.reason
        assert done.seconds < patient(10)
        # Before the blob is back: until then no attempt of the engine's to pull it can succeed.
        assert requests.delete(f"{base}/manifests/{digest}", timeout=patient(5)).ok
        done = cluster.run("1", target=place)
        assert f"the registry has no more the image {name}" in done.outcome.reason
        assert done.seconds < patient(5)
        data.with_name("away").rename(data)
    finally:
        cluster.prepared, cluster.digest = prepared, before
        background.run_blocking(place.close())


def test_a_node_that_is_drained_is_named_though_the_runner_only_knows_that_it_was_told_to_end(
    cluster: Cluster,
) -> None:
    place = cluster.target(constraints=ON_WORKER)

    def availability(how: str) -> None:
        subprocess.run(["docker", "node", "update", "--availability", how, WORKER], check=True, capture_output=True)

    async def drain(job: SwarmJob) -> None:
        assert await running_on(job) == WORKER
        await cluster.heard()
        await asyncio.to_thread(availability, "drain")

    try:
        done = cluster.run(SLEEP, drain, place)
        assert done.end["code"] == 143
        assert done.outcome.lost.startswith(f"the Swarm stopped it on the node {WORKER}"), done.outcome
    finally:
        availability("active")
        background.run_blocking(place.close())


def test_a_node_that_dies_is_named_and_another_one_takes_the_next_attempt(cluster: Cluster) -> None:
    nodes = cluster.nodes
    place = cluster.target(constraints=ON_WORKER)
    killed: list[float] = []

    async def kill(job: SwarmJob) -> None:
        assert await running_on(job) == WORKER
        await cluster.heard()
        await asyncio.to_thread(nodes.kill_worker)
        await asyncio.to_thread(nodes.wait_for_worker, "down")
        killed.append(time.monotonic())

    try:
        begun = time.monotonic()
        done = cluster.run(SLEEP, kill, place)
        late = begun + done.seconds - killed[0]
        assert late < patient(20)
        assert done.text == "goes on\n"
        assert done.outcome.lost == f"the node {WORKER}, where it ran, is down; a retry runs on another node"
        assert cluster.run("y = x").variables == {"y": 41}
        # No place for it but on the node that is down: told at once.
        done = cluster.run("y = x", target=place)
        assert "no suitable node" in done.outcome.reason
    finally:
        nodes.start_worker()
        nodes.wait_for_worker()
        background.run_blocking(place.close())


@pytest.fixture
def configured(two_nodes: TwoNodes, own_folders: Path) -> Iterator[Path]:
    """The user's config file, with the target `cluster`."""
    path = own_folders / "config.toml"
    before = path.read_text()
    path.write_text(
        f'[targets.cluster]\nkind = "swarm"\nregistry = "{two_nodes.registry}/team"\nmax_jobs = 8\n'
        f'result_url = "oci+http://{two_nodes.address}:{two_nodes.port}/team"\n'
    )
    yield path
    path.write_text(before)


def test_a_notebook_dispatches_to_the_swarm(
    cluster: Cluster, configured: Path, start: NotebookMaker, tmp_path: Path
) -> None:
    notebook = start()
    (tmp_path / "data.txt").write_text("from the workspace")
    notebook.run("from array import array\nweights = array('d', range(100_000))\nclass Model:\n    fitted = False")
    reply = notebook.run(
        "%%dispatch --on cluster --wait --secret TOKEN=hush\n"
        "import os\ntotal = sum(weights)\nmodel = Model(); model.fitted = True\n"
        "doubled = array('d', [2 * one for one in weights])\ntext = open('data.txt').read(), os.environ['TOKEN'][::-1]"
    )
    assert reply.status == "ok", reply.traceback
    assert notebook.value("[total, model.fitted, doubled[-1], text]") == [
        4999950000.0, True, 199998.0, ["from the workspace", "hsuh"],
    ]  # fmt: skip

    reply = notebook.run("%%dispatch --on cluster --wait\nraise KeyError('there')")
    assert (reply.name, reply.status) == ("KeyError", "error")

    notebook.run(
        "from docker_kernel import dispatch\nsweep = dispatch('base + i', on='cluster', sweep={'i': range(6)})"
    )
    notebook.run("base = 10\nsweep = dispatch('base + i', on='cluster', sweep={'i': range(6)})")
    assert notebook.value(f"sweep.result({patient(120)})") == [10, 11, 12, 13, 14, 15]

    notebook.run("%%dispatch --on cluster\nimport time; time.sleep(100)")
    notebook.run("import time\none = _\nwhile one.state != 'running': time.sleep(.1)\none.cancel()")
    assert notebook.value(f"[one.wait({patient(60)}), one.state][1]") == "cancelled"
