"""A real Jupyter server with jupyter-scheduler and our backend, for tests through its REST API."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import docker_kernel
from tests.jupyter_server import address_of
from tests.patience import patient

SECONDS = patient(100)
"""For a job."""

# Importing it takes as long as collecting all tests.
needs_scheduler = pytest.mark.skipif(find_spec("jupyter_scheduler") is None, reason="there is no jupyter_scheduler")


class Refused(Exception):
    """An answer that is an error, with its message."""


class Server:
    """One Jupyter server at a time, with folders that stay when it is started again.

    Args:
        module: `jupyter_server`, or `jupyterlab` for one with a user interface.
    """

    def __init__(self, folder: Path, module: str = "jupyter_server") -> None:
        self.folder = folder
        self.root = folder / "root"
        self.token = secrets.token_hex(16)
        self.url = ""
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        for path in (self.root, folder / "config", folder / "data", folder / "runtime"):
            path.mkdir(parents=True, exist_ok=True)
        # As the wheel installs it.
        listed = folder / "config" / "jupyter_server_config.d" / "docker_kernel.scheduler.json"
        listed.parent.mkdir()
        shutil.copyfile(Path(docker_kernel.__file__).parent / "scheduler" / "server_config.json", listed)
        enable = ["-m", "jupyter_server.extension.serverextension", "enable", "--user", "docker_kernel.scheduler"]
        subprocess.run([sys.executable, *enable], env=self._environment(), check=True, capture_output=True)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_PREFER_ENV_PATH": "0",
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"),
            "JUPYTER_TOKEN": self.token,
        }

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", self._module, "--ip=127.0.0.1", "--port=0", "--allow-root"]
        # Not started in its root folder, which jupyter-scheduler itself takes for granted.
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--no-browser", f"--ServerApp.root_dir={self.root}", *arguments],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.url = address_of(self._process, self.folder / "runtime", self.folder / "server.log")

    @property
    def running(self) -> bool:
        return self._process is not None

    def end(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(patient(60))
        self._process, self.url = None, ""

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def api(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """An answer of jupyter-scheduler's."""
        request = urllib.request.Request(
            f"{self.url}scheduler/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=patient(60)) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(json.loads(error.read())["message"]) from None
        return json.loads(text) if text else None

    def create(self, notebook: str, environment: str, **more: Any) -> str:
        """Create a job; returns its id."""
        body = {"input_uri": notebook, "runtime_environment_name": environment, "name": notebook}
        made = self.api("jobs", "POST", {**body, "output_formats": ["ipynb", "html"], **more})
        return str(made["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api(f"jobs/{job_id}")
        return found

    def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait for a job to have one of these states."""
        deadline = time.monotonic() + SECONDS
        while (job := self.job(job_id))["status"] not in states:
            assert job["status"] not in ("COMPLETED", "FAILED", "STOPPED"), job
            assert time.monotonic() < deadline, (job, self.log())
            time.sleep(0.3)
        return job

    def downloaded(self, job_id: str) -> dict[str, Path]:
        """Download a job's files as the UI does; by their kind."""
        self.api(f"jobs/{job_id}/download_files")
        found = {one["file_format"]: one["file_path"] for one in self.job(job_id)["job_files"]}
        return {kind: self.root / path for kind, path in found.items() if path}
