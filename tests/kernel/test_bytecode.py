"""The guest package, compiled once for each image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background
from docker_kernel.engine import Engine
from docker_kernel.kernel import bytecode, guest_files
from tests.conftest import ImageMaker


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "docker-kernel" / "bytecode"


def image_id(engine: Engine, reference: str) -> str:
    return str(background.run_blocking(engine.images.inspect(reference))["Id"])


def make(engine: Engine, image: str, python: str = "/usr/bin/python3") -> set[str]:
    """The names of what is kept for an image."""
    background.run_blocking(bytecode.make(engine, image, python))
    return {file.path for file in bytecode.of_image(image)}


def test_each_module_is_compiled_once_by_the_images_python(engine: Engine, python_image: str, cache: Path) -> None:
    image = image_id(engine, python_image)
    assert bytecode.of_image(image) == ()
    modules = {Path(file.path).stem for file in guest_files.library() if file.path.endswith(".py")}
    made = make(engine, image)
    assert {Path(name).name.partition(".")[0] for name in made} == modules
    assert all(name.startswith(f"{guest_files.BASE}/lib/") for name in made)
    (kept,) = cache.iterdir()
    before = kept.stat()
    assert make(engine, image) == made and kept.stat() == before


def test_nothing_else_of_an_image_is_kept(engine: Engine, python_image: str, make_image: ImageMaker) -> None:
    lib = f"{guest_files.LIB}/docker_kernel/guest"
    planted = make_image(
        f"FROM {python_image}\nUSER root\nRUN mkdir -p {lib}/__pycache__ && cd {lib} "
        "&& touch planted.so planted.pyc __pycache__/planted.txt && ln -s /etc/passwd __pycache__/link.pyc\n"
    )
    names = make(engine, image_id(engine, planted))
    assert names and not [name for name in names if "planted" in name or "link.pyc" in name]


def test_an_image_that_cannot_compile_it_has_none(engine: Engine, python_image: str) -> None:
    assert make(engine, image_id(engine, python_image), python="/bin/true") == set()


def test_what_is_of_another_version_of_ours_goes(engine: Engine, python_image: str, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "0123456789abcdef-image.tar").touch()
    assert make(engine, image_id(engine, python_image))
    assert len(list(cache.iterdir())) == 1
