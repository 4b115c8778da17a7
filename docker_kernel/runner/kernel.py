"""The kernel's process: started by the argv of a notebook image, logged, and ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from docker_kernel.guest.memory import KERNEL_OOM_SCORE
from docker_kernel.runner.client import Client
from docker_kernel.runner.log import RunLog

GUEST_BOOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest", "boot.py")
"""What starts ipykernel with `docker_kernel` importable, wherever its packages are."""

LINES = 20
"""Of what the process itself printed, to say why it did not start."""

END_SECONDS = 5.0
"""How long a kernel may take for what it wants to do at its end."""


class Kernel:
    """One kernel.

    Args:
        kernel: name, language and argv, from notebook.json.
        room: a private folder for its connection file, and sockets if it can have them.

    Attributes:
        manager: jupyter_client's, for clients.
        failure: why the process could not be started; None if it could.
    """

    def __init__(self, kernel: Mapping[str, Any], room: Path, sockets: bool, log: RunLog) -> None:
        self.manager = kernel_manager(kernel, room, sockets)
        self.failure: OSError | None = None
        self._log = log
        self._lines: deque[str] = deque(maxlen=LINES)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        """The last that the process itself printed."""
        return " ".join(self._lines).strip()

    async def start(self, cwd: Path, environment: Mapping[str, str]) -> None:
        """Start the process; whether it becomes a kernel is for a client to find out."""
        read, write = os.pipe()
        asyncio.get_running_loop().add_reader(read, self._read, read)
        try:
            await self.manager.start_kernel(
                cwd=str(cwd), env=dict(environment), stdin=subprocess.DEVNULL, stdout=write, stderr=write
            )
        except OSError as error:
            self.failure = error
            return
        finally:
            os.close(write)
        self._process = self.manager.provisioner.process
        assert self._process is not None
        _prefer_for_oom(self._process.pid)

    def _read(self, descriptor: int) -> None:
        """Log what the process, and not a cell, prints."""
        data = os.read(descriptor, 1 << 16)
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            return
        self._lines.extend(data.decode(errors="replace").splitlines())
        self._log.text(data)

    async def exit_code(self) -> int | None:
        """How the process ended, when it has; negative for a signal."""
        return None if self._process is None else await asyncio.to_thread(self._process.wait)

    async def end(self, now: bool) -> None:
        """End the process and what its cells left running.

        Args:
            now: without a chance to do what it wants to do at its end.
        """
        if self._process is None:
            return
        if not now and self._process.poll() is None:
            with contextlib.suppress(Exception):
                await self.manager.request_shutdown()
                await asyncio.to_thread(self._process.wait, END_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)


def _prefer_for_oom(pid: int) -> None:
    """Out of memory, the kernel is to be chosen, and not what must tell of it."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(str(KERNEL_OOM_SCORE))


def kernel_manager(kernel: Mapping[str, Any], room: Path, sockets: bool) -> AsyncKernelManager:
    """What starts a kernel by the argv of a notebook image, whatever kernelspecs there are.

    Args:
        kernel: name, language and argv.
        room: a private folder for its connection file, and sockets if it can have them.
    """
    argv = [str(part) for part in kernel["argv"]]
    python = any("ipykernel" in part or part == GUEST_BOOT for part in argv)
    if argv[1:3] == ["-m", "ipykernel_launcher"]:
        argv[1:3] = [GUEST_BOOT]
    if python:
        # As nbclient has it for kernels that it knows by name: many may run on one home at once.
        argv.append("--HistoryManager.hist_file=:memory:")
    # Sockets need no ports, so that none can be taken, and other containers of a pod cannot reach them. Kernels that
    # are not ipykernel may know TCP only.
    transport = {"transport": "ipc"} if sockets and python else {}
    manager = AsyncKernelManager(connection_file=str(room / "kernel.json"), client_factory=Client, **transport)
    manager._kernel_spec = KernelSpec(
        argv=argv,
        display_name=str(kernel.get("name", "")),
        language=str(kernel.get("language", "")),
        interrupt_mode=str(kernel.get("interrupt_mode", "signal")),
        env=dict(kernel.get("env") or {}),
    )
    return manager
