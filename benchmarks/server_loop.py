"""How long a server's event loop stands still while kernels start.

Run as a script it is such a server: `python -m benchmarks.server_loop KERNELSPEC` prints the longest gap in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

from benchmarks.contenders import NATIVE, OURS, Contender
from benchmarks.table import Row, interleaved, median

KERNELS = 4
TICK = 0.001
LIMIT = 0.05


async def serve(spec: str) -> float:
    """The longest gap between two ticks of a fresh server's loop while it starts several kernels at once."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

    specs = KernelSpecManager()
    manager = AsyncMappingKernelManager(kernel_spec_manager=specs)
    # A browser asks for the kernelspecs before it asks for a kernel.
    specs.get_all_specs()
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            longest, last = max(longest, now - last - TICK), now

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.2)
    longest = 0.0
    try:
        await asyncio.gather(*(manager.start_kernel(kernel_name=spec) for _ in range(KERNELS)))
        await asyncio.sleep(0.5)
        return longest
    finally:
        ticker.cancel()
        await manager.shutdown_all(now=True)


async def longest_gap(contender: Contender) -> float:
    """The gap of a server in a process of its own, where nothing is imported yet."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.server_loop", contender.spec,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, "the server failed"
    return float(output)


async def stalls(count: int) -> list[Row]:
    found = await interleaved(
        {"native": lambda: longest_gap(NATIVE), "ours": lambda: longest_gap(OURS)}, count, warm_up=0
    )

    def show(values: list[float]) -> str:
        return f"{median(values) * 1000:.0f} ms (worst {max(values) * 1000:.0f} ms)"

    return [
        Row(
            f"longest stall of a server's loop, {KERNELS} first starts at once",
            show(found["ours"]),
            f"native: {show(found['native'])}",
            median(found["ours"]) / median(found["native"]),
            f"≤ {LIMIT * 1000:.0f} ms",
            max(found["ours"]) <= LIMIT,
        )
    ]


if __name__ == "__main__":
    print(asyncio.run(serve(sys.argv[1])))
