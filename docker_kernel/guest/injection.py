"""Puts values into a notebook: in place of those that it assigns, or in a cell of their own.

What is written is made from values, part by part, and never from a user's text: nothing but values can get in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import PurePath
from typing import Any

from docker_kernel.guest.parameter_types import ParameterError

TAG = "injected-parameters"
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DATETIME, _PATHLIB = '__import__("datetime")', '__import__("pathlib")'
"""The notebook need not have imported them where the value stands."""


def python(value: Any, classes: Mapping[str, str] | None = None) -> str:
    """A value as Python source.

    Args:
        classes: what the notebook itself calls "date", "datetime" and "Path" at that place, where it does.

    Raises:
        ParameterError: it is no value that a parameter can have.
    """
    names = {"date": _DATETIME + ".date", "datetime": _DATETIME + ".datetime", "Path": _PATHLIB + ".Path"}
    names.update(classes or {})
    return _python(value, names)


def _python(value: Any, names: Mapping[str, str]) -> str:
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        # Python writes and reads no more than 4300 digits of a decimal number.
        return int.__repr__(value) if value.bit_length() < 10_000 else hex(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else "float('%s')" % float.__repr__(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, datetime):
        return names["datetime"] + _datetime_arguments(value)
    if isinstance(value, date):
        return "%s(%d, %d, %d)" % (names["date"], value.year, value.month, value.day)
    if isinstance(value, PurePath):
        return "%s(%s)" % (names["Path"], quoted(str(value)))
    if isinstance(value, dict):
        return "{%s}" % ", ".join("%s: %s" % (_python(key, names), _python(one, names)) for key, one in value.items())
    if isinstance(value, list):
        return "[%s]" % ", ".join(_python(one, names) for one in value)
    if isinstance(value, tuple):
        return "(%s%s)" % (", ".join(_python(one, names) for one in value), "," if len(value) == 1 else "")
    if isinstance(value, (set, frozenset)):
        return "{%s}" % ", ".join(sorted(_python(one, names) for one in value)) if value else "set()"
    raise ParameterError("A parameter cannot have a value of the type %s." % type(value).__name__)


def _datetime_arguments(value: datetime) -> str:
    parts = [value.year, value.month, value.day, value.hour, value.minute]
    if value.second or value.microsecond:
        parts.append(value.second)
    if value.microsecond:
        parts.append(value.microsecond)
    shift = value.utcoffset()
    zone = ""
    if shift is not None:
        seconds = int(shift.total_seconds())
        zone = ", tzinfo=%s.timezone(%s.timedelta(seconds=%d))" % (_DATETIME, _DATETIME, seconds)
        zone = zone if seconds else ", tzinfo=%s.timezone.utc" % _DATETIME
    return "(%s%s)" % (", ".join(map(str, parts)), zone)


def quoted(text: str) -> str:
    """A text in double quotes, with escapes for what cannot be seen."""
    return '"%s"' % "".join(_character(one) for one in str.__str__(text))


def _character(one: str) -> str:
    code = ord(one)
    if one in _ESCAPES:
        return _ESCAPES[one]
    if one.isprintable():
        return one
    return "\\x%02x" % code if code < 0x100 else "\\u%04x" % code if code < 0x10000 else "\\U%08x" % code


def replaced(text: str, edits: Iterable[tuple[int, int, str]]) -> str:
    """A text with new parts: each a begin, an end, and what comes in place of what is between them."""
    # From the end, so that places stay where they are; of several at one place, the last goes in first.
    for begin, end, part in sorted(edits, key=lambda edit: edit[:2])[::-1]:
        text = text[:begin] + part + text[end:]
    return text


def add_cell(notebook: dict[str, Any], lines: Iterable[str], after: int) -> None:
    """Add the cell that assigns values, where papermill would: after the tagged cell, in place of that of an earlier
    run.

    Args:
        notebook: changed in place.
        after: the tagged cell's index.
    """
    cells = notebook["cells"]
    made: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [TAG]},
        "outputs": [],
        "source": "".join(line + "\n" for line in ["# Parameters", *lines]),
    }
    earlier = next((index for index, cell in enumerate(cells) if TAG in tags(cell)), None)
    others = [cell for index, cell in enumerate(cells) if index != earlier and isinstance(cell, dict)]
    if (notebook.get("nbformat", 4), notebook.get("nbformat_minor", 0)) >= (4, 5):
        made["id"] = _free_id({cell.get("id") for cell in others if isinstance(cell.get("id"), str)})
    if earlier is None:
        cells.insert(after + 1, made)
    else:
        cells[earlier] = made


def _free_id(taken: set[Any]) -> str:
    number, name = 1, TAG
    while name in taken:
        number += 1
        name = "%s-%d" % (TAG, number)
    return name


def tags(cell: Any) -> list[Any]:
    """A cell's tags, whatever its metadata is."""
    metadata = cell.get("metadata") if isinstance(cell, dict) else None
    found = metadata.get("tags") if isinstance(metadata, dict) else None
    return found if isinstance(found, list) else []
