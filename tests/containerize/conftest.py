"""What the tests of notebook images share."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background
from docker_kernel.containerize.image import NotebookImage, containerize
from docker_kernel.containerize.request import Request
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError
from tests.patience import patient


def write_notebook(path: Path, *cells: str | dict[str, Any], **metadata: Any) -> Path:
    """A notebook of code cells (texts) and whole cells (dicts)."""
    made = [
        cell
        if isinstance(cell, dict)
        else {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": cell,
        }
        for number, cell in enumerate(cells)
    ]
    notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))
    return path


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The engine's own command line: what a user without docker-kernel has."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=patient(180), check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


Containerize = Callable[..., NotebookImage]


@pytest.fixture
def make(engine: Engine, python_image: str) -> Iterator[Containerize]:
    """Makes notebook images under names of the test's own; they are removed after it."""
    made: list[str] = []

    def build(notebook: Path, **wishes: Any) -> NotebookImage:
        wishes.setdefault("tag", f"docker-kernel-test/{uuid.uuid4().hex[:12]}")
        image = background.run_blocking(containerize(Request(notebook, **wishes), engine=engine))
        made.append(image.reference)
        return image

    yield build
    for reference in made:
        with contextlib.suppress(EngineError):
            background.run_blocking(engine.images.remove(reference))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder for results that the image's user can write."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
