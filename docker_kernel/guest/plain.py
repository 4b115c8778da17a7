"""Groups of plain values: they can be read from their pickle again without anything else happening.

So nobody has to look at them before a cell runs: what they were like can be made out afterwards.
"""

from __future__ import annotations

import marshal
import sys
import types
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from docker_kernel.guest import snapshot

_VALUES = frozenset(
    {list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, complex, bool, type(None), range, slice}
)

_ARRAY_MAKERS = frozenset({"_frombuffer", "_reconstruct"})
_GLOBAL = (type, types.FunctionType, types.BuiltinFunctionType)


def are_plain(objects: Iterable[Any]) -> bool:
    """Whether these are plain values, and what those are made by: all that a pickle has a memo of."""
    numpy = sys.modules.get("numpy")
    array, dtype = getattr(numpy, "ndarray", None), getattr(numpy, "dtype", None)

    def is_value(kind: type) -> bool:
        return dtype is not None and (kind is array or issubclass(kind, dtype))

    def makes(one: Any) -> bool:
        if issubclass(type(one), type):
            return one in _VALUES or one is array or one is dtype
        return str(one.__module__).partition(".")[0] == "numpy" and one.__name__ in _ARRAY_MAKERS

    objects = list(objects)
    kinds = set(map(type, objects))
    # A set's order may depend on their content, which does not come with the pickle.
    if bytes in kinds and any(type(one) is bytes and len(one) >= snapshot.OUT_OF_BAND for one in objects):
        return False
    others = {kind for kind in kinds - _VALUES if not is_value(kind)}
    if not all(issubclass(kind, _GLOBAL) for kind in others):
        return False
    return not others or all(makes(one) for one in objects if type(one) in others)


_ATOMS = frozenset({str, bytes, int, float, complex, bool, type(None)})

_AT_ONCE = 1000
"""How many lists and dicts are compared at once."""


def unchanged(now: Mapping[int, Any], before: Mapping[int, Any]) -> list[int]:
    """The numbers of those lists and dicts that hold nothing but atoms, and the very same as before.

    Args:
        now, before: those of a pickle by their numbers, and those of the same one read again.
    """
    found: list[int] = []
    for kind in (list, dict):
        numbers = [number for number, one in now.items() if type(one) is kind]
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            # Most are unchanged, mostly.
            if not _are_same([now[number] for number in some], [before[number] for number in some]):
                some = [number for number in some if _are_same([now[number]], [before[number]])]
            found += some
    return found


def _are_same(some: list[Any], others: list[Any]) -> bool:
    # What is nested would be compared again for each level.
    return _are_flat(some) and _are_flat(others) and _written(some) == _written(others)


def _are_flat(some: list[Any]) -> bool:
    parts = chain.from_iterable(some)
    if type(some[0]) is dict:
        parts = chain(parts, chain.from_iterable(map(dict.values, some)))
    return _ATOMS.issuperset(map(type, parts))


def _written(value: Any) -> bytes:
    # The second version writes nothing of which objects are the same, and each number by its bits.
    return marshal.dumps(value, 2)
