"""Which of a notebook's variables code can reach: those it names, and those that their functions and classes name."""

from __future__ import annotations

import ast
import functools
import types
from collections.abc import Iterator
from typing import Any

DEPTH = 3
"""How deep in lists, dicts and attributes functions are looked for."""


def needed_names(source: str, namespace: dict[str, Any]) -> set[str]:
    """The names of the variables that a cell can reach.

    What it reaches by other ways (`globals()[...]`, `eval`) is not seen.

    Args:
        source: the cell as Python, without magics.
        namespace: the notebook's.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set(namespace)
    waiting = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    found: set[str] = set()
    seen: set[int] = set()
    while waiting:
        name = waiting.pop()
        if name in found or name not in namespace:
            continue
        found.add(name)
        waiting += _names(namespace[name], namespace, seen, DEPTH)
    return found


def _names(value: Any, namespace: dict[str, Any], seen: set[int], depth: int) -> Iterator[str]:
    """The global names that code in a value uses."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, types.FunctionType):
        if value.__globals__ is not namespace:
            return
        yield from _code_names(value.__code__)
        inner = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values()]
        for cell in value.__closure__ or ():
            try:
                inner.append(cell.cell_contents)
            except ValueError:
                continue  # not bound yet
    elif isinstance(value, (classmethod, staticmethod)):
        inner = [value.__func__]
    elif isinstance(value, types.MethodType):
        inner = [value.__func__, value.__self__]
    elif isinstance(value, property):
        inner = [value.fget, value.fset, value.fdel]
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, type):
        if value.__module__ == namespace.get("__name__"):
            inner = [*vars(value).values(), *value.__bases__]
    elif depth:
        depth -= 1
        inner = [type(value)]
        if isinstance(value, (list, tuple, set, frozenset)) and len(value) < 10_000:
            inner += value
        elif isinstance(value, dict) and len(value) < 10_000:
            inner += value.values()
        elif type(value).__module__ == namespace.get("__name__"):
            inner += getattr(value, "__dict__", {}).values()
        wrapped = getattr(type(value), "__wrapped__", None) or vars(type(value)).get("__wrapped__")
        inner.append(wrapped)
        if hasattr(value, "cache_parameters"):
            inner.append(value.__wrapped__)
    for one in inner:
        yield from _names(one, namespace, seen, depth)


def _code_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_names(constant)
