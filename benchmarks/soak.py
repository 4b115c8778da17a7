"""`python -m benchmarks.soak`: a server that keeps spares lives through many kernels and random faults.

Each cycle starts a kernel, has it tell its state, lets one fault come over it, and compares what is then reported, and
what the kernel has, with what is right. At the end nothing may be left, and the server may not have grown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.multikernelmanager import MultiKernelManager

from benchmarks import soak_jobs
from benchmarks.contenders import IMAGE, prepare
from benchmarks.processes import resident
from benchmarks.table import Row, machine, markdown
from docker_kernel import background, kernelspec, labels
from docker_kernel.engine import ContainerState, Engine
from docker_kernel.errors import EngineError
from docker_kernel.kernel import sockets
from docker_kernel.kernel.container import KernelContainer
from docker_kernel.kernel.provisioner import shared_engine, shared_spares
from docker_kernel.kernel.spares import UPKEEP_SECONDS
from tests.inside import run_inside

SETTINGS: dict[str, Any] = {"grace": 2, "warm_spares": 1, "memory": "300m", "pids": 100}
LEASE = 10.0 + UPKEEP_SECONDS
"""Seconds after which nothing of a killed host may be left while a server lives: its grace, an engine's time to remove
a container, and for what never started, a server's next look for it."""

PATIENCE = 120.0
"""Seconds that an answer may take."""

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

GROWTH, LEAK = 100.0, 0.05
"""KB of memory, and descriptors, that a server may grow by in each cycle of the second half."""

HOST = """
import sys, time
from jupyter_client.multikernelmanager import MultiKernelManager
manager = MultiKernelManager()
print("ready", flush=True)
manager.start_kernel(kernel_name=sys.argv[1])
print("running", flush=True)
time.sleep(600)
"""

BREAK_THE_LINK = """
import os, signal
for process in filter(str.isdigit, os.listdir('/proc')):
    if b'guest/link.py\\0' in open(f'/proc/{process}/cmdline', 'rb').read():
        os.kill(int(process), signal.SIGKILL)
        print('broken')
"""

TAKE_ALL_PROCESSES = """
import subprocess
taken = []
try:
    while True:
        taken.append(subprocess.Popen(['sleep', '60']))
except OSError:
    print(len(taken) > 10)
for one in taken:
    one.kill()
    one.wait()
"""

TAKE_ALL_DESCRIPTORS = """
import os, resource
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
taken = []
try:
    while True:
        taken.append(os.open('/dev/null', os.O_RDONLY))
except OSError:
    pass
for one in taken:
    os.close(one)
resource.setrlimit(resource.RLIMIT_NOFILE, before)
print(len(taken) > 10)
"""

TAKE_ALL_MEMORY = """
taken = []
while True:
    taken.append(b'1' * (1 << 22))
"""


class Wrong(Exception):
    """Something is not as it should be; the message says what."""


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Wrong(f"{what}: {found!r} instead of {wanted!r}")


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What a condition gives once it is true.

    Raises:
        Wrong: it is not within so many seconds.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise Wrong(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.1)
    return found


