"""Runs a notebook with nbclient and nothing of ours, inside a notebook image, to compare that image's own run with.

    python3 nbclient_alone.py FOLDER KERNEL CWD

The folder has in.ipynb, and gets out.ipynb and report.json: how it ended, and the files that the notebook wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from queue import Empty

# Last, and so for this process only: the kernel sees what the image's Python has.
sys.path.append("/opt/docker-kernel/runner")

import nbformat
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

WORKSPACE = Path("/notebook")

get_msg = AsyncZMQSocketChannel.get_msg


async def get_msg_for_certain(self: AsyncZMQSocketChannel, timeout: float | None = None) -> dict[str, object]:
    """nbclient hangs in half of all runs with an Output widget, as nbclient_client.py says: not here."""
    while timeout is None:
        try:
            return await get_msg(self, 0.1)
        except Empty:
            continue
    return await get_msg(self, timeout)


AsyncZMQSocketChannel.get_msg = get_msg_for_certain


def files() -> dict[str, str]:
    """The digests of the workspace's files, without caches."""
    found = [path for path in WORKSPACE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(WORKSPACE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def main() -> None:
    folder, kernel, cwd = sys.argv[1:]
    # A user without a home cannot have one that is only there for some: matplotlib and IPython would warn of it.
    Path(os.environ["HOME"]).mkdir(exist_ok=True)
    notebook = nbformat.read(f"{folder}/in.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    before = files()
    resources = {"metadata": {"path": cwd}}
    client = NotebookClient(notebook, timeout=None, iopub_timeout=60, kernel_name=kernel, resources=resources)
    # Nor does it lose outputs here, as it does where a cell puts out thousands at once.
    client.create_kernel_manager().context.rcvhwm = 0
    error = ""
    try:
        client.execute()
    except CellExecutionError as raised:
        error = raised.ename or type(raised).__name__
    except DeadKernelError as raised:
        error = type(raised).__name__
    nbformat.write(notebook, f"{folder}/out.ipynb")
    written = {name: digest for name, digest in files().items() if before.get(name) != digest}
    Path(folder, "report.json").write_text(json.dumps({"error": error, "written": written}))


main()
