"""The docker target by itself: what crosses the wire, what is refused, and an engine that goes away."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background
from docker_kernel.batch.registry import Registry
from docker_kernel.batch.state_image import _base_config, push
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import ConfigError, EngineError, EngineUnavailable, JobError
from docker_kernel.guest import snapshot
from docker_kernel.guest.job_log import JobLog
from docker_kernel.kernel import guest_files
from docker_kernel.targets.base import Check, JobTask, Outcome, Output, Package
from docker_kernel.targets.engine import containers
from docker_kernel.targets.engine.config import DockerConfig
from docker_kernel.targets.engine.docker import NAME, DockerTarget
from docker_kernel.targets.engine.records import EngineJob
from tests.batch.small_image import small_image
from tests.batch.test_layers import blob_of, captured
from tests.batch.wire import at_rest
from tests.engines import OwnRegistry, Relay, SecondEngine
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient

run = background.run_blocking
MB = 1_000_000


def quiet(text: str) -> None:
    pass


@dataclass
class Done:
    """One job's end."""

    outcome: Outcome
    text: str = ""
    variables: dict[str, Any] = field(default_factory=dict)


def target(engine: str, **settings: Any) -> DockerTarget:
    config = DockerConfig.model_validate({"kind": "docker", "engine": engine, **settings})
    return DockerTarget("there", config)


def task(notebook: Notebook, package: Package, source: str) -> JobTask:
    job = secrets.token_hex(6)
    spec = {
        "job": job, "name": "", "nonce": secrets.token_hex(16), "manifest": package.digest,
        "state": guest_files.STATE, "outputs": "/outputs", "kind": "cell", "source": source, "params": {},
        "cwd": "/tmp", "python": notebook.container.python, "user_base": guest_files.USER_BASE,
        "env": {}, "timeout": None, "inputs": {},
    }  # fmt: skip
    return JobTask(job, "", spec)


async def follow(
    place: DockerTarget, one: JobTask, job: EngineJob, folder: Path, heard: asyncio.Event | None = None, lines: int = 1
) -> Done:
    """Follow a job to its end, fetch its result, and remove it.

    Args:
        heard: is set when it has printed so many `lines`.
    """
    log, text, digest = JobLog(one.spec["nonce"]), b"", ""
    try:
        async for piece in place.output(job, {}):
            assert isinstance(piece, Output)
            for part in log.feed(piece.data):
                if isinstance(part, bytes):
                    text += part
                    if heard is not None and text.count(b"\n") + 1 >= lines:
                        heard.set()
                elif part["event"] == "end":
                    digest = part.get("result") or ""
        text += log.rest()
        done = Done(await place.outcome(job), text.decode())
        if digest:
            await place.result(job, digest, folder)
            done.variables, _ = snapshot.restore(str(folder), snapshot.read_manifest(str(folder), digest), {})
        return done
    finally:
        await place.clean(job)
        await place.clean(job)


@pytest.fixture
def kernel(notebook: Notebook) -> Iterator[Notebook]:
    """A kernel with no variables."""
    notebook.run("import os")
    yield notebook
    notebook.run("%reset -f")


@pytest.fixture
def wire(second_engine: SecondEngine) -> Iterator[Relay]:
    """Before the second engine: counts what is sent to it."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as folder:
        relay = Relay(str(second_engine.folder / "docker.sock"), Path(folder))
        yield relay
        relay.close()


@pytest.fixture(scope="module")
def small(engine: Engine) -> Iterator[str]:
    """The id of an image that is sent in no time, in place of the kernel's where nothing is to run."""
    reference = f"docker-kernel-test/{secrets.token_hex(6)}:small"
    yield small_image(engine, reference)
    run(engine.images.remove(reference))


def on(image: str, package: Package) -> Package:
    """The same state, on another image."""
    return Package(package.package_id, image, package.manifest, package.digest)


