"""Picklers that go as deep as Python's recursion limit says: from Python 3.12 on, C's stops at a depth of its own."""

from __future__ import annotations

import functools
import pickle
import types
from itertools import islice
from typing import Any

_Base: Any = pickle._Pickler
_PLAIN = frozenset({int, float, bool, type(None), str, bytes, bytearray, list, tuple, dict, set, frozenset})


class _Pure(_Base):  # type: ignore[misc]
    """Python's pickler, which asks as C's does, and has lists grow while they are pickled.

    It calls nothing that Python would call through C, as `save_reduce(*reduced)`.
    """

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        self.framer.commit_frame()
        reference = self.persistent_id(value) if save_persistent_id else None
        if reference is not None:
            self.save_pers(reference)
            return
        known = self.memo.get(id(value))
        if known is not None:
            self.write(self.get(known[0]))
            return
        kind = type(value)
        reduced = NotImplemented if kind in _PLAIN else self.reducer_override(value)
        if reduced is NotImplemented:
            save, by_type = self.dispatch.get(kind), self.dispatch_table.get(kind)
            if save is not None:
                save(self, value)
                return
            if by_type is None and issubclass(kind, type):
                self.save_global(value)
                return
            reduced = value.__reduce_ex__(self.proto) if by_type is None else by_type(value)
        if isinstance(reduced, str):
            self.save_global(value, reduced)
            return
        make, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
        self.save_reduce(make, arguments, state, items, pairs, setter, obj=value)

    def _batch_appends(self, items: Any, *_: Any) -> None:
        done, iterator = 0, iter(items)
        while True:
            batch = items[done : done + 1000] if isinstance(items, list) else [*islice(iterator, 1000)]
            if not batch:
                return
            done += len(batch)
            self.write(pickle.MARK)
            for one in batch:
                self.save(one)
            self.write(pickle.APPENDS)


def pure(make: Any) -> Any:
    """What makes such a pickler instead of one of C, whose methods it has otherwise."""
    if isinstance(make, functools.partial):
        return functools.partial(pure(make.func), *make.args, **make.keywords)
    return _class(make)


@functools.lru_cache(None)
def _class(kind: Any) -> Any:
    if kind is pickle.Pickler:
        return _Pure
    cell = types.CellType()
    names = {name: _with_class(part, cell) for name, part in vars(kind).items() if name not in _OF_CLASS}
    names["dispatch"] = _Base.dispatch
    made = type(kind.__name__, tuple(map(_class, kind.__bases__)), names)
    cell.cell_contents = made
    return made


_OF_CLASS = frozenset({"__dict__", "__weakref__"})


def _with_class(part: Any, cell: types.CellType) -> Any:
    """A method whose `super()` is of another class."""
    if type(part) is not types.FunctionType or "__class__" not in part.__code__.co_freevars:
        return part
    own = part.__closure__ or ()
    cells = tuple(cell if name == "__class__" else one for name, one in zip(part.__code__.co_freevars, own))
    made = types.FunctionType(part.__code__, part.__globals__, part.__name__, part.__defaults__, cells)
    made.__kwdefaults__ = part.__kwdefaults__
    return made
