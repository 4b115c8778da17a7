"""Which of a notebook's variables code can reach: those it names, and those that their functions and classes name."""

from __future__ import annotations

import ast
import dis
import re
import types
from collections.abc import Iterator
from typing import Any

from docker_kernel.guest import snapshot

_READS = {"LOAD_NAME", "LOAD_GLOBAL", "DELETE_NAME", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}

_RUNS_TEXT = {"eval", "exec", "globals", "query", "run_line_magic", "run_cell_magic", "system", "getoutput"}
"""Code that names one of these may name variables in its texts."""


def needed_names(source: str | ast.Module, namespace: dict[str, Any]) -> set[str]:
    """The names of the variables that a cell can reach.

    Names that are made while it runs (`globals()[prefix + "x"]`) are not seen.

    Args:
        source: the cell as Python, magics transformed.
        namespace: the notebook's.
    """
    try:
        code = compile(source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return set(namespace)
    waiting = [*_names(code)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name not in namespace:
            continue
        found.add(name)
        for inner in snapshot.code_in(namespace[name], namespace):
            waiting += _names(inner)
    return found


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names that code reads, also that of functions and classes within."""
    yield from (one.argval for one in dis.get_instructions(code) if one.opname in _READS)
    runs_text = not _RUNS_TEXT.isdisjoint(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
        elif runs_text and isinstance(constant, str):
            yield from re.findall(r"[^\W\d]\w*", constant)
