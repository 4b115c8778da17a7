"""Fifty kernels of one server, asked for at once: the time until all answer, and what they cost while they idle.

Run as a script it is such a server: `python -m benchmarks.crowd KERNELSPEC` starts as many kernels as each line of its
input says, and prints one JSON object a line: each kernel that has started, then what its own process uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import queue
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

from benchmarks.contenders import NATIVE, OURS, Contender, execute
from benchmarks.processes import cpu_seconds, descendants, in_containers, named, resident, threads
from benchmarks.start import engine_alone
from benchmarks.table import Measure, Row, at_most, compared, interleaved, median, seconds
from docker_kernel import background, labels
from docker_kernel.engine import Engine
from docker_kernel.kernel.container import LINK_DELAY

KERNELS = 50
IDLE = 15.0
"""Seconds over which the CPU of idle kernels is summed up."""

SETTLE = LINK_DELAY + 4.0
"""Seconds before those, in which links are opened and clients go."""

GONE = 5.0
"""Seconds after the server's end in which its containers may go: a killed server's spare waits for another one."""

MEMORY = 2.0
"""MB of the server's process that a kernel may take."""

CALLS = 10
"""Engine calls that a kernel's start may make."""

ENGINE = ("dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy")


@dataclass(frozen=True)
class Crowd:
    """What was measured of kernels that one server started at once.

    Args:
        ready: seconds until each had answered its first cell.
        memory, calls: MB of the server's process, and calls of its engine, for each kernel.
        threads: how many more the server's process has.
        idle: seconds of CPU that the kernels and their server take each second when nobody uses them.
        engine: the same of the engine's own processes.
        left: how many containers are there after the server's end.
    """

    ready: float
    memory: float
    threads: int
    calls: float
    idle: float
    engine: float
    left: int


async def serve(spec: str) -> None:
    from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

    manager = AsyncMappingKernelManager(connection_dir=os.environ["JUPYTER_RUNTIME_DIR"])
    calls = 0

    def called(*_: Any, **__: Any) -> None:
        nonlocal calls
        calls += 1

    def tell(**what: Any) -> None:
        print(json.dumps(what), flush=True)

    async def start() -> None:
        kernel_id = await manager.start_kernel(kernel_name=spec)
        tell(kernel=kernel_id, file=manager.get_kernel(kernel_id).connection_file)

    try:
        # What only the first start of a process does is not the crowd's.
        await manager.shutdown_kernel(await manager.start_kernel(kernel_name=spec), now=True)
        if spec != NATIVE.spec:
            from docker_kernel.kernel.provisioner import shared_engine

            engine = await background.run(shared_engine())
            engine.connection.client.hooks["response"].append(called)
        while True:
            tell(memory=resident(os.getpid()), threads=threads(os.getpid()), calls=calls)
            line = await asyncio.to_thread(sys.stdin.readline)
            if not line:
                break
            await asyncio.gather(*(start() for _ in range(int(line))))
            await asyncio.to_thread(sys.stdin.readline)
    finally:
        await manager.shutdown_all(now=True)


