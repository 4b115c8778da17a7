"""The types that a notebook's parameters can have: they turn texts and JSON into values."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable

DEPTH = 90
"""How deep lists and dicts may be nested: Python's parser ends at 200 brackets, and older ones before that."""

_DATE = r"(\d{4})-(\d\d)-(\d\d)"
_TIME = r"(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,6}))?)?"
_ZONE = r"(Z|z|[+-]\d\d:?\d\d)?"
_ISO_DATE = re.compile(_DATE, re.ASCII)
_ISO_DATETIME = re.compile(_DATE + "(?:[Tt ]" + _TIME + _ZONE + ")?", re.ASCII)
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_NONE = {"none", "null"}


class ParameterError(ValueError):
    """A notebook's parameters cannot be used as given: one sentence that names all that is wrong."""


class Text(str):
    """A value as it was written on a command line or in an environment variable: its parameter's type says what it
    means. A plain str may be that, or a text that JSON gave; they differ for `any` and `str | None`, where a plain
    "null" or "5" is a text."""


class Misfit(Exception):
    """A value is not of a type; the message goes on from "NAME must be …"."""


@dataclass(frozen=True)
class Type:
    """A type of parameters.

    Attributes:
        kind: "int", "float", "bool", "str", "date", "datetime", "Path", "None", "any", "list", "set", "tuple", "dict",
            "Literal" or "union".
        of: what a list, set or dict holds, the members of a tuple or union; none: anything.
        choices: of a Literal.
        open: a tuple of any length (`tuple[int, ...]`).
    """

    kind: str
    of: tuple[Type, ...] = ()
    choices: tuple[Any, ...] = ()
    open: bool = False

    def __str__(self) -> str:
        if self.kind == "Literal":
            return "Literal[%s]" % ", ".join(map(repr, self.choices))
        if self.kind == "union":
            return " | ".join(map(str, self.of))
        inner = [*map(str, self.of), *(["..."] if self.open else [])]
        return "%s[%s]" % (self.kind, ", ".join(inner)) if inner else self.kind

    def accepts_none(self) -> bool:
        if self.kind == "union":
            return any(one.accepts_none() for one in self.of)
        return self.kind in ("None", "any") or (self.kind == "Literal" and None in self.choices)

    def __or__(self, other: Type) -> Type:
        """The type of what is of either."""
        flat: list[Type] = []
        for one in (self, other):
            flat += [each for each in (one.of if one.kind == "union" else (one,)) if each not in flat]
        if any(one.kind == "any" for one in flat):
            return _ANY
        return flat[0] if len(flat) == 1 else Type("union", tuple(flat))

    def convert(self, value: Any, depth: int = 0) -> Any:
        """The value as one of this type.

        Args:
            value: a `Text`, what JSON has, or a value of the type itself.
            depth: of the list or dict that it is in.

        Raises:
            Misfit: it is none, and cannot be made one without a loss.
        """
        if depth > DEPTH:
            raise Misfit("nested at most %d levels deep" % DEPTH)
        return _CONVERT[self.kind](self, value, depth)

    def holds(self, value: Any) -> bool:
        """Whether a value is of the type as it is, as far as its outermost part tells."""
        if self.kind == "Literal":
            return any(type(choice) is type(value) and choice == value for choice in self.choices)
        if self.kind == "union":
            return any(one.holds(value) for one in self.of)
        python = _PYTHON.get(self.kind)
        return python is not None and (isinstance(value, Path) if python is Path else type(value) is python)

    def schema(self) -> dict[str, Any]:
        """A JSON Schema (draft 2020-12) of the values, as JSON has them."""
        return _schema(self)


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(str.__str__(value) if isinstance(value, str) else value)
    except (ValueError, RecursionError):
        text = "a value that is too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def _misfit(wanted: str, value: Any) -> Misfit:
    return Misfit("%s, not %s" % (wanted, shown(value)))


# Conversion, one function a kind


def _int(_: Type, value: Any, depth: int) -> int:
    wanted = "a whole number (int)"
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[+-]?[0-9]+(_[0-9]+)*\s*", value):
            raise _misfit(wanted, value)
        try:
            return int(value)
        except ValueError:
            raise Misfit("a whole number of fewer digits than the %d given" % len(value)) from None
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise _misfit(wanted, value)


def _float(_: Type, value: Any, depth: int) -> float:
    wanted = "a number (float)"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _misfit(wanted, value)
    try:
        return float(value)
    except ValueError:
        raise _misfit(wanted, value) from None
    except OverflowError:
        raise Misfit(wanted + ", and no larger than 1.7e308") from None


