"""What a user's module has: its own names, those of its classes and functions, and what its functions' closures hold.

Types are asked, and not values: what stands for something else (a proxy) may do work, or fail, at any question.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

ABSENT = object()


class Attribute(NamedTuple):
    """One of them.

    Attributes:
        path: its full name, `config.alpha`; with `<name>` for what a closure holds.
        inner: whether it is of a class or function of the module.
    """

    path: str
    value: Any
    inner: bool


Owner = Any
"""A module, or a class or function of one."""


def attributes(module: types.ModuleType, owners: list[Owner] | None = None) -> Iterator[Attribute]:
    """All that a module has, but for its submodules and what has a name with two underscores before and behind.

    Args:
        owners: gets what has the attributes.
    """
    yield from _of(module, module.__name__, module.__name__, set(), [] if owners is None else owners)


def _of(owner: Owner, path: str, module: str, seen: set[int], owners: list[Owner]) -> Iterator[Attribute]:
    owners.append(owner)
    for name, value in _items(owner):
        is_submodule = issubclass(type(value), types.ModuleType) and value.__name__.startswith(module + ".")
        if is_submodule or name == "_abc_impl":
            continue
        inner = "%s.%s" % (path, name)
        yield Attribute(inner, value, not issubclass(type(owner), types.ModuleType))
        if is_made_by(value, module) and is_owner(value) and id(value) not in seen:
            seen.add(id(value))
            yield from _of(value, inner, module, seen, owners)


def _items(owner: Any) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(owner).items()):
        if type(name) is str and name.isidentifier() and not (name.startswith("__") and name.endswith("__")):
            yield name, value
    for name in _cells(owner):
        value = get(owner, name)
        if value is not ABSENT:
            yield name, value


def looks_of(owner: Owner) -> Any:
    """What tells whether an owner's attributes are others, while those that it had live."""
    names = vars(owner)
    cells = owner.__closure__ if type(owner) is types.FunctionType else None
    return [*names], [*map(id, names.values())], cells and [get(owner, name) for name in _cells(owner)]


def is_owner(value: Any) -> bool:
    """Whether it is a class or function, whose attributes are a module's, too."""
    if issubclass(type(value), type):
        return not issubclass(value, enum.Enum)  # whose attributes are for good
    return type(value) is types.FunctionType


def is_made_by(value: Any, module: str) -> bool:
    """Whether it is a class or function that is defined in a module."""
    return issubclass(type(value), (type, types.FunctionType)) and value.__module__ == module


def _cells(owner: Any) -> dict[str, types.CellType]:
    if type(owner) is not types.FunctionType:
        return {}
    named = zip(owner.__code__.co_freevars, owner.__closure__ or ())
    return {"<%s>" % name: cell for name, cell in named if not name.startswith("__")}


def get(owner: Any, name: str) -> Any:
    """What an owner has; ABSENT where it does not."""
    cell = _cells(owner).get(name)
    if cell is None:
        return vars(owner).get(name, ABSENT)
    try:
        return cell.cell_contents
    except ValueError:
        return ABSENT


def put(owner: Any, name: str, value: Any) -> None:
    cell = _cells(owner).get(name)
    if cell is None:
        setattr(owner, name, value)
    else:
        cell.cell_contents = value


def delete(owner: Any, name: str) -> None:
    cell = _cells(owner).get(name)
    if cell is None:
        delattr(owner, name)
    else:
        del cell.cell_contents