class Server:
    """Such a server, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._input, self._output = process.stdin, process.stdout

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, contender: Contender) -> AsyncIterator[Server]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.crowd", contender.spec,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        server = cls(process)
        try:
            yield server
        finally:
            server._input.close()
            await process.wait()

    def say(self, line: str = "") -> None:
        self._input.write(f"{line}\n".encode())

    async def told(self) -> dict[str, Any]:
        line = await self._output.readline()
        assert line, "the server failed"
        told: dict[str, Any] = json.loads(line)
        return told


async def answer(file: str) -> AsyncKernelClient:
    """A client of a kernel that has answered its first cell."""
    client = AsyncKernelClient(connection_file=file)
    client.load_connection_file()
    client.start_channels()
    await execute(client, "1")
    return client


async def crowd(engine: Engine, contender: Contender, kernels: int, idle: float) -> Crowd:
    """Let a fresh server start kernels at once, use them once, leave them alone, and end it."""
    async with Server.of(contender) as server:
        before = await server.told()
        begin = time.perf_counter()
        server.say(str(kernels))
        ids: set[str] = set()
        answers = []
        for _ in range(kernels):
            started = await server.told()
            ids.add(started["kernel"])
            answers.append(asyncio.create_task(answer(started["file"])))
        clients = await asyncio.gather(*answers)
        ready = time.perf_counter() - begin
        for client in clients:
            client.stop_channels()
        await asyncio.sleep(SETTLE)
        server.say()
        after = await server.told()

        kept = await containers(engine, ids)
        used = [*descendants(server.pid), *in_containers(kept)]
        taken = cpu_seconds(used), cpu_seconds(named(ENGINE))
        await asyncio.sleep(idle)
        taken = cpu_seconds(used) - taken[0], cpu_seconds(named(ENGINE)) - taken[1]
    left = await containers(engine, ids)
    end = time.monotonic() + GONE
    while left and time.monotonic() < end:
        await asyncio.sleep(0.2)
        left = await containers(engine, ids)
    return Crowd(
        ready=ready,
        memory=(after["memory"] - before["memory"]) / kernels,
        threads=after["threads"] - before["threads"],
        calls=(after["calls"] - before["calls"]) / kernels,
        idle=taken[0] / idle,
        engine=taken[1] / idle,
        left=len(left),
    )


async def containers(engine: Engine, kernels: set[str]) -> list[str]:
    """The ids of the containers that kernels have."""
    found = await background.run(engine.containers.list({labels.KIND: labels.KIND_KERNEL}))
    return [one.id for one in found if one.name.removeprefix(labels.KERNEL_NAME) in kernels]


def rounds(count: int) -> int:
    """How often a crowd is measured where starts are measured so many times: each takes minutes."""
    return max(1, count // 6)


async def crowds(engine: Engine, count: int) -> list[Row]:
    found: dict[str, list[Crowd]] = {"native": [], "ours": []}

    async def measure(name: str, contender: Contender) -> float:
        for last in (False, True):
            try:
                found[name].append(await crowd(engine, contender, KERNELS, IDLE))
                break
            except queue.Empty:
                # Another process may take a native kernel's port before the kernel has it.
                if last or contender is not NATIVE:
                    raise
        return found[name][-1].ready

    measures: dict[str, Measure] = {
        "native": functools.partial(measure, "native", NATIVE),
        "engine": functools.partial(engine_alone, engine, KERNELS),
        "ours": functools.partial(measure, "ours", OURS),
    }
    ready = {name: median(values) for name, values in (await interleaved(measures, count, warm_up=0)).items()}

    def typical(what: Callable[[Crowd], float]) -> tuple[float, float]:
        return median(what(one) for one in found["ours"]), median(what(one) for one in found["native"])

    memory, native_memory = typical(lambda one: one.memory)
    threads, native_threads = typical(lambda one: one.threads)
    calls, _ = typical(lambda one: one.calls)
    idle, native_idle = typical(lambda one: one.idle)
    busy, native_busy = typical(lambda one: one.engine)
    left = max(one.left for one in found["ours"])
    floor = ready["native"] + ready["engine"]
    parts = f"native {seconds(ready['native'])} + engine {seconds(ready['engine'])}"
    return [
        compared(f"{KERNELS} kernels at once, until all have replied", ready["ours"], floor, parts, at_most(1.3)),
        Row("their containers left after the server's end", str(left), "", None, "0", left == 0),
        Row(
            "memory of the server's process for each", f"{memory:.1f} MB", f"native: {native_memory:.1f} MB",
            None, f"< {MEMORY:.0f} MB", memory < MEMORY,
        ),
        Row(
            "threads of the server's process for all", f"+{threads:.0f}", f"native: +{native_threads:.0f}",
            None, f"≤ {background.WORKERS + 4}", threads <= background.WORKERS + 4,
        ),
        Row("engine calls for each", f"{calls:.1f}", "", None, f"≤ {CALLS}", calls <= CALLS),
        compared("CPU of all and their server, idle", idle, native_idle, "native", at_most(1.2), per_second),
        Row("CPU of the engine's own processes meanwhile", per_second(busy), f"native: {per_second(native_busy)}"),
    ]  # fmt: skip


def per_second(value: float) -> str:
    return f"{value * 1000:.1f} ms each second"


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
