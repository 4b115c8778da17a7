"""%dispatch, %%dispatch, %local, %%local and %jobs: thin over api.py."""

from __future__ import annotations

import argparse
import io
import shlex
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class

from docker_kernel.guest.options import MAX_RUNS, OptionError, Options, closest, literal, names


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError("write NAME=VALUE, not %r" % text)
    return name, value


class _Parser(argparse.ArgumentParser):
    """An argument parser for a cell: errors are one sentence, and a misspelt option names the closest."""

    def __init__(self, name: str) -> None:
        super().__init__(prog="%%" + name, add_help=False, allow_abbrev=False)
        self.add_argument("--name", default="")
        self.add_argument("--timeout", type=float)
        self.add_argument("--memory")
        self.add_argument("--cpus", type=float)
        self.add_argument("--gpus")
        self.add_argument("--pull", type=names)
        self.add_argument("--only", type=names)
        self.add_argument("--exclude", type=names, default=[])
        self.add_argument("--needed", action="store_true")
        self.add_argument("--dry-run", action="store_true")
        if name == "dispatch":
            self.add_argument("--on", default="local")
            self.add_argument("--local", action="store_true")
            self.add_argument("--wait", action="store_true")
            self.add_argument("--detach", action="store_true")
            self.add_argument("--retries", type=int, default=0)
            self.add_argument("--replicas", type=int, default=1)
            self.add_argument("--env", action="append", default=[])
            self.add_argument("--secret", action="append", default=[])
            self.add_argument("--param", action="append", type=_pair, default=[])
            self.add_argument("--sweep", action="append", type=_pair, default=[])
            self.add_argument("--input", action="append", type=_pair, default=[])

    def error(self, message: str) -> NoReturn:
        raise UsageError("%s: %s." % (self.prog, message))

    def read(self, line: str) -> tuple[Options, str, bool]:
        """The options at the start of a line (and, for a notebook, after its name), the code that follows them, and
        whether --local was there."""
        given, rest = self._split(line)
        found = vars(self.parse_args(given))
        local = found.pop("local", False)
        pairs = {option: self._by_name(option, found.get(option, [])) for option in ("param", "sweep", "input")}
        found["param"] = {name: literal(value) for name, value in pairs["param"].items()}
        found["sweep"] = {name: _values(name, value) for name, value in pairs["sweep"].items()}
        options = Options(**{**found, "input": pairs["input"]})
        options.check()
        return options, rest, local

    def _by_name(self, option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
        found = dict(pairs)
        for name in found:
            if sum(one == name for one, _ in pairs) > 1:
                hint = "; --sweep %s=V1,V2 makes a job for each value" % name if option != "input" else ""
                self.error("--%s %s is given twice%s" % (option, name, hint))
        return found

    def _split(self, line: str) -> tuple[list[str], str]:
        try:
            words = shlex.split(line, posix=True) if line.strip().startswith("-") else []
        except ValueError as error:
            self.error("%s in %r" % (str(error).lower(), line))
        options: list[str] = []
        rest = line
        while words and words[0].startswith("--"):
            word = words.pop(0)
            name = word.split("=")[0]
            action = self._option_string_actions.get(name)
            if action is None:
                known = sorted(self._option_string_actions)
                self.error("there is no option %s%s; there are %s" % (name, closest(name, known), ", ".join(known)))
            options.append(word)
            rest = _after(rest)
            if action.nargs != 0 and "=" not in word:
                if not words:
                    self.error("%s wants a value" % name)
                options.append(words.pop(0))
                rest = _after(rest)
        rest = rest.strip()
        notebook, _, after = rest.partition(" --")
        if notebook.strip().endswith(".ipynb") and after:
            return [*options, *self._split("--" + after)[0]], notebook.strip()
        return options, rest


def _after(line: str) -> str:
    """What follows the first word of a line, which may be quoted."""
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    lexer.get_token()
    return line[stream.tell() :]


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


@magics_class
class DispatchMagics(Magics):  # type: ignore[misc]
    """The magics of a Docker kernel."""

    @line_cell_magic  # type: ignore[untyped-decorator]
    def local(self, line: str, cell: str | None = None) -> Any:
        """Run a cell, or an expression, now in a fresh container that starts from this kernel's state.

        %%local [--name N] [--timeout S] [--memory M] [--cpus C] [--gpus G] [--pull NAMES] [--only NAMES]
                [--exclude NAMES] [--needed] [--dry-run]
        %local [options] EXPRESSION

        The cell works on the files of the workspace itself; what it assigns comes back when it ends.
        """
        options, code, _ = _Parser("local").read(line)
        return self._local(options, code, cell)

    @line_cell_magic  # type: ignore[untyped-decorator]
    def dispatch(self, line: str, cell: str | None = None) -> Any:
        """Send a cell, an expression or a notebook off as a job; the notebook goes on at once.

        %%dispatch [--on TARGET] [--name N] [--cpus C] [--memory M] [--gpus G] [--timeout S] [--retries N]
                   [--env NAME] [--secret NAME] [--pull NAMES] [--param K=V] [--sweep K=V1,V2] [--replicas N]
                   [--input NAME=URI] [--only NAMES] [--exclude NAMES] [--needed] [--wait] [--detach] [--dry-run]
                   [--local]
        %dispatch [options] EXPRESSION
        %dispatch [options] NOTEBOOK.ipynb [options]

        The value is a job: `.result()` waits and assigns what the cell assigned; `.logs()`, `.cancel()`, `.state`.
        """
        options, code, local = _Parser("dispatch").read(line)
        if local:
            return self._local(options, code, cell)
        sent = self._start(options, code, cell)
        if sent is None or not options.wait:
            return _Silent(sent) if options.detach and sent is not None else sent
        return sent.follow()

    @line_magic  # type: ignore[untyped-decorator]
    def jobs(self, line: str) -> Any:
        """List this notebook's jobs, the newest first; or compare the runs of a name.

        %jobs
        %jobs compare NAME [METRIC]
        """
        from docker_kernel.guest import api

        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError("%%jobs: %s in %r." % (str(error).lower(), line)) from None
        if not words:
            self.shell.display_pub.publish(api.jobs._repr_mimebundle_())
            return None
        if words[0] != "compare" or len(words) not in (2, 3):
            raise UsageError("%%jobs lists the jobs; %%jobs compare NAME [METRIC] compares runs; not %r." % line)
        from docker_kernel.guest.runs import compare

        jobs = list(api.jobs)
        if not any(job.name == words[1] for job in jobs):
            hint = closest(words[1], {job.name for job in jobs if job.name})
            raise UsageError("%%jobs: no job is called %r%s; --name gives runs a name." % (words[1], hint))
        return compare([job for job in jobs if job.name == words[1]], words[1], *words[2:])

    def _start(self, options: Options, code: str, cell: str | None) -> Any:
        from docker_kernel.guest import api

        if cell is not None and code:
            raise UsageError("%r is neither an option nor part of the cell: put code below the first line." % code)
        if cell is None and not code:
            raise UsageError("Give an expression on the line, or use the magic with two % and a cell.")
        if cell is not None:
            return api.session().start(cell, options, "cell", first_line=2)
        return api.session().start(code, options, None if code.endswith(".ipynb") else "expression")

    def _local(self, options: Options, code: str, cell: str | None) -> Any:
        options.live = True
        sent = self._start(options, code, cell)
        return None if sent is None else sent.follow()


class _Silent:
    """A job that is not displayed where it was sent."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)

    def _ipython_display_(self) -> None:
        print(repr(self.job))
