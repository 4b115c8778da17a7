"""Capture of a large state, against one cloudpickle dump of it; `python -m benchmarks.capture` prints the rows."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from benchmarks.table import Row, at_most, compared, markdown, median
from docker_kernel.guest import snapshot

SHARED_MEMORY = Path("/dev/shm")
ROWS = 2_000_000
FIRST, AGAIN = 1.5, 0.5


def state() -> dict[str, Any]:
    """A notebook's variables: an array of 1 GB, a frame with texts of which some repeat, and 1,000 small objects."""
    import numpy
    import pandas

    generator = numpy.random.default_rng(0)
    words = [f"category {number}" for number in range(50)]
    chosen = generator.integers(0, len(words), ROWS)
    ids = [f"{number:08x}-{number * 7919 % 65536:04x}" for number in range(ROWS)]
    frame = pandas.DataFrame(
        {
            "id": ids,
            "email": [f"user.{number * 31 % ROWS}@example.org" for number in range(ROWS)],
            "address": [f"{number % 997} Main Street, {number * 17 % ROWS} Springfield" for number in range(ROWS)],
            "category": [words[number] for number in chosen],
            "country": [f"country {number % 195}" for number in chosen],
            "amount": generator.random(ROWS),
            "when": pandas.date_range("2026-01-01", periods=ROWS, freq="s"),
        }
    )
    small = {f"v{number}": {"number": number, "list": [number, str(number)]} for number in range(1000)}
    return {"big": generator.random(125_000_000), "frame": frame, **small}


def captures(count: int = 5) -> list[Row]:
    """Rows for a first capture and for one that finds everything unchanged; what to do first changes in turns."""
    namespace = types.ModuleType("__main__").__dict__
    variables = state()
    namespace.update(variables)
    found: dict[str, list[float]] = {"dump": [], "first": [], "again": []}

    def dump() -> None:
        file = tempfile.NamedTemporaryFile(dir=SHARED_MEMORY)  # noqa: SIM115 (closing it is not to be measured)
        found["dump"].append(_seconds(lambda: cloudpickle.dump(variables, file, protocol=5)))
        file.close()

    def capture() -> None:
        folder = tempfile.mkdtemp(dir=SHARED_MEMORY)
        try:
            found["first"].append(_seconds(lambda: snapshot.capture(variables, namespace, folder)))
            found["again"].append(_seconds(lambda: snapshot.capture(variables, namespace, folder)))
        finally:
            shutil.rmtree(folder)

    for number in range(count + 1):
        for step in [dump, capture][:: 1 if number % 2 else -1]:
            step()
    first, again, other = (median(found[name][1:]) for name in ("first", "again", "dump"))
    name = "one cloudpickle dump to memory"
    return [
        compared("capture of 1 GB of numbers, 2M rows with texts, 1,000 objects", first, other, name, at_most(FIRST)),
        compared("the same again, unchanged", again, other, name, at_most(AGAIN)),
    ]


def _seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(markdown(captures(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
