"""What a running kernel's messages cost: round trips, and much output; always with one encryption on both sides."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contenders import NATIVE, NATIVE_CURVE, OURS, OURS_PLAIN, PATIENCE, Contender, end, execute
from benchmarks.table import Row, at_least, at_most, compared, interleaved, median, p95

PAIRS = {"Curve": (NATIVE_CURVE, OURS), "no encryption": (NATIVE, OURS_PLAIN)}
BLOCK = 50
"""Round trips of one kernel before it is the other's turn."""

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


async def round_trips(pair: tuple[Contender, Contender], name: str, count: int) -> list[Row]:
    native, ours = [await contender.start() for contender in pair]
    times: dict[str, list[float]] = {"native": [], "ours": []}
    try:
        for number in range(count + 1):
            for who, (_, client) in (("native", native), ("ours", ours)):
                block = [await execute(client, "1") for _ in range(BLOCK)]
                await drain(client)
                if number:
                    times[who] += block
    finally:
        for manager, client in (native, ours):
            await end(manager, client)
    return [
        compared(f"execute round trip, {name}", median(times["ours"]), median(times["native"]), "native", at_most(1.1)),
        compared("the same, 95th percentile", p95(times["ours"]), p95(times["native"]), "native"),
    ]


async def output(pair: tuple[Contender, Contender], name: str, count: int) -> list[Row]:
    (native, native_client), (ours, our_client) = [await contender.start() for contender in pair]
    try:
        found = await interleaved(
            {"native": lambda: printed(native_client), "ours": lambda: printed(our_client)}, count
        )
    finally:
        await end(native, native_client)
        await end(ours, our_client)
    rates = {who: MEGABYTES / median(values) for who, values in found.items()}
    return [
        compared(
            f"{MEGABYTES} MB of output, {name}",
            rates["ours"],
            rates["native"],
            "native",
            at_least(0.9),
            lambda rate: f"{rate:.0f} MB/s",
        )
    ]
