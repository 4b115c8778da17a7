"""Tells when a module is imported, to those who must act before its first use.

A library's settings can be neither read nor set before it is there, and a cell may import and use it in one go: so
nothing that comes between cells is early enough, and only the import itself is.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Callable

Callback = Callable[[Any], None]


def when_imported(name: str, callback: Callback) -> None:
    """Call a function with a module each time it has been imported, in the order in which they were given.

    Nothing that the function raises reaches the import: it has to tell itself.
    """
    _finder().callbacks.setdefault(name, []).append(callback)


def when_any_imported(wanted: Callable[[Any], bool], callback: Callback) -> None:
    """Call a function with each module that has been imported whose spec is wanted, as `when_imported` does."""
    _finder().watchers.append((wanted, callback))


@contextlib.contextmanager
def said_elsewhere() -> Iterator[None]:
    """Let nothing that this thread prints be seen: modules that are imported with values have said it elsewhere.

    The stream stays what it is, as modules may keep it.
    """
    stream, thread = sys.stdout, threading.get_ident()
    write: Any = getattr(stream, "write", None)

    def drop(text: str) -> Any:
        return len(text) if threading.get_ident() == thread else write(text)

    before = getattr(stream, "__dict__", {}).get("write")
    try:
        stream.write = drop  # type: ignore[method-assign]
    except AttributeError:  # a stream of the user's with slots, or none
        yield
        return
    try:
        yield
    finally:
        if before is None:
            del stream.write
        else:
            stream.write = before  # type: ignore[method-assign]


class _Finder:
    """Finds modules as the others on `sys.meta_path` do; those that somebody waits for are loaded by a `_Loader`."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callback]] = {}
        self.watchers: list[tuple[Callable[[Any], bool], Callback]] = []

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        if not self.callbacks.get(name) and not self.watchers:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(name, path, target)
            if spec is not None:
                awaited = self.callbacks.get(name) or any(wanted(spec) for wanted, _ in self.watchers)
                if awaited and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, lambda module: self.tell(name, module))
                return spec
        return None

    def tell(self, name: str, module: Any) -> None:
        watchers = [callback for wanted, callback in self.watchers if wanted(module.__spec__)]
        for callback in [*self.callbacks.get(name, []), *watchers]:
            try:
                callback(module)
            except Exception as error:
                print("docker-kernel: the settings of %s are not as they were: %r" % (name, error), file=sys.stderr)


class _Loader:
    """Gives way to a module's own loader, before anybody can see it, and tells when that has done its work."""

    def __init__(self, loader: Any, done: Callback) -> None:
        self._loader, self._done = loader, done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._done(module)


def _finder() -> _Finder:
    """This process's."""
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            return finder
    made = _Finder()
    sys.meta_path.insert(0, made)
    return made
