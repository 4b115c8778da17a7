"""What tests of installed packages share: a package to install, and the environment images that came of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from docker_kernel import background, labels
from docker_kernel.engine import Engine


def environments(engine: Engine) -> set[str]:
    found = background.run_blocking(engine.images.list(f"{labels.KIND}={labels.KIND_ENVIRONMENT}"))
    return {tag for image in found for tag in image["RepoTags"] or []}


def write_wheel(folder: Path) -> None:
    """A package with no dependencies, made without a build tool."""
    with zipfile.ZipFile(folder / "shade-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("shade.py", "COLOUR = 'teal'\n")
        wheel.writestr("shade-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shade\nVersion: 1.0\n")
        wheel.writestr("shade-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("shade-1.0.dist-info/RECORD", "")
