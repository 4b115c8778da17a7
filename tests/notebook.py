"""A kernel and its client, as a test wants them."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.multikernelmanager import MultiKernelManager

from docker_kernel import labels
from docker_kernel.targets.base import Package
from tests.patience import patient, until

KERNEL_IDS: set[str] = set()
"""Of all kernels that this run has started."""

CAPTURE = """
def _capture():
    import json
    from docker_kernel.guest import snapshot
    shell = get_ipython()
    variables = {name: value for name, value in snapshot.user_variables(shell).items() if name != "_capture"}
    context = {"env": {}, "cwd": "/tmp", "sys_path": []}
    one = snapshot.capture(variables, shell.user_ns, "/opt/docker-kernel/state", **context)
    print(json.dumps([one.digest, one.manifest]))
_capture()
del _capture
"""
"""Takes a snapshot of the notebook's variables, and prints its digest and manifest."""

HOLD = "import os, time\nwhile not os.path.exists('/tmp/go'): time.sleep(.05)\n"
"""Keeps a job's cell from going on until `let_go`."""

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Reply:
    """What running a cell gave."""

    status: str = ""
    text: str = ""
    name: str = ""
    value: str = ""
    traceback: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The plain text of the last rich output."""
        return str(self.displays[-1].get("text/plain", "")) if self.displays else ""


class Notebook:
    """One kernel, started through jupyter_client as any frontend does.

    Args:
        server: what manages it together with others, as in a Jupyter server.
    """

    def __init__(
        self,
        kernel_name: str,
        cwd: Path,
        env: dict[str, str] | None = None,
        server: MultiKernelManager | None = None,
        **manager: Any,
    ) -> None:
        options = {"cwd": str(cwd), **({} if env is None else {"env": env})}
        if server is None:
            self.manager = KernelManager(kernel_name=kernel_name, **manager)
            self.manager.start_kernel(**options)
        else:
            self.manager = server.get_kernel(server.start_kernel(kernel_name=kernel_name, **options))
        KERNEL_IDS.add(str(self.manager.kernel_id))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=patient(30))

    @property
    def container(self) -> Any:
        """The host's side of the kernel container."""
        return self.manager.provisioner._container

    def run(self, code: str, timeout: float = 60, on_text: Callable[[], object] | None = None) -> Reply:
        """Run a cell to its end and collect what it gave.

        Args:
            timeout: in seconds, as of `patient`.
            on_text: is called, in a thread of its own, as soon as the cell has printed something.
        """
        reply = Reply()

        def collect(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                if on_text is not None and not reply.text:
                    threading.Thread(target=on_text).start()
                reply.text += content["text"]
            elif message["msg_type"] == "error":
                reply.name, reply.value = content["ename"], content["evalue"]
                reply.traceback = ANSI.sub("", "\n".join(content["traceback"]))
            elif message["msg_type"] in ("display_data", "execute_result", "update_display_data"):
                reply.displays.append(content["data"])

        answer = self.client.execute_interactive(code, timeout=patient(timeout), output_hook=collect)
        reply.status = answer["content"]["status"]
        return reply

    def value(self, expression: str) -> Any:
        """The value of an expression that JSON can carry."""
        reply = self.run(f"print(__import__('json').dumps({expression}))")
        assert reply.status == "ok", reply.traceback
        return json.loads(reply.text)

    def begin(self, code: str, **options: Any) -> None:
        """Send a cell and return as soon as it prints something."""
        request = self.client.execute(code, **options)
        while True:
            message = self.client.get_iopub_msg(timeout=patient(20))
            if message["msg_type"] == "stream" and message["parent_header"].get("msg_id") == request:
                return

    def reply(self, request: str, timeout: float = 60) -> dict[str, Any]:
        """The content of the reply to a cell that was sent without waiting for it; others' replies are passed over."""
        while (answer := self.client.get_shell_msg(timeout=patient(timeout)))["parent_header"]["msg_id"] != request:
            pass
        found: dict[str, Any] = answer["content"]
        return found

    def restart(self, now: bool = False) -> None:
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=patient(30))

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def let_go(job: str, *engines: str) -> None:
    """Let a job go on whose cell has HOLD, as soon as it is there.

    Args:
        engines: those that it may be on, as `docker -H` names them; none for the kernels' own.
    """

    def touched() -> bool:
        for engine in engines or ("",):
            docker = ["docker", *(["-H", engine] if engine else [])]
            found = [*docker, "ps", "-q", "--filter", f"label={labels.JOB_ID}={job}"]
            for one in subprocess.run(found, capture_output=True, text=True, check=False).stdout.split():
                touch = [*docker, "exec", one, "touch", "/tmp/go"]
                if subprocess.run(touch, capture_output=True, check=False).returncode == 0:
                    return True
        return False

    until(touched, 30, f"the start of the job {job}")


def captured(notebook: Notebook) -> Package:
    """What a job starts from that has the notebook's variables."""
    reply = notebook.run(CAPTURE, timeout=120)
    assert reply.status == "ok", reply.traceback
    digest, manifest = json.loads(reply.text)
    return Package(secrets.token_hex(6), notebook.container.image, manifest, digest)