class Kernel:
    """One kernel of the server, with a client, and a variable that tells its state from every other kernel's."""

    def __init__(self, server: MultiKernelManager, spec: str, mark: int) -> None:
        self.id = server.start_kernel(kernel_name=spec)
        self.server = server
        self.manager = server.get_kernel(self.id)
        self.mark = mark
        self.client = self._connect()
        self.set_mark()

    def _connect(self) -> Any:
        client = self.manager.client()
        client.start_channels(hb=False)
        client.wait_for_ready(timeout=PATIENCE)
        return client

    @property
    def container(self) -> KernelContainer:
        return self.manager.provisioner._container  # type: ignore[no-any-return]

    def run(self, code: str) -> tuple[str, str]:
        """Run a cell; returns its error's name (or nothing) and what it printed."""
        said = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)["content"]
        error = "" if reply["status"] == "ok" else reply.get("ename", reply["status"])
        return error, "".join(said)

    def begin(self, code: str) -> None:
        """Run a cell that never ends, and wait until it has begun."""
        path = f"/tmp/begun-{uuid.uuid4().hex}"
        # Else the kernel does not run what comes next, for a moment after the interrupt.
        self.client.execute(f"open({path!r}, 'w').close()\n{code}", stop_on_error=False)
        look = f"import os; print(os.path.exists({path!r}))"
        until(lambda: self.inside(look) == "True\n", PATIENCE, "the cell's begin")

    def inside(self, code: str) -> str:
        """What Python code prints that another process runs in the container."""
        one = self.container
        command = [one.python, "-c", code]
        return run_inside(one.container_id, command, one.user)[1]

    def set_mark(self) -> None:
        expect(self.run(f"assert 'mark' not in globals()\nmark = {self.mark}\nprint(mark)"), ("", f"{self.mark}\n"),
               "a new kernel's first cell")  # fmt: skip

    def lives(self) -> None:
        """Check that it is the same kernel still, for its client and for its server."""
        expect(self.run("print(mark)"), ("", f"{self.mark}\n"), "the variable afterwards")
        expect((self.manager.is_alive(), self.container.exit_code), (True, None), "the reported state")

    def died(self, code: int, reason: str = "") -> None:
        """Check what is reported of its end, and that it can be restarted."""
        expect(background.run_blocking(asyncio.wait_for(self.container.wait(), PATIENCE)), code, "the exit code")
        expect(self.container.reason, reason, "the reason")
        expect(self.manager.is_alive(), False, "the reported life")
        self.manager.restart_kernel(now=True)
        self.renewed()

    def renewed(self) -> None:
        """Check that the kernel process is a new one."""
        self.client.wait_for_ready(timeout=PATIENCE)
        self.set_mark()

    def close(self) -> None:
        self.client.stop_channels()
        self.server.shutdown_kernel(self.id, now=True)


@dataclass
class Report:
    """What a soak found.

    Args:
        wrong: what was not as it should be, a sentence each.
        left: names of containers, volumes and folders that are there at the end.
        memory, descriptors: MB and number that the server had after each cycle.
        threads: the names of those that there are at the end, and were not after the first cycles.
        seconds: how long it took.
    """

    seed: int
    cycles: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def rows(self) -> list[Row]:
        memory, descriptors = 1000 * growth(self.memory), growth(self.descriptors)
        grown = f"{memory:+.1f} KB"
        return [
            Row("cycles with a fault each", str(self.cycles), f"{len(self.faults)} kinds"),
            Row("wrong states, values or reasons", str(len(self.wrong)), "", None, "0", not self.wrong),
            Row("left behind after the lease", str(len(self.left)), "", None, "0", not self.left),
            Row("the server's memory, each cycle", grown, "", None, f"≤ {GROWTH:.0f} KB", memory <= GROWTH),
            Row("its descriptors, each cycle", f"{descriptors:+.2f}", "", None, f"≤ {LEAK}", descriptors <= LEAK),
            Row("new threads", str(len(self.threads)), ", ".join(self.threads), None, "0", not self.threads),
            Row("seconds for each cycle", f"{self.seconds / max(1, self.cycles):.1f}", ""),
        ]  # fmt: skip


