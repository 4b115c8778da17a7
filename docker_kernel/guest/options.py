"""What a dispatch can be told: the same names in the magics and in `dispatch()`."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import keyword
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_TIMEOUT = 366 * 86400
MAX_RETRIES = 100
MAX_REPLICAS = 256
MAX_RUNS = 2000
"""What the host side takes (batch/broker.py)."""

_LISTS = ("env", "secret", "pull", "only", "exclude")


class OptionError(Exception):
    """An option is unknown, or its value does not fit; the message says which and what would."""

    def _render_traceback_(self) -> list[str]:
        return ["\x1b[31m%s\x1b[0m: %s" % (type(self).__name__, self)]


class CodeError(OptionError):
    """What is to run is no Python. IPython shows Python's own message for it, as for a cell of the notebook."""

    def __init__(self, message: str, shown: list[str] | None = None) -> None:
        super().__init__(message)
        self._shown = shown

    def _render_traceback_(self) -> list[str]:
        return self._shown or super()._render_traceback_()


class NotThere(KeyError, IndexError):
    """Nothing has that name or number; the message says what there is."""

    def __str__(self) -> str:
        return str(self.args[0])

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
        made.env, made.secret, made.exclude = made.env or [], made.secret or [], made.exclude or []
        for name in ("memory", "gpus"):
            value = getattr(made, name)
            if isinstance(value, int) and not isinstance(value, bool):
                setattr(made, name, str(value))
        made.check()
        for name in _LISTS:
            setattr(made, name, names(getattr(made, name)))
        made.sweep = {name: list(values) for name, values in made.sweep.items()}
        return made

    def check(self) -> None:
        """Refuse values that nobody could mean.

        Raises:
            OptionError: names the first of them.
        """
        for name in ("on", "name", "memory", "gpus"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name in ("on", "name")):
                raise OptionError("%s has to be a text, not %r." % (name, value))
        for name, most in (("cpus", math.inf), ("timeout", MAX_TIMEOUT)):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= most and value != math.inf):
                up_to = "" if most == math.inf else " and up to %d (a year), in seconds" % most
                raise OptionError("%s has to be a number above 0%s, not %r." % (name, up_to, value))
        for name, least, most in (("retries", 0, MAX_RETRIES), ("replicas", 1, MAX_REPLICAS)):
            value = getattr(self, name)
            if not (_is_number(value) and isinstance(value, int) and least <= value <= most):
                raise OptionError("%s has to be a whole number from %d to %d, not %r." % (name, least, most, value))
        for name in _LISTS:
            value = getattr(self, name)
            if value is not None and not _are_texts(value):
                raise OptionError("%s has to be a list of names, not %r." % (name, value))
        if not all(isinstance(one, Mapping) for one in (self.param, self.sweep, self.input)):
            raise OptionError(
                "param, sweep and input are dicts: param={'alpha': 0.5}, sweep={'alpha': [0.1, 0.5]}, "
                "input={'data': 's3://bucket/data'}."
            )
        for name, values in self.sweep.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                raise OptionError("sweep: %s needs a list of values, not %r." % (name, values))
        for name, uri in self.input.items():
            if not isinstance(uri, str) or not uri:
                raise OptionError("input: %s has to be a URL, a path or a volume, not %r." % (name, uri))

    def runs(self) -> list[dict[str, Any]]:
        """The parameters of each job."""
        for name in self.sweep:
            if name in self.param:
                raise OptionError("%s is both a param and swept over: name it once." % name)
            if not self.sweep[name]:
                raise OptionError("--sweep %s has no values: write --sweep %s=1,2,3." % (name, name))
        for name in [*self.param, *self.sweep]:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
                raise OptionError("%r cannot be a parameter: it is no Python name." % (name,))
        count = math.prod(len(values) for values in self.sweep.values())
        if count > MAX_RUNS:
            raise OptionError("A sweep may have %d jobs at most, and this would be %d." % (MAX_RUNS, count))
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(one, str) for one in value)


def _variable(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name.isidentifier() or not name.isascii():
        raise OptionError("--%s %s: %r is no name of an environment variable." % (option, text, name))
    if not separator:
        if name not in os.environ:
            raise OptionError(
                "--%s %s: this kernel has no environment variable of that name; set it first, as with "
                "os.environ[%r] = getpass.getpass()." % (option, name, name)
            )
        value = os.environ[name]
    return name, value
