"""What stands on the line of %local and %dispatch: options, then code as it was written, or a notebook's path."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from IPython.core.error import UsageError

from docker_kernel.guest.options import MAX_RUNS, OptionError, Options, closest, literal, names

HELP = ("--help", "-h")

FILLED_IN = re.compile(r"\$(\w+)|\{(\w+)\}")
"""What IPython fills in on the lines of other magics."""


@dataclass
class Line:
    """A line that was read.

    Args:
        code: what follows the options, as it was written; or the path of a notebook.
        notebook: whether it is one.
        local: whether --local was there.
        help: only how to use the magic is asked for; nothing else was read.
    """

    options: Options
    code: str = ""
    notebook: bool = False
    local: bool = False
    help: bool = False


class Parser(argparse.ArgumentParser):
    """An argument parser for a cell: errors are one sentence, and a misspelt option names the closest.

    Args:
        name: of the magic.
        description: what it does, and how it is called.
    """

    def __init__(self, name: str, description: str = "") -> None:
        super().__init__(
            prog="%%" + name,
            usage=argparse.SUPPRESS,
            description=description.replace("%", "%%"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        add = self.add_argument
        add("--name", default="", help="by which jobs are found and compared")
        add("--timeout", type=float, metavar="S", help="stop it after so many seconds")
        add("--memory", metavar="M", help="limit, such as 2g")
        add("--cpus", type=float, metavar="C", help="limit, such as 1.5")
        add("--gpus", metavar="G", help="all, a number, or device ids")
        add("--pull", type=names, metavar="NAMES", help="bring back these names only")
        add("--only", type=names, metavar="NAMES", help="send these variables only")
        add("--exclude", type=names, default=[], metavar="NAMES", help="send all variables but these")
        add("--needed", action="store_true", help="send the variables that the code can reach")
        add("--dry-run", action="store_true", help="say what would travel; send nothing")
        add("--expand", action="store_true", help="fill in {expression} and $name in the options, as IPython does")
        if name == "dispatch":
            add("--on", default="local", metavar="TARGET", help="where: a target of the config file")
            add("--local", action="store_true", help="do as %%%%local does")
            add("--wait", action="store_true", help="show the output here, and wait for the end")
            add("--detach", action="store_true", help="show no display")
            add("--retries", type=int, default=0, metavar="N", help="how often to try again what fails")
            add("--replicas", type=int, default=1, metavar="N", help="tasks that find each other")
            add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="send an environment variable")
            add("--secret", action="append", default=[], metavar="NAME[=VALUE]", help="the same, and keep it nowhere")
            add("--param", action="append", type=_pair, default=[], metavar="K=V", help="assign a value in the job")
            add("--sweep", action="append", type=_pair, default=[], metavar="K=V1,V2", help="a job for each value")
            add("--input", action="append", type=_pair, default=[], metavar="NAME=URI", help="data, as /inputs/NAME")
        add(*HELP, action="store_true", help="show this")

    def error(self, message: str) -> NoReturn:
        raise UsageError("%s: %s." % (self.prog, message))

    def read(self, line: str, variables: Mapping[str, Any]) -> Line:
        """Read the options at the start of a line (and, for a notebook, after its name), and the code after them.

        Args:
            variables: what --expand fills in.
        """
        given, rest = self._options(line)
        notebook, after = _notebook(rest)
        if notebook:
            more, left = self._options(after)
            if left:
                self.error("%r is no option: nothing but options can follow the notebook %s" % (left, notebook))
            given += more
        if ("--help", None) in given:
            return Line(Options(), help=True)
        if ("--expand", None) in given:
            given = [
                (name, value if value is None else self._expanded(name, value, variables)) for name, value in given
            ]
            notebook = self._expanded("the notebook", notebook, variables)
        else:
            _mention_expand(given, variables)
        found = vars(self.parse_args([name if value is None else "%s=%s" % (name, value) for name, value in given]))
        del found["help"], found["expand"]
        local = found.pop("local", False)
        pairs = {option: self._by_name(option, found.get(option, [])) for option in ("param", "sweep", "input")}
        found["param"] = {name: literal(value) for name, value in pairs["param"].items()}
        found["sweep"] = {name: _values(name, value) for name, value in pairs["sweep"].items()}
        options = Options(**{**found, "input": pairs["input"]})
        options.check()
        return Line(options, notebook or rest, bool(notebook), local)

    def _options(self, line: str) -> tuple[list[tuple[str, str | None]], str]:
        """The options that a line begins with, each with its value if it takes one, and the rest of the line."""
        options: list[tuple[str, str | None]] = []
        rest = line.strip()
        if rest == "-h":
            return [("--help", None)], ""
        while rest.startswith("--"):
            word, after = self._word(rest)
            if word == "--":
                return options, after.strip()
            name, separator, value = word.partition("=")
            action = self._option_string_actions.get(name)
            if action is None:
                known = sorted(one for one in self._option_string_actions if one.startswith("--"))
                self.error("there is no option %s%s; there are %s" % (name, closest(name, known), ", ".join(known)))
            rest = after.strip()
            if action.nargs == 0:
                if separator:
                    self.error("%s takes no value" % name)
                options.append((name, None))
                continue
            if not separator:
                if not rest:
                    self.error("%s wants a value" % name)
                value, after = self._word(rest)
                rest = after.strip()
            options.append((name, value))
        return options, rest

    def _word(self, line: str) -> tuple[str, str]:
        try:
            return _word(line)
        except ValueError as error:
            self.error("%s in %r" % (str(error).lower(), line))

    def _by_name(self, option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
        found = dict(pairs)
        for name in found:
            if sum(one == name for one, _ in pairs) > 1:
                hint = "; --sweep %s=V1,V2 makes a job for each value" % name if option != "input" else ""
                self.error("--%s %s is given twice%s" % (option, name, hint))
        return found

    def _expanded(self, name: str, value: str, variables: Mapping[str, Any]) -> str:
        from IPython.utils.text import DollarFormatter

        try:
            return str(DollarFormatter().vformat(value, (), dict(variables)))
        except Exception as error:  # of the user's expression
            self.error("--expand cannot fill in %s %s: %s" % (name, value, error))


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError("write NAME=VALUE, not %r" % text)
    return name, value


def _word(line: str) -> tuple[str, str]:
    """The first word of a line, which may be quoted or have escaped blanks, and what follows it."""
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    word = lexer.get_token()
    # What has ended a word is blank.
    return word or "", line[stream.tell() :]


def _notebook(line: str) -> tuple[str, str]:
    """The path of a notebook that a line begins with, and what follows it; ("", "") if there is none."""
    try:
        word, after = _word(line)
    except ValueError:
        return "", ""  # code, which has its own quotes
    if word.endswith(".ipynb") and (not after.strip() or after.lstrip().startswith("-")):
        return word, after
    path, separator, after = line.partition(" --")
    path = path.strip()
    if path.endswith(".ipynb") and not re.search(r"[\"'(\[+]", path):
        return path, (separator + after).strip()
    return "", ""


def _mention_expand(given: list[tuple[str, str | None]], variables: Mapping[str, Any]) -> None:
    """Say that an option is taken as it is written, where other magics of IPython would fill something in."""
    for name, value in given:
        found = FILLED_IN.search(value or "")
        if found and (found[1] or found[2]) in variables:
            text = "%s %s is taken as it is written; with --expand, %s is filled in."
            print(text % (name, value, found[0]), file=sys.stderr)
            return


def _values(name: str, text: str) -> list[Any]:
    """The values of a sweep: 1,2,3 or a Python list or range."""
    found = literal(text)
    if isinstance(found, (tuple, list)):
        return list(found)
    if text.startswith("range(") and text.endswith(")"):
        arguments = literal("(%s,)" % text[6:-1])
        if not isinstance(arguments, tuple) or not all(isinstance(one, int) for one in arguments):
            raise OptionError("--sweep %s=%s: a range needs whole numbers, as in range(10)." % (name, text))
        try:
            return list(range(*arguments)[: MAX_RUNS + 1])
        except (TypeError, ValueError) as error:
            raise OptionError("--sweep %s=%s: %s." % (name, text, error)) from None
    if not isinstance(found, str):
        return [found]
    return [literal(part.strip()) for part in text.split(",")] if text.strip() else []
