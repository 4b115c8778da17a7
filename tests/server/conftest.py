"""A real Jupyter server with our extension, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from docker_kernel import background
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError
from tests.jupyter_server import address_of
from tests.patience import patient

ROOT = Path(__file__).parent.parent.parent
PATIENCE = patient(60)
"""Seconds for a build."""

CONFIG = """\
[registries]
down = "127.0.0.1:1/team"
"""


class Server:
    """A running Jupyter server whose files are below `root`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir()
        self.token = secrets.token_hex(16)
        (folder / "config.toml").write_text(CONFIG)
        environment = {
            **os.environ,
            "DOCKER_KERNEL_CONFIG": str(folder / "config.toml"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "JUPYTER_TOKEN": self.token,
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--ip=127.0.0.1", "--port=0"]
        self.log = folder / "server.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--allow-root", *options],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.url = address_of(self._process, folder / "runtime", self.log)
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"token {self.token}"

    def close(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patient(30))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ask(self, what: str, wish: Any = None, method: str = "", **more: Any) -> requests.Response:
        """A request of the extension's; with a wish, it is posted."""
        method = method or ("GET" if wish is None else "POST")
        return self.session.request(method, f"{self.url}{what}", json=wish, timeout=PATIENCE, **more)

    def get(self, what: str, wish: Any = None) -> Any:
        """The answer to a request that succeeds."""
        answer = self.ask(f"docker-kernel/{what}", wish)
        assert answer.ok, answer.text
        return answer.json()

    def refused(self, what: str, wish: Any, status: int = 400) -> str:
        """The sentence with which a request is refused."""
        answer = self.ask(f"docker-kernel/{what}", wish)
        assert answer.status_code == status, answer.text
        return str(answer.json()["message"])

    def ended(self, build: str) -> Any:
        """A build's end."""
        found = self.get(f"builds/{build}")
        deadline = time.monotonic() + PATIENCE
        while found["ended"] is None:
            assert time.monotonic() < deadline, found
            found = self.get(f"builds/{build}?since={found['version']}")
        return found


@pytest.fixture(scope="session")
def server(python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    stall = "--ServerApp.jpserver_extensions=tests.server.stall=True"
    one = Server(tmp_path_factory.mktemp("server"), stall)
    yield one
    one.close()


@pytest.fixture
def name(engine: Engine) -> Iterator[Callable[[], str]]:
    """Makes names for images, which are removed at the test's end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"docker-kernel-test/{uuid.uuid4().hex[:12]}:latest")
        return made[-1]

    yield make
    for one in made:
        with contextlib.suppress(EngineError):
            background.run_blocking(engine.images.remove(one))
