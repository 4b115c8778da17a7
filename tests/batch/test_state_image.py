"""Images made of layers, brought to a real registry and to a second engine; what crosses is counted on the wire."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, labels
from docker_kernel.batch.compressed import Blob, known_blob
from docker_kernel.batch.layers import Layer
from docker_kernel.batch.registry import Registry
from docker_kernel.batch.state_image import (
    LAYER,
    OCI_LAYER,
    Loaded,
    Pushed,
    bytes_to_load,
    bytes_to_push,
    check_architecture,
    load,
    push,
)
from docker_kernel.engine import ContainerSpec, Engine, File, archive
from docker_kernel.errors import EngineError, ImageMissing, JobError
from tests.batch.small_image import small_image
from tests.batch.wire import at_rest
from tests.engines import OwnRegistry, Relay, SecondEngine
from tests.patience import patient, until

run = background.run_blocking
MB = 1_000_000


def layer(name: str, data: bytes) -> Layer:
    tar = archive([File(f"state/{name}", data)])
    return Layer(f"sha256:{hashlib.sha256(tar).hexdigest()}", len(tar), lambda: iter([tar]))


def unread(one: Layer) -> Layer:
    """The same layer, which must not be read."""

    def refuse() -> Iterator[bytes]:
        raise AssertionError("it was read")

    return Layer(one.digest, one.size, refuse)


def quiet(text: str) -> None:
    pass


def image_id(engine: Engine, reference: str) -> str:
    return str(run(engine.images.inspect(reference))["Id"])


def printed(engine: Engine, image: str, command: list[str]) -> str:
    """What a container of an image prints."""

    async def go() -> str:
        spec = ContainerSpec(image, command, network="none", labels={labels.KIND: labels.KIND_BUILD})
        container = await engine.containers.create(spec)
        try:
            await engine.containers.start(container)
            await engine.containers.wait(container)
            return (await engine.containers.logs(container)).decode()
        finally:
            await engine.containers.remove(container)

    return str(run(go()))


@pytest.fixture(scope="module")
def image(engine: Engine) -> Iterator[str]:
    """An environment's image, which both engines and the registry can get."""
    reference = f"docker-kernel-test/{os.urandom(6).hex()}:small"
    yield small_image(engine, reference)
    run(engine.images.remove(reference))


@pytest.fixture(scope="module")
def other(second_engine: SecondEngine) -> Iterator[Engine]:
    engine = run(Engine.connect(second_engine.url))
    yield engine
    engine.close()


@pytest.fixture
def wire(second_engine: SecondEngine) -> Iterator[tuple[Relay, Engine]]:
    """The second engine, and what counts the bytes that are sent to it."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as folder:
        relay = Relay(str(second_engine.folder / "docker.sock"), Path(folder))
        engine = run(Engine.connect(relay.address))
        yield relay, engine
        engine.close()
        relay.close()


@pytest.fixture
def line(own_registry: OwnRegistry) -> Iterator[tuple[Relay, Registry]]:
    """The registry, and what counts the bytes that are sent to it, the engine's too."""
    relay = Relay(own_registry.port)
    yield relay, Registry(f"{relay.address}/{os.urandom(4).hex()}")
    relay.close()


def tags(engine: Engine, image: str) -> list[str]:
    return list(run(engine.images.inspect(image))["RepoTags"])


# Through a registry


def test_a_second_push_sends_what_changed(engine: Engine, image: str, line: tuple[Relay, Registry]) -> None:
    relay, registry = line
    before = tags(engine, image)
    large, small = layer("large", os.urandom(20 * MB)), layer("small", b"1")
    begun = time.monotonic()
    first = run(push(engine, image, [large, small], registry, "jobs", quiet))
    assert first.reference.startswith(f"{registry.host}/{registry.prefix}/jobs@sha256:")
    assert first.sent > 20 * MB and relay.sent > 20 * MB
    whole, seconds = relay.sent, time.monotonic() - begun
    changed = layer("small", b"2")
    assert 0 < run(bytes_to_push(engine, image, [large, changed], registry, "jobs")) <= changed.size
    relay.sent, begun = 0, time.monotonic()
    second = run(push(engine, image, [unread(large), changed], registry, "jobs", quiet))
    print(f"first {whole} B in {seconds:.2f} s, second {relay.sent} B in {time.monotonic() - begun:.2f} s")
    assert second.reference != first.reference
    assert second.sent < 100_000 and relay.sent < 100_000
    assert run(push(engine, image, [unread(large), unread(changed)], registry, "jobs", quiet)).reference == (
        second.reference
    )
    assert tags(engine, image) == before


