"""`python -m benchmarks.before_after CHECKOUT`: what cells in jobs take here, against another checkout of the project.

Each has a kernel of its own with the same state: an array of 1 GB and 200,000 small objects. The cells are run in
turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.table import Row, at_most, compared, machine, markdown, median
from docker_kernel import background
from docker_kernel.engine import Engine

STATE = """
import numpy
big = numpy.random.default_rng(0).random(125_000_000)
small = [{'number': number, 'text': f'text {number}'} for number in range(200_000)]
def look():
    return float(big[-1]) + len(small)
"""

CELLS = {
    "`%%local` of a trivial cell": "%%local\nanswer = 42",
    "the same that reads 1 GB and changes nothing": "%%local\nanswer = look()",
    "the same that fills a list of 200,000 objects": "%%local\nsmall.append(look())",
    "`dispatch` of an expression that reads 1 GB, again, until its result": (
        "from docker_kernel import dispatch\nanswer = dispatch('look()').result()"
    ),
}
"""What is measured, and its cell."""

TARGETS = {"the same that reads 1 GB and changes nothing": 1.2}

WORKER = """
import asyncio, json, sys, tempfile, time, warnings, logging
from pathlib import Path
logging.getLogger().setLevel(logging.ERROR)
warnings.simplefilter("ignore")
from benchmarks import contenders
from docker_kernel import background
from docker_kernel.engine import Engine

async def main():
    manager, client = await contenders.OURS.start()
    try:
        for line in sys.stdin:
            print(json.dumps(await contenders.execute(client, json.loads(line))), flush=True)
            await asyncio.sleep(1)
    finally:
        await contenders.end(manager, client)

engine = background.run_blocking(Engine.connect())
with tempfile.TemporaryDirectory(prefix="docker-kernel-benchmark-") as folder:
    contenders.prepare(engine, Path(folder))
    asyncio.run(main())
"""


IMAGE = "docker-kernel/scipy"


class Checkout:
    """A kernel of one checkout, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        argv, env = [sys.executable, "-c", WORKER], {**os.environ, "DOCKER_KERNEL_BENCHMARK_IMAGE": IMAGE}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, cwd=folder, env=env, stdin=pipe, stdout=pipe, text=True)

    def run(self, cell: str) -> float:
        """Seconds until a cell's reply."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(cell) + "\n")
        self.process.stdin.flush()
        seconds: float = json.loads(self.process.stdout.readline())
        return seconds

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def rows(other: Path, count: int) -> list[Row]:
    checkouts = [Checkout(Path(__file__).parent.parent), Checkout(other)]
    found: dict[str, list[list[float]]] = {what: [[], []] for what in CELLS}
    try:
        for one in checkouts:
            one.run(STATE)
        for number in range(count + 1):
            for what, cell in CELLS.items():
                for which in (0, 1) if number % 2 else (1, 0):
                    found[what][which].append(checkouts[which].run(cell))
    finally:
        for one in checkouts:
            one.close()
    made = []
    for what, (ours, others) in found.items():
        target = TARGETS.get(what)
        bound = at_most(target) if target is not None else None
        made.append(compared(what, median(ours[1:]), median(others[1:]), "before", bound))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before_after", description=__doc__)
    parser.add_argument("checkout", type=Path, help="the other one's folder")
    parser.add_argument("--count", type=int, default=8, help="measurements of each value (default 8)")
    options = parser.parse_args()
    about = machine(background.run_blocking(Engine.connect()))
    print(
        f"{about}; {IMAGE}; medians of {options.count}.\n\n{markdown(rows(options.checkout.resolve(), options.count))}"
    )


if __name__ == "__main__":
    main()
