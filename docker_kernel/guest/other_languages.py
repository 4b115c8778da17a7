"""Parameters of notebooks in R and Julia: the plain assignments of a tagged cell, and values in those languages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from docker_kernel.guest.parameter_types import ParameterError


@dataclass(frozen=True)
class Language:
    """How a language writes what JSON has.

    Attributes:
        assignment: a line that assigns, as name, value and comment.
        true, false, none, infinity, nan: its words.
        sequence, mapping, pair: formats of a list, a dict, and a key with its value.
        escapes: characters of a text that mean something else there.
        whole: what a number without a point is.
    """

    assignment: str
    true: str
    false: str
    none: str
    infinity: str
    nan: str
    sequence: str
    mapping: str
    pair: str
    escapes: str
    whole: str


_VALUE = r"""("[^"\n]*"|'[^'\n]*'|[^#\n]*?)\s*;?\s*(?:#(.*))?"""
LANGUAGES = {
    "r": Language(
        r"([^\W\d_.][\w.]*|\.[^\W\d_][\w.]*)\s*(?:<-|=(?!=))\s*" + _VALUE,
        "TRUE", "FALSE", "NULL", "Inf", "NaN", "list(%s)", "list(%s)", "%s = %s", '\\"', "float",
    ),
    "julia": Language(
        r"([^\W\d][\w!]*)\s*=(?![=>])\s*" + _VALUE,
        "true", "false", "nothing", "Inf", "NaN", "[%s]", "Dict(%s)", "%s => %s", '\\"$', "int",
    ),
}  # fmt: skip
_WHOLE, _NUMBER = re.compile(r"[+-]?[0-9]+L?"), re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TEXT = re.compile(r"\"[^\"\\$]*\"|'[^'\\$]*'")
_CONTROLS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def assignments(language: Language, source: str) -> Iterator[tuple[str, str, str, Any, str]]:
    """The assignments of a cell, one a line: name, what is assigned, its type and value (`any` and None where it is
    more than a number, text or truth value), and the comment after it."""
    for line in source.splitlines():
        match = re.fullmatch(language.assignment, line)
        if match:
            kind, value = _read(language, match[2].strip())
            yield match[1], match[2].strip(), kind, value, (match[3] or "").strip()


def _read(language: Language, text: str) -> tuple[str, Any]:
    if text in (language.true, language.false):
        return "bool", text == language.true
    if _TEXT.fullmatch(text):
        return "str", text[1:-1]
    try:
        if _WHOLE.fullmatch(text):
            kind = "int" if text.endswith("L") else language.whole
            return kind, int(text.rstrip("L"))
        if _NUMBER.fullmatch(text):
            return "float", float(text)
    except ValueError:
        pass
    return "any", None


def write(language: Language, value: Any) -> str:
    """A value as the language's source.

    Raises:
        ParameterError: the language has no such value.
    """
    if value is None:
        return language.none
    if isinstance(value, bool):
        return language.true if value else language.false
    if isinstance(value, int):
        return hex(value) if value.bit_length() > 10_000 else int.__repr__(value)
    if isinstance(value, float):
        word = language.nan if math.isnan(value) else language.infinity
        return float.__repr__(value) if math.isfinite(value) else ("-" if value < 0 else "") + word
    if isinstance(value, str):
        return '"%s"' % "".join(_character(language, one) for one in value)
    if isinstance(value, (list, tuple)):
        return language.sequence % ", ".join(write(language, one) for one in value)
    if isinstance(value, dict):
        pairs = (language.pair % (write(language, str(key)), write(language, one)) for key, one in value.items())
        return language.mapping % ", ".join(pairs)
    raise ParameterError("A notebook in R or Julia can be given no value of the type %s." % type(value).__name__)


def _character(language: Language, one: str) -> str:
    if one in language.escapes:
        return "\\" + one
    if one in _CONTROLS or one.isprintable():
        return _CONTROLS.get(one, one)
    code = ord(one)
    if code == 0 or 0xD800 <= code < 0xE000:
        raise ParameterError("A notebook in R or Julia can be given no text with the character U+%04X." % code)
    return "\\u%04x" % code if code < 0x10000 else "\\U%08x" % code
