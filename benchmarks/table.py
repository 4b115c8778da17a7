"""Rows of ratios, and the numbers they are made from."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker_kernel import background
from docker_kernel.config import format_size
from docker_kernel.engine import Engine

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"

Measure = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        ours, other: what was measured, for a reader; `ratio` is ours to other's.
        target: what the ratio (or our own value, where there is no ratio) is to be, for a reader.
        met: whether it is; None where there is no target.
    """

    what: str
    ours: str
    other: str
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        return [self.what, self.ours, self.other, ratio, self.target, verdict]


HEAD = ["", "Docker Python", "compared with", "ratio", "target", ""]


def markdown(rows: list[Row]) -> str:
    """The table as Markdown, its columns aligned for the terminal."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


async def interleaved(measures: Mapping[str, Measure], count: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Take every measurement `count` times, in turns, so that what else the machine does falls on all alike.

    Every second time the order is the other one, so that none always follows the same.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(warm_up + count):
        for name, measure in list(measures.items())[:: -1 if number % 2 else 1]:
            value = await measure()
            if number >= warm_up:
                found[name].append(value)
    return found


median = statistics.median


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.2f} ms"


def at_most(limit: float) -> Callable[[float], tuple[str, bool]]:
    """A target for a ratio: its text, and whether a value meets it."""
    return lambda ratio: (f"≤ {limit}x", ratio <= limit)


def at_least(limit: float) -> Callable[[float], tuple[str, bool]]:
    return lambda ratio: (f"≥ {limit}x", ratio >= limit)


def compared(
    what: str,
    ours: float,
    other: float,
    other_name: str,
    target: Callable[[float], tuple[str, bool]] | None = None,
    show: Callable[[float], str] = seconds,
) -> Row:
    """A row of our value to another."""
    ratio = ours / other
    text, met = target(ratio) if target else ("", None)
    return Row(what, show(ours), f"{other_name}: {show(other)}", ratio, text, met)


def machine(engine: Engine) -> str:
    """What it was measured on."""
    info = background.run_blocking(engine.info())
    load = os.getloadavg()
    return (
        f"{info.cpus} CPUs, {format_size(info.memory)} of memory; {info.product} {info.version}; "
        f"load {load[0]:.1f} before the run"
    )


def command(
    name: str, description: str | None, measure: Callable[[Engine, int], Coroutine[Any, Any, list[Row]]]
) -> None:
    """Run a benchmark as a command: `measure` gets the engine and how many measurements are asked for."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--count", type=int, default=10, help="measurements of each value (default 10)")
    count = parser.parse_args().count
    engine = background.run_blocking(Engine.connect())
    rows = background.run_blocking(measure(engine, count))
    print(f"{machine(engine)}; medians of {count}.\n\n{markdown(rows)}")


def save(text: str, begin: str, end: str) -> None:
    """Put a table into docs/benchmarks.md, between two comments."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    DOCUMENT.write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}", encoding="utf-8")
