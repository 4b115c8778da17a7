"""What a notebook's cells assign, and which of it are literals: read, never run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Callable, Union

from docker_kernel.guest.annotations import resolved

BITS = 10_000
"""Integers of more bits are no parameters: Python itself shows none of more than 4300 digits."""

_DATES = {"date": "datetime.date", "datetime": "datetime.datetime"}
_PATHS = {"Path", "PurePath", "pathlib.Path", "pathlib.PurePath"}
_UTC = {"timezone.utc", "datetime.timezone.utc", "UTC", "datetime.UTC"}
_MUTATING = {"append", "extend", "insert", "add", "update", "setdefault", "appendleft"}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class NotLiteral(Exception):
    """A value is not written out in the source."""


@dataclass(frozen=True)
class Binding:
    """One place that gives a name a value, at the level of the notebook's own variables.

    Attributes:
        cell: the index of its cell.
        statement: what binds it.
        value: what is written for just this name; None where nothing is.
        how: where another value can be put: "replace" that of the source, "append" a statement (as `a = b = 1` has one
            value for two names), "declare" (`a: int` has none yet), or "" where it cannot.
        top: no `if` or loop or other block is around it.
        derived: the new value is made of the old, and once: `day = parse(day)`.
    """

    name: str
    cell: int
    statement: Any
    value: ast.expr | None = None
    annotation: ast.expr | None = None
    how: str = ""
    top: bool = False
    derived: bool = False


_Scope = Union[ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef]


class Reader(ast.NodeVisitor):
    """Collects what cells bind, import and change in place.

    Attributes:
        bindings: in the order of the source.
        imported: dotted names, by what they are called in the notebook.
        changed: names of lists and dicts that are added to.
    """

    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self.imported: dict[str, str] = {}
        self.changed: set[str] = set()
        self._cell, self._loops = 0, 0
        self._top: set[int] = set()
        self._statement: Any = None

    def read(self, index: int, tree: ast.Module) -> None:
        """Add a cell."""
        self._cell, self._top, self._loops = index, set(map(id, tree.body)), 0
        self.visit(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                self._change(node.value)
            elif isinstance(node, ast.AugAssign):
                self._change(node.target)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATING:
                self._change(node.func.value)
            elif isinstance(node, ast.Global):
                for name in node.names:
                    self._bind(name)

    def _change(self, node: ast.expr) -> None:
        if isinstance(node, ast.Name):
            self.changed.add(node.id)

    def _bind(self, name: str | None, **known: Any) -> None:
        if name is not None:
            top = id(self._statement) in self._top
            self.bindings.append(Binding(name, self._cell, self._statement, top=top, **known))

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.stmt):
            outer, self._statement = self._statement, node
            try:
                return super().visit(node)
            finally:
                self._statement = outer
        return super().visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        how = "replace" if len(node.targets) == 1 else "append"
        for target in node.targets:
            self._target(target, node.value, how)

    def _target(self, target: ast.expr, value: ast.expr | None, how: str) -> None:
        if isinstance(target, ast.Name):
            derived = value is not None and self._loops == 0 and _reads(value, target.id)
            self._bind(target.id, value=value, how=how, derived=derived)
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts: list[ast.expr | None] = [None] * len(target.elts)
            starred = any(isinstance(one, ast.Starred) for one in target.elts)
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(parts) and not starred:
                parts = list(value.elts)
            for one, part in zip(target.elts, parts):
                self._target(one, part, how if part is not None else "")
        elif isinstance(target, ast.Starred):
            self._target(target.value, None, "")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if not isinstance(node.target, ast.Name):
            return
        self.generic_visit(ast.Expr(node.value) if node.value else ast.Pass())
        name, value = node.target.id, node.value
        derived = value is not None and self._loops == 0 and _reads(value, name)
        how = "declare" if value is None else "replace"
        self._bind(name, value=value, annotation=node.annotation, how=how, derived=derived)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._bind(node.target.id, derived=self._loops == 0)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id)

    def _loop(self, node: Any) -> None:
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1

    visit_For = visit_AsyncFor = visit_While = _loop

    def _scope(self, node: _Scope) -> None:
        self._bind(node.name)
        self.imported[node.name] = "?" + node.name

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope

    def visit_Lambda(self, node: ast.Lambda) -> None:
        pass

    def _comprehension(self, node: Any) -> None:
        for one in ast.walk(node):
            if isinstance(one, ast.NamedExpr):
                self._bind(one.target.id)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._bind(node.name)
        self.generic_visit(node)

    def _pattern(self, node: Any) -> None:
        self._bind(getattr(node, "name", None) or getattr(node, "rest", None))
        self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = _pattern

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self.imported[name] = alias.name if alias.asname else name
            self._bind(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            self.imported[name] = "%s%s.%s" % ("." * node.level, node.module or "", alias.name)
            self._bind(name)


def _reads(value: ast.expr, name: str) -> bool:
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(value))


def literal(node: ast.expr | None, imported: Mapping[str, str]) -> Any:
    """The value that is written out in the source: a Python literal, arithmetic of numbers, `date(…)`, `datetime(…)`,
    `Path("…")` or `float("…")`.

    Args:
        imported: dotted names, by what they are called in the notebook.

    Raises:
        NotLiteral: it has to be computed.
    """
    try:
        return _literal(node, imported)
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        raise NotLiteral from None


def _literal(node: Any, imported: Mapping[str, str]) -> Any:
    if isinstance(node, ast.Constant):
        value = node.value
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise NotLiteral
        return _bounded(value)
    if isinstance(node, ast.JoinedStr) and all(isinstance(part, ast.Constant) for part in node.values):
        return "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _number(_literal(node.operand, imported))
        return -value if isinstance(node.op, ast.USub) else +value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_number(_literal(one, imported)) for one in (node.left, node.right))
        if isinstance(node.op, ast.Pow) and not (abs(left) <= 1e6 and abs(right) <= 100):
            raise NotLiteral
        return _bounded(_number(_OPERATORS[type(node.op)](left, right)))
    if isinstance(node, ast.List):
        return [_literal(one, imported) for one in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(one, imported) for one in node.elts)
    if isinstance(node, ast.Set):
        return {_literal(one, imported) for one in node.elts}
    if isinstance(node, ast.Dict):
        return {_literal(key, imported): _literal(one, imported) for key, one in zip(node.keys, node.values)}
    if isinstance(node, ast.Call):
        return _call(node, imported)
    raise NotLiteral


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > BITS:
        raise NotLiteral
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise NotLiteral
    return value


def _call(node: ast.Call, imported: Mapping[str, str]) -> Any:
    kind = called(node, imported)
    keywords = {}
    for one in node.keywords:
        if one.arg is None:
            raise NotLiteral
        utc = one.arg == "tzinfo" and resolved(one.value, imported) in _UTC
        keywords[one.arg] = timezone.utc if utc else _literal(one.value, imported)
    arguments = [_literal(one, imported) for one in node.args]
    if kind in ("date", "datetime"):
        made: Any = date if kind == "date" else datetime
        if isinstance(node.func, ast.Attribute) and node.func.attr == "fromisoformat":
            made = made.fromisoformat
        return made(*arguments, **keywords)
    if keywords or len(arguments) != 1 or not isinstance(arguments[0], str):
        raise NotLiteral
    if kind == "Path":
        return Path(arguments[0])
    if kind == "float":
        return float(arguments[0])
    raise NotLiteral


def called(node: ast.expr | None, imported: Mapping[str, str]) -> str:
    """What a call makes: "date", "datetime", "Path", "float", or "" for anything else."""
    name = resolved(node.func, imported) if isinstance(node, ast.Call) else ""
    name = name[: -len(".fromisoformat")] if name.endswith(".fromisoformat") else name
    for kind, full in _DATES.items():
        if name in (kind, full):
            return kind
    return "Path" if name in _PATHS else "float" if name == "float" else ""