def test_what_was_pushed_runs_on_another_engine(
    engine: Engine, image: str, other: Engine, own_registry: OwnRegistry, second_engine: SecondEngine
) -> None:
    own_registry.serve_to(second_engine)
    registry = Registry(f"{own_registry.address}/runs")
    layers = [layer("a", b"from a\n"), layer("b", b"from b\n"), layer("a", b"over a\n")]
    pushed = run(push(engine, image, layers, registry, "jobs", quiet))
    found = run(other.images.pull_digest(pushed.reference))
    try:
        assert printed(other, found, ["cat", "/state/a", "/state/b"]) == "over a\nfrom b\n"
        made, base = run(other.images.inspect(found)), run(engine.images.inspect(image))
        assert made["Config"]["Env"] == base["Config"]["Env"]
        assert made["RootFS"]["Layers"] == [*base["RootFS"]["Layers"], *(one.digest for one in layers)]
        assert set(made["Config"]["Labels"]) <= {labels.KIND, labels.PYTHON}
        assert made["Config"]["Labels"][labels.KIND] == labels.KIND_JOB_IMAGE
    finally:
        run(other.images.remove(pushed.reference))


def test_several_pushes_at_once_send_each_blob_once(engine: Engine, image: str, line: tuple[Relay, Registry]) -> None:
    relay, registry = line
    run(push(engine, image, [], registry, "jobs", quiet))
    relay.sent = 0
    before = tags(engine, image)
    layers = [layer("same", os.urandom(3 * MB))]

    async def both() -> list[Pushed]:
        clients = [Registry(f"{registry.host}/{registry.prefix}") for _ in range(4)]
        return await asyncio.gather(*(push(engine, image, layers, one, "jobs", quiet) for one in clients))

    assert len({one.reference for one in run(both())}) == 1
    assert 3 * MB < relay.sent < 4 * MB
    assert tags(engine, image) == before


def test_layers_are_pushed_compressed_and_named_so(engine: Engine, image: str, line: tuple[Relay, Registry]) -> None:
    _, registry = line
    plain, random = layer("plain", b"x" * 2 * MB), layer("random", os.urandom(2 * MB))
    pushed = run(push(engine, image, [plain, random], registry, "jobs", quiet))
    assert pushed.sent < 2.1 * MB
    repository, digest = registry.repository("jobs"), pushed.reference.partition("@")[2]
    found = registry.manifest(repository, digest)
    assert found is not None
    kinds = {one["mediaType"] for one in found.content["layers"]}
    assert kinds == {LAYER if "docker" in found.media_type else OCI_LAYER}, "as the engine's own are"
    for one, described in zip((plain, random), found.content["layers"][-2:], strict=True):
        data = registry.blob(repository, described["digest"])
        assert len(data) == described["size"] and b"".join(one.open()) == gzip.decompress(data)
        assert known_blob(one) == Blob(described["digest"], described["size"])


def test_a_registry_killed_during_a_push(engine: Engine, image: str, own_registry: OwnRegistry) -> None:
    registry = Registry(f"{own_registry.address}/{os.urandom(4).hex()}")
    run(push(engine, image, [], registry, "jobs", quiet))
    before = tags(engine, image)
    data = archive([File("state/x", os.urandom(8 * MB))])
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def deadly() -> Iterator[bytes]:
        yield data[: 4 * MB]
        own_registry.kill()
        yield data[4 * MB :]

    begun = time.monotonic()
    with pytest.raises(JobError, match=f"The registry {own_registry.address} cannot be reached"):
        run(push(engine, image, [Layer(digest, len(data), deadly)], registry, "jobs", quiet))
    assert time.monotonic() - begun < patient(15)
    own_registry.start()
    assert tags(engine, image) == before
    assert run(push(engine, image, [layer("x", b"1")], registry, "jobs", quiet)).sent > 0


