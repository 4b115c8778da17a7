"""Notebook images are made of their environment, what runs them, and the notebook: with nothing of the maker's left."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background
from docker_kernel.batch.layers import Layer
from docker_kernel.containerize.environment import environment
from docker_kernel.containerize.image import BUILDING, containerize
from docker_kernel.containerize.inspect import describe
from docker_kernel.containerize.request import Request, Step, silent
from docker_kernel.containerize.runner_layers import code_layer, packages_layer
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError, ImageMissing
from docker_kernel.guest.parameters import find
from tests.conftest import ImageMaker, SpecMaker
from tests.containerize.conftest import Containerize, docker, write_notebook
from tests.engines import OwnRegistry, Relay

MB = 1_000_000

AREA = ["width = 3  # metres", "height = 2.5", "print('area', width * height)"]


def layers(image: str) -> list[str]:
    found: list[str] = json.loads(docker("image", "inspect", image, "--format", "{{json .RootFS.Layers}}").stdout)
    return found


def test_an_image_runs_with_other_parameters(make: Containerize, tmp_path: Path, output: Path) -> None:
    image = make(write_notebook(tmp_path / "area.ipynb", *AREA))
    ran = docker("run", "--rm", "-v", f"{output}:/output", image.reference, "-p", "width=4")
    assert "area 10.0" in ran.stdout
    done = json.loads((output / "output.ipynb").read_text())
    assert "".join(done["cells"][-1]["outputs"][0]["text"]) == "area 10.0\n"
    assert "area 10.0" in (output / "output.html").read_text()


def test_an_image_is_nobody_s_root_and_says_what_it_is(make: Containerize, engine: Engine, tmp_path: Path) -> None:
    image = make(write_notebook(tmp_path / "area.ipynb", *AREA))
    config = json.loads(docker("image", "inspect", image.reference, "--format", "{{json .Config}}").stdout)
    assert config["User"] == "1000:0" and config["WorkingDir"] == "/notebook" and not config.get("Cmd")
    found = background.run_blocking(describe(engine, image.reference))
    assert found.notebook == "area.ipynb" and found.base == image.plan.environment.reference
    assert {name: one["default"] for name, one in found.schema["properties"].items()} == {"width": 3, "height": 2.5}
    assert found.schema["properties"]["width"]["description"] == "metres"
    assert found.lock.startswith("sha256:") and found.notebook_digest.startswith("sha256:")


def test_what_did_not_change_keeps_its_layers(make: Containerize, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(2 << 20))
    (tmp_path / "small.csv").write_text("a,b\n1,2\n")
    notebook = write_notebook(tmp_path / "area.ipynb", *AREA)
    first, again = make(notebook), make(notebook)
    assert layers(first.reference) == layers(again.reference)
    write_notebook(notebook, *AREA, "1 + 1")
    changed = layers(make(notebook).reference)
    assert changed[:-1] == layers(first.reference)[:-1] and changed != layers(first.reference)


def test_files_come_along_and_belong_to_whoever_runs_it(make: Containerize, tmp_path: Path, output: Path) -> None:
    (tmp_path / "lib dir").mkdir()
    (tmp_path / "lib dir" / "größe.py").write_text("value = 7\n")
    (tmp_path / ".env").write_text("TOKEN=x\n")
    check = "import sys, os; sys.path.insert(0, 'lib dir'); import größe; print(größe.value, sorted(os.listdir('.')))"
    image = make(write_notebook(tmp_path / "a b.ipynb", check, "open('new', 'w').write('x')"))
    ran = docker("run", "--rm", "-u", "4321:0", "-v", f"{output}:/output", image.reference)
    assert "7 ['a b.ipynb', 'lib dir', 'out']" in ran.stdout or "7 ['a b.ipynb', 'lib dir']" in ran.stdout
    assert ".env" in dict(image.plan.left_out)


def test_no_image_of_the_kernel_is_a_sentence(make: Containerize, make_spec: Any, tmp_path: Path) -> None:
    spec = make_spec(image="docker-kernel-test/nowhere:1")
    with pytest.raises(ImageMissing, match="docker-kernel-test/nowhere:1 is not on the engine"):
        make(write_notebook(tmp_path / "a.ipynb", "1"), kernel=spec)


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        ({"tag": "Upper:1"}, "cannot be an image's name.*such as 'upper:1'"),
        ({"kernel": "docker-pyton"}, "no kernelspec 'docker-pyton'"),
        ({"allow": ("nothing",)}, "--allow nothing: the scan found nothing"),
    ],
)
def test_a_wrong_wish_is_a_sentence(make: Containerize, tmp_path: Path, wishes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ContainerizeError, match=problem):
        make(write_notebook(tmp_path / "a.ipynb", "1"), **wishes)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "is no notebook: it is not JSON"), ("[]", "it has no cells"), (None, "cannot be read: No such file")],
)
def test_what_is_no_notebook_is_a_sentence(
    make: Containerize, tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ContainerizeError, match=problem):
        make(path)


def test_a_pipe_in_a_notebook_s_place_is_a_sentence(make: Containerize, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ipynb")
    with pytest.raises(ContainerizeError, match="it is no file"):
        make(tmp_path / "a.ipynb")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"cells": [' + '{"a":' * 5000 + "1" + "}" * 5000 + "]}"])
def test_a_notebook_that_is_too_deep_is_a_sentence(make: Containerize, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(ContainerizeError, match="is no notebook"):
        make(tmp_path / "a.ipynb")


def test_secrets_of_the_base_and_in_new_defaults_are_found(
    make: Containerize, make_image: ImageMaker, make_spec: SpecMaker, python_image: str, tmp_path: Path
) -> None:
    base = make_image(f"FROM {python_image}\nENV DB_PASSWORD=hunter2 GPG_KEY=0D96\n")
    notebook = write_notebook(tmp_path / "a.ipynb", "api_token: str = ''")
    (one,) = find(json.loads(notebook.read_text())).parameters
    edited = dataclasses.replace(one, default="a8f5f167f44f4964")
    image = make(notebook, kernel=make_spec(image=base), parameters=(edited,))
    assert {found.where for found in image.plan.findings} == {"env DB_PASSWORD", "parameter api_token"}


@pytest.mark.parametrize(
    "schema",
    ["[]", "5", '{"properties":{"a":5}}', '{"properties":{"a":{"enum":5}}}', '{"required":[["a"]]}', "[" * 9000],
)
def test_labels_that_somebody_forged_are_a_sentence(engine: Engine, make_image: ImageMaker, schema: str) -> None:
    value = schema.replace('"', '\\"')
    name = "io.docker-kernel.notebook"
    image = make_image(f'FROM scratch\nLABEL {name}.contract="1" {name}.parameters="{value}"\n')
    with pytest.raises(ContainerizeError, match=r"The labels of .* are damaged"):
        background.run_blocking(describe(engine, image))


def test_what_an_image_s_python_compiles_is_for_that_image(
    engine: Engine, python_image: str, make_image: ImageMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be hostile: nothing but its compiled code is taken, and no other image gets that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    evil = make_image(
        f"FROM {python_image}\nUSER 0\n"
        "RUN echo 'import sys' > /tmp/c && echo 'def compile_dir(folder, **_):' >> /tmp/c && "
        'echo \'    open(folder + "/docker_kernel/runner/main.py", "a").write("# evil")\' >> /tmp/c && '
        "cp /tmp/c $(python3 -c 'import compileall; print(compileall.__file__)')\n"
    )

    async def code(image: str, version: tuple[int, ...]) -> Layer:
        notebook = write_notebook(tmp_path / "a.ipynb", "1")
        found = await environment(engine, {}, Request(notebook), silent)
        about = await engine.images.inspect(image)
        wanted = dataclasses.replace(found, image=about["Id"], python_version=version)
        return await code_layer(engine, wanted)

    other = (3, 10 if sys.version_info[1] != 10 else 11)
    poisoned = background.run_blocking(code(evil, other))
    clean = background.run_blocking(code(python_image, other))
    assert b"# evil" not in b"".join(poisoned.open()) and poisoned.digest != clean.digest
    ours = [background.run_blocking(code(image, sys.version_info[:3])) for image in (evil, python_image)]
    assert ours[0].digest == ours[1].digest and b".pyc" in b"".join(ours[0].open())


def test_what_runs_notebooks_is_the_same_wherever_it_was_fetched(engine: Engine, tmp_path: Path) -> None:
    """Programs have the path of the host's Python in them, and a package's record their hashes."""

    async def packages() -> Layer:
        notebook = write_notebook(tmp_path / "a.ipynb", "1")
        return await packages_layer(engine, await environment(engine, {}, Request(notebook), silent), silent)

    layer = background.run_blocking(packages())
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer.open()))) as tar:
        records = [name for name in tar.getnames() if name.endswith(".dist-info/RECORD")]
        said = b"".join(file.read() for name in records if (file := tar.extractfile(name)) is not None)
        assert b"nbclient/" in said and b"../../bin/" not in said
        assert not [name for name in tar.getnames() if name.startswith("opt/docker-kernel/runner/bin")]


def test_a_cancelled_build_leaves_nothing(engine: Engine, python_image: str, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(64 << 20))
    title = f"{uuid.uuid4().hex}.ipynb"
    notebook = write_notebook(tmp_path / title, *AREA)

    async def cancelled() -> None:
        sends = asyncio.Event()
        loop = asyncio.get_running_loop()

        def told(step: Step) -> None:
            if step.name == "image" and step.text.startswith("sends"):
                loop.call_soon_threadsafe(sends.set)

        building = asyncio.create_task(containerize(Request(notebook, tag="docker-kernel-test/cut"), told, engine))
        await sends.wait()
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building

    background.run_blocking(cancelled())
    assert not docker("images", "-aq", "--filter", f"label=org.opencontainers.image.title={title}").stdout
    assert BUILDING not in docker("images", "--format", "{{.Repository}}").stdout
    assert "docker-kernel-test/cut" not in docker("images", "--format", "{{.Repository}}").stdout


@pytest.fixture(scope="module")
def line(own_registry: OwnRegistry) -> Iterator[Relay]:
    """The way to a registry, which can be counted and cut."""
    relay = Relay(own_registry.port)
    yield relay
    relay.close()


def test_secrets_are_not_pushed_unless_allowed(make: Containerize, line: Relay, tmp_path: Path) -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLF"
    notebook = write_notebook(tmp_path / "a.ipynb", f"key = '{key}'")
    tag = f"{line.address}/team/notebooks"
    with pytest.raises(ContainerizeError, match=r"not pushed.*--allow") as refused:
        make(notebook, tag=tag, push=True)
    assert key not in str(refused.value)
    assert tag not in docker("images", "--format", "{{.Repository}}").stdout, "refused before it was made"
    (finding,) = make(notebook).plan.findings
    assert make(notebook, tag=tag, push=True, allow=(finding.id,)).pushed.startswith(f"{tag}@sha256:")


def test_a_push_that_broke_goes_on(make: Containerize, own_registry: OwnRegistry, line: Relay, tmp_path: Path) -> None:
    """The registry goes away in the middle: the image stays, and what was sent is not sent again."""
    for name in ("small.bin", "large.bin"):
        (tmp_path / name).write_bytes(os.urandom(30 * MB))
    notebook = write_notebook(tmp_path / "a.ipynb", *AREA)
    tag = f"{line.address}/team/notebooks"
    make(write_notebook(tmp_path / "other" / "b.ipynb", *AREA), tag=tag, push=True)
    before = line.sent
    line.when = lambda sent: own_registry.kill() if sent > before + 45 * MB else None
    try:
        with pytest.raises(ContainerizeError, match=r"was made, but .* did not take it .*docker push"):
            make(notebook, tag=tag, push=True)
        assert tag in docker("images", "--format", "{{.Repository}}").stdout
    finally:
        line.when = lambda sent: None
        own_registry.start()
    before = line.sent
    assert make(notebook, tag=tag, push=True).pushed
    assert line.sent - before < 62 * MB, "what the registry has is not sent again"
