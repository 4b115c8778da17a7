"""The steps of scripts/: what they print, how they fail, and that none outlives the script."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

SCRIPT = """
import sys
sys.path.insert(0, {scripts!r})
from steps import Display, run, step, together

async def main():
    async with Display() as display:
        await together(*(step(display, title, "sh", "-c", command) for title, command in {steps!r}))
    return 0

sys.exit(run(main()))
"""


def command(steps: dict[str, str]) -> list[str]:
    """What runs shell commands as steps, side by side."""
    return [sys.executable, "-c", SCRIPT.format(scripts=str(SCRIPTS), steps=list(steps.items()))]


def waits(folder: Path, name: str) -> str:
    """A shell command that has a child of its own, writes both process ids and waits for ever."""
    return f"sleep 600 & echo $$ $! > {folder}/{name}.new && mv {folder}/{name}.new {folder}/{name}; wait"


def pids(path: Path) -> list[int]:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not start"
        time.sleep(0.02)
    return [int(one) for one in path.read_text().split()]


def running(processes: list[int]) -> list[int]:
    """Those of the processes that have not ended; a zombie has."""
    stats = {one: Path(f"/proc/{one}/stat") for one in processes}
    return [
        one for one, stat in stats.items() if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    ]


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_fails_is_shown_and_ends_the_others(tmp_path: Path) -> None:
    ready = f"until [ -f {tmp_path}/other ]; do sleep 0.02; done"
    steps = {"Other": waits(tmp_path, "other"), "Image": f"{ready}; echo no space left >&2; exit 3"}
    failed = subprocess.run(command(steps), capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert failed.stderr.split("\n\n") == ["no space left", "Image: failed, and what it printed last is above.\n"]
    assert re.fullmatch(r"Other …\nImage …\n", failed.stdout)
    assert not running(pids(tmp_path / "other"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_script_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with started(command({"A": waits(tmp_path, "a"), "B": waits(tmp_path, "b")})) as script:
        processes = pids(tmp_path / "a") + pids(tmp_path / "b")
        assert len(running(processes)) == 4
        script.send_signal(number)
        _, errors = script.communicate(timeout=30)
    assert script.returncode == 130
    assert errors.startswith("Stopped: ") and errors.count("\n") == 1
    assert not running(processes)


def test_a_missing_program_is_one_sentence() -> None:
    code = SCRIPT.replace('"sh", "-c", command', "command").format(
        scripts=str(SCRIPTS), steps=[("Engine", "/no/such/program")]
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "Engine: /no/such/program cannot be run (No such file or directory).\n"


def test_a_terminal_shows_what_runs_and_for_how_long(tmp_path: Path) -> None:
    near, far = pty.openpty()
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    shown = ""
    with subprocess.Popen(
        command({"Image": f"echo unpacking; cat {fifo}"}), stdout=far, start_new_session=True
    ) as script:
        os.close(far)
        while "Image: 1 s, unpacking" not in shown:
            shown += os.read(near, 4096).decode()
        fifo.write_text("")
        assert script.wait(30) == 0
    shown += os.read(near, 4096).decode()
    os.close(near)
    assert "…" not in shown
    assert re.search(r"Image: done in \d+ s\r\n$", shown)


@pytest.mark.parametrize("arguments", [["prod"], ["dev", "demo"]])
def test_setup_says_how_it_is_called(arguments: list[str]) -> None:
    failed = subprocess.run([SCRIPTS / "setup", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "usage: scripts/setup [dev|demo]\n"
