"""`docker-kernel kernels save`: what was installed in a kernel is there tomorrow, and nothing secret with it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, cli, kernelspec, labels, prune
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import Notebook

NAME = f"docker-kernel-test-{os.getpid()}"
SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def installed(make_spec: SpecMaker, workspace: Path) -> Iterator[Notebook]:
    """A kernel in which a package was installed, and secrets lie about."""
    one = Notebook(make_spec(env={"API_TOKEN": SECRET}, memory="512m"), workspace)
    try:
        reply = one.run("%pip install --quiet iniconfig==2.0.0", timeout=150)
        assert reply.status == "ok", reply.traceback
        one.run(
            "import pathlib\n"
            "home = pathlib.Path.home()\n"
            "for name in ('.aws/credentials', '.netrc', '.config/tool/token', '.ssh/id_ed25519'):\n"
            "    path = home / name\n"
            "    path.parent.mkdir(parents=True, exist_ok=True)\n"
            f"    path.write_text('{SECRET}')\n"
            "(home / '.toolrc').write_text('plain settings')\n"
        )
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def saved(installed: Notebook, engine: Engine) -> Iterator[str]:
    """The name of the saved image and kernelspec."""
    assert cli.main(["kernels", "save", str(installed.manager.kernel_id)[:12], NAME]) == 0
    yield NAME
    kernelspec.uninstall([NAME])
    with contextlib.suppress(EngineError):
        background.run_blocking(engine.images.remove(NAME))


def test_a_kernel_of_the_saved_spec_has_what_was_installed(saved: str, start: NotebookMaker) -> None:
    one = start(saved)
    assert one.value("__import__('importlib.metadata', fromlist=['version']).version('iniconfig')") == "2.0.0"
    assert one.value("open(__import__('os').path.expanduser('~/.toolrc')).read()") == "plain settings"
    # The settings are those of the kernelspec that it was saved from.
    assert one.value("__import__('os').environ['API_TOKEN']") == SECRET
    assert one.container.config.memory == 512 << 20


def test_the_saved_spec_can_be_told_from_the_one_before(saved: str) -> None:
    spec = kernelspec.ours()[saved]
    assert spec["spec"]["display_name"] == f"Docker Python ({saved})"
    assert spec["spec"]["argv"][-1] == spec["resource_dir"]


def test_nothing_secret_is_in_the_image(saved: str, engine: Engine) -> None:
    found = background.run_blocking(engine.images.inspect(saved))
    assert SECRET not in json.dumps(found)
    with (
        background.run_blocking(engine.images.save(found["Id"])) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                data = file.read()
                assert SECRET.encode() not in data, member.name
                if member.name.endswith("layer.tar"):
                    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
                        names = layer.getnames()
                    assert not [name for name in names if name.endswith((".netrc", ".aws", ".ssh", "start.json"))]


def test_prune_leaves_a_saved_kernel_alone_even_without_its_spec(saved: str, engine: Engine) -> None:
    plan = background.run_blocking(prune.plan(engine, []))
    assert f"{saved}:latest" not in [tag for image in plan.images for tag in image.tags]


def test_a_name_is_saved_over_only_when_that_is_said(
    saved: str, installed: Notebook, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = str(installed.manager.kernel_id)
    assert cli.main(["kernels", "save", kernel, saved]) == 1
    assert "is there already: say --replace" in capsys.readouterr().err
    assert cli.main(["kernels", "save", kernel, saved, "--spec-name", f"{saved}-b"]) == 1
    assert f"The image {saved}:latest is there already: say --replace" in capsys.readouterr().err
    before = background.run_blocking(engine.images.inspect(saved))["RootFS"]["Layers"]
    installed.run("(home / '.toolrc').write_text('newer settings')")
    try:
        assert cli.main(["kernels", "save", kernel, saved, "--replace"]) == 0
        after = background.run_blocking(engine.images.inspect(saved))
        assert after["RootFS"]["Layers"] != before
        assert after["Config"]["Labels"][labels.SAVED] == f"{saved}:latest"
    finally:
        installed.run("(home / '.toolrc').write_text('plain settings')")
        assert cli.main(["kernels", "save", kernel, saved, "--replace"]) == 0
    assert background.run_blocking(engine.images.inspect(saved))["RootFS"]["Layers"][:-1] == before[:-1]


def test_what_is_not_ours_is_never_replaced(installed: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = str(installed.manager.kernel_id)
    assert cli.main(["kernels", "save", kernel, "docker-kernel/python", "--spec-name", "x-y", "--replace"]) == 1
    assert "no saved kernel: choose another name" in capsys.readouterr().err
    assert cli.main(["kernels", "save", kernel, NAME, "--spec-name", "python3", "--replace"]) == 1
    assert "not one of docker-kernel's: choose another name" in capsys.readouterr().err
    assert cli.main(["kernels", "save", kernel, "Not A Name"]) == 1
    assert "cannot be an image's name" in capsys.readouterr().err
    assert cli.main(["kernels", "save", "no-such-kernel", f"{NAME}-other"]) == 1
    assert "No running kernel is called 'no-such-kernel'" in capsys.readouterr().err