def test_a_registry_that_is_not_there(engine: Engine, image: str) -> None:
    before = tags(engine, image)
    with pytest.raises(JobError, match="cannot be reached"):
        run(push(engine, image, [layer("x", b"1")], Registry("127.0.0.1:1/team"), "jobs", quiet))
    assert tags(engine, image) == before


def test_an_environment_image_that_someone_replaced_is_pushed_again(
    engine: Engine, image: str, line: tuple[Relay, Registry]
) -> None:
    _, registry = line
    good = run(push(engine, image, [], registry, "jobs", quiet))
    repository, tag = registry.repository("jobs"), f"base-{image.removeprefix('sha256:')[:20]}"
    bad = run(push(engine, image, [layer("evil", b"evil")], registry, "jobs", quiet))
    replaced = registry.manifest(repository, bad.reference.partition("@")[2])
    assert replaced is not None
    registry.put_manifest(repository, tag, replaced.content, replaced.media_type)
    assert run(push(engine, image, [], registry, "jobs", quiet)).reference == good.reference


def test_a_push_that_is_cancelled_ends(engine: Engine, image: str, line: tuple[Relay, Registry]) -> None:
    relay, registry = line
    run(push(engine, image, [], registry, "jobs", quiet))
    before = relay.sent
    one, seconds = slow(layer("slow", os.urandom(20 * MB)))

    async def cancelled() -> float:
        pushing = asyncio.ensure_future(push(engine, image, [one], registry, "jobs", quiet))
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        pushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pushing
        return time.monotonic() - begun

    assert run(cancelled()) < seconds / 4
    assert at_rest(relay) < before + 10 * MB and not registry.has_blob(registry.repository("jobs"), one.digest)


