"""`python -m benchmarks.start`: from nothing to the first answer, cold and warm; from a restart to the next.

Every start is one of a server's (jupyter_client's MultiKernelManager), since only servers keep spares.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from jupyter_client.multikernelmanager import AsyncMultiKernelManager

from benchmarks import gateway
from benchmarks.contenders import IMAGE, NATIVE, Contender, connect, execute
from benchmarks.processes import in_containers, proportional
from benchmarks.table import Measure, Row, at_most, compared, interleaved, median, seconds
from docker_kernel import background, kernelspec, labels
from docker_kernel.engine import ContainerSpec, ContainerState, Engine
from docker_kernel.kernel.connection import CONTAINER_PORTS

COLD = Contender("docker-cold")
WARM = Contender("docker-warm")
"""Docker Python without and with a spare."""

SPARE_SECONDS = 60
"""How long a server may take to have a spare ready again."""

SPARE_MEMORY = 80
"""MB that a waiting spare may have."""


async def install(engine: Engine) -> None:
    """Write the two kernelspecs beside those of `contenders.prepare`."""
    folder = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels"
    for contender, spares in ((COLD, 0), (WARM, 1)):
        settings = kernelspec.stanza(image=IMAGE, warm_spares=spares)
        await background.run(kernelspec.install(engine, folder, settings, name=contender.spec))


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[AsyncMultiKernelManager]:
    """A server, whose kernels and spares end with it."""
    from docker_kernel.kernel.provisioner import shared_engine, shared_spares

    manager = AsyncMultiKernelManager(connection_dir=os.environ["JUPYTER_RUNTIME_DIR"])
    try:
        yield manager
    finally:
        await manager.shutdown_all(now=True)
        spares = shared_spares(await background.run(shared_engine()))
        await background.run(spares.close())


class Starts:
    """Measures starts of one server's kernels."""

    def __init__(self, engine: Engine, manager: AsyncMultiKernelManager) -> None:
        self._engine = engine
        self._manager = manager
        self.native_memory: list[float] = []
        self.spare_memory: list[float] = []
        """MB of native kernels and of spares that waited."""

    async def first_reply(self, contender: Contender) -> float:
        """Seconds from the start to the first execute_reply, without wait_for_ready's drain."""
        begin = time.perf_counter()
        kernel_id = await self._manager.start_kernel(kernel_name=contender.spec)
        kernel = self._manager.get_kernel(kernel_id)
        client = connect(kernel)
        try:
            await execute(client, "1")
            taken = time.perf_counter() - begin
            if contender is NATIVE:
                self.native_memory.append(proportional([kernel.provisioner.pid]))
            elif contender is WARM:
                info = await kernel.provisioner.get_provisioner_info()
                state = await background.run(self._engine.containers.inspect(info["container"]))
                assert state.labels[labels.SPARE], "the spare was not claimed"
            return taken
        finally:
            client.stop_channels()
            await self._manager.shutdown_kernel(kernel_id, now=True)

    async def prime(self) -> None:
        """Have the server keep spares: it does from its first kernel on."""
        await self._manager.shutdown_kernel(await self._manager.start_kernel(kernel_name=WARM.spec), now=True)

    async def claimed(self) -> float:
        """The same where a spare waits; the next one is ready before anything else is measured."""
        spare = await self.spare()
        self.spare_memory.append(proportional(in_containers([spare.id])))
        taken = await self.first_reply(WARM)
        await self.spare()
        return taken

    async def spare(self) -> ContainerState:
        """The spare, as soon as it is ready."""
        end = time.monotonic() + SPARE_SECONDS
        while time.monotonic() < end:
            for state in await background.run(self._engine.containers.list({labels.SPARE: ""})):
                if state.name.startswith(labels.SPARE_NAME) and state.labels.get(labels.SPEC) == WARM.spec:
                    return state
            await asyncio.sleep(0.1)
        raise TimeoutError("the server has prepared no spare")


async def engine_alone(engine: Engine, count: int = 1) -> float:
    """Seconds that the engine takes to create and start containers with a kernel's five ports, asked at once."""
    spec = ContainerSpec(
        IMAGE, ["sleep", "600"], ports=dict.fromkeys(CONTAINER_PORTS.values(), ("127.0.0.1", None)), auto_remove=True
    )
    made: list[str] = []

    async def one() -> None:
        made.append(await engine.containers.create(spec))
        await engine.containers.start(made[-1])

    async def all_of_them() -> float:
        begin = time.perf_counter()
        try:
            await asyncio.gather(*(one() for _ in range(count)))
            return time.perf_counter() - begin
        finally:
            await asyncio.gather(*(engine.containers.remove(container) for container in made))

    return await background.run(all_of_them())


async def starts(engine: Engine, count: int) -> list[Row]:
    await install(engine)
    reason = ""
    async with contextlib.AsyncExitStack() as stack:
        own = Starts(engine, await stack.enter_async_context(server()))
        await own.prime()
        measures: dict[str, Measure] = {
            "native": functools.partial(own.first_reply, NATIVE),
            "engine": functools.partial(engine_alone, engine),
            "cold": functools.partial(own.first_reply, COLD),
            "claimed": own.claimed,
        }
        try:
            measures["gateway"] = await stack.enter_async_context(gateway.first_replies(engine))
        except gateway.Unavailable as error:
            reason = str(error)
        found = {name: median(values) for name, values in (await interleaved(measures, count)).items()}

    native, alone, cold, claimed = (found[name] for name in ("native", "engine", "cold", "claimed"))
    parts = f"native {seconds(native)} + engine {seconds(alone)}"
    memory = median(own.spare_memory)
    rows = [
        compared("cold start to first reply", cold, native + alone, parts, at_most(1.1)),
        compared("start from a spare to first reply", claimed, native, "native", at_most(0.3)),
        Row(
            "memory of a spare that waits", f"{memory:.0f} MB",
            f"native kernel: {median(own.native_memory):.0f} MB", None, f"< {SPARE_MEMORY} MB", memory < SPARE_MEMORY,
        ),
    ]  # fmt: skip
    peer = "gateway_provisioners' DockerProvisioner"
    for what, value in (("cold start to first reply", cold), ("start from a spare to first reply", claimed)):
        if "gateway" in found:
            rows.append(compared(what, value, found["gateway"], peer, lambda ratio: ("< 1x", ratio < 1)))
        else:
            rows.append(Row(what, seconds(value), f"{peer}: not run, {reason}", None, "< 1x"))
    return rows


async def restarts(engine: Engine, count: int) -> list[Row]:
    await install(engine)
    async with server() as manager:
        kernels = {}
        for name, contender in (("native", NATIVE), ("ours", COLD)):
            kernels[name] = manager.get_kernel(await manager.start_kernel(kernel_name=contender.spec))
            client = connect(kernels[name])
            await execute(client, "1")
            client.stop_channels()

        async def restart(name: str) -> float:
            begin = time.perf_counter()
            await kernels[name].restart_kernel()
            client = connect(kernels[name])
            await execute(client, "1")
            taken = time.perf_counter() - begin
            # The clients of one manager have one identity: no two may be connected at once.
            client.stop_channels()
            return taken

        found = await interleaved({name: functools.partial(restart, name) for name in kernels}, count)
    return [compared("restart to first reply", median(found["ours"]), median(found["native"]), "native", at_most(0.6))]


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main("start")
