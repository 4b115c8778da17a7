"""The warnings filters, read and set (see process_parts.py).

A filter may be about the warnings of a library, which must not be imported for that: its place is kept until it is.
"""

from __future__ import annotations

import sys
from typing import Any

from docker_kernel.guest.imports import when_imported

_FUNCTIONS = {"showwarning": "_showwarning_orig", "formatwarning": "_formatwarning_orig"}
_STANDARD = ("warnings", "_py_warnings", "logging")

_sent: list[Any] = []
"""The filters that were set last, as they were read."""


_awaited: set[str] = set()
"""The libraries at whose import filters are put in their places."""


def read(warnings: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"filters": _with_absent([_described(one) for one in warnings.filters])}
    for name in _FUNCTIONS:
        function = getattr(warnings, name)
        if getattr(function, "__module__", "") not in _STANDARD:
            found[name] = function
    return found


def set_one(warnings: Any, name: str, value: Any) -> None:
    if name != "filters":
        setattr(warnings, name, value)
        return
    _sent[:] = value
    warnings.filters[:] = [one for one in map(_filter, value) if one is not None]
    _changed(warnings)
    absent = {_library(one) for one in value if _filter(one) is None} - _awaited
    _awaited.update(absent)
    for library in absent:
        when_imported(library, lambda module, library=library: _place(warnings, library))  # type: ignore[misc]


def forget(warnings: Any, name: str) -> None:
    setattr(warnings, name, getattr(warnings, _FUNCTIONS[name]))


def _described(one: Any) -> list[Any]:
    """A filter, with the class of a library's warning as its name."""
    action, message, category, module, line = one
    home = category.__module__
    found: Any = sys.modules.get(home)
    for part in category.__qualname__.split("."):
        found = getattr(found, part, None)
    # One of the notebook's, or of a module that does not have it, travels as it is.
    named = found is category and home not in ("builtins", "__main__")
    return [action, message, "%s:%s" % (home, category.__qualname__) if named else category, module, line]


def _with_absent(filters: list[Any]) -> list[Any]:
    """The filters, and those between them whose library is not imported."""
    for number, one in enumerate(_sent):
        if _filter(one) is None and one not in filters:
            above = [filters.index(other) for other in _sent[:number] if other in filters]
            below = [filters.index(other) for other in _sent[number:] if other in filters]
            if above or below:
                filters.insert(max(above) + 1 if above else min(below), one)
    return filters


def _filter(described: Any) -> Any:
    """The filter; None where its library is not imported."""
    action, message, category, module, line = described
    if isinstance(category, str):
        home, _, name = category.partition(":")
        category = sys.modules.get(home)
        for part in name.split("."):
            category = getattr(category, part, None)
        if not isinstance(category, type):
            return None
    return action, message, category, module, line


def _library(described: Any) -> str:
    return str(described[2]).partition(":")[0].partition(".")[0]


def _place(warnings: Any, library: str) -> None:
    """Put the filters about a library, which was just imported, where they belong: below those that were above them.

    Where the library has set them itself, they are above all others now.
    """
    before: list[Any] = []
    filters = list(warnings.filters)
    for described in _sent:
        one = _filter(described)
        if one is None:
            continue
        if isinstance(described[2], str) and _library(described) == library:
            if one in filters:
                filters.remove(one)
            above = [filters.index(other) for other in before if other in filters]
            if above or not before:
                filters.insert(max(above) + 1 if above else 0, one)
        before.append(one)
    warnings.filters[:] = filters
    _changed(warnings)


def _changed(warnings: Any) -> None:
    """Have Python look at the filters anew, as it does when these are left."""
    with warnings.catch_warnings():
        pass
