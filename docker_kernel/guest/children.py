"""How objects of a notebook's classes are pickled that are children of built-in containers, or of `object`."""

from __future__ import annotations

import collections
import copyreg
from typing import Any

_CONTAINERS = (
    collections.OrderedDict, collections.Counter, collections.defaultdict, dict, collections.deque, list, set, object,
)  # fmt: skip


def container(kind: type) -> Any:
    """Of what built-in container a class is a child, `object` for none; None where the class, or what made it, says
    how its objects are pickled."""
    family = next(one for one in _CONTAINERS if issubclass(kind, one))
    if kind is family or kind in copyreg.dispatch_table or issubclass(kind, type):
        return None
    if kind.__new__ is not family.__new__ or any(hasattr(kind, name) for name in _SAYS_HOW):
        return None
    of_object = ("__reduce_ex__", "__getstate__")
    if any(getattr(kind, name, None) is not getattr(object, name, None) for name in of_object):
        return None
    return family if kind.__reduce__ is family.__reduce__ else None


SAYS_HOW_IT_IS_MADE = ("__getnewargs__", "__getnewargs_ex__", "__reduce__", "__reduce_ex__")


def make_by_base(base: Any, kind: Any, *arguments: Any) -> Any:
    return base.__new__(kind, *arguments)


_SAYS_HOW = ("__setstate__", "__getnewargs__", "__getnewargs_ex__")


def reduce_child(value: Any, family: Any) -> Any:
    """Take an object apart by what the built-in class does, and not by the methods of its own class: they may need its
    attributes, or do more than to fill it; and several built-in classes forget the attributes."""
    items = pairs = attributes = None
    if issubclass(family, dict):
        found = list(family.items(value))
        pairs = [*(key for key, _ in found), *(one for _, one in found)]
    elif family is not object:
        items = list(family.__iter__(value))
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        pass
    slots = {}
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        try:
            slots[name] = object.__getattribute__(value, name)
        except AttributeError:
            pass
    state = (value if attributes is value else dict(attributes or {}), slots)
    factory = value.default_factory if family is collections.defaultdict else None
    limit = value.maxlen if family is collections.deque else None
    return make_child, (type(value), family, limit), (state, items, pairs, family, factory), None, None, fill_child


def reduce_made(value: Any, base: Any) -> Any:
    """The same for one that a class above its own makes, from what Python's own class wants to be given."""
    kind = type(value)
    family = next(one for one in _CONTAINERS if issubclass(kind, one))
    arguments = kind.__getnewargs__(value) if hasattr(kind, "__getnewargs__") else ()
    _, _, *more = reduce_child(value, family)
    return (make_by_base, (base, kind, *arguments), *more)


def make_child(kind: Any, family: Any, limit: int | None) -> Any:
    made = family.__new__(kind)
    if limit is not None:
        collections.deque.__init__(made, (), limit)
    return made


def fill_child(own: Any, content: tuple[Any, ...]) -> None:
    (attributes, slots), items, pairs, family, factory = content
    if pairs is not None:
        half = len(pairs) // 2
        for key, value in zip(pairs[:half], pairs[half:]):
            family.__setitem__(own, key, value)
    if items is not None:
        (family.update if family is set else family.extend)(own, items)
    if family is collections.defaultdict:
        own.default_factory = factory
    if attributes is own:
        object.__setattr__(own, "__dict__", own)
        attributes = {}
    # What has slots here may have had none there.
    for name, value in [*attributes.items(), *slots.items()]:
        object.__setattr__(own, name, value)


def empty_child(own: Any, family: Any) -> None:
    if family is not object:
        family.clear(own)
    try:
        object.__getattribute__(own, "__dict__").clear()
    except AttributeError:
        pass
    for name in copyreg._slotnames(type(own)):  # type: ignore[attr-defined]
        try:
            object.__delattr__(own, name)
        except AttributeError:
            pass
