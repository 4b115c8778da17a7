"""What modules hold of values besides their names: defaults of arguments, closures, attributes of functions.

A module's file makes its values when it is imported. Where others come in their places, what the file gave the first
ones to holds on to them: `def f(known=cache)` would fill another dict than `cache`. So they are replaced there, too.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

_DEPTH = 4
"""How deep values are looked into that stand in one another's place."""


def replace(instead: Iterable[tuple[Any, Any]], modules: Iterable[types.ModuleType]) -> None:
    """Let the functions of modules hold values in the place of others, also where these are parts of them."""
    found: dict[int, tuple[Any, Any]] = {}
    for old, new in instead:
        _pair(old, new, found, _DEPTH)
        _fill(old, new)
    if not found:
        return

    def new_for(value: Any) -> Any:
        return found[id(value)][1] if id(value) in found else value

    seen: set[int] = set()
    for module in modules:
        for function in _functions(vars(module).values(), module.__name__, seen):
            if function.__defaults__ is not None:
                function.__defaults__ = tuple(map(new_for, function.__defaults__))
            holders: list[dict[str, Any]] = [function.__kwdefaults__ or {}, function.__dict__]
            for holder in holders:
                for name, value in list(holder.items()):
                    if id(value) in found:
                        holder[name] = new_for(value)
            for cell, content in _filled(function):
                if id(content) in found:
                    cell.cell_contents = new_for(content)


def _fill(old: Any, new: Any) -> None:
    """Let what nobody finds that holds a list, dict or set on see at least what is in there now."""
    if type(old) is type(new) and type(old) in (list, dict, set):
        content = list(new) if isinstance(new, list) else new
        old.clear()
        old.extend(content) if isinstance(old, list) else old.update(content)


def _pair(old: Any, new: Any, found: dict[int, tuple[Any, Any]], depth: int) -> None:
    """Collect what stands in whose place; of types that Python shares among equal values, nothing."""
    if old is new or id(old) in found or type(old) is not type(new):
        return
    if isinstance(old, (bool, int, float, complex, str, bytes, type(None), type, types.FunctionType, types.ModuleType)):
        return
    if not (isinstance(old, (tuple, frozenset)) and not old):
        found[id(old)] = old, new
    if not depth:
        return
    if isinstance(old, dict):
        pairs = [(old[key], new[key]) for key in old if isinstance(key, (str, int)) and key in new]
    elif isinstance(old, (list, tuple)):
        pairs = list(zip(old, new)) if len(old) == len(new) else []
    else:
        mine, other = getattr(old, "__dict__", None), getattr(new, "__dict__", None)
        both = isinstance(mine, dict) and isinstance(other, dict)
        pairs = [(mine[key], other[key]) for key in mine if key in other] if both else []  # type: ignore[index,union-attr,operator]
    for one, another in pairs:
        _pair(one, another, found, depth - 1)


def _functions(values: Iterable[Any], module: str, seen: set[int]) -> Iterator[types.FunctionType]:
    """The functions among values, in the classes and wrapped by the functions there, that a module defines."""
    for value in list(values):
        if id(value) in seen:
            continue
        if isinstance(value, property):
            yield from _functions((value.fget, value.fset, value.fdel), module, seen)
            continue
        value = getattr(value, "__func__", value) if isinstance(value, (classmethod, staticmethod)) else value
        if isinstance(value, types.FunctionType):
            seen.add(id(value))
            yield value
            inner = [one for _, one in _filled(value) if isinstance(one, types.FunctionType)]
            yield from _functions(inner, module, seen)
        elif isinstance(value, type) and value.__module__ == module:
            seen.add(id(value))
            yield from _functions(vars(value).values(), module, seen)


def _filled(function: types.FunctionType) -> Iterator[tuple[types.CellType, Any]]:
    """The cells of a closure, with what they hold."""
    for cell in function.__closure__ or ():
        try:
            yield cell, cell.cell_contents
        except ValueError:
            pass  # its variable is not bound yet
