"""The environment of a notebook image: a running kernel's, an earlier image's, and what a Dockerfile makes of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background
from docker_kernel.containerize import export
from docker_kernel.containerize.image import NotebookImage, containerize
from docker_kernel.containerize.inspect import lock_of
from docker_kernel.containerize.request import Request, silent
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError
from tests.conftest import SpecMaker
from tests.containerize.conftest import Containerize, docker, write_notebook
from tests.notebook import Notebook

CELLS = ("scale = 2", "import colorama, os\nprint(colorama.__version__, scale, 'HUSH' in os.environ)")


@pytest.fixture(scope="module")
def from_kernel(engine: Engine, make_spec: SpecMaker) -> Iterator[NotebookImage]:
    """An image of what a user who may not write the image's own folders installed in a running kernel."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        one = Notebook(make_spec(user="4321:4321"), folder)
        try:
            assert one.run("%pip install -q colorama==0.4.6\nimport os; os.environ['HUSH'] = 'x'").status == "ok"
            path = write_notebook(folder / "a.ipynb", *CELLS)
            request = Request(path, "docker-kernel-test/kernel", from_kernel=str(one.manager.kernel_id))
            image = background.run_blocking(containerize(request, engine=engine))
        finally:
            one.close()
    yield image
    background.run_blocking(engine.images.remove(image.reference))


def ran(image: str, *arguments: str) -> str:
    return docker("run", "--rm", image, "--output", "/tmp/out", *arguments).stdout


def test_what_was_installed_in_a_running_kernel_is_there(from_kernel: NotebookImage) -> None:
    assert "0.4.6 2 False" in ran(from_kernel.reference)
    assert "colorama" in from_kernel.lock.requirements()


def test_nothing_of_the_kernel_is_in_its_image(from_kernel: NotebookImage) -> None:
    history = docker("history", "--no-trunc", from_kernel.reference).stdout
    config = docker("image", "inspect", from_kernel.reference, "--format", "{{json .Config}}").stdout
    for text in ("HUSH", "connection", "kernel-id"):
        assert text not in history + config
    look = "find /run /opt/docker-kernel/run /opt/docker-kernel/state -type f; env"
    found = docker("run", "--rm", "--entrypoint", "sh", from_kernel.reference, "-c", look, check=False)
    assert "connection" not in found.stdout and "HUSH" not in found.stdout and "PATH=" in found.stdout


def test_a_lock_gives_the_same_environment_again(
    from_kernel: NotebookImage, make: Containerize, engine: Engine, tmp_path: Path
) -> None:
    text = background.run_blocking(lock_of(engine, from_kernel.reference))
    again = make(write_notebook(tmp_path / "b.ipynb", *CELLS), lock=text)
    assert "0.4.6 7 False" in ran(again.reference, "-p", "scale=7")
    versions = [{(one.key, one.version) for one in image.lock.packages} for image in (from_kernel, again)]
    assert versions[0] == versions[1]


def test_a_damaged_lock_is_a_sentence(make: Containerize, tmp_path: Path) -> None:
    with pytest.raises(ContainerizeError, match="This is no lock of a notebook image"):
        make(write_notebook(tmp_path / "b.ipynb", *CELLS), lock='{"format": 1}')


def test_docker_build_makes_the_same_image_of_a_context(
    from_kernel: NotebookImage, engine: Engine, tmp_path: Path, used_images: list[str]
) -> None:
    """Without network: the packages are in the context."""
    folder = tmp_path / "context"
    text = background.run_blocking(lock_of(engine, from_kernel.reference))
    request = Request(write_notebook(tmp_path / "c d.ipynb", *CELLS), lock=text)
    background.run_blocking(export.write_context(engine, request, folder, silent))
    used_images.append("docker-kernel-test/built:latest")
    docker("build", "--network", "none", "-t", used_images[-1], str(folder))
    assert "0.4.6 3 False" in ran(used_images[-1], "-p", "scale=3")
    config = json.loads(docker("image", "inspect", used_images[-1], "--format", "{{json .Config}}").stdout)
    assert config["User"] == "1000:0"
    assert json.loads(config["Labels"]["io.docker-kernel.notebook.parameters"])["properties"]["scale"]["default"] == 2
    with pytest.raises(ContainerizeError, match="is not empty"):
        background.run_blocking(export.write_context(engine, request, folder, silent))


def test_an_image_is_saved_with_its_lock(make: Containerize, engine: Engine, tmp_path: Path) -> None:
    image = make(write_notebook(tmp_path / "a.ipynb", "x = 1"))
    background.run_blocking(export.save(engine, image, tmp_path / "saved", silent))
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["image.tar", "lock.json", "parameters.json"]
    assert image.reference in docker("load", "-i", str(tmp_path / "saved" / "image.tar")).stdout
