"""`python -m benchmarks.containerize`: making a notebook image again, beside the engine's own commit of the same files.

The environment is unchanged, as it is each time but the first; the notebook differs each time, so that nothing is there
already. The commit is what an engine does at least: a container of the same image, the same files put in, committed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, command, interleaved
from docker_kernel.batch.layers import Layer
from docker_kernel.containerize import contents
from docker_kernel.containerize.environment import environment
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.request import Request, silent
from docker_kernel.containerize.runner_layers import runner_layers
from docker_kernel.engine import ContainerSpec, Engine

REPOSITORY = "docker-kernel-benchmark/notebook"
FILES = 50
FILE_SIZE = 20_000


def main() -> None:
    command("containerize", __doc__, measure)


async def measure(engine: Engine, count: int) -> list[Row]:
    """The rows of the table: seconds, and ratios to the commits."""
    with tempfile.TemporaryDirectory(prefix="docker-kernel-benchmark-") as name:
        folder = Path(name)
        for number in range(FILES):
            (folder / f"module_{number}.py").write_bytes(b"# text\n" * (FILE_SIZE // 7))
        numbers = itertools.count()
        found = await interleaved(
            {
                "ours": lambda: _containerize(engine, folder, next(numbers)),
                "files": lambda: _commit(engine, folder, next(numbers), False),
                "all": lambda: _commit(engine, folder, next(numbers), True),
            },
            count,
        )
    ours, files, everything = (statistics.median(found[name]) for name in ("ours", "files", "all"))
    made = f"{ours:.2f} s"
    return [
        Row("containerize again", made, "", None, "under 5 s", ours < 5),
        Row("… a commit of the same files", made, f"{files:.2f} s", ours / files, "at most 3x", ours <= 3 * files),
        Row("… a commit of those and of what runs them", made, f"{everything:.2f} s", ours / everything),
    ]


def _notebook(folder: Path, number: int) -> Path:
    path = folder / "report.ipynb"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": []}
    path.write_text(
        json.dumps(
            {"cells": [{**cell, "source": f"alpha = {number}"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        )
    )
    return path


async def _containerize(engine: Engine, folder: Path, number: int) -> float:
    begun = time.perf_counter()
    made = await containerize(Request(_notebook(folder, number), tag=f"{REPOSITORY}:a"), engine=engine)
    seconds = time.perf_counter() - begun
    await engine.images.remove(made.reference)
    return seconds


async def _commit(engine: Engine, folder: Path, number: int, runner: bool) -> float:
    base = await environment(engine, {}, Request(folder), silent)
    names = [path.name for path in folder.iterdir()]
    with tempfile.TemporaryDirectory() as spool:
        layers: list[Layer] = await asyncio.to_thread(
            contents.layers, folder, names, "report.ipynb", f"{number}".encode(), {}, Path(spool)
        )
        layers += await runner_layers(engine, base, silent) if runner else []
        begun = time.perf_counter()
        container = await engine.containers.create(ContainerSpec(image=base.image, command=["true"]))
        for layer in layers:
            await engine.containers.put_stream(container, layer.open())
        image = await engine.containers.commit(container, REPOSITORY, "b")
        seconds = time.perf_counter() - begun
    await engine.containers.remove(container)
    await engine.images.remove(image)
    return seconds


if __name__ == "__main__":
    main()
