"""Reads the type of a parameter from its annotation."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Mapping
from typing import Any

from docker_kernel.guest.parameter_types import Type

_NAMES = {
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
    "Text": "str",
    "date": "date",
    "datetime": "datetime",
    "Path": "Path",
    "PurePath": "Path",
    "None": "None",
    "NoneType": "None",
    "any": "any",
    "Any": "any",
    "object": "any",
    "list": "list",
    "List": "list",
    "Sequence": "list",
    "MutableSequence": "list",
    "Iterable": "list",
    "Collection": "list",
    "tuple": "tuple",
    "Tuple": "tuple",
    "set": "set",
    "Set": "set",
    "frozenset": "set",
    "dict": "dict",
    "Dict": "dict",
    "Mapping": "dict",
    "MutableMapping": "dict",
}
_MODULES = {"datetime", "pathlib", "typing", "typing_extensions", "collections", "abc", "builtins", "types"}
_WRAPPERS = {"Annotated", "Final", "ClassVar", "Required", "NotRequired"}


class UnknownType(Exception):
    """An annotation is none that parameters can have."""


def parse_type(text: str) -> Type:
    """The type that a text such as "list[int] | None" names.

    Raises:
        UnknownType: it names none that parameters can have.
    """
    try:
        return from_annotation(ast.parse(text.strip(), mode="eval").body, {})
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UnknownType(text) from None


def from_annotation(node: ast.expr, imported: Mapping[str, str]) -> Type:
    """The type that an annotation means.

    Args:
        imported: what the notebook's imports bind: dotted names, by the name in the notebook.

    Raises:
        UnknownType: it is none that parameters can have.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return from_annotation(ast.parse(node.value.strip(), mode="eval").body, imported)
        except (SyntaxError, ValueError, MemoryError):
            raise UnknownType(node.value) from None
    if isinstance(node, ast.Constant) and node.value is None:
        return Type("None")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return from_annotation(node.left, imported) | from_annotation(node.right, imported)
    if isinstance(node, ast.Subscript):
        return _subscript(node, imported)
    name = _type_name(node, imported)
    if name not in _NAMES:
        raise UnknownType(ast.unparse(node))
    return Type(_NAMES[name])


def dotted(node: ast.expr) -> str:
    """`a.b.c` as a text, or "" where it is something else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def resolved(node: ast.expr, imported: Mapping[str, str]) -> str:
    """A dotted name with its first part as it was imported: `dt.date` is `datetime.date` after `import datetime as dt`;
    "" where it is no name."""
    first, dot, rest = dotted(node).partition(".")
    return imported.get(first, first) + dot + rest


def _type_name(node: ast.expr, imported: Mapping[str, str]) -> str:
    *modules, name = resolved(node, imported).split(".")
    # `datetime.datetime` has its module's name for a class's; nothing else has.
    return name if set(modules) <= _MODULES else ""


def _subscript(node: ast.Subscript, imported: Mapping[str, str]) -> Type:
    name = _type_name(node.value, imported)
    inner: Any = node.slice
    members = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return Type("Literal", choices=_choices(members))
    if name in _WRAPPERS and members:
        return from_annotation(members[0], imported)
    is_open = bool(members) and isinstance(members[-1], ast.Constant) and members[-1].value is ...
    of = tuple(from_annotation(one, imported) for one in (members[:-1] if is_open else members))
    if name == "Optional" and len(of) == 1:
        return of[0] | Type("None")
    if name == "Union" and of:
        return functools.reduce(operator.or_, of)
    kind = _NAMES.get(name, "")
    wanted = {"list": 1, "set": 1, "dict": 2, "tuple": 1 if is_open else len(of)}.get(kind)
    if wanted is None or len(of) != wanted or (is_open and kind != "tuple"):
        raise UnknownType(ast.unparse(node))
    return Type(kind, of, open=is_open)


def _choices(nodes: list[ast.expr]) -> tuple[Any, ...]:
    found = []
    for node in nodes:
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            raise UnknownType(ast.unparse(node)) from None
        if value is not None and not isinstance(value, (str, int)):
            raise UnknownType(ast.unparse(node))
        found.append(value)
    if not found:
        raise UnknownType("Literal")
    return tuple(found)
