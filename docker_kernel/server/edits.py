"""A user's changes to the parameters that were found in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from docker_kernel.guest.annotations import UnknownType
from docker_kernel.guest.parameter_types import Misfit
from docker_kernel.guest.parameters import Parameter, ParameterError, Text, as_json
from docker_kernel.server.messages import ParameterEdit

Field = Literal["type", "default"]


@dataclass(frozen=True)
class Problem:
    """What is wrong with an edit: of which field, and a sentence."""

    field: Field
    message: str


def edited(
    found: Iterable[Parameter], edits: Iterable[ParameterEdit]
) -> tuple[tuple[Parameter, ...], Mapping[str, Problem]]:
    """The parameters that a user wants in an image.

    Returns:
        They, and by name what is wrong with an edit.
    """
    known = {one.name: one for one in found}
    made: dict[str, Parameter] = {}
    problems = {}
    for edit in edits:
        if edit.name not in known:
            problems[edit.name] = Problem("type", f"The notebook has no parameter {edit.name} any more.")
            continue
        field: Field = "type"
        try:
            one = _with_type(known[edit.name], edit)
            field = "default"
            made[edit.name] = _with_default(one, edit)
        except ParameterError as error:
            problems[edit.name] = Problem(field, str(error))
    return tuple(made.values()), problems


def _with_type(one: Parameter, edit: ParameterEdit) -> Parameter:
    if edit.help is not None:
        one = dataclasses.replace(one, help=edit.help.strip())
    if edit.type is not None:
        # The choices are those of the type that it had.
        one = dataclasses.replace(one, type=edit.type.strip(), choices=())
        Parameter.from_dict({**one.to_dict(), "default": None})
    return one


def _with_default(one: Parameter, edit: ParameterEdit) -> Parameter:
    try:
        if edit.default is not None:
            value = as_json(one.convert(Text(edit.default)))
            source = "None" if value is None else ""
            return dataclasses.replace(one, default=value, required=False, default_source=source)
        if edit.type is not None and one.default is not None:
            return dataclasses.replace(one, default=as_json(one.convert(one.default)))
    except (Misfit, UnknownType) as error:
        raise ParameterError(f"The default of {one.name} must be {error}.") from None
    return one
