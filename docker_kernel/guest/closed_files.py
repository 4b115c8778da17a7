"""Files that code has closed, such as the `f` of `with open(path) as f`: they travel as closed ones of their names."""

from __future__ import annotations

import io
import os
import tempfile
from typing import Any

_TEMPORARY: Any = getattr(tempfile, "_TemporaryFileWrapper")  # noqa: B009
_KINDS = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)
_MODES = {io.BufferedReader: "rb", io.BufferedWriter: "wb", io.BufferedRandom: "r+b"}


def reduce(value: Any) -> Any:
    """How one is pickled; None for all other objects."""
    kind = type(value)
    if kind is _TEMPORARY:
        inner = vars(value).get("file")
        return None if reduce(inner) is None else (_temporary, (inner, value.name))
    if kind not in _KINDS or not value.closed:
        return None
    name = getattr(value, "name", None)
    mode = getattr(value, "mode", None)
    if kind is io.FileIO:
        return _closed, (name, mode, None, 0)
    if kind is io.TextIOWrapper:
        return _closed, (name, mode if isinstance(mode, str) else "r", value.encoding, -1)
    return _closed, (name, _MODES[kind], None, -1)


def _closed(name: Any, mode: str, encoding: str | None, buffering: int) -> Any:
    def nowhere(path: Any, flags: int) -> int:
        return os.open(os.devnull, os.O_RDWR)

    # A number is that of an open file of this process.
    path = name if isinstance(name, (str, bytes)) else os.devnull
    with open(path, mode, buffering, encoding, opener=nowhere) as file:
        return file


def _temporary(file: Any, name: str) -> Any:
    return _TEMPORARY(file, name, delete=False)
