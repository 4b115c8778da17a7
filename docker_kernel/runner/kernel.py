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
from docker_kernel.runner.log import RunLog

GUEST_BOOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest", "boot.py")
"""What starts ipykernel with `docker_kernel` importable, wherever its packages are."""

LINES = 20
"""Of what the process itself printed, to say why it did not start."""

READS = 16
"""How often a pipe is read to have all that is in it, though somebody may go on filling it."""

END_SECONDS = 5.0
"""How long a kernel may take for what it wants to do at its end."""


class KernelEnded(Exception):
    """A kernel's process has ended.

    Args:
        code: its exit code; negative for a signal.
    """

    def __init__(self, code: int) -> None:
        killed = code < 0
        super().__init__(
            f"its process was killed by {signal.Signals(-code).name}" if killed else f"it ended with exit code {code}"
        )
        self.code = code


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
        self.lines: deque[str] = deque(maxlen=LINES)
        """The last that the process itself printed."""
        self._echoes = is_python(kernel)
        self._echoed = False
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        """The last that the process itself printed, in a line."""
        return " ".join(self.lines).strip()

    def echoed(self, on: bool) -> None:
        """What cells' child processes and C code print comes as outputs from now on, or no more.

        ipykernel sends it, and prints it as well: the log is to have it once.
        """
        if not self._echoes:
            return
        for _ in range(READS):
            if not self._read(self._pipe):
                break
        self.lines.clear()
        self._echoed = on

    async def start(self, cwd: Path, environment: Mapping[str, str]) -> None:
        """Start the process; whether it becomes a kernel is for a client to find out."""
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        asyncio.get_running_loop().add_reader(self._pipe, self._read, self._pipe)
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

    def _read(self, descriptor: int) -> bool:
        """Log what the process, and not a cell, prints; returns whether there was something."""
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            return False  # nothing just now, or it is closed
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            self._pipe = -1
            return False
        self.lines.extend(data.decode(errors="replace").splitlines())
        if not self._echoed:
            self._log.text(data)
        return True

    def check(self) -> None:
        """Raise KernelEnded if the process has."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            raise KernelEnded(code)

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


def is_python(kernel: Mapping[str, Any]) -> bool:
    """Whether a kernel is ipykernel."""
    return any("ipykernel" in str(part) or part == GUEST_BOOT for part in kernel["argv"])


def kernel_manager(kernel: Mapping[str, Any], room: Path, sockets: bool) -> AsyncKernelManager:
    """What starts a kernel by the argv of a notebook image, whatever kernelspecs there are.

    Args:
        kernel: name, language and argv.
        room: a private folder for its connection file, and sockets if it can have them.
    """
    argv, python = [str(part) for part in kernel["argv"]], is_python(kernel)
    if argv[1:3] == ["-m", "ipykernel_launcher"]:
        argv[1:3] = [GUEST_BOOT]
    if python:
        # As nbclient has it for kernels that it knows by name: many may run on one home at once.
        argv.append("--HistoryManager.hist_file=:memory:")
    # Sockets need no ports, so that none can be taken, and other containers of a pod cannot reach them. Kernels that
    # are not ipykernel may know TCP only.
    transport = {"transport": "ipc"} if sockets and python else {}
    manager = AsyncKernelManager(connection_file=str(room / "kernel.json"), **transport)
    manager._kernel_spec = KernelSpec(
        argv=argv,
        display_name=str(kernel.get("name", "")),
        language=str(kernel.get("language", "")),
        interrupt_mode=str(kernel.get("interrupt_mode", "signal")),
        env=dict(kernel.get("env") or {}),
    )
    return manager
