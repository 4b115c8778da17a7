"""A notebook in an image runs as nbclient runs it: the runner with a kernel of this machine, without a container."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from docker_kernel.runner import bounds
from docker_kernel.runner.document import Document
from docker_kernel.runner.execute import Ending, Run, Stop
from docker_kernel.runner.kernel import Kernel
from docker_kernel.runner.log import RunLog
from tests.containerize.comparable import comparable, difference
from tests.guest.test_run_notebook import AS_NBCLIENT, BOOT, ENDS, IMPORTED, environment, notebook_of, with_nbclient
from tests.warm import python


@dataclass
class Ran:
    """What came of a notebook."""

    ending: Ending
    executed: dict[str, Any]
    changed: list[int]
    log: str

    @property
    def cells(self) -> list[dict[str, Any]]:
        return [cell for cell in self.executed["cells"] if cell["cell_type"] == "code"]


def run(
    notebook: dict[str, Any],
    folder: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    command: list[str] | None = None,
    stop_after: float | None = None,
    cell_timeout: float | None = None,
) -> Ran:
    """Execute a notebook; its file is read again as it would be from the image's output folder."""
    changed: list[int] = []
    made = nbformat.from_dict(notebook)
    room, workspace = folder / "room", folder / "workspace"
    room.mkdir()
    workspace.mkdir(exist_ok=True)

    async def execute() -> Ending:
        stop, log = Stop(), RunLog("")
        argv = command or [python(*IMPORTED), BOOT, "-f", "{connection_file}"]
        kernel = Kernel({"name": "python3", "language": "python", "argv": argv}, room, sockets=True, log=log)
        await kernel.start(workspace, environment())
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stop, 143, "It was stopped.")
        try:
            return await Run(made, kernel, log, stop, changed.append, cell_timeout).run()
        finally:
            await kernel.end(now=True)

    ending = asyncio.run(execute())
    content = b"".join(Document(made).content())
    return Ran(ending, json.loads(content), changed, capfdbinary.readouterr().out.decode())


def test_cells_have_what_nbclient_gives_them(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ran = run(AS_NBCLIENT, tmp_path, capfdbinary)
    expected, error = with_nbclient(AS_NBCLIENT, tmp_path / "workspace")
    assert (ran.ending.code, ran.ending.name) == (1, error) == (1, "StdinNotImplementedError"), ran.log
    found = difference(comparable(ran.executed), comparable(expected))
    assert not found, found
    assert ran.log.count("from a child") == 1 and "never" not in ran.log
    assert [cell["metadata"].get("execution", {}).keys() for cell in ran.cells] == [
        cell["metadata"].get("execution", {}).keys() for cell in expected["cells"]
    ], "when each began and ended"


@pytest.mark.parametrize(("end", "code", "error", "printed"), ENDS)
def test_a_notebook_may_end_itself(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], end: str, code: int, error: str, printed: str
) -> None:
    ran = run(notebook_of("1", end, "print('never')"), tmp_path, capfdbinary)
    assert (ran.ending.code, ran.ending.name) == (code, error) and "never" not in ran.log
    assert printed in ran.log
    assert [cell["execution_count"] for cell in ran.cells] == [1, 2, None]


def test_what_a_kernel_showed_before_it_died_is_kept(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    cell = "for i in range(2000): display(i)\nprint('last words', flush=True)\nimport os, signal, time; time.sleep(1)\n"
    ran = run(notebook_of(f"{cell}os.kill(os.getpid(), signal.SIGSEGV)"), tmp_path, capfdbinary)
    assert ran.ending == Ending(1, reason := "Cell 1 of 1 ended the kernel: its process was killed by SIGSEGV.",
                                "KernelDied", reason)  # fmt: skip
    kinds = [one["output_type"] for one in ran.cells[0]["outputs"]]
    assert kinds == ["display_data"] * 2000 + ["stream", "error"] and "last words" in ran.log


def test_what_a_process_prints_is_logged_once_until_it_ends(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    cell = "import os, atexit\nos.system('echo from a shell')\natexit.register(os.write, 2, b'at the end')"
    ran = run(
        notebook_of(cell, "import time; time.sleep(.5); os.write(2, b'dying\\n'); time.sleep(.1); os._exit(3)"),
        tmp_path,
        capfdbinary,
    )
    assert ran.log.count("from a shell") == 1 and ran.log.count("dying") == 1
    assert ran.ending.reason == "Cell 2 of 2 ended the kernel: it ended with exit code 3."


def test_a_kernel_that_does_not_start_is_told(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for number, argv in enumerate((["/nowhere/python", "{connection_file}"], [sys.executable, "-c", "exit('no way')"])):
        (tmp_path / str(number)).mkdir()
        ran = run(notebook_of("1"), tmp_path / str(number), capfdbinary, argv)
        assert ran.ending.code == 1 and ran.ending.reason.startswith("The kernel could not be started: ")
    assert "no way" in ran.ending.reason


@pytest.mark.parametrize(
    "cell", ["import time\ntry: time.sleep(60)\nfinally: print('cleaned up')", "import time\n" + "while True:\n" * 1 +
             "    try: time.sleep(60)\n    except KeyboardInterrupt: pass"], ids=["listens", "does not"]
)  # fmt: skip
def test_a_run_that_is_stopped_says_so_in_its_notebook(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], cell: str
) -> None:
    ran = run(notebook_of("print('first')", cell, "print('never')"), tmp_path, capfdbinary, stop_after=4)
    assert (ran.ending.code, ran.ending.reason) == (143, "It was stopped.")
    assert ran.cells[1]["outputs"][-1]["ename"] == "Stopped" and "never" not in ran.log
    assert ("cleaned up" in ran.log) == ("finally" in cell)


def test_a_cell_takes_no_longer_than_it_may(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ran = run(notebook_of("1", "import time; time.sleep(60)"), tmp_path, capfdbinary, cell_timeout=2)
    assert ran.ending.code == 124 and "longer than 2 s" in ran.cells[1]["outputs"][-1]["evalue"]


def test_printed_text_and_rich_outputs_are_bounded_and_cleared_ones_cost_nothing(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_TEXT", 5000)
    monkeypatch.setattr(bounds, "TAIL_TEXT", 1000)
    monkeypatch.setattr(bounds, "MAX_DATA", 5000)
    notebook = notebook_of(
        "for i in range(100): print(i, 'x' * 100)\nprint('the end')",
        "from IPython.display import *\nfor i in range(100):\n    clear_output(wait=True); print(i, 'x' * 100)",
        "for i in range(9): display('y' * 990)",
        "shown = display('old', display_id='one')",
        "shown.update('new')",
    )
    ran = run(notebook, tmp_path, capfdbinary)
    assert ran.ending.code == 0 and ran.log.count("x" * 100) == 200
    outputs = ["".join("".join(one.get("text", "")) for one in cell["outputs"]) for cell in ran.cells]
    assert "characters are left out here" in outputs[0] and outputs[0].endswith("the end\n") and len(outputs[0]) < 6300
    assert outputs[1] == f"99 {'x' * 100}\n"
    shown = ["".join(one["data"]["text/plain"]) for one in ran.cells[2]["outputs"]]
    assert [len(one) > 900 for one in shown] == [True] * 5 + [False] * 4 and "is left out" in shown[-1]
    assert ran.cells[3]["outputs"][0]["data"]["text/plain"] in ("'new'", ["'new'"])
    assert ran.changed == [0, 1, 2, 3, 3, 4], "the file is written with what a cell updates in another"
