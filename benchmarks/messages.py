"""What a running kernel's messages cost: round trips, and much output; always with one encryption on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from benchmarks.contenders import (
    NATIVE,
    NATIVE_CURVE,
    NATIVE_IPC,
    NATIVE_IPC_CURVE,
    OURS,
    OURS_IPC,
    OURS_IPC_CURVE,
    OURS_PLAIN,
    PATIENCE,
    Contender,
    end,
    execute,
)
from benchmarks.table import Row, at_least, at_most, compared, interleaved, median, p95

Group = Mapping[str, Contender]
GROUPS: Mapping[str, Group] = {
    "Curve": {"native": NATIVE_CURVE, "ours": OURS, "native, ipc": NATIVE_IPC_CURVE, "ours, ipc": OURS_IPC_CURVE},
    "no encryption": {"native": NATIVE, "ours": OURS_PLAIN, "native, ipc": NATIVE_IPC, "ours, ipc": OURS_IPC},
}
"""What is measured in turns: kernels with the same encryption, over TCP where nothing else is said."""

COMPARED = (("ours", "native", 1.05), ("ours, ipc", "native", 1.0), ("ours, ipc", "native, ipc", 1.0))
"""Whose round trips are compared with whose, and how long they may take at most."""

OUTPUT_RATE = 0.92
"""Of the other's rate at which output has to come, whatever the two."""

BLOCK = 50
"""Round trips of one kernel before it is the next one's turn."""

SETTLE_SECONDS = 1.0
"""Until a new client's subscription has come to its kernel, which ZeroMQ tries again after a first failure."""

MEGABYTES = 100
PRINT = f"""\
import sys
block = ("x" * 99 + "\\n") * 10_000
for _ in range({MEGABYTES}):
    sys.stdout.write(block)
    sys.stdout.flush()
"""


async def drain(client: Any) -> None:
    while await client.iopub_channel.msg_ready():
        await client.get_iopub_msg(timeout=1)


async def printed(client: Any) -> float:
    """Seconds from a cell that prints 100 MB to its end, all output received."""
    begin = time.perf_counter()
    request = client.execute(PRINT, store_history=False)
    size = 0
    while True:
        message = await client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "stream":
            size += len(message["content"]["text"])
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    taken = time.perf_counter() - begin
    assert size == MEGABYTES * 1_000_000, f"{size} bytes of output arrived"
    while (await client.get_shell_msg(timeout=PATIENCE))["parent_header"].get("msg_id") != request:
        pass
    return taken


@contextlib.asynccontextmanager
async def running(group: Group) -> AsyncIterator[dict[str, AsyncKernelClient]]:
    """Clients of one kernel of each, ready to receive output."""
    started: list[tuple[AsyncKernelManager, AsyncKernelClient]] = []
    try:
        for contender in group.values():
            started.append(await contender.start())
        await asyncio.sleep(SETTLE_SECONDS)
        clients = {who: client for who, (_, client) in zip(group, started, strict=True)}
        for client in clients.values():
            await execute(client, "1")
            await drain(client)
        yield clients
    finally:
        for manager, client in started:
            await end(manager, client)


def title(what: str, encryption: str, who: str) -> str:
    return f"{what}, {'ipc, ' if 'ipc' in who else ''}{encryption}"


async def round_trips(group: Group, encryption: str, count: int) -> list[Row]:
    times: dict[str, list[float]] = {who: [] for who in group}
    async with running(group) as clients:
        for number in range(count + 1):
            for who in list(group)[:: -1 if number % 2 else 1]:
                block = [await execute(clients[who], "1") for _ in range(BLOCK)]
                await drain(clients[who])
                if number:
                    times[who] += block
    rows = []
    for who, other, most in COMPARED:
        what = title("execute round trip", encryption, who)
        rows.append(compared(what, median(times[who]), median(times[other]), other, at_most(most)))
        rows.append(compared("the same, 95th percentile", p95(times[who]), p95(times[other]), other))
    return rows


async def output(group: Group, encryption: str, count: int) -> list[Row]:
    async with running(group) as clients:
        found = await interleaved({who: functools.partial(printed, client) for who, client in clients.items()}, count)
    rates = {who: MEGABYTES / median(values) for who, values in found.items()}
    return [
        compared(
            title(f"{MEGABYTES} MB of output", encryption, who),
            rates[who],
            rates[other],
            other,
            at_least(OUTPUT_RATE),
            lambda rate: f"{rate:.0f} MB/s",
        )
        for who, other, _ in COMPARED
    ]
