"""The end of containers, which all who wait for it learn from one stream of the engine's events."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from docker_kernel import background, labels
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import EngineUnavailable, NotFound
from tests.batch.small_image import small_image
from tests.engines import Relay, SecondEngine
from tests.patience import patient, until
from tests.test_background import forked

run = background.run_blocking


async def started(engine: Engine, image: str, *command: str, auto_remove: bool = False) -> str:
    marks = {labels.KIND: labels.KIND_BUILD}
    spec = ContainerSpec(image=image, command=command, labels=marks, network="none", auto_remove=auto_remove)
    container = await engine.containers.create(spec)
    await engine.containers.start(container)
    return container


async def codes(waits: Sequence[asyncio.Future[int]], seconds: float = 20) -> set[int]:
    return set(await asyncio.wait_for(asyncio.gather(*waits), patient(seconds)))


async def waiting(engine: Engine, container: str) -> asyncio.Future[int]:
    """A wait that has looked at its container, and found that it runs."""
    wait = asyncio.ensure_future(engine.containers.wait(container))
    await asyncio.sleep(1)
    assert not wait.done(), wait
    return wait


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_those_who_wait_share_one_thread(engine: Engine, python_image: str) -> None:
    async def go() -> None:
        containers = [await started(engine, python_image, "sleep", "600") for _ in range(2)]
        try:
            before = names()
            waits = [
                asyncio.ensure_future(engine.containers.wait(container)) for container in containers for _ in range(100)
            ]
            await asyncio.sleep(1)
            new = Counter(names()) - Counter(before)
            assert {name for name in new if not name.startswith("docker-kernel-engine")} <= {"docker-kernel-events"}
            assert new["docker-kernel-events"] <= 1, new
            await asyncio.gather(*(engine.containers.kill(container) for container in containers))
            assert await codes(waits) == {137}
        finally:
            for container in containers:
                await engine.containers.remove(container)

    run(go())


def test_no_end_is_missed_however_soon_it_comes(engine: Engine, python_image: str) -> None:
    async def one(number: int, auto_remove: bool) -> None:
        command = ["sh", "-c", f"sleep 0.{number}; exit {number}"]
        container = await started(engine, python_image, *command, auto_remove=auto_remove)
        try:
            # Some look before its end, some while it comes, some are late.
            waits = []
            for _ in range(30):
                waits.append(asyncio.ensure_future(engine.containers.wait(container)))
                await asyncio.sleep(0.03)
            results = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), patient(20))
            gone = [isinstance(result, NotFound) for result in results]
            assert {result for result in results if not isinstance(result, NotFound)} <= {number}, results
            assert gone == sorted(gone) and (auto_remove or not any(gone)), "only those who came late may be told so"
        finally:
            await engine.containers.remove(container)

    async def go() -> None:
        for number in range(1, 6):
            await asyncio.gather(one(number, False), one(number, True))

    run(go())


def test_a_container_may_be_removed_while_it_is_waited_for(engine: Engine, python_image: str) -> None:
    async def go() -> None:
        container = await started(engine, python_image, "sleep", "600")
        wait = await waiting(engine, container)
        await engine.containers.remove(container)
        assert await codes([wait]) == {137}
        with pytest.raises(NotFound):
            await engine.containers.wait(container)

    run(go())


def test_a_container_may_be_waited_for_by_its_name(engine: Engine, python_image: str) -> None:
    async def go() -> None:
        container = await started(engine, python_image, "sleep", "600")
        try:
            wait = await waiting(engine, (await engine.containers.inspect(container)).name)
            await engine.containers.rename(container, f"{labels.BUILD_NAME}{os.urandom(6).hex()}")
            await engine.containers.kill(container, signal.SIGKILL)
            assert await codes([wait]) == {137}
        finally:
            await engine.containers.remove(container)

    run(go())


def test_an_end_that_the_engine_did_not_tell_is_found(
    engine: Engine, python_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docker_kernel.engine.events.ENDS", ("rename",))
    monkeypatch.setattr("docker_kernel.engine.events.SWEEP_SECONDS", 0.5)

    async def go() -> None:
        alone = await Engine.connect()
        container = await started(alone, python_image, "sleep", "600")
        try:
            wait = await waiting(alone, container)
            await asyncio.sleep(1.5)
            await alone.containers.kill(container)
            assert await codes([wait]) == {137}
        finally:
            await alone.containers.remove(container)
        alone.close()

    run(go())


def test_nobody_listens_when_nobody_waits(engine: Engine, python_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docker_kernel.engine.events.SWEEP_SECONDS", 0.5)
    alone, before = run(Engine.connect()), names().count("docker-kernel-events")
    container = run(started(alone, python_image, "true"))
    try:
        assert run(alone.containers.wait(container)) == 0
        until(lambda: names().count("docker-kernel-events") <= before, what="the end of the stream")
        assert run(alone.containers.wait(container)) == 0, "it begins again"
    finally:
        run(alone.containers.remove(container))
        alone.close()


def test_a_forked_process_waits_as_its_parent_does(engine: Engine, python_image: str) -> None:
    container = run(started(engine, python_image, "sleep", "600"))
    waits = background.submit(engine.containers.wait(container))
    time.sleep(0.5)
    child = forked(lambda: os._exit(run(engine.containers.wait(container))))
    try:
        time.sleep(1)
        assert child.is_alive()
        run(engine.containers.kill(container))
        assert waits.result(patient(20)) == 137
        child.join(patient(20))
        assert child.exitcode == 137
    finally:
        child.kill()
        run(engine.containers.remove(container))


@pytest.fixture(scope="module")
def small(engine: Engine, second_engine: SecondEngine) -> Iterator[str]:
    """An image on the second engine that has `sleep`."""
    there = run(Engine.connect(second_engine.url))
    yield small_image(there, f"docker-kernel-test/{os.urandom(6).hex()}:small")
    there.close()


@pytest.fixture
def wire(second_engine: SecondEngine) -> Iterator[tuple[Relay, Engine]]:
    """The second engine, and the way to it, which may be cut."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as folder:
        relay = Relay(str(second_engine.folder / "docker.sock"), Path(folder))
        there = run(Engine.connect(relay.address))
        yield relay, there
        there.close()
        relay.close()


