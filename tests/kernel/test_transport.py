"""Kernels whose messages go over sockets in files: their life without ports, and what is left of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from jupyter_client.session import Session

from docker_kernel import background
from docker_kernel.config import KernelConfig
from docker_kernel.engine import Engine
from docker_kernel.errors import ConfigError
from docker_kernel.kernel import running, sockets
from docker_kernel.kernel.sockets import SocketFolder
from docker_kernel.kernel.user import container_user
from tests.conftest import NotebookMaker, SpecMaker
from tests.kernel.test_life import ORPHAN, Launched, gone
from tests.patience import patient


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of each test's own, which is empty at its end."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def folder(engine: Engine) -> Iterator[SocketFolder]:
    """A folder for sockets, with no kernel."""
    info = background.run_blocking(engine.info())
    made = SocketFolder(container_user(KernelConfig(), info, []), KernelConfig())
    yield made
    made.remove()


def published(container: str) -> object:
    raw = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
    settings = json.loads(raw)[0]["NetworkSettings"]["Ports"]
    return {port: bound for port, bound in settings.items() if bound}


@pytest.mark.parametrize(
    ("settings", "manager"),
    [({"transport": "ipc"}, {}), ({}, {"transport": "ipc"}), ({"network": "none"}, {})],
    ids=["setting", "client", "network=none"],
)
def test_a_kernel_lives_without_ports(
    start: NotebookMaker, make_spec: SpecMaker, place: Path, settings: dict[str, str], manager: dict[str, str]
) -> None:
    one = start(make_spec(**settings), **manager)
    info = json.loads(Path(one.manager.connection_file).read_text())
    assert info["transport"] == "ipc" and info["curve_secretkey"]
    assert published(one.container.container_id) == {}
    folder = Path(info["ip"]).parent
    assert folder.parent == place and stat.S_IMODE(folder.stat().st_mode) == 0o700
    cell = "import time; print('begun', flush=True); time.sleep(600)"
    assert one.run(cell, 20, on_text=one.manager.interrupt_kernel).name == "KeyboardInterrupt"
    for now in (False, True):
        one.restart(now=now)
        assert one.value("6 * 7") == 42
    assert one.run("%local 2").shown == "2"
    one.client.execute("import os; os.kill(os.getpid(), 9)")
    assert background.run_blocking(one.container.wait()) == -9
    one.restart()
    assert one.value("6 * 7") == 42
    one.manager.shutdown_kernel()
    assert not folder.exists()


def test_ports_that_the_notebook_opens_are_published_all_the_same(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(transport="ipc", publish=[8050]))
    assert one.value("list(__import__('docker_kernel').ports)") == [8050]
    assert list(background.run_blocking(one.container.engine.containers.inspect(one.container.container_id)).ports) == [
        8050
    ]


def test_a_container_that_is_gone_is_replaced_on_the_same_sockets(
    start: NotebookMaker, make_spec: SpecMaker, engine: Engine
) -> None:
    one = start(make_spec(transport="ipc"))
    container, prefix = one.container.container_id, one.manager.ip
    background.run_blocking(engine.containers.remove(container))
    background.run_blocking(one.container.wait())
    one.restart()
    assert one.container.container_id != container and one.manager.ip == prefix
    assert one.value("1 + 1") == 2


def test_a_death_is_told_in_the_cells_output(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(transport="ipc"))
    one.client.execute("import os, time; time.sleep(0.5); os.kill(os.getpid(), 11)")
    while (message := one.client.get_iopub_msg(timeout=patient(20)))["msg_type"] != "error":
        pass
    assert message["content"]["evalue"] == "The kernel died: its process was ended by SIGSEGV."


def test_without_the_curve_keys_sockets_say_nothing(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(transport="ipc"))
    info = json.loads(Path(one.manager.connection_file).read_text())
    context = zmq.Context()
    listener, caller = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    try:
        listener.subscribe(b"")
        listener.connect(f"ipc://{info['ip']}-{info['iopub_port']}")
        caller.connect(f"ipc://{info['ip']}-{info['shell_port']}")
        Session(key=info["key"].encode()).send(caller, "execute_request", {"code": "stolen = 1", "silent": False})
        one.run("print('secret')")
        assert not listener.poll(1500) and not caller.poll(500)
        assert one.value("'stolen' in globals()") is False
    finally:
        context.destroy(linger=0)


def test_encryption_can_be_turned_off(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(transport="ipc", encryption="disabled"))
    assert "curve_secretkey" not in json.loads(Path(one.manager.connection_file).read_text())


def test_what_a_killed_server_leaves_goes_when_its_kernel_has_gone(
    make_spec: SpecMaker, tmp_path: Path, engine: Engine, place: Path
) -> None:
    command = [sys.executable, "-c", ORPHAN, make_spec(grace=5, transport="ipc"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        container, _ = server.stdout.readline().split()
        sockets.sweep()
        (folder,) = place.iterdir()
        server.send_signal(signal.SIGKILL)
    sockets.sweep()
    assert folder.exists() and background.run_blocking(engine.containers.inspect(container)).running
    assert gone(engine, container)
    background.run_blocking(running.reap(engine, running.Leftovers([], [])))
    assert not folder.exists()


def test_a_server_that_ends_without_a_shutdown_leaves_no_folder(
    make_spec: SpecMaker, tmp_path: Path, engine: Engine, place: Path
) -> None:
    command = [sys.executable, "-c", ORPHAN.replace("600", "0"), make_spec(grace=1, transport="ipc"), str(tmp_path)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], check=True, timeout=patient(60)
    )
    assert gone(engine, done.stdout.split()[0])
    assert list(place.iterdir()) == []


def test_a_process_that_was_forked_leaves_the_folder_alone(folder: SocketFolder) -> None:
    child = os.fork()
    if child == 0:
        folder.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert Path(folder.path).exists()


def test_what_goes_while_it_is_looked_at_stops_nobody(place: Path) -> None:
    ending = threading.Event()

    def come_and_go() -> None:
        folder = place / f"{sockets.PREFIX}other"
        while not ending.is_set():
            with contextlib.suppress(OSError):
                folder.mkdir()
            for name in map(str, range(30)):
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
                    server.bind(str(folder / name))
                    (folder / name).unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(2000):
            sockets.sweep()
    finally:
        ending.set()
        other.join()
        sockets.sweep()


def test_a_path_that_is_too_long_for_a_socket_is_not_taken(
    folder: SocketFolder, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    info = background.run_blocking(engine.info())
    user = container_user(KernelConfig(), info, [])
    other = SocketFolder(user, KernelConfig())
    try:
        assert len(f"{other.prefix}-5") <= 107 and Path(other.path).parent == Path(tempfile.gettempdir())
        assert list(long.iterdir()) == []
    finally:
        other.remove()
    monkeypatch.setattr(sockets, "_places", lambda: [long])
    with pytest.raises(ConfigError, match="may have 107 bytes"):
        SocketFolder(user, KernelConfig())
    assert list(long.iterdir()) == []


def test_an_engine_in_a_virtual_machine_is_refused(engine: Engine) -> None:
    info = dataclasses.replace(background.run_blocking(engine.info()), kernel="6.6.32-linuxkit")
    with pytest.raises(ConfigError, match="in a virtual machine"):
        sockets.check_shared_kernel(info)


def test_a_user_who_cannot_be_given_the_folder_is_refused(engine: Engine) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    info = background.run_blocking(engine.info())
    config = KernelConfig(user="4321")
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            os.environ["XDG_RUNTIME_DIR"] = tempfile.gettempdir()
            SocketFolder(container_user(config, info, []), config)
        except ConfigError as error:
            os._exit("needs ports" in str(error))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not [path for path in Path(tempfile.gettempdir()).glob("docker-kernel-ipc-*") if path.stat().st_uid == 65534]


def test_another_users_kernel_is_reached_by_root(start: NotebookMaker, make_spec: SpecMaker) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give folders away")
    one = start(make_spec(transport="ipc", user="4321", workspace=False))
    assert one.value("__import__('os').getuid()") == 4321


@pytest.mark.parametrize(
    ("settings", "code", "sentence"),
    [({"transport": "ipc"}, None, ""), ({"network": "none"}, 1, 'network = "none" needs transport ipc')],
    ids=["keeps tcp", "refused"],
)
def test_a_client_that_dictates_ports_gets_ports(
    make_spec: SpecMaker, tmp_path: Path, settings: dict[str, str], code: int | None, sentence: str
) -> None:
    with Launched(make_spec(**settings), tmp_path) as one:
        if code is None:
            assert one.run("1") == "ok"
        else:
            assert one.process.wait(patient(30)) == code
            assert one.process.stderr is not None and sentence in one.process.stderr.read()