@pytest.fixture(scope="module")
def based(second_engine: SecondEngine, notebook: Notebook) -> Iterator[None]:
    """The kernel's image is on the second engine, and stays there."""
    place, package = target(second_engine.url), captured(notebook)
    prepared = run(place.prepare(notebook.container, package, quiet))
    yield
    run(place.release(prepared))


@pytest.fixture
def nothing_new(second_engine: SecondEngine, based: None) -> Iterator[None]:
    """A test leaves the second engine as it was."""

    def there() -> list[list[str]]:
        commands = (["ps", "-aq"], ["images", "-q", "--no-trunc"], ["network", "ls", "-q"], ["volume", "ls", "-q"])
        return [sorted(second_engine.docker(*command).split()) for command in commands]

    before = there()
    yield
    assert there() == before


# What crosses


@pytest.mark.usefixtures("nothing_new")
def test_a_second_dispatch_sends_what_changed(kernel: Notebook, wire: Relay, tmp_path: Path) -> None:
    kernel.run("large = os.urandom(20_000_000); small = 1")
    place, first = target(wire.address), captured(kernel)
    assert run(place.missing(kernel.container, first)) > 20 * MB
    begun = time.monotonic()
    prepared = run(place.prepare(kernel.container, first, quiet))
    whole, seconds = wire.sent, time.monotonic() - begun
    assert whole > 20 * MB and prepared["sent"] > 20 * MB
    kernel.run("small = 2")
    second = captured(kernel)
    wire.sent, begun = 0, time.monotonic()
    missing = run(place.missing(kernel.container, second))
    again = run(place.prepare(kernel.container, second, quiet))
    print(f"first {whole} B in {seconds:.2f} s, second {wire.sent} B in {time.monotonic() - begun:.2f} s")
    assert wire.sent < 100_000 and missing == again["sent"] < 100_000
    one = task(kernel, second, "found = [len(large), small]")
    done = run(follow(place, one, run(place.start(one, again)), tmp_path))
    assert done.outcome.exit_code == 0 and done.variables["found"] == [20 * MB, 2], done.text
    for record in (prepared, again, again):
        run(place.release(record))


@pytest.mark.usefixtures("based")
def test_the_same_again_sends_nothing_through_a_registry(
    kernel: Notebook, second_engine: SecondEngine, own_registry: OwnRegistry, tmp_path: Path
) -> None:
    own_registry.serve_to(second_engine)
    settings = {"tls": str(second_engine.tls), "registry": f"{own_registry.address}/{secrets.token_hex(4)}"}
    place, package = target(second_engine.tcp, **settings), captured(kernel)
    first = run(place.prepare(kernel.container, package, quiet))
    assert run(place.missing(kernel.container, package)) == 0
    second = run(place.prepare(kernel.container, package, quiet))
    assert first["image"] == second["image"] and second["sent"] < 10_000
    one = task(kernel, package, "found = 1")
    done = run(follow(place, one, run(place.start(one, second)), tmp_path))
    assert done.variables["found"] == 1, done.text
    run(place.release(first))
    run(place.release(second))


# What is refused, and what is left then


@pytest.mark.usefixtures("nothing_new")
def test_a_flipped_bit_in_the_kernel_s_volume_is_refused(kernel: Notebook, second_engine: SecondEngine) -> None:
    kernel.run("large = os.urandom(3_000_000)")
    package = captured(kernel)
    path = f"{guest_files.STATE}/blobs/{blob_of(package, 'large')[7:]}"
    kernel.run(
        f"data = bytearray(open({path!r}, 'rb').read()); data[1000] ^= 1; os.chmod({path!r}, 0o600)\n"
        f"with open({path!r}, 'wb') as file: file.write(data)"
    )
    with pytest.raises(JobError, match="was changed after it was written; it is not sent"):
        run(target(second_engine.url).prepare(kernel.container, package, quiet))


