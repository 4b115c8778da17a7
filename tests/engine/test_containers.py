"""Containers in odd moments: that never ran, are gone, or are those of an engine that does not answer."""

from __future__ import annotations

import os
import signal
import time

import pytest

from docker_kernel import background, labels
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import EngineUnavailable, NotFound
from tests.engines import SecondEngine
from tests.patience import patient

run = background.run_blocking


def made(engine: Engine, image: str, *command: str) -> str:
    spec = ContainerSpec(image=image, command=command, labels={labels.KIND: labels.KIND_BUILD}, network="none")
    return run(engine.containers.create(spec))


def test_only_what_never_ran_is_removed_as_unstarted(engine: Engine, python_image: str) -> None:
    never, runs = (made(engine, python_image, "sleep", "600") for _ in range(2))
    ended = made(engine, python_image, "true")
    try:
        for one in (runs, ended):
            run(engine.containers.start(one))
        run(engine.containers.wait(ended))
        assert [run(engine.containers.remove_unstarted(one)) for one in (never, runs, ended)] == [True, False, False]
        with pytest.raises(NotFound):
            run(engine.containers.inspect(never))
        assert run(engine.containers.inspect(runs)).running and not run(engine.containers.inspect(ended)).running
        assert run(engine.containers.remove_unstarted(never)), "that it is gone already is no error"
    finally:
        for one in (never, runs, ended):
            run(engine.containers.remove(one))


def test_the_exit_code_of_a_container_that_is_gone_is_known(engine: Engine, python_image: str) -> None:
    container = made(engine, python_image, "sh", "-c", "exit 37")
    try:
        run(engine.containers.start(container))
        run(engine.containers.wait(container))
    finally:
        run(engine.containers.remove(container))
    assert run(engine.containers.last_exit(container)) == 37
    assert run(engine.containers.last_exit("0" * 64)) is None


def test_an_engine_that_hangs_is_asked_for_an_exit_code_for_a_while_only(
    second_engine: SecondEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docker_kernel.engine.containers.EVENTS_SECONDS", 1)
    there = run(Engine.connect(second_engine.url))
    assert second_engine.process is not None
    os.kill(second_engine.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            run(there.containers.last_exit("0" * 64))
        assert time.monotonic() - began < patient(5)
    finally:
        os.kill(second_engine.process.pid, signal.SIGCONT)
        there.close()