def test_a_wait_goes_on_when_the_connection_was_cut(
    wire: tuple[Relay, Engine], second_engine: SecondEngine, small: str
) -> None:
    relay, there = wire

    async def go() -> None:
        kept, removed = [await started(there, small, "sleep", "600", auto_remove=auto) for auto in (False, True)]
        later = await started(there, small, "sleep", "600")
        try:
            waits = [await waiting(there, container) for container in (kept, removed, later)]
            with relay.cut():
                await asyncio.to_thread(second_engine.docker, "kill", kept, removed)
                await asyncio.sleep(1)
            assert await codes(waits[:2]) == {137}
            assert not waits[2].done()
            await asyncio.to_thread(second_engine.docker, "kill", later)
            assert await codes(waits[2:]) == {137}
        finally:
            for container in (kept, later):
                await there.containers.remove(container)

    run(go())


@pytest.mark.parametrize("live_restore", [False, True])
def test_a_wait_goes_on_when_its_engine_starts_again(
    second_engine: SecondEngine, small: str, live_restore: bool
) -> None:
    second_engine.kill()
    second_engine.start(live_restore=live_restore)
    there = run(Engine.connect(second_engine.url))

    async def go() -> None:
        container = await started(there, small, "sleep", "600")
        try:
            wait = await waiting(there, container)
            await asyncio.to_thread(second_engine.kill)
            await asyncio.to_thread(second_engine.start, live_restore)
            if live_restore:
                await asyncio.sleep(1)
                assert not wait.done(), wait
                await there.containers.kill(container)
            assert await codes([wait]) == {137}
        finally:
            await there.containers.remove(container)

    try:
        run(go())
    finally:
        there.close()
        second_engine.kill()
        second_engine.start()


def test_a_wait_goes_on_when_its_engine_had_hung(second_engine: SecondEngine, small: str) -> None:
    there = run(Engine.connect(second_engine.url))
    container = run(started(there, small, "sleep", "4"))
    waits = background.submit(there.containers.wait(container))
    time.sleep(0.5)
    assert second_engine.process is not None
    os.kill(second_engine.process.pid, signal.SIGSTOP)
    try:
        time.sleep(5)
        assert not waits.done()
    finally:
        os.kill(second_engine.process.pid, signal.SIGCONT)
    assert waits.result(patient(20)) == 0
    run(there.containers.remove(container))
    there.close()


def test_an_engine_that_does_not_come_back_is_told(
    wire: tuple[Relay, Engine], second_engine: SecondEngine, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docker_kernel.engine.events.RECONNECT_SECONDS", 1)
    relay, there = wire

    async def go() -> None:
        container = await started(there, small, "sleep", "600")
        waits = [await waiting(there, container) for _ in range(2)]
        with relay.cut():
            for wait in waits:
                with pytest.raises(EngineUnavailable, match="No engine answers"):
                    await asyncio.wait_for(wait, patient(10))
            with pytest.raises(EngineUnavailable):
                await there.containers.wait(container)
        again = await waiting(there, container)
        await there.containers.remove(container)
        assert await codes([again]) == {137}

    run(go())


def test_nobody_waits_on_a_connection_that_was_closed(engine: Engine, python_image: str) -> None:
    async def go() -> None:
        container = await started(engine, python_image, "sleep", "600")
        try:
            other = await Engine.connect()
            wait = await waiting(other, container)
            other.close()
            with pytest.raises(EngineUnavailable, match="was closed"):
                await asyncio.wait_for(wait, patient(5))
        finally:
            await engine.containers.remove(container)

    run(go())
