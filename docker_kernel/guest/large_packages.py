"""Packages in the workspace of so many files that it takes seconds to look at all their values: libraries, mostly, of
which somebody has cloned a copy.

Of a value in there it is known which objects it holds, and not how it would be pickled; and a module in which nothing
was set or deleted need not be walked through again.
"""

from __future__ import annotations

import array
import functools
import os
import sys
import types
from collections import deque
from itertools import compress
from typing import Any

from docker_kernel.guest import generators
from docker_kernel.guest.instances import attributes_of
from docker_kernel.guest.module_attributes import Attribute, Owner, attributes, looks_of

MANY = 100
"""Python files from which a package is a large one."""

MAX_OBJECTS = 200
"""How many of a value's objects are looked at."""

_SIMPLE = frozenset({bool, int, float, complex, str, bytes, type(None)})
_CONTAINERS = (list, tuple, set, frozenset, deque)
_FIXED = _SIMPLE | {type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType}


def is_part(module: types.ModuleType) -> bool:
    """Whether a module is in a package of many files."""
    parts, file = module.__name__.split("."), str(module.__file__)
    above = len(parts) - (1 if hasattr(module, "__path__") else 2)
    folder = os.path.dirname(file)
    for _ in range(above):
        folder = os.path.dirname(folder)
    return above >= 0 and _has_many(folder)


def is_hidden(value: Any) -> bool:
    """Whether what a value holds is no objects, so that its content has to be looked at."""
    arrays = getattr(sys.modules.get("numpy"), "ndarray", ())
    return isinstance(value, (bytearray, array.array, arrays, generators.kinds()))


@functools.lru_cache(None)
def _has_many(folder: str) -> bool:
    count = 0
    for _, _, files in os.walk(folder):
        count += sum(name.endswith(".py") for name in files)
        if count > MANY:
            return True
    return False


class Shape:
    """Which objects a value held when it was looked at, the nearest of them."""

    def __init__(self, members: frozenset[int]) -> None:
        self.members = members


class Objects:
    """What the objects were like that values hold, each when it was looked at first."""

    def __init__(self) -> None:
        # By its id, for each object: the ids of its parts, and of these, what must live so that no other object is
        # taken for it.
        self._known: dict[int, tuple[list[int], list[Any]]] = {}

    def shape(self, value: Any) -> Shape:
        waiting, seen = [value], {id(value)}
        for one in waiting:
            parts = _parts(one)
            kinds = [*map(type, parts)]
            if id(one) not in self._known:
                self._known[id(one)] = [*map(id, parts)], [*compress(parts, map(_SIMPLE.__contains__, kinds))]
            for inner in compress(parts, [kind not in _FIXED for kind in kinds]):
                if id(inner) not in seen and len(seen) < MAX_OBJECTS:
                    seen.add(id(inner))
                    waiting.append(inner)
        return Shape(frozenset(seen))

    def look(self) -> Look:
        return Look(self._known)


class Look:
    """Compares objects with what they were like, each once."""

    def __init__(self, known: dict[int, tuple[list[int], list[Any]]]) -> None:
        self._known = known
        self._seen: set[int] = set()
        self._changed: set[int] = set()

    def is_as_it_was(self, value: Any, shape: Shape) -> bool:
        waiting = [value]
        while waiting:
            one = waiting.pop()
            known = self._known.get(id(one))
            if known is None or id(one) in self._seen:
                continue
            self._seen.add(id(one))
            parts = _parts(one)
            if [*map(id, parts)] != known[0]:
                self._changed.add(id(one))
            waiting += compress(parts, [kind not in _FIXED for kind in map(type, parts)])
        return shape.members.isdisjoint(self._changed)


def _parts(value: Any) -> list[Any]:
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return list(value)
    if kind is dict:
        return [*value, *value.values()]
    found: list[Any] = []
    if issubclass(kind, dict):
        found = [*dict.keys(value), *dict.values(value)]
    elif issubclass(kind, _CONTAINERS):
        found = list(next(base for base in _CONTAINERS if issubclass(kind, base)).__iter__(value))
    return [*found, *attributes_of(value).values()]


class Walk:
    """All that a module has, found anew only where something was set or deleted in it, its classes or functions."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._owners: list[tuple[Owner, Any]] = []
        self._found: list[Attribute] | None = None

    def attributes(self) -> list[Attribute]:
        """The very same list as before where all is as it was."""
        if self._found is None or any(looks_of(owner) != looks for owner, looks in self._owners):
            owners: list[Owner] = []
            self._found = list(attributes(self._module, owners))
            self._owners = [(owner, looks_of(owner)) for owner in owners]
        return self._found
