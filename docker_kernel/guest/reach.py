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

_READS_TEXT = {"eval", "exec", "globals", "query", "run_line_magic", "run_cell_magic", "system", "getoutput"}
"""Code that names one of these may name variables in its texts."""

_RUNS_TEXT = {
    "eval", "exec", "compile", "globals", "locals", "vars", "get_ipython", "run_line_magic", "run_cell_magic",
    "__main__", "__globals__", "modules", "import_module", "__import__", "_getframe", "currentframe", "stack",
    "f_globals", "get_objects", "get_referrers", "runpy", "user_ns",
}  # fmt: skip
"""Code that names one of these may reach any variable."""


def needed_names(source: str | ast.Module, namespace: dict[str, Any]) -> set[str]:
    """The names of the variables that a cell can reach.

    Names that are made while it runs (`globals()[prefix + "x"]`) are not seen.

    Args:
        source: the cell as Python, magics transformed.
        namespace: the notebook's.
    """
    return _reached(source, namespace, by_text=False)


def reachable_names(source: str | ast.Module, namespace: dict[str, Any]) -> set[str]:
    """The same, and all names where that code runs text, which may have any."""
    return _reached(source, namespace, by_text=True)


def _reached(source: str | ast.Module, namespace: dict[str, Any], by_text: bool) -> set[str]:
    code = cell_code(source)
    if code is None or (by_text and runs_text(code)):
        return set(namespace)
    waiting = [*read_names(code)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name not in namespace:
            continue
        found.add(name)
        for inner in snapshot.code_in(namespace[name], namespace):
            if by_text and runs_text(inner):
                return set(namespace)
            waiting += read_names(inner)
    return found


def cell_code(source: str | ast.Module) -> types.CodeType | None:
    """A cell's code; None where it cannot be compiled."""
    try:
        code: types.CodeType = compile(source, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return code
    except (SyntaxError, ValueError):
        return None


def read_names(code: types.CodeType) -> Iterator[str]:
    """The global names that code reads, also that of functions and classes within."""
    yield from (one.argval for one in dis.get_instructions(code) if one.opname in _READS)
    reads_text = not _READS_TEXT.isdisjoint(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from read_names(constant)
        elif reads_text and isinstance(constant, str):
            yield from re.findall(r"[^\W\d]\w*", constant)


def runs_text(code: types.CodeType) -> bool:
    """Whether code may reach variables that it does not name."""
    if not _RUNS_TEXT.isdisjoint(code.co_names):
        return True
    return any(isinstance(constant, types.CodeType) and runs_text(constant) for constant in code.co_consts)
