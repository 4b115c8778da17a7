"""Files in the temporary folder stay where they are: which of them code and variables name."""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import re
import tempfile
import types
from collections.abc import Iterable, Iterator
from typing import Any

from docker_kernel.guest.reach import cell_code, read_names

FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")

_PATH = re.compile(r"(?<![\w./-])(?:file://)?((?:%s)/[^\s'\"|;&<>(),]+)" % "|".join(FOLDERS))
MAX_TEXT = 10_000
MAX_OBJECTS = 10_000
"""How long a text, and how many objects, are looked at: paths are in short texts, and few containers."""


def named_by_cell(source: str, namespace: dict[str, Any]) -> list[str]:
    """The files that a cell names, or a variable or a function that it names.

    Args:
        source: the cell as Python, magics transformed.
        namespace: the notebook's.
    """
    code = cell_code(source)
    return [] if code is None else _there(_in_code(code, namespace))


def named_by(values: Iterable[Any]) -> list[str]:
    """The files that values name."""
    return _there(_in_values(list(values)))


def named_in(text: str) -> list[str]:
    """The files that a text names."""
    return _there(_PATH.findall(text))


def those_since(paths: Iterable[str], file: str) -> list[str]:
    """Those that are newer than another file, if that is there."""
    try:
        since = os.lstat(file).st_ctime_ns
    except OSError:
        since = 0
    return [path for path in paths if os.lstat(path).st_ctime_ns >= since]


def _there(found: Iterable[str]) -> list[str]:
    """Those that are there, and not on a mount, which may be there in a job, too."""
    paths = []
    for path in sorted({os.path.normpath(one) for one in found if "\0" not in one}):
        folder = next((folder for folder in FOLDERS if path.startswith(folder + "/")), None)
        try:
            if folder is not None and os.lstat(path).st_dev == os.lstat(folder).st_dev:
                paths.append(path)
        except OSError:
            pass
    return paths


def _in_code(code: types.CodeType, namespace: dict[str, Any]) -> Iterator[str]:
    """Of functions that it names, too, and of what these name."""
    waiting, seen = [code], set()
    values: list[Any] = []
    while waiting:
        one = waiting.pop()
        values += one.co_consts
        waiting += [part for part in one.co_consts if isinstance(part, types.CodeType)]
        for name in read_names(one):
            if name in seen or name not in namespace:
                continue
            seen.add(name)
            value = namespace[name]
            if isinstance(value, types.FunctionType):
                waiting.append(value.__code__)
                values += [value.__defaults__, value.__kwdefaults__]
            else:
                values.append(value)
    yield from _in_values(values)


def _in_values(values: list[Any]) -> Iterator[str]:
    """The texts among them that may be paths: first those that are there themselves, then what containers hold."""
    seen: set[int] = set()
    waiting = collections.deque(values)
    while waiting and len(seen) < MAX_OBJECTS:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, str):
            if len(value) <= MAX_TEXT and any(folder in value for folder in FOLDERS):
                yield value
                yield from _PATH.findall(value)
        elif issubclass(type(value), (pathlib.PurePath, os.DirEntry)):
            # What else may be a path is asked by code of its own, which may take note of that, as mocks do.
            yield os.fsdecode(value)
        elif isinstance(value, tempfile.TemporaryDirectory):
            yield str(value.name)
        elif issubclass(type(value), types.ModuleType):
            yield str(getattr(value, "__file__", None) or "")
        elif isinstance(value, dict):
            waiting += itertools.islice(value.keys(), MAX_OBJECTS)
            waiting += itertools.islice(value.values(), MAX_OBJECTS)
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += itertools.islice(value, MAX_OBJECTS)
        elif type(value).__module__ == "__main__":
            waiting.append(getattr(value, "__dict__", None))