def slow(one: Layer, seconds: float = 10) -> tuple[Layer, float]:
    """The same layer, of which the engine takes that long to be read."""

    def open() -> Iterator[bytes]:
        (data,) = one.open()
        for at in range(0, len(data), len(data) // 100):
            time.sleep(seconds / 100)
            yield data[at : at + len(data) // 100]

    return Layer(one.digest, one.size, open), seconds


def test_an_image_with_no_name_is_pushed_and_stays(engine: Engine, image: str, line: tuple[Relay, Registry]) -> None:
    """A kernel's image whose name another build has taken since."""
    _, registry = line

    async def go() -> Pushed:
        spec = ContainerSpec(image, ["sleep", "100"], network="none", labels={labels.KIND: labels.KIND_BUILD})
        source = await engine.containers.create(spec)
        container = ""
        try:
            await engine.containers.put(source, [File("unnamed", os.urandom(8))])
            made = await engine.containers.commit(source, "docker-kernel-test/unnamed", "latest")
            spec.image = made
            container = await engine.containers.create(spec)
            await engine.containers.start(container)
            await engine.images.untag(made, "docker-kernel-test/unnamed", "latest")
            assert not (await engine.images.inspect(made))["RepoTags"]
            pushed = await push(engine, made, [layer("x", b"1")], registry, "jobs", quiet)
            assert not (await engine.images.inspect(made))["RepoTags"]
            await engine.containers.remove(container)
            await engine.images.remove(made)
            return pushed
        finally:
            for one in filter(None, (container, source)):
                await engine.containers.remove(one)

    assert run(go()).sent > 0


# Without a registry


@pytest.fixture(scope="module")
def based(engine: Engine, image: str, other: Engine) -> Iterator[None]:
    """The environment's image is on the second engine."""
    name = f"docker-kernel-test/{os.urandom(6).hex()}:base"
    run(load(engine, image, [], other, name, quiet))
    yield
    run(other.images.remove(name))


@pytest.fixture
def name(other: Engine) -> Iterator[str]:
    """A name on the second engine, removed with its image."""
    made = f"docker-kernel-test/{os.urandom(6).hex()}:one"
    yield made
    for tag in ("one", "two"):
        run(other.images.remove(made.replace(":one", f":{tag}")))


def test_a_second_load_sends_what_changed(
    engine: Engine, image: str, wire: tuple[Relay, Engine], name: str, second_engine: SecondEngine
) -> None:
    relay, there = wire
    for one in run(there.images.ids()):
        second_engine.docker("image", "rm", "-f", one)
    large, small = layer("large", os.urandom(20 * MB)), layer("small", b"1\n")
    size = run(engine.images.inspect(image))["Size"]
    assert run(bytes_to_load(engine, image, [large, small], there)) > size + 20 * MB
    begun = time.monotonic()
    first = run(load(engine, image, [large, small], there, name, quiet))
    whole, seconds = relay.sent, time.monotonic() - begun
    assert first.sent > size + 20 * MB and whole > first.sent
    assert printed(there, first.image, ["cat", "/state/small"]) == "1\n"
    changed, second_name = layer("small", b"2\n"), name.replace(":one", ":two")
    assert run(bytes_to_load(engine, image, [large, changed], there)) == changed.size
    relay.sent, begun = 0, time.monotonic()
    second = run(load(engine, image, [unread(large), changed], there, second_name, quiet))
    print(f"first {whole} B in {seconds:.2f} s, second {relay.sent} B in {time.monotonic() - begun:.2f} s")
    assert second.sent == changed.size and relay.sent < 100_000
    assert printed(there, second.image, ["cat", "/state/small"]) == "2\n"
    assert run(bytes_to_load(engine, image, [large, changed], there)) == 0


@pytest.mark.usefixtures("based")
def test_layers_that_are_there_below_others_are_sent(
    engine: Engine, image: str, wire: tuple[Relay, Engine], name: str
) -> None:
    """What an engine has is found from the bottom up: a chain id depends on what is beneath."""
    relay, there = wire
    low, high = layer("low", b"low"), layer("high", os.urandom(3 * MB))
    run(load(engine, image, [low, high], there, name, quiet))
    relay.sent = 0
    found = run(load(engine, image, [high], there, name.replace(":one", ":two"), quiet))
    assert found.sent == high.size < relay.sent


@pytest.mark.usefixtures("based")
def test_a_layer_that_cannot_be_read_leaves_nothing(
    engine: Engine, image: str, other: Engine, name: str, second_engine: SecondEngine
) -> None:
    run(load(engine, image, [], other, name, quiet))
    before = run(other.images.ids())

    def broken() -> Iterator[bytes]:
        yield bytes(MB)
        raise JobError("the state was changed")

    with pytest.raises(JobError, match="the state was changed"):
        made = Layer(f"sha256:{'0' * 64}", 5 * MB, broken)
        run(load(engine, image, [made], other, name.replace(":one", ":two"), quiet))
    assert run(other.images.ids()) == before
    until(lambda: not list((second_engine.folder / "data/tmp").iterdir()), 10, "the engine's own clean-up")


@pytest.mark.usefixtures("based")
def test_a_layer_that_is_not_what_its_digest_says_is_refused(
    engine: Engine, image: str, other: Engine, name: str
) -> None:
    one = layer("x", b"1")
    false = Layer(one.digest, one.size, layer("x", b"2").open)
    with pytest.raises(EngineError, match="did not take the image"):
        run(load(engine, image, [false], other, name, quiet))
    with pytest.raises(ImageMissing):
        run(other.images.inspect(name))


@pytest.mark.usefixtures("based")
def test_a_load_that_is_cancelled_leaves_nothing(engine: Engine, image: str, wire: tuple[Relay, Engine]) -> None:
    relay, there = wire
    name = f"docker-kernel-test/{os.urandom(6).hex()}:one"
    one, seconds = slow(layer("slow", os.urandom(20 * MB)))

    async def cancelled() -> float:
        loading = asyncio.ensure_future(load(engine, image, [one], there, name, quiet))
        await asyncio.sleep(1)
        begun = time.monotonic()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        return time.monotonic() - begun

    before = set(run(there.images.ids()))
    assert run(cancelled()) < seconds / 4
    assert at_rest(relay) < 20 * MB
    assert set(run(there.images.ids())) == before


@pytest.mark.usefixtures("based")
def test_two_loads_at_once(engine: Engine, image: str, other: Engine, name: str) -> None:
    layers = [layer("same", os.urandom(3 * MB))]

    async def both() -> list[Loaded]:
        names = (name, name.replace(":one", ":two"))
        return await asyncio.gather(*(load(engine, image, layers, other, one, quiet) for one in names))

    first, second = run(both())
    assert first.image == second.image


def test_an_engine_that_breaks_off_is_named(second_engine: SecondEngine, tmp_path: Path) -> None:
    """Its images and files are read in pieces: where it dies in between is for the user to know."""
    relay = Relay(str(second_engine.folder / "docker.sock"), tmp_path)
    there = run(Engine.connect(relay.address))
    data = os.urandom(40 * MB)

    async def go() -> None:
        tar = archive([File("large", data)])
        await there.images.import_tar(_written(tmp_path / "root.tar", tar), "docker-kernel-test/large", "latest")
        container = await there.containers.create(ContainerSpec("docker-kernel-test/large", ["none"], network="none"))
        stream = iter(await there.containers.get_stream(container, "/large"))
        await asyncio.to_thread(next, stream)
        await asyncio.to_thread(second_engine.kill)
        await asyncio.to_thread(lambda: [None for _ in stream])

    try:
        with pytest.raises(EngineError, match=f"The engine at {relay.address} broke off while it was read"):
            run(go())
    finally:
        there.close()
        relay.close()
        second_engine.start()
        for container in second_engine.docker("ps", "-aq").split():
            second_engine.docker("rm", "-f", container)
        second_engine.docker("image", "rm", "docker-kernel-test/large")


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Another architecture


@pytest.fixture
def foreign(engine: Engine, image: str, tmp_path: Path, used_images: list[str]) -> str:
    """An image for arm64: another's archive, its config edited."""
    path = tmp_path / "image.tar"
    reference = f"docker-kernel-test/{os.urandom(6).hex()}:arm"
    tiny = f"docker-kernel-test/{os.urandom(6).hex()}:tiny"
    used_images += [tiny, reference]
    run(engine.images.import_tar(_written(tmp_path / "root.tar", archive([File("x", b"x")])), *tiny.split(":")))
    subprocess.run(["docker", "save", "-o", str(path), tiny], check=True, timeout=patient(60))
    edited = io.BytesIO()
    with tarfile.open(path) as source, tarfile.open(fileobj=edited, mode="w") as made:
        listing: list[dict[str, Any]] = json.load(_file(source, "manifest.json"))
        for member in source:
            data = _file(source, member.name).read() if member.isreg() else b""
            if member.name == listing[0]["Config"]:
                data = json.dumps({**json.loads(data), "architecture": "arm64"}).encode()
            elif member.name == "manifest.json":
                data = json.dumps([{**listing[0], "RepoTags": [reference]}]).encode()
            elif member.name == "repositories":
                continue
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    run(engine.images.load(iter([edited.getvalue()])))
    return image_id(engine, reference)


def _file(tar: tarfile.TarFile, name: str) -> Any:
    return tar.extractfile(name)


def test_an_image_for_another_architecture_is_refused(engine: Engine, image: str, foreign: str) -> None:
    machine = run(engine.info()).architecture
    run(check_architecture(engine, image, machine, "there"))
    run(check_architecture(engine, foreign, "aarch64", "there"))
    run(check_architecture(engine, foreign, "", "there"))
    with pytest.raises(JobError, match=r"is for arm64, and the target there runs amd64: choose a kernel whose image"):
        run(check_architecture(engine, foreign, machine, "there"))
