"""A notebook as its file shows it: by what one knows it again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_SIZE = 256 << 20
"""Bytes of a notebook beyond which it is known by path and file only."""

LOOKS, LOOK_SECONDS = 4, 0.25
"""How often it is tried, with what pauses, to read a notebook that is being written just now."""


@dataclass(frozen=True)
class Sight:
    """A notebook as it was found, or last seen.

    Args:
        inode: its file's; None where there is no file, as with contents that are in no file system.
        ids, sources: of its cells; sources by digest.
        readable: whether they could be read.
    """

    path: str
    inode: int | None = None
    ids: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    readable: bool = True

    @property
    def blank(self) -> bool:
        return not self.ids and not self.sources

    def like(self, last: Sight) -> bool:
        """Whether it can be the same one, changed since: an id is made once, while a source is often written twice."""
        return not self.readable or bool(self.ids & last.ids) or _most(self.sources, last.sources)

    def most_like(self, last: Sight) -> bool:
        """Whether most of its cells are those of the other one, and the other way about."""
        return _most(self.ids, last.ids) or _most(self.sources, last.sources)

    def after(self, last: Sight) -> Sight:
        """What is to be kept, where the same notebook was seen before."""
        return self if self.readable else replace(last, path=self.path, inode=self.inode)


def _most(some: frozenset[str], others: frozenset[str]) -> bool:
    return 2 * len(some & others) > max(len(some), len(others))


def look(path: str) -> Sight:
    """A notebook as it is on disk now. Blocks."""
    for attempt in range(LOOKS):
        try:
            with Path(path).open("rb") as file:
                status = os.fstat(file.fileno())
                text = file.read() if status.st_size <= MAX_SIZE else b""
        except OSError:
            return Sight(path)
        cells = _cells(text)
        if cells is not None:
            break
        if attempt < LOOKS - 1 and text:
            time.sleep(LOOK_SECONDS)
    else:
        return Sight(path, status.st_ino, readable=False)
    ids, sources = set(), set()
    for cell in cells:
        if cell.get("id"):
            ids.add(str(cell["id"]))
        source = cell.get("source") or ""
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        if source.strip():
            sources.add(hashlib.sha256(source.strip().encode(errors="surrogatepass")).hexdigest()[:16])
    return Sight(path, status.st_ino, frozenset(ids), frozenset(sources))


def _cells(text: bytes) -> list[dict[str, Any]] | None:
    """The cells of a notebook, or the paragraphs of a script or text of Jupytext's; None where it is not whole."""
    if text.strip() and not text.lstrip().startswith(b"{"):
        return [{"source": part.decode(errors="replace")} for part in text.split(b"\n\n")]
    try:
        return [cell for cell in json.loads(text)["cells"] if isinstance(cell, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def inode_of(path: str) -> int | None:
    """The number of a file; None where there is none. Blocks."""
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None
