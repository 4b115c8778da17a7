"""`python -m benchmarks.dispatch`: every row about jobs from one run, one table.

`%%local` against its floor, captures against a cloudpickle dump, the server's memory over a large state, a large
request's weight, and a sweep on two Swarm nodes against the engine's own services.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import capture, contenders, host_memory, local_cells, swarm_sweep
from benchmarks.table import Row, machine, markdown, save
from docker_kernel import background
from docker_kernel.engine import Engine

BEGIN, END = "<!-- jobs -->", "<!-- end of jobs -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="measurements of each value (default 10)")
    parser.add_argument("--jobs", type=int, default=200, help="jobs of the sweep (default 200)")
    parser.add_argument("--only", default="", help="the sections whose names contain this")
    parser.add_argument("--save", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    engine = background.run_blocking(Engine.connect())
    about = machine(engine)
    sections: dict[str, Callable[[], list[Row]]] = {
        "local": lambda: _local(engine, options.count),
        "capture": lambda: capture.captures(options.count),
        "memory": host_memory.host_memory,
        "weight": host_memory.request_weight,
        "sweep": lambda: swarm_sweep.sweep(engine, options.jobs, 16),
    }
    rows: list[Row] = []
    for name, section in sections.items():
        if options.only in name:
            print(f"… {name}", flush=True)
            rows += section()
    text = f"{about}; medians of {options.count}, a sweep once.\n\n{markdown(rows)}\n"
    print(f"\n{text}")
    if options.save:
        save(text, BEGIN, END)


def _local(engine: Engine, count: int) -> list[Row]:
    before = dict(os.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="docker-kernel-benchmark-") as folder:
            contenders.prepare(engine, Path(folder))
            return asyncio.run(local_cells.local_cells(count))
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main()