@pytest.mark.usefixtures("nothing_new")
@pytest.mark.parametrize("through", ["engine", "registry"])
def test_another_architecture_is_refused_before_anything_is_sent(
    kernel: Notebook, wire: Relay, own_registry: OwnRegistry, through: str, used_images: list[str]
) -> None:
    foreign = _foreign(kernel.container.image)
    used_images.append(foreign)
    package = on(foreign, captured(kernel))
    settings = {} if through == "engine" else {"registry": f"{own_registry.address}/foreign"}
    place = target(wire.address, **settings)
    for ask in (
        lambda: place.missing(kernel.container, package),
        lambda: place.prepare(kernel.container, package, quiet),
    ):
        with pytest.raises(JobError, match="is for arm64, and the target there runs amd64: choose a kernel whose"):
            run(ask())
    assert wire.sent < 20_000
    assert not (own_registry.folder / "data/docker/registry/v2/repositories/foreign").exists()


def _foreign(image: str) -> str:
    """The same image, for arm64 by its config: an archive without layers, which the engine has."""

    async def make() -> str:
        engine = await Engine.connect()
        try:
            config = json.dumps({**await _base_config(engine, image), "architecture": "arm64"}).encode()
            name = f"docker-kernel-test/{secrets.token_hex(6)}:arm"
            layers = [f"{number}/layer.tar" for number in range(len(json.loads(config)["rootfs"]["diff_ids"]))]
            listing = [{"Config": "config.json", "RepoTags": [name], "Layers": layers}]
            files = [File("config.json", config), File("manifest.json", json.dumps(listing).encode())]
            await engine.images.load(iter([archive(files)]))
            return str((await engine.images.inspect(name))["Id"])
        finally:
            engine.close()

    return str(run(make()))


@pytest.mark.usefixtures("nothing_new")
@pytest.mark.parametrize("through", ["engine", "registry"])
def test_a_dispatch_that_is_cancelled_leaves_nothing(
    kernel: Notebook, wire: Relay, own_registry: OwnRegistry, second_engine: SecondEngine, through: str, small: str
) -> None:
    own_registry.serve_to(second_engine)
    relay = wire if through == "engine" else Relay(own_registry.port)
    settings = {} if through == "engine" else {"registry": f"{relay.address}/{secrets.token_hex(4)}"}
    place = target(wire.address, **settings)
    if through == "registry":
        run(push(kernel.container.engine, small, [], Registry(settings["registry"]), NAME, quiet))
    kernel.run("large = os.urandom(60_000_000)")
    package = on(small, captured(kernel))

    async def cancelled() -> float:
        loop, at = asyncio.get_running_loop(), asyncio.Event()
        relay.sent = 0
        relay.when = lambda sent: loop.call_soon_threadsafe(at.set) if sent > 5 * MB else None
        preparing = asyncio.ensure_future(place.prepare(kernel.container, package, quiet))
        await asyncio.wait_for(at.wait(), patient(60))
        begun = loop.time()
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        return loop.time() - begun

    assert run(cancelled()) < patient(10)
    relay.when = lambda sent: None
    assert at_rest(relay) < 30 * MB
    assert f"{NAME}:{package.package_id}" not in second_engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}")
    if relay is not wire:
        relay.close()


def test_an_engine_that_is_not_there(kernel: Notebook, second_engine: SecondEngine, tmp_path: Path) -> None:
    package = captured(kernel)
    for engine, settings, error, said in (
        (f"unix://{tmp_path}/none.sock", {}, EngineUnavailable, "No engine answers at unix://"),
        ("tcp://127.0.0.1:1", {"tls": str(second_engine.tls)}, EngineUnavailable, "is its machine up, and are address"),
        (second_engine.tcp, {}, EngineUnavailable, "are address, keys and certificates right"),
        (second_engine.tcp, {"tls": str(tmp_path)}, ConfigError, r"there is no ca\.pem in it"),
        ("no-such-context", {}, ConfigError, "There is no docker context 'no-such-context'"),
    ):
        with pytest.raises(error, match=said):
            run(target(engine, **settings).prepare(kernel.container, package, quiet))


