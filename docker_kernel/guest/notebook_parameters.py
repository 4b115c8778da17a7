"""Finds a notebook's parameters by reading it, and gives them values."""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docker_kernel.guest import cell_source, descriptions, injection, other_languages
from docker_kernel.guest.annotations import UnknownType, from_annotation, parse_type
from docker_kernel.guest.assignments import Binding, NotLiteral, Reader, called, literal
from docker_kernel.guest.parameter import Parameter
from docker_kernel.guest.parameter_types import Misfit, ParameterError, Type, as_json, shown, type_of

LONGEST = 10_000
"""Characters of a default, as JSON; more is data. All defaults go into one label of an image."""

_TAG = "parameters"
_SKIPPED = "skip-execution"


@dataclass(frozen=True)
class Found:
    """What a notebook was found to have.

    Attributes:
        tagged: one of its cells is tagged `parameters`, and only that was looked at.
        notes: what could not be read, and why: sentences.
    """

    parameters: tuple[Parameter, ...]
    tagged: bool
    notes: tuple[str, ...]


class NotebookParameters:
    """A notebook, read for its parameters: finds them, and gives them values.

    Args:
        notebook: as JSON has it; never changed, and never run.
    """

    def __init__(self, notebook: Mapping[str, Any]) -> None:
        self._notebook = notebook
        cells = notebook.get("cells")
        self._cells = [one if isinstance(one, dict) else {} for one in cells] if isinstance(cells, list) else []
        self._language = _language(notebook)
        self._notes: list[str] = []
        self._read: dict[int, cell_source.Cell] = {}
        self._reader = Reader()
        self._places: dict[str, Binding] = {}
        self._found: tuple[Parameter, ...] = ()
        tagged = [index for index, cell in enumerate(self._cells) if _TAG in injection.tags(cell)]
        self._tagged = next((index for index in tagged if self._is_code(index)), None)
        for index in tagged:
            if index != self._tagged:
                self._note(index, "is tagged parameters, but only the first code cell that is counts")
        self._find()

    def found(self) -> Found:
        """What it has."""
        return Found(self._found, self._tagged is not None, tuple(self._notes))

    def _note(self, index: int, text: str) -> None:
        self._notes.append("Cell %d %s." % (index + 1, text))

    def _is_code(self, index: int) -> bool:
        return self._cells[index].get("cell_type") == "code"

    def _find(self) -> None:
        if not self._cells:
            if "worksheets" in self._notebook:
                self._notes.append("The notebook has the format 3, and must be saved by a newer Jupyter first.")
            return
        if self._language != "python":
            self._find_in_other_language()
            return
        self._read_cells()
        if self._tagged is None:
            self._find_untagged()
        else:
            self._find_tagged(self._tagged)

    def _read_cells(self) -> None:
        for index, cell in enumerate(self._cells):
            if not self._is_code(index) or _SKIPPED in injection.tags(cell):
                continue
            before = len(self._reader.bindings)
            try:
                read = cell_source.read(cell_source.source_of(cell))
                self._reader.read(index, read.tree)
            except (cell_source.Unreadable, RecursionError) as error:
                del self._reader.bindings[before:]
                if self._tagged in (None, index):
                    self._note(index, str(error) if str(error) else "cannot be read: it is nested too deeply")
                continue
            self._read[index] = read
            if read.passed_over and self._tagged in (None, index):
                lines = ", ".join("%d (%s)" % one for one in read.passed_over)
                self._note(index, "has lines that are not Python and are not read: " + lines)

    def _find_untagged(self) -> None:
        named: dict[str, list[Binding]] = {}
        for one in self._reader.bindings:
            named.setdefault(one.name, []).append(one)
        found = []
        for name, bindings in named.items():
            place = None if name.startswith("_") else self._place(bindings)
            if place is not None:
                self._places[name] = place
                found.append(self._parameter(place, bindings))
        found.sort(key=self._position)
        self._found = tuple(found)

    def _position(self, parameter: Parameter) -> tuple[int, int, int]:
        statement = self._places[parameter.name].statement
        return parameter.cell, statement.lineno, statement.col_offset

    def _place(self, bindings: list[Binding]) -> Binding | None:
        """Where the notebook assigns a literal once, or declares a name that it never assigns; what it makes of the
        value later on does not count."""
        declared = next((one for one in bindings if one.how == "declare" and one.top), None)
        required = declared if declared is not None and self._annotated([declared]) else None
        assigned = [one for one in bindings if one.how != "declare"]
        if not assigned:
            return required
        first = assigned[0]
        if not all(one.derived for one in assigned[1:]):
            return None
        if first.derived:
            return required
        if not first.top:
            return None
        try:
            value = literal(first.value, self._reader.imported)
            text = json.dumps(as_json(value))
        except NotLiteral:
            return None
        except Misfit:
            text = ""
        emptied = value in ([], {}) and first.name in self._reader.changed
        return None if emptied or len(text) > LONGEST else first

    def _find_tagged(self, tagged: int) -> None:
        named: dict[str, list[Binding]] = {}
        for one in self._reader.bindings:
            if one.cell == tagged:
                named.setdefault(one.name, []).append(one)
        found = []
        for name, bindings in named.items():
            assigned = [one for one in bindings if isinstance(one.statement, (ast.Assign, ast.AnnAssign))]
            if assigned:
                self._places[name] = next((one for one in reversed(assigned) if one.how != "declare"), assigned[-1])
                found.append(self._parameter(self._places[name], bindings))
        self._found = tuple(found)
        earlier = [index for index, cell in enumerate(self._cells) if injection.TAG in injection.tags(cell)]
        if earlier:
            self._note(earlier[0], "has values of an earlier run, which count until others are given")

    def _annotated(self, bindings: list[Binding]) -> Type | None:
        for one in bindings:
            if one.annotation is not None:
                try:
                    return from_annotation(one.annotation, self._reader.imported)
                except UnknownType:
                    return None
        return None

    def _parameter(self, place: Binding, bindings: list[Binding]) -> Parameter:
        imported = self._reader.imported
        cell = self._read[place.cell]
        # Where a name is assigned twice, either may be described.
        said = [self._described(one) for one in [place, *bindings] if one.cell == place.cell and one.how]
        type_comment = next((kind for kind, _ in said if kind), "")
        comment = next((text for _, text in said if text), "")
        value: Any = None
        is_literal = place.top and place.value is not None
        try:
            value = literal(place.value, imported) if is_literal else None
        except NotLiteral:
            is_literal = False
        kind = self._annotated(bindings)
        if kind is None and type_comment:
            try:
                kind = parse_type(type_comment)
            except UnknownType:
                comment = ("%s %s" % (type_comment, comment)).strip()
        if kind is None:
            kind = type_of(value) if is_literal else Type("any")
        elif is_literal and not _fits(kind, value):
            kind = kind | (Type("None") if value is None else type_of(value))
        if kind.kind == "None":
            kind = Type("any")
        try:
            default = as_json(value)
            if len(json.dumps(default)) > LONGEST:
                default = None
        except (Misfit, ValueError):
            default = None
        source = "" if place.value is None else cell.segment(place.value)
        return Parameter(
            name=place.name,
            type=str(kind),
            default=default,
            required=place.how == "declare",
            help=comment or self._markdown(place),
            choices=_choices(kind),
            cell=place.cell,
            default_source=source if len(source) <= 200 else source[:197] + "...",
        )

    def _described(self, binding: Binding) -> tuple[str, str]:
        """What the comments at an assignment say: a type and a description."""
        cell, statement = self._read[binding.cell], binding.statement
        kind, text = descriptions.after(cell, statement.end_lineno, statement.end_col_offset)
        return kind, text or descriptions.above(cell, statement.lineno, cell.end_before(statement))

    def _markdown(self, place: Binding) -> str:
        """What the Markdown above a cell says of one of its parameters, or of its only one."""
        texts: list[str] = []
        for index in range(place.cell - 1, -1, -1):
            if self._cells[index].get("cell_type") != "markdown":
                break
            texts.insert(0, cell_source.source_of(self._cells[index]))
        text = "\n\n".join(texts)
        if not text:
            return ""
        others = {one.name for one in self._reader.bindings if one.cell == place.cell and one.name != place.name}
        return descriptions.named_in_markdown(text, place.name) or ("" if others else descriptions.paragraph(text))

    def _find_in_other_language(self) -> None:
        known = other_languages.LANGUAGES.get(self._language)
        if known is None or self._tagged is None:
            why = "parameters are read in Python, R and Julia only"
            if known is not None:
                why = "in R and Julia, only a cell tagged parameters is read"
            self._notes.append("The notebook is in %s: %s." % (self._language, why))
            return
        found = {}
        source = cell_source.source_of(self._cells[self._tagged])
        for name, text, kind, value, comment in other_languages.assignments(known, source):
            found[name] = Parameter(name, kind, value, False, comment, (), self._tagged, text[:200])
        self._found = tuple(found.values())

    def inject(self, parameters: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy with values in place: see `parameters.inject`."""
        made: dict[str, Any] = copy.deepcopy(dict(self._notebook))
        wanted = {**self._changed_defaults(parameters, values), **values}
        here = {one.name for one in self._found}
        for name in wanted:
            if name not in here:
                raise ParameterError("The notebook assigns no parameter %s." % shown(name))
        if not wanted:
            return made
        if self._tagged is not None:
            known = other_languages.LANGUAGES.get(self._language)
            lines = [
                "%s = %s" % (name, other_languages.write(known, value) if known else injection.python(value))
                for name, value in wanted.items()
            ]
            injection.add_cell(made, lines, self._tagged)
            return made
        edits: dict[int, list[tuple[int, int, str]]] = {}
        for name, value in wanted.items():
            place = self._places[name]
            edits.setdefault(place.cell, []).append(self._edit(place, value))
        for index, parts in edits.items():
            text = injection.replaced(cell_source.source_of(made["cells"][index]), parts)
            as_list = isinstance(made["cells"][index]["source"], list)
            made["cells"][index]["source"] = re.findall(r"[^\n]*\n|[^\n]+", text) if as_list else text
        return made

    def _edit(self, place: Binding, value: Any) -> tuple[int, int, str]:
        cell = self._read[place.cell]
        classes = {}
        kind = called(place.value, self._reader.imported)
        if isinstance(place.value, ast.Call) and kind and place.how == "replace":
            function = cell.segment(place.value.func)
            classes[kind] = function[: -len(".fromisoformat")] if function.endswith(".fromisoformat") else function
        text = injection.python(value, classes)
        if place.how == "replace":
            return (*cell.span(place.value), text)
        end = cell.span(place.statement)[1]
        return end, end, " = " + text if place.how == "declare" else "; %s = %s" % (place.name, text)

    def _changed_defaults(self, parameters: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
        """What a user made the default, where that is not the notebook's own."""
        own = {one.name: one for one in self._found}
        changed = {}
        for one in parameters:
            before = own.get(one.name)
            if before is None or one.name in values or one.required or _same(one.default, before.default):
                continue
            try:
                if one.default is not None or parse_type(one.type).accepts_none():
                    changed[one.name] = one.convert(one.default)
            except (Misfit, UnknownType) as error:
                raise ParameterError("The default of %s must be %s." % (one.name, error)) from None
        return changed


def _fits(kind: Type, value: Any) -> bool:
    """Whether a default is of the type that its annotation says."""
    try:
        kind.convert(as_json(value))
    except Misfit:
        return False
    return True


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _choices(kind: Type) -> tuple[Any, ...]:
    """The choices of a Literal, also one that may be None."""
    literals = [one for one in (kind.of if kind.kind == "union" else (kind,)) if one.kind != "None"]
    if len(literals) != 1 or literals[0].kind != "Literal":
        return ()
    rest = (None,) if kind.kind == "union" and kind.accepts_none() and None not in literals[0].choices else ()
    return literals[0].choices + rest


def _language(notebook: Mapping[str, Any]) -> str:
    """The notebook's language, in lower case; Python where nothing is said."""
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    said = [(metadata.get("language_info"), "name"), (metadata.get("kernelspec"), "language")]
    for part, key in said:
        if isinstance(part, dict) and isinstance(part.get(key), str) and part[key]:
            language = part[key].lower()
            return "python" if language in ("python", "ipython", "python3") else str(language)
    name = (metadata.get("kernelspec") or {}).get("name") if isinstance(metadata.get("kernelspec"), dict) else ""
    if isinstance(name, str) and (name == "ir" or name.startswith("julia")):
        return "r" if name == "ir" else "julia"
    return "python"
