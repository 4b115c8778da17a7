"""The sources of code that came from cells, and travels: without them there is no `inspect.getsource`, no `f??`, and no
line of source in a traceback.

They are where Python looks for those of files, in `linecache`, under the names that IPython gave its cells.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

NAME = "__docker_kernel_sources__"
"""Under which name they travel among the variables."""

MAX_SOURCE = 1 << 20
MAX_SOURCES = 16 << 20
"""Characters that one source, and all, may have."""


class Source(NamedTuple):
    """A cell's source.

    Attributes:
        cell: its number in the notebook, for tracebacks; None for what no cell of the notebook is.
    """

    text: str
    cell: int | None


_cells: dict[str, int] = {}
"""The numbers of cells that came with a state, by their files' names."""


def is_known(name: str) -> bool:
    """Whether a name that code has for its file is that of a source, and of no file."""
    entry = linecache.cache.get(name)
    return entry is not None and len(entry) == 4 and (entry[1] is None or not os.path.exists(name))


def collect(files: Iterable[str]) -> tuple[dict[str, Source], list[str]]:
    """The sources of code whose files are none, by the files' names; and the names of those that are too long."""
    found: dict[str, Source] = {}
    too_long: list[str] = []
    cells = {**_numbered(), **_cells}
    size = 0
    for name in sorted(set(files)):
        if not is_known(name):
            continue
        text = "".join(linecache.getlines(name))
        if len(text) > MAX_SOURCE or size + len(text) > MAX_SOURCES:
            too_long.append(name)
        else:
            size += len(text)
            found[name] = Source(text, cells.get(name))
    return found, too_long


def restore(sources: dict[str, Source]) -> None:
    """Let Python and IPython find sources that came with a state."""
    shell = _shell()
    for name, source in sources.items():
        if os.path.exists(name) or is_known(name):
            continue  # This side's own.
        # What has no time of change stays: nobody looks for a file of that name.
        linecache.cache[name] = (len(source.text), None, source.text.splitlines(True), name)
        if source.cell is not None:
            _cells[name] = source.cell
            if shell is not None:
                getattr(shell.compile, "_filename_map", {}).setdefault(name, source.cell)


def _numbered() -> dict[str, int]:
    """The numbers of this notebook's cells; in a job there is none but its own, which has no number in the notebook."""
    shell = _shell()
    found: dict[str, int] = getattr(shell.compile, "_filename_map", {}) if hasattr(shell, "kernel") else {}
    return found


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
