"""Writes files that are there when they are whole, in place of whatever was there: no link is followed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, pieces: Iterable[bytes], mode: int = 0o644) -> None:
    """Write a file, and make the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        made = Path(file.name)
        try:
            file.writelines(pieces)
        except BaseException:
            made.unlink()
            raise
    made.chmod(mode)
    made.replace(path)


def keep(path: Path, text: str) -> None:
    """Write a text into a cache folder, for the user alone."""
    write(path, [text.encode()], 0o600)
