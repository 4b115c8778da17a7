"""Makes notebook images for tests, as users do."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docker_kernel import background, labels
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.request import Request
from docker_kernel.engine import ContainerSpec, Engine, File
from docker_kernel.kernel import guest_files

REPOSITORY = "docker-kernel-test/notebook"
SPEC = f"{guest_files.BASE}/notebook/notebook.json"


class Images:
    """Makes images of notebooks, and removes them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._used: list[str] = []

    def close(self) -> None:
        for tag in reversed(self._used):
            background.run_blocking(self._engine.images.remove(tag))

    def make(self, cells: Sequence[Any], files: Mapping[str, bytes] | None = None) -> str:
        """An image of a notebook.

        Args:
            cells: code as text, or whole cells.
            files: of the workspace, by path.
        """
        tag = f"{REPOSITORY}:{uuid.uuid4().hex[:12]}"
        with tempfile.TemporaryDirectory(prefix="docker-kernel-test-") as folder:
            for path, data in {**(files or {}), "report.ipynb": json.dumps(as_notebook(cells)).encode()}.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            self._used.append(tag)
            background.run_blocking(containerize(Request(Path(folder) / "report.ipynb", tag=tag), engine=self._engine))
        return tag

    def with_kernel(self, image: str, argv: Sequence[str]) -> str:
        """A copy of an image whose kernel starts otherwise."""
        tag = uuid.uuid4().hex[:12]
        config = background.run_blocking(self._engine.images.inspect(image))["Config"]
        spec = ContainerSpec(image=image, command=["true"], labels={labels.KIND: labels.KIND_BUILD})
        container = background.run_blocking(self._engine.containers.create(spec))
        try:
            content = json.loads(background.run_blocking(self._engine.containers.read_file(container, f"/{SPEC}")))
            content["kernel"]["argv"] = list(argv)
            background.run_blocking(self._engine.containers.put(container, [File(SPEC, json.dumps(content).encode())]))
            changes = [f"ENTRYPOINT {json.dumps(config['Entrypoint'])}", "CMD []"]
            background.run_blocking(self._engine.containers.commit(container, REPOSITORY, tag, changes))
        finally:
            background.run_blocking(self._engine.containers.remove(container))
        self._used.append(f"{REPOSITORY}:{tag}")
        return f"{REPOSITORY}:{tag}"


def as_notebook(cells: Sequence[Any]) -> dict[str, Any]:
    """A notebook of cells: texts are code."""
    made = []
    for number, cell in enumerate(cells):
        whole = dict(cell) if isinstance(cell, Mapping) else {"source": cell}
        whole = {"cell_type": "code", "metadata": {}, "id": f"cell-{number}", **whole}
        if whole["cell_type"] == "code":
            whole = {"execution_count": None, "outputs": [], **whole}
        made.append(whole)
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
