"""A notebook in a job runs as nbclient runs it: the job's main process and its worker, here without a container."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from docker_kernel.guest import parameters, run_job, worker
from docker_kernel.guest.boot import LIB
from docker_kernel.guest.job_log import JobLog
from docker_kernel.guest.notebook_cells import exit_code
from tests.containerize.comparable import comparable, difference
from tests.containerize.corpus import CASES, Case
from tests.containerize.nbclient_client import Client
from tests.guest.test_run_job import NO_STATE
from tests.patience import patient, until
from tests.warm import python

NONCE = "0123456789abcdef" * 2
BOOT = str(Path(run_job.__file__).with_name("boot.py"))
IMPORTED = (
    *worker.NEEDED, "docker_kernel.guest.run_notebook", "jupyter_client.asynchronous",
    "docker_kernel.guest.forkserver:import_kernel", "IPython.core.magics",
)  # fmt: skip
"""By workers of notebooks and their kernels, before they do anything."""


@dataclass
class Ran:
    """What came of a notebook's job."""

    code: int
    text: str
    markers: list[dict[str, Any]]
    executed: dict[str, Any]
    state: Path

    @property
    def cells(self) -> list[dict[str, Any]]:
        return [cell for cell in self.executed["cells"] if cell["cell_type"] == "code"]

    @property
    def error(self) -> str:
        return next((one["name"] for one in self.markers if one["event"] == "raised"), "")

    @property
    def result(self) -> dict[str, Any]:
        """The manifest of its result."""
        text = (self.state / "manifests" / self.markers[-1]["result"][7:]).read_text()
        found: dict[str, Any] = json.loads(text)
        return found


