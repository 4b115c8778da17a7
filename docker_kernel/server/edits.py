"""A user's changes to the parameters that were found in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from docker_kernel.guest.annotations import UnknownType
from docker_kernel.guest.parameter_types import Misfit
from docker_kernel.guest.parameters import Parameter, ParameterError, Text, as_json
from docker_kernel.server.messages import ParameterEdit


def edited(
    found: Iterable[Parameter], edits: Iterable[ParameterEdit]
) -> tuple[tuple[Parameter, ...], Mapping[str, str]]:
    """The parameters that a user wants in an image.

    Returns:
        They, and by name what is wrong with an edit, in one sentence.
    """
    known = {one.name: one for one in found}
    made: dict[str, Parameter] = {}
    problems = {}
    for edit in edits:
        try:
            if edit.name not in known:
                raise ParameterError(f"The notebook has no parameter {edit.name} any more.")
            made[edit.name] = _edited(known[edit.name], edit)
        except ParameterError as error:
            problems[edit.name] = str(error)
    return tuple(made.values()), problems


def _edited(one: Parameter, edit: ParameterEdit) -> Parameter:
    if edit.help is not None:
        one = dataclasses.replace(one, help=edit.help.strip())
    if edit.type is not None:
        # The choices are those of the type that it had.
        one = dataclasses.replace(one, type=edit.type.strip(), choices=())
    if edit.default is not None:
        one = dataclasses.replace(one, default=None, default_source="")
    one = Parameter.from_dict(one.to_dict())
    try:
        if edit.default is not None:
            value = as_json(one.convert(Text(edit.default)))
            return dataclasses.replace(
                one, default=value, required=False, default_source="None" if value is None else ""
            )
        if edit.type is not None and one.default is not None:
            return dataclasses.replace(one, default=as_json(one.convert(one.default)))
    except (Misfit, UnknownType) as error:
        raise ParameterError(f"The default of {one.name} must be {error}.") from None
    return one
