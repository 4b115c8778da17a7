"""What a notebook says of a parameter: in a comment at or above its assignment, or in the Markdown above its cell."""

from __future__ import annotations

import re

from docker_kernel.guest.cell_source import Cell

LENGTH = 400
"""Characters of a description; the rest is left out."""
PARAGRAPH = 200
"""Characters of a paragraph that can be one parameter's description; a longer one is about something else, too."""

_TYPE = re.compile(r"type:\s*((?:[^\s\[]|\[[^\]]*\])+)\s*(.*)")
_NO_HELP = {"parameter", "parameters", "settings", "configuration", "input", "inputs", "setup"}
_ASSIGNMENT = re.compile(r"[\w.]+\s*(:.*)?=[^=]|[%!]")
_HEADING = re.compile(r"#{1,6}\s+(.*)")


def after(cell: Cell, line: int, column: int) -> tuple[str, str]:
    """The comment after an assignment, as a type and a description: papermill has `# type: int How many`.

    Args:
        line, column: where the assignment ends, as in the cell's tree.
    """
    begin = cell.offset(line, column)
    rest = re.match(r"[ \t]*;?[ \t]*#([^\r\n]*)", cell.text[begin:])
    text = _clean(rest[1]) if rest else ""
    found = _TYPE.fullmatch(text)
    if found:
        return ("", found[2]) if found[1].startswith("ignore") else (found[1].rstrip(","), found[2])
    return "", text


def above(cell: Cell, line: int, since: int) -> str:
    """The comment lines right above a line.

    Args:
        since: the last line of the statement before, where comments are not this one's.
    """
    found: list[str] = []
    for number in range(line - 1, since, -1):
        text = cell.line(number).strip()
        if not text.startswith("#"):
            break
        found.insert(0, _clean(text))
    return " ".join(text for text in found if re.search(r"\w", text) and not _ASSIGNMENT.match(text))[:LENGTH]


def _clean(comment: str) -> str:
    return comment.strip().lstrip("#").strip()[:LENGTH]


def named_in_markdown(text: str, name: str) -> str:
    """What a list or table of Markdown says of a name: `- **alpha**: how fast`, `| alpha | how fast |`."""
    quoted = r"[*_`]*%s[*_`]*" % re.escape(name)
    item = re.search(
        r"(?m)^\s*(?:[-*+]|\d+\.)?\s*%s\s*(?:\([^)\n]*\))?[*_`]*\s*[:\u2013\u2014-]+[*_`]*\s*(\S.*)$" % quoted, text
    )
    row = re.search(r"(?m)^\s*\|?\s*%s\s*\|(.*)$" % quoted, text)
    if item:
        return item[1].strip()[:LENGTH]
    cells = [part.strip() for part in row[1].split("|")] if row else []
    return max(cells, key=len, default="")[:LENGTH]


def paragraph(text: str) -> str:
    """The first paragraph of Markdown that is no heading, list, table or code, unless it is long; or else its last
    heading, unless it says no more than that here are parameters."""
    heading = ""
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        lines = [line.strip() for line in block.strip().split("\n")]
        while lines and _HEADING.fullmatch(lines[0]):
            heading = lines.pop(0).lstrip("# ")
        if lines and not re.match(r"[-*+>|`<$!]|\d+\.|$", lines[0]):
            text = " ".join(lines)
            return text if len(text) <= PARAGRAPH else ""
    return "" if heading.strip(" :").casefold() in _NO_HELP else heading[:LENGTH]
