"""How the stand-ins of `unittest.mock` are pickled, which answer for whatever pickle asks them.

Each mock has a class of its own, for the methods with two underscores that were set on it.
"""

from __future__ import annotations

import sys
from typing import Any

_OF_CLASS = frozenset({"__module__", "__dict__", "__weakref__"})


def kinds() -> tuple[type, ...]:
    """The types of mocks, and of what they keep of calls, that this process may have."""
    mock = sys.modules.get("unittest.mock")
    found = [getattr(mock, name, None) for name in ("NonCallableMock", "_Call")]
    return tuple(kind for kind in found if isinstance(kind, type))


def reduce(value: Any) -> Any:
    kind = type(value)
    attributes = dict(object.__getattribute__(value, "__dict__"))
    if issubclass(kind, tuple):
        return _make_call, (kind, tuple(tuple.__iter__(value))), (attributes, {}), None, None, _fill
    own = {name: part for name, part in vars(kind).items() if name not in _OF_CLASS}
    return _make, (kind.__name__, kind.__bases__), (attributes, own), None, None, _fill


def _make(name: str, bases: tuple[type, ...]) -> Any:
    return object.__new__(type(name, bases, {"__module__": "unittest.mock"}))


def _make_call(kind: Any, items: tuple[Any, ...]) -> Any:
    return tuple.__new__(kind, items)


def _fill(value: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, own = state
    object.__getattribute__(value, "__dict__").update(attributes)
    for name, part in own.items():
        type.__setattr__(type(value), name, part)