class Place:
    """Where jobs run: folders of this machine, in place of a container's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace, self._state, self._outputs = (folder / name for name in ("workspace", "state", "outputs"))
        for one in (self.workspace, self._state, self._outputs, self._state / "blobs", self._state / "manifests"):
            one.mkdir()

    def run(self, notebook: dict[str, Any], cwd: Path | None = None, stop: bool = False, **spec: Any) -> Ran:
        """Run a job; with `stop`, end it as a cancellation does when a cell has made the file `begun`."""
        text = json.dumps(NO_STATE).encode()
        digest = hashlib.sha256(text).hexdigest()
        (self._state / "manifests" / digest).write_bytes(text)
        content = {
            "job": "0" * 12, "name": "n", "nonce": NONCE, "manifest": f"sha256:{digest}", "state": str(self._state),
            "kind": "notebook", "source": json.dumps(notebook), "cwd": str(cwd or self.workspace),
            "python": python(*IMPORTED), "user_base": "/nowhere", "env": {"PYTHONPATH": LIB},
            "outputs": str(self._outputs), **spec,
        }  # fmt: skip
        path = self.folder / "job.json"
        path.write_text(json.dumps(content))
        command = [sys.executable, "-I", "-S", run_job.__file__, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/", env=environment()) as process:
            if stop:
                until((self.workspace / "begun").exists, 30, "the cell's begin")
                process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=patient(120))
        log = JobLog(NONCE)
        parts = [*log.feed(out), log.rest()]
        made = self._outputs / "output.ipynb"
        return Ran(
            process.returncode,
            b"".join(one for one in parts if isinstance(one, bytes)).decode(),
            [one for one in parts if isinstance(one, dict)],
            json.loads(made.read_text(encoding="utf-8")) if made.exists() else {"cells": []},
            self._state,
        )


def environment() -> dict[str, str]:
    """Without the variable that makes ipykernel leave to pytest what child processes print."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def notebook_of(*cells: str | tuple[str, str]) -> dict[str, Any]:
    """A notebook of code cells, some of them with a tag."""
    made = []
    for one in cells:
        source, tags = (one, []) if isinstance(one, str) else (one[0], [one[1]])
        cell = {"cell_type": "code", "metadata": {"tags": tags} if tags else {}, "source": source}
        made.append({**cell, "outputs": [], "execution_count": None})
    return {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": made}


def with_nbclient(notebook: dict[str, Any], cwd: Path) -> tuple[Any, str]:
    """What nbclient makes of a notebook in the same kernel, and what it raises."""
    made = nbformat.reads(json.dumps(notebook), as_version=4)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    # The runner's client: nbclient's own may wait for ever, and lose outputs.
    manager = AsyncKernelManager(client_factory=Client)
    argv = [python(*IMPORTED), BOOT, "-f", "{connection_file}", "--HistoryManager.hist_file=:memory:"]
    manager._kernel_spec = KernelSpec(argv=argv, display_name="", language="python")
    client = NotebookClient(made, km=manager, timeout=None, iopub_timeout=60)

    async def execute() -> str:
        quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        await manager.start_kernel(cwd=str(cwd), env=environment(), **quiet)
        try:
            await client.async_execute()
        except CellExecutionError as error:
            return str(error.ename) or type(error).__name__
        except DeadKernelError as error:
            return type(error).__name__
        finally:
            await manager.shutdown_kernel(now=True)
        return ""

    error = asyncio.run(execute())
    return json.loads(json.dumps(made)), error


def assert_as_nbclient(ran: Ran, notebook: dict[str, Any], cwd: Path) -> None:
    expected, error = with_nbclient(notebook, cwd)
    assert ran.error == (error if error != "DeadKernelError" else ""), ran.text
    assert bool(ran.code) == bool(error)
    executed, expected = comparable(ran.executed), comparable(expected)
    if error == "DeadKernelError":
        for cell in (*executed[:-1], *expected[:-1]):
            cell.pop("execution_count", None)  # a kernel that ends itself may have had no time to say it
    found = difference(executed, expected)
    assert not found, found


APART = ("pip", "nbformat-test3", "nbclient-Output", "ipywidgets-Widget Events", "widgets")
LIGHT = [case for case in CASES if not case.stack and case.name not in APART]
"""Without those that need packages (ipywidgets is one), or have the format 3, which a job refuses."""


@pytest.mark.parametrize("case", LIGHT, ids=lambda case: case.name)
def test_a_job_runs_a_notebook_as_nbclient_does(place: Place, case: Case) -> None:
    path = case.workspace(place.workspace)
    source = json.loads(path.read_text(encoding="utf-8"))
    found = parameters.find(source).parameters
    values = parameters.check(found, {name: parameters.Text(text) for name, text in case.given.items()})
    injected = parameters.inject(source, found, values)
    ran = place.run(injected, path.parent)
    assert (ran.executed["cells"], ran.error) != ([], ""), ran.text
    shutil.rmtree(place.workspace)
    place.workspace.mkdir()
    assert_as_nbclient(ran, injected, case.workspace(place.workspace).parent)


AS_NBCLIENT = notebook_of(
    "import asyncio, os, subprocess, sys, ctypes\nos.getcwd()",
    "async def tick():\n    for i in range(3):\n        await asyncio.sleep(.01)\n        seen.append(i)\n"
    "seen = []\ntask = asyncio.create_task(tick())",
    "",
    ("1 / 0", "skip-execution"),
    "await task\nseen, asyncio.get_running_loop().is_running()",
    ("raise ValueError('tolerated')", "raises-exception"),
    "subprocess.run(['echo', 'from a child'])\nos.system('echo from a shell')\n"
    "ctypes.CDLL(None).puts(b'from C'); ctypes.CDLL(None).fflush(None)\nawait asyncio.sleep(.3)",
    "print('a', end=''); print(end=''); print('b', file=sys.stderr); print('c')",
    "from IPython.display import *\nshown = display('old', display_id='one')\ndisplay('other')",
    "shown.update('new'); display(HTML('<b>'), display_id='one')",
    "update_display('newest', display_id='one')",
    "print('gone'); clear_output(); print('kept')",
    "for i in range(3):\n    clear_output(wait=True); print(i)\nclear_output(wait=True)",
    ("class Bad:\n    def _repr_html_(self): raise RuntimeError('no html')\nBad()", "raises-exception"),
    "# only a comment",
    "_i",
    "input()",
    "print('never')",
)
"""What is to be as nbclient has it, in jobs and in images."""


def test_cells_have_what_nbclient_gives_them(place: Place) -> None:
    ran = place.run(AS_NBCLIENT)
    assert (ran.code, ran.error) == (1, "StdinNotImplementedError"), [cell["outputs"] for cell in ran.cells]
    assert_as_nbclient(ran, AS_NBCLIENT, place.workspace)
    outputs = [cell["outputs"] for cell in ran.cells]
    assert outputs[4][0]["data"]["text/plain"] == "([0, 1, 2], True)"
    printed = "".join(one["text"] for one in outputs[6] if one["output_type"] == "stream")
    assert sorted(printed.split("\n")) == ["", "from C", "from a child", "from a shell"]
    assert outputs[8][0]["data"]["text/plain"] == "'newest'" and outputs[11][0]["text"] == "kept\n"
    assert [cell["execution_count"] for cell in ran.cells[:6]] == [1, 2, None, None, 3, 4]
    assert ran.text.count("from a child") == 1 and "never" not in ran.text


ENDS = [
    ("import sys; sys.exit(0)", 0, "", ""),
    ("raise SystemExit", 0, "", ""),
    ("exit()", 0, "", ""),
    ("quit()", 0, "", ""),
    ("import sys; sys.exit(7)", 7, "SystemExit", ""),
    ("import sys; sys.exit('no data')", 1, "SystemExit", "no data\n"),
    ("import sys; sys.exit('2')", 1, "SystemExit", "2\n"),
    ("import sys; sys.exit('')", 1, "SystemExit", ""),
    ("int = str = None\nraise SystemExit(True)", 1, "SystemExit", ""),
    ("raise SystemExit(False)", 0, "", ""),
    ("import sys; sys.exit(0.0)", 1, "SystemExit", "0.0\n"),
]
"""How a cell may end its notebook, with which exit code, and what is told and printed of it."""


@pytest.mark.parametrize(("end", "code", "error", "printed"), ENDS)
def test_a_notebook_may_end_itself(place: Place, end: str, code: int, error: str, printed: str) -> None:
    ran = place.run(notebook_of("1", end, "print('never')"))
    text = "".join(line for line in ran.text.splitlines(True) if "To exit: use" not in line)  # which IPython says
    assert (ran.code, ran.error, text) == (code, error, printed)
    assert [cell["execution_count"] for cell in ran.cells] == [1, 2, None]
    assert ran.markers[-1]["code"] == code and ran.result.get("error", {}).get("name", "") == error


@pytest.mark.parametrize(
    ("value", "code"),
    [("0", 0), ("None", 0), ("", 0), ("3", 3), ("256", 1), ("-1", 255), ("x", 1), ("text", 1)],
)
def test_the_code_of_a_system_exit_is_that_of_its_process(value: str, code: int) -> None:
    assert exit_code(value) == code


@pytest.mark.parametrize(("own", "code"), [(9, 9), (0, 1)])
def test_a_kernel_that_dies_ends_the_job_as_it_died(place: Place, own: int, code: int) -> None:
    ran = place.run(notebook_of("print('kept')", f"import os; os._exit({own})", "print('never')"))
    said = f"Cell 2 of 3 ended the kernel: the kernel's process ended with exit code {own}."
    assert ran.code == code and said in ran.text
    assert ran.cells[0]["outputs"][0]["text"] == "kept\n" and ran.cells[1]["outputs"][0]["ename"] == "KernelDied"
    assert not ran.markers[-1]["result"] and ran.markers[-1]["partial"], "the executed notebook is kept"


def test_a_killed_kernel_is_told_as_one(place: Place) -> None:
    assert place.run(notebook_of("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")).code == 128 + 11


def test_a_cancelled_notebook_cleans_up_and_is_kept(place: Place) -> None:
    cell = "import time\ntry: open('begun', 'w'); time.sleep(60)\nfinally: print('cleaned up')"
    ran = place.run(notebook_of("print('first')", cell, "print('never')"), stop=True)
    assert ran.code == run_job.CANCELLED and ran.text == "first\ncleaned up\n"
    assert ran.cells[1]["outputs"][-1]["ename"] == "KeyboardInterrupt" and ran.markers[-1]["partial"]


def test_outputs_and_progress_are_told_as_they_come(place: Place) -> None:
    ran = place.run(
        notebook_of(
            "from docker_kernel import job\njob.log(step=1, loss=.5); job.progress(.25, 'a quarter')",
            "print(job.name, job.params, job.outputs); display(1); 2",
            "from IPython.display import *; clear_output(wait=True); display('x', display_id='d')",
            "open(job.outputs + '/made', 'w').close()",
        ),
        params={},
    )
    assert ran.code == 0 and ran.text == f"n {{}} {place.folder / 'outputs'}\n"
    events = [one["event"] for one in ran.markers if one["event"] != "progress"]
    assert events == ["begin", "metrics", "display", "result_display", "clear", "display", "result_display", "end"]
    assert "cell 1 of 4" in [one.get("text") for one in ran.markers] and ran.markers[-2]["text"] == "4 cells"
    assert [one["path"] for one in ran.result["files"]] == ["made", "output.ipynb"]


@pytest.mark.parametrize(("kind", "whose"), [("notebook", "its notebook's"), ("cell", "the kernel's")])
def test_a_folder_that_is_not_in_the_job_is_named(place: Place, kind: str, whose: str) -> None:
    away, home = place.folder / "elsewhere" / "reports", place.folder / "workspace"
    spec = {"kind": kind, "env": {"PYTHONPATH": LIB, "HOME": str(home)}}
    cell = "import os; print(os.getcwd())"
    ran = place.run(notebook_of(cell), away, **spec, **({} if kind == "notebook" else {"source": cell}))
    said, printed = ran.text.splitlines()
    assert said.startswith(f"docker-kernel: the job runs in {home}, as {whose} folder, {away}, is not here")
    assert (ran.code, printed) == (0, str(home))


def test_parameters_that_do_not_fit_run_nothing(place: Place) -> None:
    ran = place.run(notebook_of("n = 1", "print('ran')"), params={"m": 2})
    assert (ran.code, ran.error) == (1, "ParameterError") and "There is no parameter m" in ran.text
    assert "ran" not in ran.text.split()


def test_what_a_cell_raised_comes_back_as_it_is(place: Place) -> None:
    from docker_kernel.guest import snapshot
    from docker_kernel.guest.worker import ERROR

    ran = place.run(notebook_of("class Odd(Exception): pass", "raise Odd('left')"))
    assert ran.code == 1 and ran.result["error"]["name"] == "Odd" and "Odd" in ran.result["error"]["traceback"][-1]
    values, failed = snapshot.restore(str(ran.state), ran.result, {})
    assert not failed and type(values[ERROR]).__name__ == "Odd" and values[ERROR].args == ("left",)