def _bool(_: Type, value: Any, depth: int) -> bool:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
    elif isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise _misfit("true or false (bool)", value)


def _str(_: Type, value: Any, depth: int) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    # YAML makes a date of what the notebook has as a text.
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise _misfit("a text (str)", value)


def _date(_: Type, value: Any, depth: int) -> date:
    wanted = "a date (as 2026-01-31)"
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    match = _ISO_DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if match:
            year, month, day = map(int, match.groups())
            return date(year, month, day)
    except ValueError:
        pass
    raise _misfit(wanted, value)


def _datetime(_: Type, value: Any, depth: int) -> datetime:
    wanted = "a date and time (as 2026-01-31T18:00:00)"
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    match = _ISO_DATETIME.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if match:
            numbers = [int(part or 0) for part in match.groups()[:6]]
            micro = int((match[7] or "").ljust(6, "0"))
            year, month, day, hour, minute, second = numbers
            return datetime(year, month, day, hour, minute, second, micro, tzinfo=_zone(match[8]))
    except ValueError:
        pass
    raise _misfit(wanted, value)


def _zone(text: str | None) -> timezone | None:
    if not text:
        return None
    if text in "Zz":
        return timezone.utc
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def _path(_: Type, value: Any, depth: int) -> Path:
    if isinstance(value, str):
        return Path(str.__str__(value))
    if isinstance(value, Path):
        return value
    raise _misfit("a path (Path)", value)


def _none(_: Type, value: Any, depth: int) -> None:
    if value is None or (isinstance(value, str) and value.strip().lower() in _NONE):
        return
    raise _misfit("null (None)", value)


