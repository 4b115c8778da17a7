"""Groups of plain values: they can be read from their pickle again without anything else happening.

So nobody has to look at them before a cell runs: what they were like can be made out afterwards.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
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
