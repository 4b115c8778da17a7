"""The command line: what it prints, where, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from docker_kernel import background, cli, labels
from docker_kernel.cli import kernelspecs
from docker_kernel.engine import Engine
from tests.patience import patient


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `docker-kernel` as a user does."""
    return subprocess.run(
        [Path(sys.executable).parent / "docker-kernel", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(250),
    )


def test_install_list_uninstall(python_image: str, tmp_path: Path) -> None:
    env = {"JUPYTER_DATA_DIR": str(tmp_path), "COLUMNS": "160"}
    installed = run("install", "--user", "--name", "cli-test", "--memory", "1g", "--env", "A=b", **env)
    assert installed.returncode == 0, installed.stderr
    assert "Installed the kernelspec cli-test" in installed.stdout
    spec = json.loads((tmp_path / "kernels" / "cli-test" / "kernel.json").read_text())
    assert spec["metadata"]["kernel_provisioner"]["config"]["memory"] == "1g"
    listed = run("list", **env)
    assert listed.returncode == 0
    assert "cli-test" in listed.stdout and python_image in listed.stdout and "ready" in listed.stdout
    assert run("uninstall", "cli-test", **env).returncode == 0
    assert not (tmp_path / "kernels" / "cli-test").exists()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["install", "--memory", "lots"], "write a number with a unit"),
        (["install", "--name", "no good"], "is no name for a kernelspec"),
        (["uninstall", "no-such-spec"], "There is no kernelspec 'no-such-spec'"),
        (["build", "julia"], "the images are python, scipy"),
        (["build", "--package=-x"], "is no package"),
        (["build", "--tag", "NOT GOOD"], "is no name for an image"),
    ],
)
def test_a_failure_is_one_sentence_and_exit_code_1(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    failed = run(*arguments, JUPYTER_DATA_DIR=str(tmp_path))
    assert failed.returncode == 1
    assert sentence in failed.stderr and "Traceback" not in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_engine_is_said_in_one_sentence(tmp_path: Path) -> None:
    env = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "JUPYTER_DATA_DIR": str(tmp_path)}
    failed = run("install", **env)
    assert failed.returncode == 1
    assert "No engine answers" in failed.stderr and "Traceback" not in failed.stderr
    assert run("list", **env).returncode == 0


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(use: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(kernelspecs, "with_engine", interrupted)
    assert cli.main(["build"]) == 130


def test_an_interrupted_build_leaves_no_container(
    engine: Engine, python_image: str, make_image: Callable[[str], str], tmp_path: Path
) -> None:
    unseen = f"LABEL probe={uuid.uuid4().hex}"
    image = make_image(f"FROM {python_image}\nRUN pip uninstall -y ipykernel --break-system-packages\n{unseen}")
    installing = subprocess.Popen(
        [Path(sys.executable).parent / "docker-kernel", "install", "--image", image],
        env={**os.environ, "JUPYTER_DATA_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert installing.stdout is not None
    for line in installing.stdout:
        if line.startswith("Adding"):
            break
    installing.send_signal(signal.SIGINT)
    _, errors = installing.communicate(timeout=patient(60))
    assert (installing.returncode, errors) == (130, "")
    about = background.run_blocking(engine.images.inspect(image))
    left = background.run_blocking(engine.containers.list({labels.KIND: labels.KIND_BUILD}))
    assert not [container for container in left if container.image == about["Id"]]
    assert not list(tmp_path.iterdir())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("install", "list", "kernels", "jobs", "targets", "doctor"))
