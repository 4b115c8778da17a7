"""How objects of the user's classes are pickled: by what Python's own classes do, and not by what theirs answer.

A class of a notebook, or of a module of the user's, may answer for all names, do more in `__new__` than to make an
object, or say that its object is found by a name, where only the notebook has one.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
import types
from typing import Any, Callable

from docker_kernel.guest import children
from docker_kernel.guest.names import by_name
from docker_kernel.guest.own_files import is_own

Way = Callable[[Any], Any]
"""What a pickler's `reducer_override` returns for an object of a class."""

_trying: set[int] = set()
"""The ids of objects of which it is being found out whether their content can be pickled."""

_FORGETFUL = frozenset({"datetime", "decimal", "fractions", "pathlib", "random", "uuid"})
"""Modules whose classes pickle nothing but what they are themselves."""


class Instances:
    """One pickler's.

    Args:
        namespace: the notebook's.
        can_travel: says whether a value can be pickled.
    """

    def __init__(self, namespace: dict[str, Any], can_travel: Callable[[Any], bool]) -> None:
        self._namespace, self._can_travel = namespace, can_travel
        self._ways: dict[type, Way | None] = {}

    def reduce(self, value: Any) -> Any:
        """What `reducer_override` is to return; None where an object is pickled as usual."""
        kind = type(value)
        way = self._ways[kind] if kind in self._ways else self._ways.setdefault(kind, self._way(kind))
        return None if way is None else way(value)

    def _way(self, kind: type) -> Way | None:
        family = children.container(kind)
        answers = any(self._is_users_part(kind, name) for name in ("__getattr__", "__getattribute__"))
        if family is not None and (family is not object or answers):
            return lambda value: children.reduce_child(value, family)
        if issubclass(kind, _DESCRIPTORS) and kind not in _DESCRIPTORS:
            return _reduce_descriptor
        base = self._maker(kind)
        if base is not None:
            asks = answers and not hasattr(kind, "__setstate__")
            return lambda value: children.reduce_made(value, base) if asks else _by_base(value, base)
        registered = copyreg.dispatch_table.get(kind)
        if registered is not None:
            reduce = registered
            return (lambda value: self._named(value, reduce(value))) if self._is_users(reduce) else None
        if any(self._is_users_part(kind, name) for name in ("__reduce__", "__reduce_ex__")):
            return lambda value: self._named(value, value.__reduce_ex__(5))
        if self._forgets_attributes(kind):
            return _reduce_child
        return None

    def _is_users(self, function: Any) -> bool:
        space = getattr(getattr(function, "__func__", function), "__globals__", None)
        return space is self._namespace or (space is not None and is_own(space.get("__file__")))

    def _is_users_part(self, kind: type, name: str) -> bool:
        return self._is_users(next((vars(one)[name] for one in kind.__mro__ if name in vars(one)), None))

    def _maker(self, kind: Any) -> Any:
        """The class above one of the user's that makes its objects without the `__new__` of the user, which may do more
        than that, or want arguments; None where there is none such, or the class says what it wants."""
        if not self._is_users_part(kind, "__new__") or issubclass(kind, type):
            return None
        if any(self._is_users_part(kind, name) for name in children.SAYS_HOW_IT_IS_MADE):
            return None
        return next(one for one in kind.__mro__ if not self._is_users_part(one, "__new__"))

    def _named(self, value: Any, reduced: Any) -> Any:
        """An object by its content that is said to be found by a name: the notebook's is a variable itself, which has
        yet to be there, and a module's may have changed."""
        if not isinstance(reduced, str) or not self._is_made_by_object(type(value)):
            return reduced
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        if getattr(module, "__dict__", None) is self._namespace:
            return children.reduce_child(value, object)
        if module is None or not is_own(getattr(module, "__file__", None)) or id(value) in _trying:
            return reduced
        _, _, content, *more = children.reduce_child(value, object)
        _trying.add(id(value))
        try:
            travels = self._can_travel(content)
        finally:
            _trying.discard(id(value))
        return (find, (module.__name__, reduced, type(value)), content, *more) if travels else reduced

    def _is_made_by_object(self, kind: type) -> bool:
        makers = (one for one in kind.__mro__ if "__new__" in vars(one) and not self._is_users_part(one, "__new__"))
        return next(makers) is object

    def _forgets_attributes(self, kind: type) -> bool:
        """Whether objects of a class of the user's have attributes that the class above it pickles them without."""
        module = sys.modules.get(kind.__module__)
        if kind.__module__ != "__main__" and not is_own(getattr(module, "__file__", None)):
            return False
        for one in kind.__mro__[:-1]:
            how = [vars(one)[name] for name in ("__reduce_ex__", "__reduce__", "__getstate__") if name in vars(one)]
            if how:
                return one.__module__ in _FORGETFUL or not any(isinstance(part, types.FunctionType) for part in how)
        return False


