"""jupyter_client's own tests of KernelManager and restarter, from its sdist, with our provisioner as the default."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

SUITES = {"test_kernelmanager": 30, "test_restarter": 8}
"""The files that are run, at once as they mostly wait, and how many tests pass at least."""

PYTEST = [sys.executable, "-m", "pytest", "-q", "--timeout", "60", "-p", "no:cacheprovider", "-o", "addopts="]


@pytest.mark.timeout(600)
def test_its_kernel_manager_and_restarter_tests_pass_with_our_provisioner(tmp_path: Path, python_image: str) -> None:
    release = f"jupyter_client=={version('jupyter_client')}"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", release]
    subprocess.run(download, cwd=tmp_path, check=True, timeout=200)
    (archive,) = tmp_path.glob("jupyter_client-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    # The suite's kernels are the host's own Python and its packages, so the container sees them at their paths.
    mounts = [f'"{path}:{path}:ro"' for path in dict.fromkeys([sys.base_prefix, sys.prefix])]
    config = tmp_path / "config.toml"
    config.write_text(f'[kernel]\nimage = "{python_image}"\nmounts = [{", ".join(mounts)}]\n')
    env = {
        **os.environ,
        "DOCKER_KERNEL_CONFIG": str(config),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "docker-kernel",
    }
    runs = {
        name: subprocess.Popen(
            [*PYTEST, f"tests/{name}.py"],
            cwd=tmp_path / archive.name.removesuffix(".tar.gz"),
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in SUITES
    }
    for name, run in runs.items():
        output, _ = run.communicate(timeout=500)
        passed = re.search(r"(\d+) passed", output.strip().splitlines()[-1])
        assert run.returncode == 0 and passed and int(passed[1]) >= SUITES[name], output[-5000:]
