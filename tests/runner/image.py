"""Makes notebook images for tests, by the contract of docs/notebook-image.md, without `docker-kernel containerize`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs

import docker_kernel
from docker_kernel import background, labels
from docker_kernel.engine import ContainerSpec, Engine, File, archive
from docker_kernel.guest import parameters
from docker_kernel.kernel import guest_files

REPOSITORY = "docker-kernel-test/notebook"
RUNNER = f"{guest_files.BASE}/runner"
MAIN = f"{guest_files.LIB}/docker_kernel/runner/main.py"


def packages(python_version: str) -> Path:
    """The runner's packages for an image's Python, kept between runs of the tests."""
    lock = Path(docker_kernel.__file__).parent / "runner" / "requirements.txt"
    key = hashlib.sha256(lock.read_bytes() + python_version.encode()).hexdigest()[:16]
    kept = platformdirs.user_cache_path("docker-kernel") / "test-runner" / key
    if not kept.exists():
        made = kept.with_name(f"{key}.{uuid.uuid4().hex}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
        ]
        command += ["--target", str(made), "--implementation", "cp", "--python-version", python_version]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
            command += ["--platform", platform]
        subprocess.run([*command, "-r", str(lock)], check=True)
        made.rename(kept)
    return kept


def library() -> list[File]:
    """Our code, as an image has it."""
    package = Path(docker_kernel.__file__).parent
    files = [*guest_files.library(), File(f"{guest_files.BASE}/lib/docker_kernel/runner", mode=0o755)]
    for path in sorted((package / "runner").glob("*.py")):
        files.append(File(f"{guest_files.BASE}/lib/docker_kernel/runner/{path.name}", path.read_bytes()))
    return files


class Images:
    """Makes images of notebooks, and removes them."""

    def __init__(self, engine: Engine, base: str) -> None:
        self._engine = engine
        self._used: list[str] = []
        self._base = base
        self._runner = ""

    def close(self) -> None:
        for tag in reversed(self._used):
            background.run_blocking(self._engine.remove_image(tag))

    def make(
        self,
        cells: Sequence[Any],
        files: Mapping[str, bytes] | None = None,
        image_labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """An image of a notebook.

        Args:
            cells: code as text, or whole cells.
            files: of the workspace, by path.
            spec: overrides parts of notebook.json.
        """
        notebook = as_notebook(cells)
        found = parameters.find(notebook).parameters
        name = spec.setdefault("notebook", "report.ipynb")
        content = {
            "contract": 1,
            "python": "/usr/bin/python3",
            "kernel": {
                "name": "python3",
                "language": "python",
                "argv": ["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            },
            "parameters": [one.to_dict() for one in found],
            "timeout": None,
            **spec,
        }
        owner = {"uid": 1000, "gid": 0}
        put = [
            *library(),
            File(f"{guest_files.BASE}/notebook", mode=0o755),
            File(f"{guest_files.BASE}/notebook/notebook.json", json.dumps(content).encode()),
            File("notebook", mode=0o775, **owner),
            File("output", mode=0o777, **owner),
            File(f"notebook/{name}", json.dumps(notebook).encode(), mode=0o664, **owner),
        ]
        put += [File(f"notebook/{path}", data, mode=0o664, **owner) for path, data in (files or {}).items()]
        shown = {
            f"{labels.NOTEBOOK_IMAGE}contract": "1",
            f"{labels.NOTEBOOK_IMAGE}path": name,
            f"{labels.NOTEBOOK_IMAGE}parameters": json.dumps(parameters.schema(found)),
            **(image_labels or {}),
        }
        return self._commit(self._with_packages(), put, shown)

    def _with_packages(self) -> str:
        if not self._runner:
            folder = packages("3.11")
            files = [File(guest_files.BASE, mode=0o755)]
            for path in sorted(folder.rglob("*")):
                inner = f"{RUNNER}/{path.relative_to(folder)}"
                files.append(File(inner, mode=0o755) if path.is_dir() else File(inner, path.read_bytes()))
            command = ["/usr/bin/python3", "-m", "compileall", "-q", f"/{RUNNER}"]
            self._runner = self._commit(self._base, files, {}, command)
        return self._runner

    def _commit(
        self, base: str, files: Sequence[File], shown: Mapping[str, str], command: Sequence[str] = ("true",)
    ) -> str:
        tag = uuid.uuid4().hex[:12]
        spec = ContainerSpec(image=base, command=command, labels={labels.KIND: labels.KIND_BUILD}, user="0:0")
        changes = [
            "USER 1000:0",
            "WORKDIR /notebook",
            f"ENTRYPOINT {json.dumps(['/usr/bin/python3', '-I', '-S', MAIN])}",
        ]
        changes += ["CMD []", *(f"LABEL {name}={json.dumps(value)}" for name, value in shown.items())]
        container = background.run_blocking(self._engine.create(spec))
        try:
            background.run_blocking(self._engine.put_tar(container, archive(files)))
            background.run_blocking(self._engine.start(container))
            assert background.run_blocking(self._engine.wait(container)) == 0
            background.run_blocking(self._engine.commit(container, REPOSITORY, tag, changes))
        finally:
            background.run_blocking(self._engine.remove(container))
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
