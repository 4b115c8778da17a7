"""A test run that is cut off leaves no engine, no container and no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import leftovers
from tests.patience import patient, until

ROOT = Path(__file__).parent.parent

HANGS = """
import json, os, subprocess, time
from pathlib import Path
from tests import leftovers
from tests.notebook import KERNEL_IDS

def test_it_hangs(second_engine, start, tmp_path):
    one = start()
    mount = ["--label", "io.docker-kernel.kind=run", "--volume", f"{{tmp_path}}:/outputs"]  # as an image's run has it
    subprocess.run(["docker", "create", *mount, {image!r}, "true"], check=True)
    one.run("%%dispatch\\nimport time; time.sleep(600)")
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    made = {{"run": os.environ[leftovers.RUN], "namespace": second_engine.namespace, "data": str(second_engine.folder),
            "kernels": sorted(KERNEL_IDS), "folder": str(tmp_path)}}
    Path({said!r}).with_suffix(".new").write_text(json.dumps(made))
    Path({said!r}).with_suffix(".new").rename({said!r})
    time.sleep(600)

def test_that_is_short():
    pass
"""


def pytest_run(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run of pytest's own, with this suite's fixtures, in two workers."""
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    del environment[leftovers.RUN]
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "2"]
    return subprocess.Popen(
        [*command, "-c", str(ROOT / "pyproject.toml"), f"--basetemp={folder / 'base'}", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_of(made: dict[str, Any]) -> list[str]:
    """What is still there of a run."""
    found = [f"process {pid}" for pid in leftovers._processes_with(f"{leftovers.RUN}={made['run']}".encode())]
    if made["namespace"] in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout:
        found.append(made["namespace"])
    found += [path for path in [made["data"]] if Path(path).exists()]
    for kernel in made["kernels"]:
        command = ["docker", "ps", "-aq", "--filter", f"label=io.docker-kernel.kernel-id={kernel}"]
        found += subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    command = ["docker", "ps", "-aq", "--filter", f"volume={made['folder']}"]
    found += subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return found


@pytest.mark.engine
@pytest.mark.skipif(os.geteuid() != 0, reason="a second engine needs root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
def test_a_run_that_is_cut_off_leaves_nothing(number: signal.Signals, tmp_path: Path, python_image: str) -> None:
    said, module = tmp_path / "said.json", tmp_path / "test_hangs.py"
    module.write_text(HANGS.format(said=str(said), image=python_image))
    run = pytest_run(tmp_path, str(module))
    try:
        until(lambda: said.exists() or run.poll() is not None, 60, "the hanging test's beginning")
        assert said.exists(), run.communicate()[0]
        made = json.loads(said.read_text())
        assert left_of(made)
        if number == signal.SIGKILL:
            os.killpg(run.pid, number)  # of its workers, too, as when memory runs out
        else:
            run.send_signal(number)
        run.communicate(timeout=patient(60))
        if number == signal.SIGKILL:
            again = pytest_run(tmp_path / "again", str(module), "-k", "short")
            text, _ = again.communicate(timeout=patient(60))
            assert again.returncode == 0 and "removed what a killed run had left" in text, text
        until(lambda: not left_of(made), 20, f"the end of {left_of(made)}")
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
