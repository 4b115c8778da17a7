"""One parameter of a notebook."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker_kernel.guest.annotations import UnknownType, parse_type
from docker_kernel.guest.parameter_types import Misfit, ParameterError, shown


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook.

    Attributes:
        type: "int", "float", "bool", "str", "date", "datetime", "Path", "any", "list", "dict", "tuple", "set", those
            with what they hold ("list[int]"), "Literal[...]", or several of them ("int | None").
        default: what the notebook has, as JSON has it; None where that is computed, or nothing is there.
        required: the notebook assigns no value, so that one must be given.
        help: what the notebook says of it.
        choices: the only values it can have; none: any of its type.
        cell: the index of the cell that assigns it, among all cells.
        default_source: the default as it stands in the notebook.
    """

    name: str
    type: str = "any"
    default: Any = None
    required: bool = False
    help: str = ""
    choices: tuple[Any, ...] = ()
    cell: int = 0
    default_source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**dataclasses.asdict(self), "choices": list(self.choices)}

    @classmethod
    def from_dict(cls, made: Mapping[str, Any]) -> Parameter:
        """A parameter from what `to_dict` made, or a user edited.

        Raises:
            ParameterError: it does not describe one.
        """
        known = {one.name: one for one in dataclasses.fields(cls)}
        name = made.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[^\W\d.][\w.!]*|\.[^\W\d][\w.]*", name):
            raise ParameterError("A parameter cannot be called %s: it is no name." % shown(name))
        given = {key: value for key, value in made.items() if key in known}
        kinds: dict[str, Any] = {
            "type": str,
            "required": bool,
            "help": str,
            "choices": (list, tuple),
            "cell": int,
            "default_source": str,
        }
        for key, kind in kinds.items():
            if key in given and not isinstance(given[key], kind):
                raise ParameterError("The %s of the parameter %s cannot be %s." % (key, name, shown(given[key])))
        parameter = cls(**{**given, "choices": tuple(given.get("choices", ()))})
        try:
            parse_type(parameter.type)
            if parameter.default is not None:
                parameter.convert(parameter.default)
        except UnknownType:
            raise ParameterError("The parameter %s has no type that is known: %s." % (name, parameter.type)) from None
        except Misfit as error:
            raise ParameterError("The default of %s must be %s." % (name, error)) from None
        return parameter

    def convert(self, value: Any) -> Any:
        """A value of the parameter's type, from a text or what JSON has.

        Raises:
            Misfit: it cannot be one.
            UnknownType: the parameter's type is none.
        """
        kind = parse_type(self.type)
        try:
            made = kind.convert(value)
        except RecursionError:
            raise Misfit("less deeply nested") from None
        if self.choices and not any(type(made) is type(one) and made == one for one in self.choices):
            raise Misfit("one of %s, not %s" % (", ".join(map(repr, self.choices)), shown(value)))
        return made
