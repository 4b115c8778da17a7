"""Hosts that are killed at a chosen step, and a count of what their jobs really ran."""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord
from tests.notebook import KERNEL_IDS

ROOT = Path(__file__).parent.parent

DOOM = """
import contextvars, json, os, signal, sys
from pathlib import Path

from docker_kernel import background
from docker_kernel.batch.broker import Broker
from docker_kernel.batch.manager import JobManager, manager
from docker_kernel.engine import ExecStream
from docker_kernel.engine.connection import Connection
from docker_kernel.targets.engine.spare_jobs import SpareJob

left = contextvars.ContextVar("left", default=None)
call, change, package, prepare = Connection.call, JobManager._change, Broker._package, JobManager._prepare
take, cancel, keep_placed = SpareJob.take, JobManager.cancel, JobManager._keep_placed


def step():
    if (steps := left.get()) is not None:
        steps[0] -= 1
        if steps[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def begin():
    left.set([int(sys.argv[2])])
    step()


async def counted_call(*arguments, **options):
    result = await call(*arguments, **options)
    step()
    return result


async def counted_change(self, record, state, reason=""):
    if (sys.argv[1], state) == ("queue", "starting"):
        begin()
    await change(self, record, state, reason)
    first = {"start": 1, "again": 2}.get(sys.argv[1])
    if state == "starting" and record.attempt == first and left.get() is None:
        begin()


async def counted_keep_placed(self, record):
    if sys.argv[1] == "keep":
        begin()
    await keep_placed(self, record)


async def counted_package(self, *arguments):
    if sys.argv[1] == "send":
        begin()
    return await package(self, *arguments)


async def counted_prepare(self, *arguments):
    if sys.argv[1] == "prepare":
        begin()
    return await prepare(self, *arguments)


async def counted_take(self, *arguments):
    if sys.argv[1] == "spare":
        begin()
    return await take(self, *arguments)


async def counted_write(self, data):
    await write(self, data)
    step()


async def counted_cancel(self, *arguments):
    if sys.argv[1] == "cancel":
        begin()
    return await cancel(self, *arguments)


SpareJob.take, JobManager.cancel = counted_take, counted_cancel
write, ExecStream.write = ExecStream.write, counted_write
Connection.call, JobManager._change = counted_call, counted_change
JobManager._keep_placed = counted_keep_placed
Broker._package, JobManager._prepare = counted_package, counted_prepare
"""
"""Has a host kill itself when it has had so many answers of the engine from some moment on. What it goes on to do after
the steps of that moment is counted, too."""

A_SPARE = "# wait for a spare"
"""A cell in whose place a sender waits until its kernel's next job has a warm container."""

SENDER = f"""{DOOM}
import subprocess, time

from tests.notebook import Notebook

one = Notebook(sys.argv[3], Path(sys.argv[4]))
print(one.container.kernel_id, flush=True)
mark = "label=io.docker-kernel.kernel-id=" + one.container.kernel_id
spares = ["docker", "ps", "-q", "--filter", mark, "--filter", "name=docker-kernel-job-spare-"]
for cell in json.loads(sys.argv[5]):
    while cell == {A_SPARE!r} and not subprocess.run(spares, capture_output=True, check=True).stdout:
        time.sleep(0.1)
    assert one.run(cell, timeout=120).status == "ok"
print("done", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""

FOLLOWER = f"""{DOOM}
async def follow():
    await manager().wait(sys.argv[3])

background.run_blocking(follow())
print("done", flush=True)
"""


@dataclass(frozen=True)
class Killed:
    """A host that was killed.

    Args:
        kernel_id: of its kernel.
        jobs: what the ledger had of its jobs right then, in their order.
        early: whether it was killed at a step, not after all of them.
    """

    kernel_id: str
    jobs: list[JobRecord]
    early: bool


def _start(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def killed_sender(spec: str, folder: Path, cells: list[str], begin: str, steps: int) -> Killed:
    """Start a host with a kernel, let it run cells, and have it killed.

    Args:
        begin: from when the engine's answers are counted: when what a dispatch starts from is to be made ("send"), when
            the target is to "prepare" it, when a job has come to its place in the "queue", when it is to be "start"ed,
            or started "again", when it is to be written down that it was ("keep"), when a "spare" is to take it, when
            it is to be "cancel"led.
        steps: after how many of them it is killed, 0 for right at that moment.
    """
    ledger = Ledger(root() / "jobs.sqlite")
    before = {record.id for record in ledger.find()}
    host = _start(SENDER, begin, str(steps), spec, str(folder), json.dumps(cells))
    try:
        assert host.stdout is not None and host.stdin is not None
        kernel_id = host.stdout.readline().strip()
        KERNEL_IDS.add(kernel_id)
        early = host.stdout.readline() != "done\n"
        host.stdin.close()
        host.wait(60)
    finally:
        host.kill()
        host.wait()
    return Killed(kernel_id, [one for one in reversed(ledger.find()) if one.id not in before], early)


def killed_follower(job: str, begin: str, steps: int) -> bool:
    """Start a host that takes a job over, and have it killed as a sender is; whether it was before the job's end."""
    host = _start(FOLLOWER, begin, str(steps), job)
    try:
        assert host.stdout is not None
        return host.stdout.readline() != "done\n"
    finally:
        host.kill()
        host.wait()


class Counter:
    """Counts what runs: jobs tell it by TCP, from wherever they are.

    Attributes:
        seen: how often each word came.
    """

    def __init__(self) -> None:
        self.seen: collections.Counter[str] = collections.Counter()
        self._socket = socket.create_server(("0.0.0.0", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                with near, contextlib.suppress(OSError):
                    near.settimeout(10)
                    self.seen[near.makefile().readline().strip()] += 1
                    near.sendall(b".")

    def cell(self, address: str, word: str) -> str:
        """Python code that tells this, at an address of this machine, and has been counted when it is over.

        Args:
            word: an expression.
        """
        return (
            f"import socket, os\nwith socket.create_connection(({address!r}, {self.port}), 20) as told:\n"
            f"    told.sendall((str({word}) + '\\n').encode()); told.recv(1)\ndel told\n"
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextlib.contextmanager
def counter() -> Iterator[Counter]:
    made = Counter()
    try:
        yield made
    finally:
        made.close()
