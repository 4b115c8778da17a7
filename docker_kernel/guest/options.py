"""What a dispatch can be told: the same names in the magics and in `dispatch()`."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class OptionError(Exception):
    """An option is unknown, or its value does not fit; the message says which and what would."""

    def _render_traceback_(self) -> list[str]:
        return ["\x1b[31m%s\x1b[0m: %s" % (type(self).__name__, self)]


@dataclass
class Options:
    """How a dispatch is to go.

    Args:
        on: the target's name.
        cpus: limit, fractions allowed; memory: limit, such as "2g"; gpus: "all", a number, or device ids.
        timeout: seconds after which a job is stopped; retries: how often one that fails is tried again.
        env: environment variables of the kernel to send though they look like credentials, NAME or NAME=VALUE;
            secret: the same, by the target's own way for secrets.
        pull: names to bring back, in place of all that the cell assigns or changes.
        param: values that are assigned before the code runs, by name; sweep: several values, by name: a job for each
            combination.
        replicas: how many tasks each job has.
        input: what is to be there as /inputs/NAME: a URL, or a path or volume that the target's config allows.
        only, exclude: names of variables to send, or not to; needed: send what the code can reach.
        wait: show the job's output here and wait for its end; detach: show nothing; dry_run: say what would travel.
        live: work on the kernel's own workspace, beside it.
    """

    on: str = "local"
    name: str = ""
    cpus: float | None = None
    memory: str | None = None
    gpus: str | None = None
    timeout: float | None = None
    retries: int = 0
    env: list[str] = field(default_factory=list)
    secret: list[str] = field(default_factory=list)
    pull: list[str] | None = None
    param: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    replicas: int = 1
    input: dict[str, str] = field(default_factory=dict)
    only: list[str] | None = None
    exclude: list[str] = field(default_factory=list)
    needed: bool = False
    wait: bool = False
    detach: bool = False
    dry_run: bool = False
    live: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options from keyword arguments; names and values may be written as in the magics.

        Raises:
            OptionError: there is no such option, or its value is of the wrong kind.
        """
        known = {one.name for one in dataclasses.fields(cls)} - {"live"}
        for name in given:
            if name not in known:
                raise OptionError("There is no option %s%s." % (name, closest(name, known)))
        made = cls(**given)
        for name in ("env", "secret", "pull", "only", "exclude"):
            setattr(made, name, names(getattr(made, name)))
        made.env, made.secret, made.exclude = made.env or [], made.secret or [], made.exclude or []
        if not isinstance(made.sweep, Mapping) or not isinstance(made.param, Mapping):
            raise OptionError("param and sweep are dicts: param={'alpha': 0.5}, sweep={'alpha': [0.1, 0.5]}.")
        made.sweep = {name: list(values) for name, values in made.sweep.items()}
        return made

    def runs(self) -> list[dict[str, Any]]:
        """The parameters of each job."""
        for name in self.sweep:
            if name in self.param:
                raise OptionError("%s is both a param and swept over: name it once." % name)
            if not self.sweep[name]:
                raise OptionError("--sweep %s has no values: write --sweep %s=1,2,3." % (name, name))
        for name in [*self.param, *self.sweep]:
            if not name.isidentifier():
                raise OptionError("%r cannot be a parameter: it is no Python name." % name)
        combinations = itertools.product(*self.sweep.values())
        return [{**self.param, **dict(zip(self.sweep, values))} for values in combinations]

    def environment(self) -> dict[str, str]:
        return dict(_variable("env", text) for text in self.env)

    def secrets(self) -> dict[str, str]:
        return dict(_variable("secret", text) for text in self.secret)


def closest(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    return " (did you mean %s?)" % close[0] if close else ""


def names(value: Any) -> list[str] | None:
    """A list of names, from a list or from a text with commas."""
    if value is None:
        return None
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value)


def literal(text: str) -> Any:
    """A value as it is written in Python, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _variable(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        if name not in os.environ:
            raise OptionError(
                "--%s %s: this kernel has no environment variable of that name; set it first, as with "
                "os.environ[%r] = getpass.getpass()." % (option, name, name)
            )
        value = os.environ[name]
    return name, value
