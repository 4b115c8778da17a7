"""What tests share. They run against the real engine, and remove what they made also when they fail."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, images, labels
from docker_kernel.build_settings import host_settings
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import EngineError
from docker_kernel.kernel.running import RunningKernel
from tests.engines import own_registry, second_engine
from tests.notebook import KERNEL_IDS, Notebook
from tests.swarm import two_nodes

__all__ = ["own_registry", "second_engine", "two_nodes"]  # fixtures: one of each for the whole run

ImageMaker = Callable[..., str]
SpecMaker = Callable[..., str]
NotebookMaker = Callable[..., Notebook]


def pytest_configure() -> None:
    """Make Ctrl-C work also where the run was started in the background, with SIGINT ignored, as CI systems do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `pytest -n 2 --dist loadgroup` keep together what shares kernels, a Swarm or a second engine."""
    shared = {
        path
        for path in {item.path for item in items}
        if path.parent.name == "targets" or re.search("second_engine|own_registry|two_nodes", path.read_text("utf-8"))
    }
    for item in items:
        item.add_marker(pytest.mark.xdist_group("engines" if item.path in shared else str(item.path)))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Jupyter's and our own folders for this run, so that no test sees or changes the user's."""
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


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(engine: Engine, own_folders: Path) -> Iterator[None]:
    """Fails the run if its kernels or jobs left a container or a volume on the engine."""
    yield
    runtime = str(own_folders / "runtime")

    def left() -> list[str]:
        kinds = (labels.KIND_KERNEL, labels.KIND_JOB, labels.KIND_STATE)
        filters = [{labels.KIND: kind} for kind in kinds]
        containers = [state for one in filters for state in background.run_blocking(engine.containers(one))]
        volumes = background.run_blocking(engine.volumes(f"{labels.KIND}={labels.KIND_VOLUME}"))
        found = [state.name for state in containers if state.labels.get(labels.CONNECTION_FILE, "").startswith(runtime)]
        found += [state.name for state in containers if RunningKernel.of(state).kernel_id in KERNEL_IDS]
        found += [volume["Name"] for volume in volumes if volume["Labels"].get(labels.KERNEL_ID) in KERNEL_IDS]
        return found

    # What the last test's jobs started from goes some moments after their end.
    end = time.monotonic() + 20
    while (found := left()) and time.monotonic() < end:
        time.sleep(0.2)
    assert not found, f"left behind: {found}"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine that `docker` reaches."""
    engine = background.run_blocking(Engine.connect())
    yield engine
    engine.close()


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
            background.run_blocking(engine.remove_image(reference))


@pytest.fixture
def make_image(engine: Engine, used_images: list[str]) -> ImageMaker:
    """Builds a throwaway image from a Dockerfile's text; `. /host/env` there gives it the host's package settings."""

    def make(dockerfile: str, files: Mapping[str, str] | None = None) -> str:
        settings = host_settings()
        tag = f"docker-kernel-test/{uuid.uuid4().hex[:12]}:latest"
        context = [File("Dockerfile", dockerfile.encode()), File("host/env", settings.script("/host/ca.pem").encode())]
        context += [File("host/ca.pem", settings.ca or b"")]
        context += [File(path, text.encode()) for path, text in (files or {}).items()]
        used_images.append(tag)
        background.run_blocking(
            engine.build(
                archive(context), tag, {}, {labels.KIND: labels.KIND_BUILD}, lambda event: None, network="host"
            )
        )
        return tag

    return make
