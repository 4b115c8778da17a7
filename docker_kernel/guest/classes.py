"""How a notebook's classes are made and brought up to date where they arrive, without running code of its own again."""

from __future__ import annotations

import abc
import enum
import functools
import types
import typing
import weakref
from typing import Any

import cloudpickle

from docker_kernel.guest import enums

NEW_TYPE: Any = typing.NewType


def make_new_type(name: str, of: Any) -> Any:
    made = NEW_TYPE(name, of)
    made.__module__ = "__main__"
    return made


def make_class(make: Any, arguments: tuple[Any, ...]) -> Any:
    """A class that is yet to be filled, or the one that is here already.

    What the notebook does when a class is made (`__init_subclass__`, a metaclass's `__new__`) has been done.
    """
    known = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[-2])
    if known is not None:
        return known
    if make is cloudpickle.cloudpickle._make_skeleton_enum:
        return enums.make(*arguments)
    if make is not cloudpickle.cloudpickle._make_skeleton_class:
        return make(*arguments)
    meta, name, bases, attributes, tracker, _ = arguments
    made = _made_quietly(meta, name, bases, attributes)
    if made is None:
        return make(*arguments)
    return cloudpickle.cloudpickle._lookup_class_or_track(tracker, made)


class _Quiet:
    def __init_subclass__(cls, **_: Any) -> None:
        pass


class _QuietWithoutDict(_Quiet):
    __slots__ = ()


def _made_quietly(meta: Any, name: str, bases: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """A class for which no code of the notebook's ran; None where there is none to run, or where it has to."""
    own = {id(one) for one in list(cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)}
    if not all(isinstance(base, type) for base in bases):
        return None
    above = [one for base in bases for one in base.__mro__ if id(one) in own]
    registers = any("__init_subclass__" in vars(one) for one in above)
    if not registers and id(meta) not in own:
        return None
    maker = next(one for one in meta.__mro__ if id(one) not in own)
    if not registers:
        return maker.__new__(meta, name, bases, dict(attributes))
    for quiet in (_Quiet, _QuietWithoutDict):
        try:
            made = maker.__new__(meta, name, (quiet, *bases), dict(attributes))
            made.__bases__ = bases
            return made
        except TypeError:
            pass  # Its instances have another layout.
    return None


def member_attributes(cls: type) -> dict[str, dict[str, Any]] | None:
    """What the members of an enumeration have besides their names and values; None for other classes."""
    if not issubclass(cls, enum.Enum):
        return None
    return {
        member.name: {name: value for name, value in vars(member).items() if name not in _OF_MEMBERS} for member in cls
    }


def registered(cls: type) -> list[type]:
    """The classes that were registered with an abstract one."""
    if not isinstance(cls, abc.ABCMeta):
        return []
    return [one for one in (reference() for reference in abc._get_dump(cls)[0]) if one is not None]  # type: ignore[attr-defined]


_OF_MEMBERS = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})


complete: weakref.WeakSet[type] = weakref.WeakSet()
"""The notebook's classes that this process has, made here or restored."""


def fill_class(cls: type, content: tuple[Any, ...]) -> None:
    """Give a restored class its attributes: not where it exists, with changes of its own perhaps, and only came along
    with an instance."""
    setter, state, update, *more = content
    members = more[0] if more else None
    if cls not in complete:
        _set_class(cls, setter, state, members)
        complete.add(cls)
    elif update is not False:
        from docker_kernel.guest.merge import update_class

        update_class(update, functools.partial(_set_class, cls, setter, state, members))


def _set_class(cls: type, setter: Any, state: Any, members: dict[str, dict[str, Any]] | None) -> None:
    if members is None:
        for name, part in list(vars(cls).items()):
            of_python = name.startswith(("__", "_abc_")) or isinstance(part, _OF_SLOTS)
            if name not in state[0] and not of_python:
                delattr(cls, name)
    setter(cls, state)
    for name, attributes in (members or {}).items():
        own: Any = vars(cls.__members__[name])  # type: ignore[attr-defined]
        for gone in [one for one in own if one not in attributes and one not in _OF_MEMBERS]:
            del own[gone]
        own.update(attributes)


_OF_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
