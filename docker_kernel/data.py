"""Where the files that travel with the package are: `kernelspecs/` and `images/`."""

from __future__ import annotations

from pathlib import Path


def data_folder(name: str) -> Path:
    """The folder `kernelspecs` or `images`: inside an installed wheel, or at the root of a checkout."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name