def growth(values: list[float] | list[int]) -> float:
    """What a value grows by from one cycle to the next, over the second half: the first fills caches."""
    half = values[len(values) // 2 :]
    return statistics.linear_regression(range(len(half)), half).slope if len(half) > 1 else 0.0


class Soak:
    """A server with spares, and the faults; all random choices come from the seed."""

    def __init__(self, engine: Engine, folder: Path, seed: int) -> None:
        self.engine = engine
        self.folder = folder
        self.random = random.Random(seed)
        self.report = Report(seed)
        self.server = MultiKernelManager()
        self.specs = []
        for transport in ("tcp", "ipc"):
            name = f"soak-{transport}-{uuid.uuid4().hex[:8]}"
            settings = kernelspec.stanza(image=IMAGE, transport=transport, **SETTINGS)
            background.run_blocking(kernelspec.install(engine, folder / "data" / "kernels", settings, name=name))
            self.specs.append(name)
        self.spec = self.specs[0]
        self.volumes: set[str] = set()
        """All that were ever seen."""

    def containers(self) -> list[ContainerState]:
        found = [
            state
            for spec in self.specs
            for state in background.run_blocking(self.engine.containers.list({labels.SPEC: spec}))
        ]
        self.volumes.update(volume for state in found for volume in state.volumes.values())
        return found

    def spares(self) -> list[ContainerState]:
        spec = self.spec
        found = [state for state in self.containers() if state.labels[labels.SPEC] == spec]
        return [state for state in found if state.name.startswith(labels.SPARE_NAME)]

    # The faults

    def kernel_killed_from_inside(self, kernel: Kernel) -> None:
        kernel.client.execute("import os\nos.kill(os.getpid(), 9)")
        kernel.died(-9)

    def kernel_exits(self, kernel: Kernel) -> None:
        kernel.client.execute("import os\nos._exit(3)")
        kernel.died(3)

    def out_of_memory(self, kernel: Kernel) -> None:
        kernel.client.execute(TAKE_ALL_MEMORY)
        kernel.died(-9, "out of memory")

    def container_killed(self, kernel: Kernel) -> None:
        background.run_blocking(self.engine.containers.kill(kernel.container.container_id))
        kernel.died(137, "its container ended by SIGKILL")

    def supervisor_terminated(self, kernel: Kernel) -> None:
        background.run_blocking(self.engine.containers.kill(kernel.container.container_id, signal.SIGTERM))
        kernel.died(143, "its container ended by SIGTERM")

    def container_removed(self, kernel: Kernel) -> None:
        background.run_blocking(self.engine.containers.remove(kernel.container.container_id))
        kernel.died(137, "its container ended by SIGKILL")

    def container_paused(self, kernel: Kernel) -> None:
        client: Any = self.engine.connection.client
        container = kernel.container.container_id

        def paused() -> bool:
            """On a busy machine runc gives up before all processes are frozen."""
            with contextlib.suppress(EngineError):
                background.run_blocking(self.engine.connection.call(client.pause, container))
            return background.run_blocking(self.engine.containers.inspect(container)).status == "paused"

        until(paused, PATIENCE, "the container's pause")
        time.sleep(self.random.uniform(0, 2 * SETTINGS["grace"]))
        background.run_blocking(self.engine.connection.call(client.unpause, container))
        kernel.lives()

    def interrupt(self, kernel: Kernel) -> None:
        kernel.begin("import time\ntime.sleep(600)")
        kernel.manager.interrupt_kernel()
        until(lambda: kernel.client.get_shell_msg(timeout=PATIENCE), PATIENCE, "the interrupted cell's reply")
        kernel.lives()

    def restart(self, kernel: Kernel) -> None:
        kernel.manager.restart_kernel()
        kernel.renewed()

    def restart_now_in_a_cell(self, kernel: Kernel) -> None:
        kernel.begin("while True: pass")
        kernel.manager.restart_kernel(now=True)
        kernel.renewed()

    def link_broken(self, kernel: Kernel) -> None:
        until(lambda: kernel.inside(BREAK_THE_LINK) == "broken\n", PATIENCE, "the link's end")
        self.interrupt(kernel)

    def no_more_processes(self, kernel: Kernel) -> None:
        expect(kernel.run(TAKE_ALL_PROCESSES), ("", "True\n"), "the limit of processes")
        self.interrupt(kernel)

    def no_more_descriptors(self, kernel: Kernel) -> None:
        expect(kernel.run(TAKE_ALL_DESCRIPTORS), ("", "True\n"), "the limit of descriptors")
        kernel.lives()

    def huge_output(self, kernel: Kernel) -> None:
        error, said = kernel.run("for _ in range(2000): print('x' * 9999)")
        expect((error, len(said)), ("", 2000 * 10000), "the output's length")
        kernel.lives()

    def client_vanishes(self, kernel: Kernel) -> None:
        kernel.client.execute("for _ in range(200): print('x' * 9999)")
        kernel.client.stop_channels()
        kernel.client = kernel._connect()
        kernel.lives()

    def spare_killed(self, kernel: Kernel) -> None:
        self._lose_spare(self.engine.containers.kill)
        kernel.lives()

    def spare_removed(self, kernel: Kernel) -> None:
        self._lose_spare(self.engine.containers.remove)
        kernel.lives()

    def _lose_spare(self, lose: Callable[[str], Any]) -> None:
        lost = until(self.spares, PATIENCE, "a spare")[0].id
        background.run_blocking(lose(lost))
        until(lambda: lost not in [state.id for state in self.containers()], PATIENCE, "the spare's end")

    def start_cancelled(self, kernel: Kernel) -> None:
        async def cancelled() -> None:
            from docker_kernel.kernel.provisioner import _launch

            facts = {"kernel_id": str(uuid.uuid4()), "cwd": str(self.folder), "spec_name": self.spec}
            spec = kernel.manager.kernel_spec
            other = KernelContainer(self.engine, _launch(spec, list(spec.argv), None, facts))
            start = asyncio.ensure_future(other.start())
            await asyncio.wait([start], timeout=self.random.uniform(0, 1))
            start.cancel()
            await asyncio.wait([start])
            self_made = other.container_id
            if not start.cancelled():
                await other.remove()
            expect(bool(self_made) and start.cancelled(), False, "a container after a start that was cancelled")

        background.run_blocking(cancelled())
        kernel.lives()

    def host_killed_in_a_start(self, kernel: Kernel) -> None:
        self._kill_host("ready", self.random.uniform(0, 2))
        kernel.lives()

    def host_killed(self, kernel: Kernel) -> None:
        self._kill_host("running", self.random.uniform(0, 4))
        kernel.lives()

    def _kill_host(self, line: str, delay: float) -> None:
        with subprocess.Popen([sys.executable, "-c", HOST, self.spec], stdout=subprocess.PIPE, text=True) as host:
            assert host.stdout is not None
            while (said := host.stdout.readline()) and said != f"{line}\n":
                pass
            expect(said, f"{line}\n", "another host's start")
            time.sleep(delay)
            host.kill()
        self.containers()  # remembers its volumes

    FAULTS = (
        kernel_killed_from_inside, kernel_exits, out_of_memory, container_killed, supervisor_terminated,
        container_removed, container_paused, interrupt, restart, restart_now_in_a_cell, link_broken, no_more_processes,
        no_more_descriptors, huge_output, client_vanishes, spare_killed, spare_removed, start_cancelled,
        host_killed_in_a_start, host_killed,
    )  # fmt: skip

    # The run

    def cycle(self, number: int, fault: Callable[[Soak, Kernel], None]) -> None:
        report = self.report
        self.spec = self.random.choice(self.specs)
        name = fault.__name__.replace("_", " ")
        report.faults[name] = report.faults.get(name, 0) + 1
        kernel: Kernel | None = None
        try:
            kernel = Kernel(self.server, self.spec, self.random.randrange(10**9))
            fault(self, kernel)
        except Exception as error:
            report.wrong.append(f"cycle {number}, {name} ({self.spec}): {type(error).__name__}: {error}")
            print(report.wrong[-1], flush=True)
        finally:
            if kernel is not None:
                self.containers()  # remembers its volume
                kernel.close()
            for kernel_id in self.server.list_kernel_ids():  # of a start that failed
                self.server.shutdown_kernel(kernel_id, now=True)
        report.cycles += 1
        report.memory.append(in_use())
        report.descriptors.append(len(list(Path("/proc/self/fd").iterdir())))

    def run(self, cycles: int) -> Report:
        """Live through so many cycles, each fault as often as the others."""
        begin = time.monotonic()
        bag: list[Callable[[Soak, Kernel], None]] = []
        before = threads()
        try:
            for number in range(cycles):
                if not bag:
                    bag = self.random.sample(self.FAULTS, len(self.FAULTS))
                fault = bag.pop()
                print(f"… {number + 1} of {cycles}: {fault.__name__.replace('_', ' ')}", flush=True)
                self.cycle(number, fault)
                if number == 1:
                    before = threads()
            self._wait_for_leases()
        finally:
            engine = background.run_blocking(shared_engine())
            background.run_blocking(shared_spares(engine).close())
        self.report.left += self._left()
        self.report.threads = sorted((threads() - before).elements())
        self.report.seconds = time.monotonic() - begin
        return self.report

    def _wait_for_leases(self) -> None:
        """Wait until there are only spares; what is left after the lease is too much."""

        def others() -> list[str]:
            return [state.name for state in self.containers() if not state.name.startswith(labels.SPARE_NAME)]

        end = time.monotonic() + LEASE
        while (found := others()) and time.monotonic() < end:
            time.sleep(0.5)
        self.report.left += found

    def _left(self) -> list[str]:
        volumes = {str(volume["Name"]) for volume in background.run_blocking(self.engine.volumes.list(labels.KIND))}
        folders = [path.name for path in Path(os.environ["XDG_RUNTIME_DIR"]).glob(f"{sockets.PREFIX}*")]
        return [*(state.name for state in self.containers()), *sorted(volumes & self.volumes), *folders]


def share_one_heap() -> None:
    """Have all threads of this process allocate from one heap.

    ZeroMQ's threads take a client's messages, and with glibc each thread may have a heap of its own, up to eight for
    each CPU. Of those, `malloc_trim` does not give back what is free at their end: 20 MB in each that ever took a huge
    output.
    """
    with contextlib.suppress(AttributeError):  # another C library's
        ctypes.CDLL(None).mallopt(ctypes.c_int(M_ARENA_MAX), ctypes.c_int(1))


def in_use() -> float:
    """MB of memory that this process has, without what it could give back: its clients read long outputs."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library's
        ctypes.CDLL(None).malloc_trim(0)
    return resident(os.getpid())


def threads() -> Counter[str]:
    """The names of this process's threads, but for those that wait for the engine's answers."""
    return Counter(one.name for one in threading.enumerate() if not one.name.startswith("docker-kernel-engine"))


def run(engine: Engine, cycles: int, seed: int) -> Report:
    """A soak in folders of its own."""
    with tempfile.TemporaryDirectory(prefix="dk-soak-", dir="/tmp") as folder:  # sockets have short paths
        runtime = Path(folder) / "run"
        runtime.mkdir(mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        prepare(engine, Path(folder))
        os.chdir(folder)
        return Soak(engine, Path(folder), seed).run(cycles)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=300, help="kernels, each with a fault (default 300)")
    parser.add_argument("--jobs", type=int, default=60, help="jobs whose hosts are killed, after that (default 60)")
    parser.add_argument("--seed", type=int, default=None, help="of the random choices (default: a new one)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write what was found there, too")
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    share_one_heap()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    report_file = options.json.absolute() if options.json else None
    engine = background.run_blocking(Engine.connect())
    about = machine(engine)
    report = run(engine, options.cycles, seed)
    if report_file is not None:
        report_file.write_text(json.dumps(asdict(report)))
    print(f"\n{about}; seed {seed}.\n\n{markdown(report.rows())}\n")
    for problem in [*report.wrong, *(f"left behind: {name}" for name in report.left)]:
        print(problem)
    killed = soak_jobs.run(options.jobs, seed) if options.jobs else None
    if killed is not None:
        print(f"\n{killed}")
    sys.exit(any(row.met is False for row in report.rows()) or not (killed is None or killed.flawless))


if __name__ == "__main__":
    main()
