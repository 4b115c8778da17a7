"""Kernels on the engine, as the command line sees them: list, stop, reap, and a terminal on one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from docker_kernel import background, cli, labels
from docker_kernel.engine import ContainerSpec, Engine, VolumeMount
from docker_kernel.errors import NotFound
from docker_kernel.kernel import running
from tests.conftest import NotebookMaker
from tests.notebook import Notebook
from tests.patience import patient

COMMAND = str(Path(sys.executable).parent / "docker-kernel")


def test_a_kernel_is_listed_with_its_spec(notebook: Notebook, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernels", "list"]) == 0
    listing = capsys.readouterr().out
    assert notebook.manager.kernel_id[:8] in listing and spec in listing


def test_a_kernel_is_found_by_the_start_of_its_id(notebook: Notebook, engine: Engine) -> None:
    found = background.run_blocking(running.find(engine, notebook.manager.kernel_id[:6]))
    assert found.container.id == notebook.container.container_id
    with pytest.raises(NotFound, match=r"No running kernel is called 'nothing': name one of .*"):
        background.run_blocking(running.find(engine, "nothing"))


def test_a_stopped_kernel_is_dead_to_its_server(start: NotebookMaker, capsys: pytest.CaptureFixture[str]) -> None:
    one = start()
    assert cli.main(["kernels", "stop", one.manager.kernel_id]) == 0
    assert "Stopped the kernel" in capsys.readouterr().out
    background.run_blocking(one.container.wait())
    assert not one.manager.is_alive()


def test_stop_wants_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernels", "stop"]) == 1
    assert "docker-kernel: Name the kernels to stop" in capsys.readouterr().err


def test_reap_removes_what_ended_and_leaves_what_runs(notebook: Notebook, engine: Engine, python_image: str) -> None:
    ended = ContainerSpec(
        python_image,
        ["true"],
        labels={labels.KIND: labels.KIND_KERNEL, labels.USER: str(os.getuid())},
        mounts=[
            VolumeMount(None, "/mnt", {labels.KIND: labels.KIND_VOLUME, labels.USER: str(os.getuid())}),
        ],
    )
    container = background.run_blocking(engine.containers.create(ended))
    try:
        background.run_blocking(engine.containers.start(container))
        background.run_blocking(engine.containers.wait(container))
        found = background.run_blocking(running.leftovers(engine))
        assert container in [state.id for state in found.containers]
        assert notebook.container.container_id not in [state.id for state in found.containers]
        assert notebook.container.volume not in found.volumes
        mine = running.Leftovers([state for state in found.containers if state.id == container], [])
        background.run_blocking(running.reap(engine, mine))
        with pytest.raises(NotFound):
            background.run_blocking(engine.containers.inspect(container))
    finally:
        background.run_blocking(engine.containers.remove(container))
    assert notebook.value("1 + 1") == 2


def test_the_console_attaches_with_the_keys_and_interrupts(notebook: Notebook) -> None:
    arguments = ["console", notebook.manager.kernel_id]
    terminal = pexpect.spawn(COMMAND, arguments, encoding="utf8", timeout=patient(30), dimensions=(24, 100))
    try:
        terminal.expect(r"In \[")
        terminal.send("from_console = 6 * 7; print('has', from_console)\r")
        terminal.expect("has 42")
        terminal.expect(r"In \[")
        terminal.send("print('go' + 'ing'); import time; time.sleep(600)\r")
        terminal.expect("going")
        terminal.sendintr()
        terminal.expect("KeyboardInterrupt")
    finally:
        terminal.close(force=True)
    assert notebook.value("from_console") == 42
