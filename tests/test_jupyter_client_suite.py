"""jupyter_client's own test suite, unmodified, with our provisioner as the default one.

docs/jupyter-client-suite.md lists what does not pass, with the reasons; this test compares. Modules in which no kernel
is started are left out: they test messages, connection files and kernelspecs, and say nothing of a provisioner. So are
tests that differ from others only in a class of jupyter_client's own, and have a kernel be asked the same once more.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import platformdirs
import pytest

from docker_kernel import background
from docker_kernel.engine import Engine
from tests import kept
from tests.built import build
from tests.patience import patient

STARTS = re.compile(r"start_(new_)?kernel|start_new_async_kernel|launch_kernel")
LISTED = Path(__file__).parent.parent / "docs" / "jupyter-client-suite.md"
WORKERS = "2"
HANGING = "6"
"""Workers for the tests that fail: most of those wait for a limit at their end, and need no processor meanwhile."""
WITHOUT_KERNELS = (
    "adapter", "connect", "jsonutil", "kernelspec", "kernelspecapp", "localinterfaces", "public_api", "session", "ssh",
)  # fmt: skip
"""Modules of the suite, as docs/jupyter-client-suite.md names them, that start none."""

REQUESTS = ("history", "inspect", "complete", "comm_info")
OTHER_CLASSES = (
    *(f"tests/test_client.py::TestAsyncKernelClient::test_{name}" for name in (*REQUESTS, "kernel_info")),
    *(f"tests/test_client.py::TestThreadedKernelClient::test_{name}" for name in REQUESTS),
    *(f"tests/test_kernelmanager.py::TestAsyncKernelManager::test_lifecycle[AsyncKMSubclass-{transport}]"
      for transport in ("tcp", "ipc")),
)  # fmt: skip
"""Tests whose kernel is asked what it is asked in TestKernelClient of test_client.py, by another class of clients, and
those of a manager's subclass that only counts calls, as test_subclass_callables has it, too."""


@pytest.fixture
def suite(tmp_path: Path, pytestconfig: pytest.Config) -> Path:
    """The unpacked source distribution of the jupyter_client that is installed here."""
    version = importlib.metadata.version("jupyter_client")
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("jupyter_client")
    sdist = cache / f"jupyter_client-{version}.tar.gz"
    if not sdist.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jupyter_client"]
        subprocess.run([*command, f"jupyter_client=={version}", "--dest", str(cache)], check=True)
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / sdist.name.removesuffix(".tar.gz")


class Suite:
    """Runs tests of the suite, with our provisioner or the local one."""

    def __init__(self, folder: Path, image: str) -> None:
        self.folder = folder
        self.config = folder.parent / "config.toml"
        self.config.write_text(
            f'[kernel]\nimage = "{image}"\nmounts = ["{folder}:{folder}"]\nenv = {{ PYTHONPATH = "{folder}" }}\n'
        )

    def run(self, *arguments: str, local: bool = False, seconds: float = 60) -> dict[str, bool]:
        """Whether each test passed, by its id; skipped ones are left out. Each may take `seconds`, as of `patient`."""
        report = self.folder.parent / "report.xml"
        report.unlink(missing_ok=True)
        command = [
            sys.executable, "-m", "pytest", "--quiet", "--override-ini=addopts=", "-p", "no:cacheprovider",
            f"--timeout={patient(seconds)}", f"--junitxml={report}", *arguments,
        ]  # fmt: skip
        env = dict(os.environ)
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        # The suite gives each of its tests a home of its own.
        env["XDG_CACHE_HOME"] = str(platformdirs.user_cache_path())
        env["DOCKER_KERNEL_CONFIG"] = str(self.config)
        # Of tornado's tests, which many of the suite's are: they have 5 seconds otherwise.
        env["ASYNC_TEST_TIMEOUT"] = str(patient(5))
        if not local:
            env["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "docker-kernel"
        # Workers that are killed, as those are whose tests take too long, leave their kernels' sockets.
        with tempfile.TemporaryDirectory(prefix="dk-", dir="/tmp") as sockets:
            env["XDG_RUNTIME_DIR"] = sockets
            done = subprocess.run(
                command, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                check=False,
            )  # fmt: skip
        assert report.exists(), done.stdout[-5000:]
        print(done.stdout[-20000:])
        return dict(outcomes(report))


def outcomes(report: Path) -> Iterable[tuple[str, bool]]:
    for case in ElementTree.parse(report).iter("testcase"):
        package, module, *rest = str(case.get("classname")).split(".")
        if case.find("skipped") is None:
            failed = any(case.find(kind) is not None for kind in ("failure", "error"))
            yield "::".join([f"{package}/{module}.py", *rest, str(case.get("name"))]), not failed


def failed(results: dict[str, bool]) -> list[str]:
    return sorted(name for name, passed in results.items() if not passed)


@pytest.mark.timeout(1500)
def test_what_passes_for_the_local_provisioner_passes_for_ours(suite: Path, engine: Engine, python_image: str) -> None:
    # The suite's own kernels are started with its interpreter's path and import pytest's helpers.
    helper = f"pytest-jupyter[client]=={importlib.metadata.version('pytest-jupyter')}"
    text = (
        f"FROM {python_image}\nCOPY host /host\n"
        f"RUN . /host/env && PIP_BREAK_SYSTEM_PACKAGES=1 pip install --quiet '{helper}' \\\n"
        f' && mkdir -p {Path(sys.executable).parent} && ln -sf "$(command -v python3)" {sys.executable}\n'
    )
    parts = (background.run_blocking(engine.images.inspect(python_image))["Id"], text)
    image = kept.image(engine, "suite", parts, partial(build, engine, text))
    listed = re.findall(r"^\| `(tests/\S+)` \|", LISTED.read_text(), re.MULTILINE)
    ours = Suite(suite, image)
    left_out = [f"--ignore=tests/test_{name}.py" for name in WITHOUT_KERNELS]
    for name in WITHOUT_KERNELS:
        assert not STARTS.search((suite / "tests" / f"test_{name}.py").read_text()), f"test_{name} starts kernels"
    deselected = [f"--deselect={name}" for name in (*listed, *OTHER_CLASSES)]
    results = ours.run("-n", WORKERS, "--dist=worksteal", "tests", *left_out, *deselected)
    assert len(results) > 118
    # Some have time limits that only an idle machine keeps; one that hangs takes its worker with it.
    again = failed(ours.run("-n", "1", *failed(results))) if failed(results) else []
    unexpected = failed(ours.run(*again, local=True)) if again else []
    assert not set(again) - set(unexpected), "these pass with the local provisioner"
    # What fails leaves zmq contexts open, whose end hangs: workers of their own, and little time.
    known = ours.run("-n", HANGING, *listed, seconds=5)
    assert failed(known) == sorted(listed), "these are listed in the docs and pass"
