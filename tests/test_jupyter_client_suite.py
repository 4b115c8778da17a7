"""jupyter_client's own tests of its KernelManager, unmodified from its sdist, with our provisioner as the default."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

PYTEST = [sys.executable, "-m", "pytest", "-q", "--timeout", "60", "-p", "no:cacheprovider", "-o", "addopts="]


@pytest.mark.timeout(600)
def test_the_kernel_manager_suite_passes_with_our_provisioner(tmp_path: Path, python_image: str) -> None:
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
    done = subprocess.run(
        [*PYTEST, "tests/test_kernelmanager.py"],
        cwd=tmp_path / archive.name.removesuffix(".tar.gz"),
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    summary = done.stdout.strip().splitlines()[-1]
    passed = re.search(r"(\d+) passed", summary)
    assert done.returncode == 0 and passed and int(passed[1]) >= 30, done.stdout[-5000:]
