"""Runs a notebook headless with Docker Python and prints a short account: run_notebook.py NOTEBOOK"""

from __future__ import annotations

import atexit
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "build" / "demo"
KERNEL = "docker-python"


class Account:
    """Runs one notebook and notes what a user would like to know."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notebook = nbformat.read(path, as_version=4)
        self.started = time.monotonic()
        self.cell_started = self.started

    def run(self) -> bool:
        """Whether every cell ran; the HTML report is written in any case."""
        client = NotebookClient(
            self.notebook,
            kernel_name=KERNEL,
            timeout=600,
            startup_timeout=300,
            resources={"metadata": {"path": str(self.path.parent)}},
            on_notebook_start=self._on_start,
            on_cell_execute=self._on_execute,
            on_cell_executed=self._on_executed,
        )
        self.started = time.monotonic()
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"failed: {error.ename}: {error.evalue}")
            return False
        except RuntimeError as error:  # of a kernel that does not answer, or died
            print(f"failed: {error}")
            # What nbclient would do at the end is done, and it fails over that.
            atexit.unregister(client._cleanup_kernel)
            return False
        finally:
            self._report()
        return True

    def _on_start(self, notebook: nbformat.NotebookNode) -> None:
        print(f"kernel ready in {time.monotonic() - self.started:.1f} s")

    def _on_execute(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        self.cell_started = time.monotonic()

    def _on_executed(self, cell: nbformat.NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        if execute_reply["content"]["status"] != "ok":
            return
        took = time.monotonic() - self.cell_started
        first, _, _ = cell.source.partition("\n")
        if first.startswith("%%local"):
            print(f"%%local took {took:.1f} s")
        elif first.startswith("%%dispatch") and "--dry-run" not in first:
            print(f"%%dispatch returned its {'sweep' if '--sweep' in first else 'job'} in {took:.1f} s")
        elif re.search(r"\.result\(|\bsweep\.wait\(", cell.source):
            print(f"ended after another {took:.1f} s")

    def _report(self) -> None:
        REPORTS.mkdir(parents=True, exist_ok=True)
        html, _ = HTMLExporter().from_notebook_node(self.notebook)
        target = REPORTS / f"{self.path.stem}.html"
        target.write_text(html, encoding="utf-8")
        print(f"report: {target.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(0 if Account(Path(sys.argv[1])).run() else 1)
