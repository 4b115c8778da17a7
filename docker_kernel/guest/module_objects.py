"""Functions and classes as the files of the user's modules made them.

A pickle has these by their names. Where something else has taken the name since the import (a patched function, a
decorator), the name stands for that, and what the file made is found here.
"""

from __future__ import annotations

import importlib
import sys
import types
import weakref
from typing import Any

_made: dict[tuple[str, str], weakref.ref[Any]] = {}
"""By module and qualified name."""


def note(module: str, values: list[Any]) -> None:
    """Take down what a module's file has just made."""
    for key in [key for key in _made if key[0] == module]:
        del _made[key]
    for value in values:
        _made[module, value.__qualname__] = weakref.ref(value)


def replaced(value: Any) -> tuple[str, str] | None:
    """The module and the name of a file's function or class whose name stands for something else now."""
    key = _key(value)
    if key not in _made or _made[key]() is not value or _named(*key) is value:
        return None
    return key


def has_taken_a_name(value: Any) -> bool:
    """Whether a function or class goes by the name of another one, which the file made."""
    key = _key(value)
    return key in _made and _made[key]() is not value and _named(*key) is value


def find(module: str, name: str) -> Any:
    """What a module's file made under a name."""
    importlib.import_module(module)
    made = _made.get((module, name))
    value = None if made is None else made()
    if value is None:
        value = _named(module, name)
    if value is None:
        raise AttributeError("module %r has no %s" % (module, name))
    return value


def globals_of(module: str) -> dict[str, Any]:
    """The namespace in which a module's functions run."""
    return vars(importlib.import_module(module))


def runs_in_module(function: types.FunctionType) -> str | None:
    """The name of the module whose namespace a function runs in; None where there is no such module."""
    name = function.__globals__.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if module is not None and vars(module) is function.__globals__ else None


def _key(value: Any) -> tuple[str, str]:
    return getattr(value, "__module__", None) or "", getattr(value, "__qualname__", "")


def _named(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
