"""Reads a cell's source as Python, though some of its lines are magics or shell commands, and never runs it."""

from __future__ import annotations

import ast
import bisect
import functools
import re
import threading
import warnings
from dataclasses import dataclass
from typing import Any

PYTHON_MAGICS = {"time", "capture", "prun", "local", "dispatch"}
"""Cell magics whose body is Python that assigns the notebook's own variables."""

_quiet = threading.Lock()
"""Filters of warnings belong to the whole process: two threads that change them at once would leave them changed."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_CELL_MAGIC = re.compile(r"%%([\w.]+)")
_ASSIGNED = re.compile(r"([^=!%#'\"]+=)\s*(?:!!?|%{1,2})\s*([\w.]*)")
_ESCAPED = re.compile(r"(!!?|%{1,2}|\?{1,2}|[,;/])\s*([\w.]*)")
_HELP = re.compile(r"%{0,2}[\w.*\[\]]+\?{1,2}")
_QUOTES = ('"""', "'''", '"', "'")


class Unreadable(Exception):
    """A cell is no Python that can be read; the message goes on from "Cell 3 …"."""


@dataclass(frozen=True)
class Cell:
    """A cell that was read.

    Attributes:
        text: its source.
        tree: what Python makes of it; lines that are no Python are `pass` there.
        passed_over: those lines (from 1), and what they begin with.
    """

    text: str
    tree: ast.Module
    passed_over: tuple[tuple[int, str], ...]
    _lines: tuple[tuple[int, str, int], ...]
    """Where each line begins in the text, how it was read, and how many characters of indentation were left out."""

    def offset(self, line: int, column: int) -> int:
        """The place in `text` of one in `tree`: a line from 1, a column in bytes."""
        begin, read, dropped = self._lines[line - 1]
        return begin + dropped + len(read.encode("utf-8", "surrogatepass")[:column].decode("utf-8", "surrogatepass"))

    def span(self, node: Any) -> tuple[int, int]:
        """Where a node begins and ends in `text`."""
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def segment(self, node: Any) -> str:
        begin, end = self.span(node)
        return self.text[begin:end]

    @functools.cached_property
    def _begins(self) -> list[tuple[int, int]]:
        return [(one.lineno, one.col_offset) for one in self.tree.body]

    def end_before(self, node: Any) -> int:
        """The last line of the statement before a node, of those at the top level; 0 where there is none."""
        index = bisect.bisect_left(self._begins, (node.lineno, node.col_offset))
        return (self.tree.body[index - 1].end_lineno or 0) if index else 0

    def line(self, number: int) -> str:
        """A line's text, from 1."""
        begin = self._lines[number - 1][0]
        end = self._lines[number][0] if number < len(self._lines) else len(self.text)
        return self.text[begin:end].rstrip("\r\n")


def source_of(cell: dict[str, Any]) -> str:
    """A notebook cell's source as one text."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(part for part in source if isinstance(part, str))


def read(text: str) -> Cell:
    """Read a cell.

    Raises:
        Unreadable: it is another language, or has an error.
    """
    begins = [0, *(match.end() for match in _LINE_END.finditer(text))]
    ends = [*(match.start() for match in _LINE_END.finditer(text)), len(text)]
    lines = [text[begin:end] for begin, end in zip(begins, ends)]
    dropped = [0] * len(lines)
    passed_over: list[tuple[int, str]] = []
    _dedent(lines, dropped)
    first = _pass_over_cell_magics(lines, passed_over)
    _dedent(lines, dropped)
    tree = _parse(lines)
    if tree is None:
        _pass_over_lines(lines, first, passed_over)
        tree = _parse(lines, required=True)
    assert tree is not None
    return Cell(text, tree, tuple(passed_over), tuple(zip(begins, lines, dropped)))


def _parse(lines: list[str], required: bool = False) -> ast.Module | None:
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse("\n".join(lines))
    except SyntaxError as error:
        why = "has an error in line %d: %s" % (error.lineno or 1, error.msg.rstrip(".?"))
    except (ValueError, MemoryError, RecursionError) as error:
        why = "cannot be read: %s" % (error or "it is nested too deeply")
    if required:
        raise Unreadable(why)
    return None


def _dedent(lines: list[str], dropped: list[int]) -> None:
    """Take the first line's indentation from all lines, as IPython does, and count what each lost."""
    first = next((line for line in lines if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip(" \t"))]
    for index, line in enumerate(lines):
        if indent and line.startswith(indent):
            lines[index] = line[len(indent) :]
            dropped[index] += len(indent)


def _pass_over_cell_magics(lines: list[str], passed_over: list[tuple[int, str]]) -> int:
    """Empty the cell magics that a cell of Python may begin with; returns the index of the line after them."""
    for index, line in enumerate(lines):
        match = _CELL_MAGIC.match(line)
        if match is None:
            if line.strip():
                return index
            continue
        if match[1] not in PYTHON_MAGICS:
            raise Unreadable("begins with %%%%%s, whose body is not read" % match[1])
        passed_over.append((index + 1, "%%" + match[1]))
        lines[index] = ""
    return len(lines)


def _pass_over_lines(lines: list[str], first: int, passed_over: list[tuple[int, str]]) -> None:
    """Put `pass` in place of each line that IPython would not give to Python as it is."""
    quote, depth, continued = "", 0, False
    index = first
    while index < len(lines):
        line = lines[index]
        found = None if quote or depth or continued else _no_python(line)
        if found is None:
            quote, depth, continued = _state_after(line, quote, depth)
            index += 1
            continue
        instead, word = found
        passed_over.append((index + 1, word))
        while True:
            more = lines[index].endswith("\\") and index + 1 < len(lines)
            lines[index], instead = instead, ""
            index += 1
            if not more:
                break


def _no_python(line: str) -> tuple[str, str] | None:
    """What to read in place of a line that begins a statement, and what it begins with; None where it is Python."""
    bare = line.lstrip(" \t")
    indent = line[: len(line) - len(bare)]
    match = _ESCAPED.match(bare)
    if match:
        return indent + "pass", match[1] + match[2]
    match = _ASSIGNED.match(bare)
    if match:
        # The name is bound all the same.
        return indent + match[1] + " ...", bare[match.end(1) : match.end()].strip()
    match = _HELP.fullmatch(bare.split("#")[0].rstrip(" \t;"))
    return (indent + "pass", match[0][-1]) if match else None


def _state_after(line: str, quote: str, depth: int) -> tuple[str, int, bool]:
    """Whether a text, brackets or a statement go on after a line, as those before it left them."""
    index = 0
    while index < len(line):
        if quote:
            if line[index] == "\\":
                index += 2
            elif line.startswith(quote, index):
                index += len(quote)
                quote = ""
            else:
                index += 1
            continue
        if line[index] == "#":
            return "", depth, False
        depth = max(0, depth + (line[index] in "([{") - (line[index] in ")]}"))
        quote = next((one for one in _QUOTES if line.startswith(one, index)), "")
        index += len(quote) or 1
    continued = line.endswith("\\")
    if len(quote) == 1 and not continued:
        quote = ""
    return quote, depth, continued
