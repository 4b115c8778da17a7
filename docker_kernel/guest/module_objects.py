"""Functions and classes of the user's modules, and how a pickle has those that their names do not stand for.

A pickle has a function or class by its module's and its own name. Where something else has taken the name since the
import (a patched function), or never was there under it (a lambda, a decorator's inner function), what the file made is
found here. Other functions that run in a module's namespace are made anew there, and not in a copy of what they use.
"""

from __future__ import annotations

import importlib
import sys
import types
import weakref
from collections.abc import Mapping
from typing import Any

from docker_kernel.guest.names import by_name, is_by_name

_made: dict[tuple[str, str], weakref.ref[Any]] = {}
"""What files made, by module and name there."""

_keys: dict[int, tuple[str, str]] = {}
"""The keys of these, by ids."""

_modules: set[str] = set()


def note(module: str, values: Mapping[str, Any]) -> None:
    """Take down which functions and classes a module's file has just made."""
    for key in [key for key in _made if key[0] == module]:
        del _made[key]
    for number in [number for number, key in _keys.items() if key[0] == module]:
        del _keys[number]
    for name, value in values.items():
        _made[module, name] = weakref.ref(value)
        _keys.setdefault(id(value), (module, name))
    _modules.add(module)


def made_by_file(value: Any) -> tuple[str, str] | None:
    """The module and the name by which the other side finds what a file made; None where its own name does."""
    key = _keys.get(id(value))
    if key is None or _made[key]() is not value or is_found_by_name(value):
        return None
    return key


def has_taken_a_name(value: Any) -> bool:
    """Whether a function or class goes by the name of another one, which the file made."""
    # One that says of no module that it is its own, pickle looks for in all (a function of `unittest.mock`).
    for module in [value.__module__] if value.__module__ else _modules:
        made = _made.get((module, value.__qualname__))
        if made is not None and made() is not value and is_by_name(module, value):
            return True
    return False


def is_found_by_name(value: Any) -> bool:
    return is_by_name(value.__module__ or "", value)


def find(module: str, name: str) -> Any:
    """What a module's file made under a name."""
    importlib.import_module(module)  # which notes what it makes
    made = _made.get((module, name))
    value = None if made is None else made()
    return by_name(module, name) if value is None else value


def globals_of(module: str) -> dict[str, Any]:
    """The namespace in which a module's functions run."""
    return vars(importlib.import_module(module))


def runs_in(function: types.FunctionType) -> str | None:
    """The module in whose namespace a function is to be made anew on the other side.

    None for those of other modules than the user's, and for those that are found there.
    """
    name = function.__globals__.get("__name__")
    if name not in _modules or getattr(sys.modules.get(name), "__dict__", None) is not function.__globals__:
        return None
    if is_found_by_name(function) and not has_taken_a_name(function):
        return None
    return None if made_by_file(function) else str(name)
