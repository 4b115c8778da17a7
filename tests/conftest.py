"""What tests share. They run against the real engine, and remove what they made also when they fail."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, images, labels
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError
from docker_kernel.kernel.running import RunningKernel
from tests import leftovers, schedule, warm
from tests.built import build
from tests.engines import own_registry, second_engine
from tests.lab import browser_fixture, lab_fixture, page_fixture, window_fixture
from tests.notebook import KERNEL_IDS, Notebook
from tests.patience import factor, patient, until
from tests.swarm import two_nodes

__all__ = [
    "browser_fixture",
    "lab_fixture",
    "own_registry",
    "page_fixture",
    "second_engine",
    "two_nodes",
    "window_fixture",
]

ImageMaker = Callable[..., str]
SpecMaker = Callable[..., str]
NotebookMaker = Callable[..., Notebook]


BEGAN = pytest.StashKey[bool]()
RETRIED = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a name, by which all that it leaves is found, and its limits the measure of this machine."""
    # Ctrl-C works also where the run was started in the background with SIGINT ignored, as CI systems do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[BEGAN] = leftovers.begin()
    config.stash[RETRIED] = {}
    if config.stash[BEGAN]:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        for one in leftovers.clean_killed_runs():
            print(f"removed what a killed run had left: {one}")
    # What nbformat imports would build the grammars of all kinds of URLs, for a second and a half in each process of a
    # run; no schema of a notebook names any.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    factor()
    if config.getoption("timeout", None) is None:
        config.option.timeout = patient(150)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what this run has left, also when it was interrupted."""
    warm.end()
    if config.stash.get(BEGAN, False):
        for one in leftovers.clean():
            print(f"removed what the run had left: {one}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Say what each test needs, and keep together what shares that."""
    schedule.mark(item)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what lives to the end: modules and tests, which take a third less time so."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=schedule.order)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    schedule.add(report)


def pytest_report_header() -> str:
    return f"limits are those of an idle machine times {factor():.1f}"


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the tests that passed only when they were tried again, each with why it failed at first."""
    retried = terminalreporter.stats.get("rerun", [])
    if retried:
        terminalreporter.section(f"{len(retried)} passed or failed at their second try: find out why", red=True)
        for report in retried:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E ")] or ["(no text)"]
            terminalreporter.line(f"{report.nodeid} ({report.when})")
            # A browser's says in its next lines what was there instead.
            for line in lines[:4]:
                terminalreporter.line(f"    {' '.join(line.split())[:300]}")
    if config.getoption("write_seconds"):
        schedule.write()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-seconds", action="store_true", help="renew tests/seconds.json, which the order is from")


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Jupyter's and our own folders for this run, so that no test sees or changes the user's."""
    leftovers.add_homes(tmp_path_factory.getbasetemp())
    home = tmp_path_factory.mktemp("home")
    names = {"JUPYTER_DATA_DIR": "data", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_RUNTIME_DIR": "runtime"}
    before = {name: os.environ.get(name) for name in (*names, "DOCKER_KERNEL_CONFIG", "XDG_DATA_HOME")}
    for name, folder in names.items():
        os.environ[name] = str(home / folder)
    os.environ["XDG_DATA_HOME"] = str(home / "share")
    (home / "config.toml").write_text("[kernel]\nwarm_spares = 0\n")  # where no test of theirs counts on them
    os.environ["DOCKER_KERNEL_CONFIG"] = str(home / "config.toml")
    yield home
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def make_spec(own_folders: Path, python_image: str) -> SpecMaker:
    """Writes a kernelspec with the given settings and returns its name."""

    def make(**settings: Any) -> str:
        name = f"docker-test-{uuid.uuid4().hex[:8]}"
        folder = own_folders / "data" / "kernels" / name
        folder.mkdir(parents=True)
        spec = {
            "argv": [
                sys.executable, "-m", "docker_kernel.kernel.launcher", "-f", "{connection_file}", "--spec", str(folder),
            ],
            "display_name": "Docker Python",
            "language": "python",
            "interrupt_mode": "signal",
            "metadata": {
                "debugger": True,
                "supported_encryption": ["curve"],
                "kernel_provisioner": {
                    "provisioner_name": "docker-kernel",
                    "config": {"image": python_image, **settings},
                },
            },
        }  # fmt: skip
        (folder / "kernel.json").write_text(json.dumps(spec))
        return name

    return make


@pytest.fixture(scope="session")
def spec(make_spec: SpecMaker) -> str:
    """A kernelspec with no settings but the image."""
    return make_spec()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the notebooks of one test module."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def notebook(spec: str, workspace: Path) -> Iterator[Notebook]:
    """A kernel that the tests of a module share; those that end it start their own."""
    one = Notebook(spec, workspace)
    yield one
    one.close()


@pytest.fixture
def start(spec: str, tmp_path: Path) -> Iterator[NotebookMaker]:
    """Starts kernels of a test's own."""
    started: list[Notebook] = []

    def make(name: str = spec, cwd: Path = tmp_path, **manager: Any) -> Notebook:
        started.append(Notebook(name, cwd, **manager))
        return started[-1]

    yield make
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def engine(own_folders: Path) -> Iterator[Engine]:
    """The engine that `docker` reaches. The run fails if its kernels or jobs left a container or a volume there."""
    engine = background.run_blocking(Engine.connect())
    yield engine
    # What the last test's jobs started from goes some moments after their end.
    with contextlib.suppress(AssertionError):
        until(lambda: not _left_behind(engine, own_folders), 60)
    left = _left_behind(engine, own_folders)
    engine.close()
    assert not left, f"left behind: {left}"


def _left_behind(engine: Engine, own_folders: Path) -> list[str]:
    """What kernels and jobs of this process have on the engine."""
    runtime = str(own_folders / "runtime")
    kinds = (labels.KIND_KERNEL, labels.KIND_JOB, labels.KIND_STATE)
    containers = [one for kind in kinds for one in background.run_blocking(engine.containers.list({labels.KIND: kind}))]
    volumes = background.run_blocking(engine.volumes.list(f"{labels.KIND}={labels.KIND_VOLUME}"))
    found = [state.name for state in containers if state.labels.get(labels.CONNECTION_FILE, "").startswith(runtime)]
    found += [state.name for state in containers if RunningKernel.of(state).kernel_id in KERNEL_IDS]
    found += [volume["Name"] for volume in volumes if volume["Labels"].get(labels.KERNEL_ID) in KERNEL_IDS]
    return found


@pytest.fixture(scope="session")
def python_image(engine: Engine) -> str:
    """The kernel image `docker-kernel/python:latest`, built if it is not there."""
    return background.run_blocking(images.kernel_image(engine, "docker-kernel/python:latest")).reference


@pytest.fixture
def used_images(engine: Engine) -> Iterator[list[str]]:
    """Append the images that a test makes: they are removed after it, the last one first."""
    used: list[str] = []
    yield used
    for reference in reversed(used):
        with contextlib.suppress(EngineError):
            background.run_blocking(engine.images.remove(reference))


@pytest.fixture
def make_image(engine: Engine, used_images: list[str]) -> ImageMaker:
    """Builds a throwaway image from a Dockerfile's text; `. /host/env` there gives it the host's package settings."""

    def make(dockerfile: str, files: Mapping[str, str] | None = None) -> str:
        # Not `latest`: of several images with the same layers, a lock names one that people call so.
        tag = f"docker-kernel-test/{uuid.uuid4().hex[:12]}:throwaway"
        used_images.append(tag)
        build(engine, dockerfile, tag, files, {leftovers.IMAGE_LABEL: os.environ[leftovers.RUN]})
        return tag

    return make
