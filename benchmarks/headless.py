"""`python -m benchmarks.headless`: 51 trivial cells by a notebook image's entry point, beside nbclient's own time.

Both run in the same container, with the same Python, packages and kernel, one after the other. nbclient's part is what
the entry point does beyond its own duties: read the notebook, execute it, write the result.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, at_most, command, compared, interleaved
from docker_kernel import labels
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.request import Request
from docker_kernel.engine import ContainerSpec, Engine, File
from tests.inside import run_inside

TAG = "docker-kernel-benchmark/headless:latest"
CELLS = 51

NBCLIENT = """
import os, sys
sys.path.append("/opt/docker-kernel/runner")
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
import json

spec = json.load(open("/opt/docker-kernel/notebook/notebook.json"))
notebook = nbformat.read("/notebook/" + spec["notebook"], as_version=4)
manager = AsyncKernelManager(transport="ipc", connection_file="/tmp/nbclient-%d.json" % os.getpid())
manager._kernel_spec = KernelSpec(argv=spec["kernel"]["argv"], display_name="", language="python")
client = NotebookClient(notebook, km=manager, resources={"metadata": {"path": "/notebook"}})
client.owns_km = True
client.execute()
nbformat.write(notebook, "/output/nbclient.ipynb")
"""


def main() -> None:
    command("headless", __doc__, measure)


async def measure(engine: Engine, count: int) -> list[Row]:
    """The rows of the table: seconds, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="docker-kernel-benchmark-") as folder:
        notebook = Path(folder) / "trivial.ipynb"
        cells = [
            {
                "cell_type": "code",
                "id": f"c{i}",
                "metadata": {},
                "outputs": [],
                "execution_count": None,
                "source": str(i),
            }
            for i in range(CELLS)
        ]
        notebook.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        image = await containerize(Request(notebook, tag=TAG), engine=engine)
    entry = (await engine.images.inspect(image.image_id))["Config"]["Entrypoint"]
    spec = ContainerSpec(
        image=image.image_id,
        command=["/bin/sh", "-c", "while sleep 3600; do :; done"],
        labels={labels.KIND: labels.KIND_BUILD},
        env={"HOME": "/tmp"},
    )
    container = await engine.containers.create(spec)
    try:
        await engine.containers.put(container, [File("tmp/nbclient_alone.py", NBCLIENT.encode())])
        await engine.containers.start(container)
        found = await interleaved(
            {
                "ours": lambda: _seconds(container, entry),
                "nbclient": lambda: _seconds(container, [*entry[:-1], "/tmp/nbclient_alone.py"]),
            },
            count,
        )
    finally:
        await asyncio.shield(engine.containers.remove(container))
        await engine.images.remove(TAG)
    ours, alone = (statistics.median(found[name]) for name in ("ours", "nbclient"))
    return [compared(f"{CELLS} trivial cells headless", ours, alone, "nbclient", at_most(1.3))]


async def _seconds(container: str, command: list[str]) -> float:
    begun = time.perf_counter()
    code, said = await asyncio.to_thread(run_inside, container, command)
    assert code == 0, said
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
