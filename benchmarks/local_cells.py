"""A trivial %%local cell, against the least that a fresh container with IPython costs."""

from __future__ import annotations

import asyncio
import functools
import time

from benchmarks.contenders import IMAGE, OURS, end, execute
from benchmarks.table import Row, at_most, compared, interleaved, median

CELL = "%%local\nanswer = 42"


async def fresh_ipython() -> float:
    """Seconds of `docker run --rm IMAGE python3 -c "import IPython"`."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec("docker", "run", "--rm", IMAGE, "python3", "-c", "import IPython")
    assert await process.wait() == 0
    return time.perf_counter() - begin


async def local_cells(count: int) -> list[Row]:
    manager, client = await OURS.start()
    try:
        await execute(client, "1")
        found = await interleaved(
            {"floor": fresh_ipython, "ours": functools.partial(execute, client, CELL)}, count, warm_up=2
        )
        await execute(client, "assert answer == 42")
    finally:
        await end(manager, client)
    floor = "`docker run --rm IMAGE python3 -c 'import IPython'`"
    return [compared("`%%local` of a trivial cell", median(found["ours"]), median(found["floor"]), floor, at_most(1.5))]
