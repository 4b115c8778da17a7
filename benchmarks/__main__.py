"""`python -m benchmarks`: every row from one run, one table."""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import contenders, crowd, local_cells, messages, picture, server_loop, start
from benchmarks.table import Row, machine, markdown, save
from docker_kernel import background
from docker_kernel.engine import Engine

BEGIN, END = "<!-- table -->", "<!-- end of table -->"


async def measure(engine: Engine, count: int, only: str, save_picture: bool) -> list[Row]:
    sections: dict[str, Callable[[], Awaitable[list[Row]]]] = {
        "start": lambda: start.starts(engine, count),
        "restart": lambda: start.restarts(engine, count),
        "crowd": lambda: crowd.crowds(engine, crowd.rounds(count)),
        **{f"round trip {name}": lambda g=group, n=name: messages.round_trips(g, n, count)
           for name, group in messages.GROUPS.items()},
        **{f"output {name}": lambda g=group, n=name: messages.output(g, n, count)
           for name, group in messages.GROUPS.items()},
        "local": lambda: local_cells.local_cells(count),
        "stall": lambda: server_loop.stalls(count),
    }  # fmt: skip
    rows: list[Row] = []
    for name, section in sections.items():
        if only in name:
            print(f"… {name}", flush=True)
            rows += await section()
    if save_picture or only == "picture":
        print("… picture", flush=True)
        await picture.save(engine, count)
    return rows


def main(only: str = "") -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--count", type=int, default=12, help="measurements of each value (default 12)")
    parser.add_argument("--quick", action="store_true", help="three of each")
    parser.add_argument("--only", default=only, help="the sections whose names contain this")
    parser.add_argument("--save", action="store_true", help="put table and picture into docs/")
    options = parser.parse_args()
    count = 3 if options.quick else options.count
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    engine = background.run_blocking(Engine.connect())
    about = machine(engine)
    with tempfile.TemporaryDirectory(prefix="docker-kernel-benchmark-") as folder:
        contenders.prepare(engine, Path(folder))
        rows = asyncio.run(measure(engine, count, options.only, options.save))
    if not rows:
        return
    text = f"{about}; medians of {count}, of the crowds {crowd.rounds(count)}.\n\n{markdown(rows)}\n"
    print(f"\n{text}")
    if options.save:
        save(text, BEGIN, END)


if __name__ == "__main__":
    main()