def _any_value(kind: Type, value: Any, depth: int) -> Any:
    if isinstance(value, Text):
        found = _parsed(value)
        return str.__str__(value) if found is _NOTHING else kind.convert(found, depth)
    if value is None or isinstance(value, (bool, date, Path)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    for name, container in _CONTAINERS.items():
        if isinstance(value, container):
            return Type(name).convert(value, depth)
    raise Misfit("a value that JSON has, not %s" % type(value).__name__)


_ANY = Type("any")
_NOTHING = object()
_CONTAINERS: dict[str, tuple[type, ...]] = {
    "list": (list,),
    "tuple": (tuple,),
    "set": (set, frozenset),
    "dict": (dict,),
}
_EXAMPLE = {
    "list": "a list, as [1, 2]",
    "tuple": "a list, as [1, 2]",
    "set": "a list, as [1, 2]",
    "dict": 'a dict, as {"a": 1}',
}


def _parsed(text: str) -> Any:
    """What a text says in JSON, or else as a Python literal."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NOTHING


def _container(kind: Type, value: Any, depth: int) -> Any:
    wanted = "%s (%s)" % (_EXAMPLE[kind.kind], kind)
    found: Any = _parsed(value) if isinstance(value, str) else value
    accepted: Any = dict if kind.kind == "dict" else (list, tuple, set, frozenset)
    if not isinstance(found, accepted):
        raise _misfit(wanted, value)
    if isinstance(found, Mapping):
        keys, values = kind.of or (_ANY, _ANY)
        return {
            _within(wanted, "key %s" % shown(key), keys, key, depth, True): _within(
                wanted, "the value of %s" % shown(key), values, one, depth
            )
            for key, one in found.items()
        }
    members = list(found)
    if kind.kind == "tuple" and kind.of and not kind.open:
        if len(members) != len(kind.of):
            raise Misfit("%s of %d members, not of %d" % (wanted, len(kind.of), len(members)))
        inner = list(kind.of)
    else:
        inner = [kind.of[0] if kind.of else _ANY] * len(members)
    made = [
        _within(wanted, "member %d" % (number + 1), inner[number], one, depth) for number, one in enumerate(members)
    ]
    if kind.kind == "list":
        return made
    if kind.kind == "tuple":
        return tuple(made)
    try:
        return set(made)
    except TypeError:
        raise Misfit("%s whose members are no lists or dicts" % wanted) from None


def _within(wanted: str, where: str, kind: Type, value: Any, depth: int, key: bool = False) -> Any:
    try:
        made = kind.convert(value, depth + 1)
        if key:
            hash(made)
        return made
    except TypeError:
        raise Misfit("%s whose keys are no lists or dicts" % wanted) from None
    except Misfit as error:
        text = str(error)
        raise Misfit(text if text.startswith("nested") else "%s: %s must be %s" % (wanted, where, text)) from None


def _literal(kind: Type, value: Any, depth: int) -> Any:
    for choice in kind.choices:
        if type(choice) is type(value) and choice == value:
            return choice
    if isinstance(value, str):
        if value in [choice for choice in kind.choices if isinstance(choice, str)]:
            return str.__str__(value)
        for choice in kind.choices:
            inner = Type("None" if choice is None else type(choice).__name__)
            try:
                if inner.kind != "str" and inner.convert(value) == choice:
                    return choice
            except Misfit:
                continue
    raise _misfit("one of %s" % ", ".join(map(repr, kind.choices)), value)


def _union(kind: Type, value: Any, depth: int) -> Any:
    # A member that takes the value as it is goes before one that would change it; a text that was typed is a str last.
    members = list(kind.of)
    if isinstance(value, Text):
        members.sort(key=lambda one: (one.kind in ("str", "Path"), one.kind == "any"))
    else:
        members.sort(key=lambda one: not one.holds(value))
    problems = []
    for member in members:
        try:
            return member.convert(value, depth)
        except Misfit as error:
            problems.append(str(error).rsplit(", not ", 1)[0])
    raise _misfit(" or ".join(problems), value)


_CONVERT: dict[str, Callable[[Type, Any, int], Any]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _str,
    "date": _date,
    "datetime": _datetime,
    "Path": _path,
    "None": _none,
    "any": _any_value,
    "list": _container,
    "tuple": _container,
    "set": _container,
    "dict": _container,
    "Literal": _literal,
    "union": _union,
}
_PYTHON: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "date": date,
    "datetime": datetime,
    "Path": Path,
    "None": type(None),
    "list": list,
    "tuple": tuple,
    "set": set,
    "dict": dict,
}


def type_of(value: Any) -> Type:
    """The type to infer from a default: what is in a list or dict is left open, but for dates and paths, which JSON
    has not."""
    if value is None:
        return _ANY
    for kind, python in _PYTHON.items():
        if (isinstance(value, Path) if python is Path else type(value) is python) and kind not in _CONTAINERS:
            return Type(kind)
    kind = next(name for name, containers in _CONTAINERS.items() if isinstance(value, containers))
    members = list(value.values()) if kind == "dict" else list(value)
    inner = _common(members)
    inner = inner if inner and not _in_json(inner) else _ANY
    if kind == "dict":
        keys = _common(list(value))
        keys = keys if keys and keys.kind == "int" else Type("str")
        return Type(kind) if (keys.kind, inner.kind) == ("str", "any") else Type(kind, (keys, inner))
    return Type(kind) if inner.kind == "any" else Type(kind, (inner,), open=kind == "tuple")


def _common(values: list[Any]) -> Type | None:
    found = {type_of(one) for one in values}
    return found.pop() if len(found) == 1 else None


def _in_json(kind: Type) -> bool:
    return kind.kind not in ("date", "datetime", "Path", "tuple", "set") and all(map(_in_json, kind.of))


def as_json(value: Any) -> Any:
    """A value as JSON has it, so that its type makes the same value of it again.

    Raises:
        Misfit: JSON has no such value.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        if not all(type(key) in (str, int) for key in value):
            raise Misfit("a dict whose keys are texts")
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(one) for one in value]
    raise Misfit("a value that JSON has, not %s" % type(value).__name__)


# JSON Schema

_SCALARS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "date": {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
    # No "format": "date-time" is with a zone only, which few notebooks use.
    "datetime": {
        "type": "string",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,6})?)?"
        "([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?$",
    },
    "Path": {"type": "string"},
    "None": {"type": "null"},
    "any": {},
}


def _schema(kind: Type) -> dict[str, Any]:
    if kind.kind in _SCALARS:
        return dict(_SCALARS[kind.kind])
    if kind.kind == "Literal":
        return {"enum": list(kind.choices)}
    if kind.kind == "union":
        return {"anyOf": [one.schema() for one in kind.of]}
    if kind.kind == "dict":
        values = kind.of[1].schema() if kind.of else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    made: dict[str, Any] = {"type": "array"}
    if kind.kind == "tuple" and kind.of and not kind.open:
        made.update(prefixItems=[one.schema() for one in kind.of], minItems=len(kind.of), maxItems=len(kind.of))
    elif kind.of and kind.of[0].kind != "any":
        made["items"] = kind.of[0].schema()
    if kind.kind == "set":
        made["uniqueItems"] = True
    return made
