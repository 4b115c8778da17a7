"""What a user gets from `pip install docker-kernel` does what the checkout does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.index

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with nothing but the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv"), "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return folder / "venv"


def test_the_wheel_carries_kernelspecs_and_images(environment: Path) -> None:
    [package] = environment.glob("lib/python3*/site-packages/docker_kernel")
    data = package / "_data"
    carried = {
        path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    here = {
        path.relative_to(ROOT).as_posix()
        for name in ("images", "kernelspecs")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert carried == here


def test_install_works_from_the_wheel(environment: Path, python_image: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [environment / "bin/docker-kernel", "install", "--sys-prefix"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spec = json.loads((environment / "share/jupyter/kernels/docker-python/kernel.json").read_text())
    assert spec["argv"][0] == str(environment / "bin/python") or Path(spec["argv"][0]).parent == environment / "bin"
    assert spec["metadata"]["kernel_provisioner"]["config"]["image"] == python_image
    assert (environment / "share/jupyter/kernels/docker-python/logo-64x64.png").stat().st_size > 500
