"""A trivial %%local cell, against the least that a fresh container with IPython costs."""

from __future__ import annotations

import asyncio
import time

from benchmarks.contenders import IMAGE, OURS, end, execute
from benchmarks.table import Row, at_most, compared, interleaved, median

CELL = "%%local\nanswer = 42"
PAUSE = 2.0
"""Seconds after a cell, in which its reader looks at the result, and the next one's container is made."""


async def fresh_ipython() -> float:
    """Seconds of `docker run --rm IMAGE python3 -c "import IPython"`."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec("docker", "run", "--rm", IMAGE, "python3", "-c", "import IPython")
    assert await process.wait() == 0
    return time.perf_counter() - begin


async def local_cells(count: int) -> list[Row]:
    manager, client = await OURS.start()

    async def ours() -> float:
        found = await execute(client, CELL)
        await asyncio.sleep(PAUSE)
        return found

    try:
        await execute(client, "1")
        found = await interleaved({"floor": fresh_ipython, "ours": ours}, count, warm_up=2)
        await execute(client, "assert answer == 42")
    finally:
        await end(manager, client)
    floor = "`docker run --rm IMAGE python3 -c 'import IPython'`"
    return [compared("`%%local` of a trivial cell", median(found["ours"]), median(found["floor"]), floor, at_most(1.0))]
