"""Which of the user's modules code can reach: those that it imports or has objects of, and those that these use."""

from __future__ import annotations

import dis
import importlib.util
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import compress
from typing import Any

from docker_kernel.guest.own_files import is_own
from docker_kernel.guest.reach import runs_text

ANY = "*"
"""Stands among what a module uses for all modules: its code finds them by means that reading it does not show."""

_MENTIONING = (types.CodeType, types.ModuleType, types.FunctionType, type)
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]


def imports(code: types.CodeType) -> Iterator[str]:
    """The names of the modules that code imports, also in functions and classes within; ANY for relative ones."""
    if _IMPORT_NAME in code.co_code[::2]:
        before: list[Any] = [0, 0]
        for one in dis.get_instructions(code):
            if one.opname == "IMPORT_NAME":
                yield ANY if before[0] else one.argval
            if one.opname != "EXTENDED_ARG":
                before = [before[1], one.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from imports(constant)


def mentioned(objects: Collection[Any]) -> set[str]:
    """The names of the modules that objects are, are defined in or import; ANY for code that may reach all."""
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, _MENTIONING)}
    found: set[str] = set()
    for one in compress(objects, map(kinds.__contains__, map(type, objects))) if kinds else ():
        if type(one) is types.CodeType:
            found.update(imports(one))
            if runs_text(one):
                found.add(ANY)
        elif issubclass(type(one), types.ModuleType):
            found.add(one.__name__)
        else:
            found.add(one.__module__ or "")
    return found


def reached(objects: Collection[Any], uses: Mapping[str, Iterable[str]]) -> set[str]:
    """The modules that objects can reach.

    Args:
        uses: the modules that there are, and the modules that each of them uses.
    """
    waiting = [*mentioned(objects)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name == ANY or (name not in uses and _is_own_and_new(name)):
            return set(uses)
        if name not in uses:
            # A package without a file of its own is not among them, and has all that are in it.
            waiting += [known for known in uses if known.startswith(name + ".") and known not in found]
        # With a module, its packages are imported.
        for known in (name, *_packages(name)):
            if known in uses and known not in found:
                found.add(known)
                waiting += uses[known]
    return found


def _packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _is_own_and_new(name: str) -> bool:
    """Whether it is a module of the user's that is yet to be imported, so that nobody knows what it uses."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return False
    return spec is not None and is_own(spec.origin)
