"""A notebook's parameters: found by reading it, checked against their types, and put into it as values.

Runs in containers and on the host; imports the standard library only. docs/parameters.md has the rules.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from docker_kernel.guest.annotations import UnknownType, parse_type
from docker_kernel.guest.notebook_parameters import Found, NotebookParameters
from docker_kernel.guest.parameter import Parameter
from docker_kernel.guest.parameter_types import Misfit, ParameterError, Text, as_json, shown

__all__ = ["Found", "Parameter", "ParameterError", "Text", "as_json", "check", "find", "inject", "schema"]


def find(notebook: Mapping[str, Any]) -> Found:
    """Find a notebook's parameters by reading it; nothing of it runs."""
    return NotebookParameters(notebook).found()


def check(parameters: Iterable[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that parameters are given, each of its parameter's type.

    Args:
        given: values by name, as JSON has them or as texts; wrap what was typed (on a command line, in an environment
            variable) in `Text`, so that `null` and `5` can be more than texts where the type leaves that open.

    Raises:
        ParameterError: names all that is unknown, missing or of another type, in one sentence.
    """
    known = {one.name: one for one in parameters}
    values: dict[str, Any] = {}
    problems = []
    for given_name, value in given.items():
        # As Python does with names.
        name = given_name if given_name in known else unicodedata.normalize("NFKC", str(given_name))
        if name not in known:
            problems.append("there is no parameter %s%s" % (_name(given_name), _closest(str(given_name), known)))
            continue
        try:
            values[name] = known[name].convert(value)
        except Misfit as error:
            problems.append("%s must be %s" % (name, error))
        except UnknownType:
            problems.append("%s has the type %s, which is not known" % (name, known[name].type))
    missing = [one for one in known.values() if one.required and one.name not in given]
    problems += ["%s (%s) is required" % (one.name, one.type) for one in missing if one.name not in values]
    if problems:
        # A name keeps its own case, though it begins the sentence.
        text = "; ".join(problems) + "."
        raise ParameterError("T" + text[1:] if problems[0].startswith("there is") else text)
    return values


def inject(notebook: Mapping[str, Any], parameters: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the notebook in which parameters have other values.

    A tagged cell is followed by one that assigns them, as papermill has it; otherwise a value takes the place of that
    in its assignment. All else stays as it is.

    Args:
        parameters: as `find` found them, or edited: a default that is not the notebook's is put in as well.
        values: from `check`.

    Raises:
        ParameterError: the notebook assigns no such name.
    """
    return NotebookParameters(notebook).inject(parameters, values)


def schema(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of an object with a value for each parameter; `x-type` is its type in Python."""
    properties: dict[str, Any] = {}
    required = []
    for one in parameters:
        described: dict[str, Any] = {**parse_type(one.type).schema(), "x-type": one.type}
        if one.choices and "enum" not in described:
            described["enum"] = list(one.choices)
        if one.help:
            described["description"] = one.help
        if one.required:
            required.append(one.name)
        elif one.default is not None or one.default_source == "None":
            described["default"] = one.default
        properties[one.name] = described
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _name(name: Any) -> str:
    return name if isinstance(name, str) and name.isidentifier() else shown(name)


def _closest(name: str, known: Mapping[str, Any]) -> str:
    if not known:
        return ": the notebook has none"
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    if close:
        return " (did you mean %s?)" % folded[close[0]]
    names = list(known)
    return " (there are %s)" % ", ".join(names if len(names) <= 12 else [*names[:12], "…"])
