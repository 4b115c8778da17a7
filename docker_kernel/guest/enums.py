"""How the members of a notebook's enumerations are pickled and made again, by no code of the notebook's.

A member's value need not be what it was made of: what makes it may be a `__new__` or an `__init__` of a class above, or
another type's, as in `class Day(datetime.date, Enum)`.
"""

from __future__ import annotations

import copyreg
import enum
from typing import Any

import cloudpickle

_as_member: Any = getattr(enum, "member", lambda value: value)
_SIMPLE = (object, int, str, float, bytes, complex, tuple)


class Parts:
    """What a member is made of.

    Attributes:
        base: the type whose `__new__` makes it of the class and the arguments.
    """

    def __init__(self, base: Any, arguments: tuple[Any, ...], value: Any) -> None:
        self.base, self.arguments, self.value = base, arguments, value

    def make(self, cls: Any) -> Any:
        made = self.base.__new__(cls, *self.arguments)
        made._value_ = self.value
        return made


def members(cls: Any) -> dict[str, Any]:
    """What an enumeration's members are made of, by all their names: their values where that is enough."""
    base = cls._member_type_
    above = [vars(one) for one in cls.__mro__[1:] if issubclass(one, enum.Enum) and one.__module__ != "enum"]
    is_simple = base in _SIMPLE and not any(name in one for one in above for name in ("__new__", "__init__"))
    found: dict[str, Any] = {}
    for name, member in cls.__members__.items():
        arguments = None if is_simple else _arguments(base, member)
        found[name] = member.value if arguments is None else Parts(base, arguments, member.value)
    return found


def _arguments(base: Any, member: Any) -> tuple[Any, ...] | None:
    """What its type makes a member of; None where it does not say."""
    if hasattr(base, "__getnewargs__"):
        return tuple(base.__getnewargs__(member))
    reduced = base.__reduce_ex__(member, 5)
    make, arguments = ("", ()) if isinstance(reduced, str) else reduced[:2]
    if make is copyreg.__newobj__:  # type: ignore[attr-defined]
        return tuple(arguments[1:])
    return tuple(arguments) if make is type(member) else None


def make(bases: Any, name: str, qualname: str, values: dict[str, Any], module: str, tracker: Any, _: Any) -> Any:
    """An enumeration that has its members, as cloudpickle makes one."""
    meta: Any = type(bases[-1])
    names = meta.__prepare__(name, bases)
    in_parts = any(type(value) is Parts for value in values.values())
    if in_parts:
        names["__new__"], names["__init__"] = _new, _nothing
    for key, value in values.items():
        # What has a `__get__` is taken for a method.
        is_part = hasattr(type(value), "__get__") or isinstance(value, type)
        names[key] = _as_member(value) if is_part else value
    made = meta.__new__(meta, name, bases, names)
    if in_parts:
        type.__delattr__(made, "__init__")
    made.__module__, made.__qualname__ = module, qualname
    return cloudpickle.cloudpickle._lookup_class_or_track(tracker, made)


def _new(cls: Any, parts: Parts) -> Any:
    return parts.make(cls)


def _nothing(member: Any, *_: Any) -> None:
    """In the place of an `__init__` that did its work when the member was made first."""