def find(module: str, name: str, kind: type) -> Any:
    """What a module has under a name, to be given the content that it had."""
    return by_name(module, name)


def _by_base(value: Any, base: Any) -> Any:
    make, arguments, *more = reduced = value.__reduce_ex__(5)
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        return (children.make_by_base, (base, *arguments), *more)
    return reduced


def _reduce_child(value: Any) -> Any:
    """An object of a child of a class that may forget what the child is, and has."""
    reduced: Any = value.__reduce_ex__(5)
    if not isinstance(reduced, str):
        kind: Any = type(value)
        make, arguments = reduced[:2]
        if not any(one is kind for one in (make, getattr(make, "__self__", None), *arguments)):
            if not issubclass(kind, getattr(sys.modules.get("numpy"), "generic", ())):
                raise pickle.PicklingError("it would be of the class above its own")
            reduced = _make_scalar, (kind, make, arguments)
    return with_attributes(value, reduced)


def _make_scalar(kind: Any, make: Any, arguments: tuple[Any, ...]) -> Any:
    plain = make(*arguments)
    return type(plain).__new__(kind, plain)


def with_attributes(value: Any, reduced: Any) -> Any:
    """How an object is pickled whose class does so without the attributes that it has."""
    attributes = attributes_of(value)
    if not attributes or isinstance(reduced, str):
        return reduced
    make, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    parts = [state, *(state if isinstance(state, tuple) else ())]
    if setter is not None or any(isinstance(one, dict) and attributes.keys() <= one.keys() for one in parts):
        return reduced
    return make, arguments, (state, dict(attributes)), items, pairs, fill


def with_added(value: Any, reduced: Any) -> Any:
    """The same for a library's class that has attributes of its own, with leading underscores."""
    added = {name: part for name, part in attributes_of(value).items() if not name.startswith("_")}
    if not added:
        return reduced
    make, arguments, *more = value.__reduce_ex__(5) if reduced in (None, NotImplemented) else reduced
    return make, arguments, (more[0] if more else None, added), None, None, fill


def attributes_of(value: Any) -> dict[str, Any]:
    """An object's attributes, as its class cannot change them."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def fill(own: Any, content: tuple[Any, dict[str, Any]]) -> None:
    """Give an object its state, and its attributes."""
    state, attributes = content
    if state is not None:
        own.__setstate__(state)
    object.__getattribute__(own, "__dict__").update(attributes)


_DESCRIPTORS = (property, classmethod, staticmethod)


def _reduce_descriptor(value: Any) -> Any:
    family = next(one for one in _DESCRIPTORS if isinstance(value, one))
    parts = (value.fget, value.fset, value.fdel, value.__doc__) if family is property else (value.__func__,)
    attributes = dict(getattr(value, "__dict__", None) or {})
    return _make_descriptor, (type(value), family), (family, parts, attributes), None, None, _fill_descriptor


def _make_descriptor(kind: Any, family: Any) -> Any:
    return family.__new__(kind)


def _fill_descriptor(own: Any, content: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> None:
    family, parts, attributes = content
    family.__init__(own, *parts)
    if attributes:
        vars(own).update(attributes)
