"""From nothing to the first answer, and from a restart to the next."""

from __future__ import annotations

import contextlib
import functools
import time

from benchmarks import gateway
from benchmarks.contenders import IMAGE, NATIVE, OURS, connect, execute, first_reply
from benchmarks.table import Measure, Row, at_most, compared, interleaved, median, seconds
from docker_kernel import background
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.kernel.connection import CONTAINER_PORTS


async def engine_alone(engine: Engine) -> float:
    """Seconds that the engine takes to create and start a container with a kernel's five published ports."""
    spec = ContainerSpec(
        IMAGE, ["sleep", "60"], ports=dict.fromkeys(CONTAINER_PORTS.values(), ("127.0.0.1", None)), auto_remove=True
    )
    begin = time.perf_counter()
    container = await background.run(engine.create(spec))
    try:
        await background.run(engine.start(container))
        return time.perf_counter() - begin
    finally:
        await background.run(engine.remove(container))


async def cold_starts(engine: Engine, count: int) -> list[Row]:
    measures: dict[str, Measure] = {
        "native": functools.partial(first_reply, NATIVE),
        "engine": functools.partial(engine_alone, engine),
        "ours": functools.partial(first_reply, OURS),
    }
    reason = ""
    async with contextlib.AsyncExitStack() as stack:
        try:
            measures["gateway"] = await stack.enter_async_context(gateway.first_replies(engine))
        except gateway.Unavailable as error:
            reason = str(error)
        found = {name: median(values) for name, values in (await interleaved(measures, count)).items()}
    floor = found["native"] + found["engine"]
    parts = f"native {seconds(found['native'])} + engine {seconds(found['engine'])}"
    rows = [compared("start to first reply", found["ours"], floor, parts, at_most(1.3))]
    peer = "gateway_provisioners' DockerProvisioner"
    if "gateway" in found:
        rows.append(compared("the same", found["ours"], found["gateway"], peer, lambda ratio: ("< 1x", ratio < 1)))
    else:
        rows.append(Row("the same", seconds(found["ours"]), f"{peer}: not run, {reason}", None, "< 1x"))
    return rows


async def restarts(count: int) -> list[Row]:
    managers = {}
    for name, contender in (("native", NATIVE), ("ours", OURS)):
        managers[name], client = await contender.start()
        await execute(client, "1")
        client.stop_channels()

    async def restart(name: str) -> float:
        begin = time.perf_counter()
        await managers[name].restart_kernel()
        client = connect(managers[name])
        await execute(client, "1")
        taken = time.perf_counter() - begin
        # The clients of one manager have one identity: no two may be connected at once.
        client.stop_channels()
        return taken

    try:
        found = await interleaved({name: functools.partial(restart, name) for name in managers}, count)
    finally:
        for manager in managers.values():
            await manager.shutdown_kernel(now=True)
    return [compared("restart to first reply", median(found["ours"]), median(found["native"]), "native")]
