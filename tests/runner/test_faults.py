"""What a notebook image does, and leaves on disk, where something goes wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.patience import patient, until
from tests.runner.conftest import Runner
from tests.runner.image import Images
from tests.runner.test_run import executed


def error(out: Path) -> tuple[str, str]:
    """The last error that output.ipynb has."""
    cells = executed(out).cells
    found = [one for cell in cells for one in cell.get("outputs", ()) if one.output_type == "error"]
    return found[-1].ename, found[-1].evalue


def test_failing_cell_leaves_notebook_and_page(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "-p", "code=print('before'); open('made.txt', 'w').close(); {}['gone']")
    assert ran.code == 1
    assert "KeyError" in ran.log and "\x1b" not in ran.log
    assert "docker-kernel: Cell 2 of 4 failed: KeyError: 'gone'" in ran.log
    assert {"event": "raised", "name": "KeyError", "value": "'gone'", "joined": False} in ran.markers()
    assert error(out) == ("KeyError", "'gone'")
    page = (out / "output.html").read_text()
    assert "KeyError" in page and 'role="alert"' in page and "before" in page
    assert (out / "files" / "made.txt").exists()


def test_outputs_are_there_while_a_cell_runs(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "-p", "code=import time; print('first words', flush=True); time.sleep(1000)")
    ran.said("first words")
    for name in ("output.ipynb", "output.html"):
        file = out / name
        until(lambda file=file: file.exists() and "first words" in file.read_text(), 60, f"a new {name}")


def test_sigterm(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "-p", "code=import time; print('first words', flush=True); time.sleep(1000)")
    ran.said("first words")
    subprocess.run(["docker", "stop", "-t", "60", ran.name], check=True, capture_output=True)
    assert ran.code == 143
    assert error(out)[0] == "Stopped" and "SIGTERM" in error(out)[1]
    for name in ("output.ipynb", "output.html"):
        assert "first words" in (out / name).read_text()
    assert "SIGTERM" in (out / "output.html").read_text()
    assert ran.markers()[-1]["code"] == 143


def test_sigterm_to_a_cell_that_does_not_listen(image: str, docker_run: Runner, out: Path) -> None:
    code = (
        "import time, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1000)"
    )
    ran = docker_run(image, "-p", f"code={code}")
    ran.said("deaf")
    subprocess.run(["docker", "kill", "-s", "TERM", ran.name], check=True, capture_output=True)
    assert ran.code == 143
    assert error(out)[0] == "Stopped"
    assert "deaf" in (out / "output.html").read_text()


def test_timeout(image: str, docker_run: Runner, out: Path) -> None:
    limit = f"{patient(2):g}"  # long enough for the cell to begin
    ran = docker_run(image, "--timeout", limit, "-p", "code=import time; print('slow'); time.sleep(1000)")
    assert ran.code == 124
    assert ran.markers()[-1]["timeout"] is True
    assert f"The run took longer than {limit} s" in error(out)[1] and f"The run took longer than {limit} s" in ran.log
    assert "slow" in (out / "output.html").read_text()


def test_cell_timeout(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "--cell-timeout", "3", "-p", "code=import time; time.sleep(1000)")
    assert ran.code == 124
    assert "A cell took longer than 3 s" in error(out)[1]


def test_out_of_memory(image: str, docker_run: Runner, out: Path) -> None:
    code = "print('greedy', flush=True); x = [bytearray(1 << 20) for _ in range(4000)]"
    ran = docker_run(image, "-p", f"code={code}", options=("--memory", "400m", "--memory-swap", "400m"))
    assert ran.code == 1, ran.log + ran.complaint
    assert "Cell 2 of 4 ran out of memory" in ran.log
    assert ran.markers()[-1]["oom"] is True
    assert error(out)[0] == "MemoryError"
    assert "ran out of memory" in (out / "output.html").read_text()


def test_killed_kernel(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "-p", "code=import os; open('made.txt', 'w').close(); os.kill(os.getpid(), 9)")
    assert ran.code == 1
    assert "killed by SIGKILL" in ran.log and error(out)[0] == "KernelDied"
    assert (out / "files" / "made.txt").exists()


def test_kernel_that_cannot_start(images: Images, image: str, docker_run: Runner, out: Path) -> None:
    broken = images.with_kernel(image, ["/usr/bin/python3", "-m", "nosuchkernel", "-f", "{connection_file}"])
    ran = docker_run(broken)
    assert ran.code == 1
    assert "could not be started" in ran.log and "nosuchkernel" in ran.log
    assert (out / "output.ipynb").exists() and "could not be started" in (out / "output.html").read_text()


def test_full_disk_of_one_place(image: str, docker_run: Runner, out: Path) -> None:
    import nbformat

    ran = docker_run(
        image, "--output", "/small", "--output", "/output", "-p", "code=print('x' * 3_000_000)",
        "-p", "tolerated=print(len(open('/small/output.ipynb').read()))",
        options=("--tmpfs", "/small:size=1m,mode=777"),
    )  # fmt: skip
    assert ran.code == 74, ran.log
    assert "/small: output.ipynb could not be written (no space is left there)" in ran.log
    assert "not everything could be brought to /small" in ran.log
    assert "the end" in (out / "output.html").read_text()
    nbformat.validate(executed(out))
    # The version from before it was too much is still there, whole, in the place that is full.
    sizes = [int(line) for line in ran.log.splitlines() if line.isdigit()]
    assert 500 < sizes[0] < 100_000
    assert ran.markers()[-1]["code"] == 74


def test_full_disk_of_the_only_place(image: str, docker_run: Runner) -> None:
    ran = docker_run(
        image, "-p", "code=print('x' * 3_000_000)", options=("--tmpfs", "/output:size=1m,mode=777"), mount=False
    )
    assert ran.code == 74
    assert "no space is left there" in ran.log and "the end" in ran.log


@pytest.mark.skipif(os.getuid() != 0, reason="needs a folder of another user")
def test_output_of_another_user(image: str, docker_run: Runner, out: Path, tmp_path: Path) -> None:
    out.chmod(0o755)
    ran = docker_run(image, "-p", "code=print('ran')")
    assert ran.code == 2
    assert "The output folder /output cannot be written by user 1000, as it belongs to user 0" in ran.complaint
    assert ran.complaint.count("\n") == 1 and "ran" not in ran.log and not list(out.iterdir())
    # Another place takes the results, and the exit code says that one lacks them.
    second = tmp_path / "second"
    second.mkdir()
    second.chmod(0o777)
    arguments = ("--output", "/second", "--output", "/output", "-p", "code=print('ran')")
    ran = docker_run(image, *arguments, options=("-v", f"{second}:/second"))
    assert ran.code == 74 and "ran" in ran.log
    assert "the end" in (second / "output.html").read_text() and not list(out.iterdir())


def test_read_only_root_without_a_mount(image: str, docker_run: Runner) -> None:
    ran = docker_run(image, options=("--read-only",), mount=False)
    assert ran.code == 2 and "read-only" in ran.complaint and "-v" in ran.complaint


def test_the_runner_itself_killed(image: str, docker_run: Runner, out: Path) -> None:
    code = "import os, time; print('bye', flush=True); time.sleep(6); os.kill(os.getppid(), 9); time.sleep(60)"
    ran = docker_run(image, "-p", f"code={code}")
    assert ran.code == 137
    assert "was killed by SIGKILL" in ran.complaint
    assert "bye" in (out / "output.ipynb").read_text()
