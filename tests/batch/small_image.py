"""An image that is sent in no time, for tests of how images are sent."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from docker_kernel import labels
from docker_kernel.background import run_blocking as run
from docker_kernel.engine import Engine

PROGRAMS = ("cat", "sleep")


def small_image(engine: Engine, reference: str) -> str:
    """Make an image of two of this machine's programs and what they load; returns its id."""
    repository, _, tag = reference.partition(":")
    changes = ["ENV COLOUR=teal", f"LABEL {labels.KIND}={labels.KIND_IMAGE} {labels.PYTHON}=/none probe=1"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root.tar")
        root.write_bytes(_root())
        run(engine.images.import_tar(root, repository, tag, changes))
    return str(run(engine.images.inspect(reference))["Id"])


def _root() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        added: set[str] = set()
        for program in PROGRAMS:
            found = shutil.which(program)
            assert found is not None
            tar.add(found, f"bin/{program}")
            listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
            for library in {word for word in listed.split() if word.startswith("/")} - added:
                tar.add(library, library.lstrip("/"))
                added.add(library)
    return buffer.getvalue()
