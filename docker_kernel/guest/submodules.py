"""Modules within packages that code uses by a package's name, as in `import xml.dom.minidom`: who imports the package
alone does not have them."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from docker_kernel.guest.reach import cell_code


def variables(values: dict[str, Any]) -> dict[str, Any]:
    """What travelled without such modules, which no variable has: they are there once they are imported.

    Values of the user's own modules, and some variables, have names with dots, too.
    """
    return {name: value for name, value in values.items() if not _is_one(name, value)}


def _is_one(name: str, value: Any) -> bool:
    return "." in name and issubclass(type(value), types.ModuleType) and value.__name__ == name


def used(source: str, variables: dict[str, Any]) -> dict[str, types.ModuleType]:
    """The modules of this process that a cell, or a function or class among the variables, may mean.

    Args:
        source: the cell as Python, magics transformed.
    """
    packages = {value.__name__ for value in variables.values() if _is_package(value)}
    if not packages:
        return {}
    names = set(_names(cell_code(source)))
    for value in variables.values():
        for function in vars(value).values() if isinstance(value, type) else [value]:
            code = getattr(getattr(function, "__func__", function), "__code__", None)
            names.update(_names(code if isinstance(code, types.CodeType) else None))
    found = {}
    for name, module in list(sys.modules.items()):
        package, _, within = name.partition(".")
        if within and package in packages and names.issuperset(within.split(".")) and _is_known(name, module):
            found[name] = module
    return found


def _is_package(value: Any) -> bool:
    return issubclass(type(value), types.ModuleType) and hasattr(value, "__path__")


def _is_known(name: str, module: Any) -> bool:
    return issubclass(type(module), types.ModuleType) and module.__name__ == name and module.__spec__ is not None


def _names(code: types.CodeType | None) -> Iterator[str]:
    """All that code reads, attributes too."""
    parts: Iterable[Any] = () if code is None else code.co_consts
    for name in () if code is None else code.co_names:
        yield from name.split(".")  # that of an import is the whole one
    for part in parts:
        if isinstance(part, types.CodeType):
            yield from _names(part)
