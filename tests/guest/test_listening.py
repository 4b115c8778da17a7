"""The sockets that a container's kernel processes inherit one after the other."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background
from docker_kernel.engine import Engine
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import Notebook


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A short path for sockets in files."""
    with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


def connected(one: Notebook) -> socket.socket:
    """A connection to the kernel's shell socket, on which nothing has been said."""
    info = json.loads(Path(one.manager.connection_file).read_text())
    if info["transport"] == "ipc":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{info['ip']}-{info['shell_port']}")
    else:
        sock = socket.create_connection((info["ip"], info["shell_port"]))
    sock.settimeout(20)
    return sock


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("fresh", [False, True], ids=["fork", "interpreter"])
def test_who_connects_before_the_kernel_is_there_waits_for_it(
    start: NotebookMaker, make_spec: SpecMaker, transport: str, fresh: bool
) -> None:
    one = start(make_spec(transport=transport))
    if fresh:
        one.run("import site; open(site.getusersitepackages() + '/fresh.py', 'w').close()")
    background.run_blocking(one.container.signal(9))
    background.run_blocking(one.container.wait())
    with connected(one) as early:
        one.restart()
        assert early.recv(1) == b"\xff", "the first byte of ZeroMQ's greeting"
        assert one.value("6 * 7") == 42
        script = "'boot.py' in open('/proc/self/cmdline').read()"
        assert one.value(script) is fresh


def test_what_a_cell_starts_does_not_inherit_them(start: NotebookMaker) -> None:
    one = start()
    sockets = "ls -l /proc/self/fd | grep -c socket:"
    code = f"import subprocess; subprocess.run({sockets!r}, shell=True, close_fds=False, capture_output=True).stdout"
    for _ in range(2):
        assert one.run(code).shown.strip() == "b'0\\n'", one.run(code.replace("-c ", "")).shown
        one.run("import site; open(site.getusersitepackages() + '/fresh.py', 'w').close()")
        one.restart()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_container_that_replaces_another_listens_like_it(
    start: NotebookMaker, make_spec: SpecMaker, engine: Engine, transport: str
) -> None:
    one = start(make_spec(transport=transport))
    background.run_blocking(engine.containers.remove(one.container.container_id))
    background.run_blocking(one.container.wait())
    one.restart()
    assert one.value("sorted(__import__('json').load(open('/run/docker-kernel/listening.json')))")
    background.run_blocking(one.container.signal(9))
    background.run_blocking(one.container.wait())
    with connected(one) as early:
        one.restart()
        assert early.recv(1) == b"\xff"