def test_a_docker_context(second_engine: SecondEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    tls = "".join(f",{name}={second_engine.tls}/{name}.pem" for name in ("ca", "cert", "key"))
    for name, endpoint in (("far", f"host={second_engine.tcp}{tls}"), ("near", f"host={second_engine.url}")):
        command = ["docker", "context", "create", name, "--docker", endpoint]
        subprocess.run(command, check=True, capture_output=True, timeout=patient(30))
        assert run(target(name).check())[0].ok


@pytest.mark.usefixtures("nothing_new")
def test_a_registry_that_the_engine_does_not_reach(
    kernel: Notebook, second_engine: SecondEngine, own_registry: OwnRegistry, small: str
) -> None:
    relay = Relay(own_registry.port)
    try:
        place = target(second_engine.url, registry=f"{relay.address}/{secrets.token_hex(4)}")
        with pytest.raises(EngineError, match=rf"could not pull .* refused.* reach the registry {relay.address}"):
            run(place.prepare(kernel.container, on(small, captured(kernel)), quiet))
    finally:
        relay.close()


# The check


def test_the_check_says_what_is_there(second_engine: SecondEngine, own_registry: OwnRegistry) -> None:
    own_registry.serve_to(second_engine)

    def checked(**settings: Any) -> dict[str, Check]:
        return {one.name: one for one in run(target(second_engine.url, **settings).check())}

    plain = checked()
    assert all(one.ok for one in plain.values()) and plain["architecture"].found == "amd64"
    good = checked(registry=f"{own_registry.address}/team")
    assert list(good) == ["engine", "architecture", "memory", "registry", "pull"]
    assert all(one.ok for one in good.values()), good
    bad = checked(registry="127.0.0.1:1/team")
    assert not bad["registry"].ok and "127.0.0.1:1 cannot be reached" in bad["registry"].fix
    (none,) = run(target("unix:///nonexistent.sock").check())
    assert not none.ok and "No engine answers" in none.fix


def test_the_check_says_that_the_engine_cannot_pull(second_engine: SecondEngine, tmp_path: Path) -> None:
    """A registry that only this side reaches."""
    own = OwnRegistry(tmp_path)
    try:
        own.start()
        found = {one.name: one for one in run(target(second_engine.url, registry=own.address).check())}
    finally:
        own.kill()
    assert found["registry"].ok and not found["pull"].ok
    assert f"cannot pull from {own.address}" in found["pull"].fix and "refused" in found["pull"].fix


# An engine that goes away while a job runs

COUNT = """import os, time
last = 0
while not os.path.exists("/tmp/go"):
    print(last, flush=True)
    last += 1
    time.sleep(.05)"""
"""Counts until `let_go`."""


def followed(kernel: Notebook, place: DockerTarget, folder: Path, meanwhile: Callable[[str], Awaitable[None]]) -> Done:
    """Follow a job that counts.

    Args:
        meanwhile: is called with its id when it has begun to.
    """
    package = captured(kernel)
    prepared = run(place.prepare(kernel.container, package, quiet))
    one = task(kernel, package, COUNT)

    async def both() -> Done:
        job, heard = await place.start(one, prepared), asyncio.Event()
        following = asyncio.ensure_future(follow(place, one, job, folder, heard, lines=20))
        await asyncio.wait_for(heard.wait(), patient(60))
        await meanwhile(one.job_id)
        return await following

    try:
        return run(both())
    finally:
        run(place.release(prepared))


@pytest.mark.parametrize("by", ["socket", "tls"])
@pytest.mark.usefixtures("based")
def test_a_job_is_followed_on_when_its_engine_comes_back(
    kernel: Notebook, second_engine: SecondEngine, tmp_path: Path, by: str
) -> None:
    """With live-restore its container has run on, and nothing that it printed is lost or there twice."""
    place = target(second_engine.url) if by == "socket" else target(second_engine.tcp, tls=str(second_engine.tls))

    async def away(job: str) -> None:
        await asyncio.to_thread(second_engine.kill)
        await asyncio.sleep(1)  # the job counts on
        await asyncio.to_thread(second_engine.start, True)
        await asyncio.to_thread(let_go, job, second_engine.url)

    second_engine.kill()
    second_engine.start(live_restore=True)
    try:
        done = followed(kernel, place, tmp_path, away)
    finally:
        second_engine.kill()
        second_engine.start()
    assert done.outcome == Outcome(0), done
    assert done.variables.get("last", 0) > 20, f"it counted while the engine was away: {done}"
    assert done.text.split() == [str(number) for number in range(done.variables["last"])]


@pytest.mark.usefixtures("based")
def test_a_job_whose_container_its_engine_ended_says_so(
    kernel: Notebook, second_engine: SecondEngine, tmp_path: Path
) -> None:
    async def away(job: str) -> None:
        await asyncio.to_thread(second_engine.kill)
        await asyncio.to_thread(second_engine.start)

    done = followed(kernel, target(second_engine.url), tmp_path, away)
    assert done.outcome.exit_code != 0 or done.outcome.lost, done
    # What it had when it was told to end is what an interrupted cell leaves, where there was time for that.
    assert not done.variables or isinstance(done.variables["__docker_kernel_error__"], KeyboardInterrupt), done


@pytest.mark.usefixtures("based")
def test_a_job_whose_engine_stays_away_is_lost(
    kernel: Notebook, second_engine: SecondEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "BACK_SECONDS", 3)
    place, package = target(second_engine.url), captured(kernel)
    prepared = run(place.prepare(kernel.container, package, quiet))
    one = task(kernel, package, COUNT)

    async def both() -> Outcome:
        job = await place.start(one, prepared)
        await asyncio.to_thread(second_engine.kill)
        begun = time.monotonic()
        with pytest.raises(EngineError, match=r"did not come back within 3 s .*; a retry starts it anew"):
            async for _ in place.output(job, {}):
                pass
        outcome = await place.outcome(job)
        assert time.monotonic() - begun < patient(20)
        await asyncio.to_thread(second_engine.start)
        await place.clean(job)
        return outcome

    try:
        outcome = run(both())
    finally:
        if "Server Version" not in second_engine.docker("info"):
            second_engine.start()
        run(place.release(prepared))
    assert "the engine went away and did not come back" in outcome.lost


@pytest.mark.usefixtures("nothing_new")
def test_a_container_that_someone_removed_is_lost(
    kernel: Notebook, second_engine: SecondEngine, tmp_path: Path
) -> None:
    async def removed(job: str) -> None:
        names = second_engine.docker("ps", "--format", "{{.Names}}").split()
        await asyncio.to_thread(second_engine.docker, "rm", "-f", *(one for one in names if "docker-kernel-job" in one))

    done = followed(kernel, target(second_engine.url), tmp_path, removed)
    assert done.outcome.lost == "its container was removed"


@pytest.mark.usefixtures("nothing_new")
def test_a_host_process_that_starts_later_goes_on(
    kernel: Notebook, second_engine: SecondEngine, tmp_path: Path
) -> None:
    """What `prepare` and `start` gave is JSON, and another instance finds the job by it, from its first byte."""
    place, package = target(second_engine.url), captured(kernel)
    prepared = json.loads(json.dumps(run(place.prepare(kernel.container, package, quiet))))
    one = task(kernel, package, f"print('first', flush=True)\n{HOLD}print('last'); done = os.getuid()")
    job = json.loads(json.dumps(run(place.start(one, prepared))))
    later = target(second_engine.url)

    async def both() -> Done:
        heard = asyncio.Event()
        following = asyncio.ensure_future(follow(later, one, job, tmp_path, heard))
        await asyncio.wait_for(heard.wait(), patient(60))
        await asyncio.to_thread(let_go, one.job_id, second_engine.url)
        return await following

    done = run(both())
    assert done.text == "first\nlast\n" and done.variables["done"] == os.getuid()
    run(place.clean(job))
    run(later.release(prepared))
