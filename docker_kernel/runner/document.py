"""The executed notebook as a file: each cell becomes JSON once, so that writing all after every cell costs little."""

from __future__ import annotations

import copy
import json
from typing import Any

from nbformat import from_dict
from nbformat.v4.rwbase import split_lines, strip_transient


class Document:
    """A notebook that is being executed.

    Args:
        notebook: nbformat 4; it is changed by others while this looks at it from the same thread.
    """

    def __init__(self, notebook: Any) -> None:
        self.notebook = notebook
        self._cells: list[bytes | None] = [None] * len(notebook.cells)

    def touch(self, index: int) -> None:
        """A cell has changed."""
        self._cells[index] = None

    def content(self) -> list[bytes]:
        """The file of now, in pieces, as nbformat writes it."""
        pieces = [b'{\n "cells": [']
        for index, known in enumerate(self._cells):
            if known is None:
                known = self._cells[index] = self._cell(index)
            pieces += [b",\n  " if index else b"\n  ", known]
        rest = {name: value for name, value in self.notebook.items() if name != "cells"}
        rest["metadata"] = {
            name: value for name, value in rest["metadata"].items() if name not in ("orig_nbformat", "signature")
        }
        tail = _dump(rest)
        pieces += [b"\n ],", tail[1:], b"\n"]
        return pieces

    def _cell(self, index: int) -> bytes:
        one = copy.copy(self.notebook)
        one["cells"] = [from_dict(copy.deepcopy(self.notebook.cells[index]))]
        one["metadata"] = copy.copy(one["metadata"])
        cell = split_lines(strip_transient(one)).cells[0]
        return _dump(cell).replace(b"\n", b"\n  ")


def _dump(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True, separators=(",", ": "))
    # A lone surrogate, which a cell may print, is no UTF-8.
    return text.encode("utf-8", errors="backslashreplace")
