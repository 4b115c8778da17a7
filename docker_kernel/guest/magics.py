"""%dispatch, %%dispatch, %local, %%local and %jobs: thin over api.py."""

from __future__ import annotations

import argparse
import difflib
import shlex
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class


class _Parser(argparse.ArgumentParser):
    """An argument parser for a cell: errors are one sentence, and a misspelt option names the closest."""

    def __init__(self, name: str) -> None:
        super().__init__(prog="%%" + name, add_help=False, allow_abbrev=False)
        self.add_argument("--name", default="")
        self.add_argument("--timeout", type=float)
        self.add_argument("--memory")
        self.add_argument("--cpus", type=float)
        if name == "dispatch":
            self.add_argument("--on", default="local")
            self.add_argument("--local", action="store_true")
            self.add_argument("--wait", action="store_true")

    def error(self, message: str) -> NoReturn:
        raise UsageError("%s: %s." % (self.prog, message))

    def read(self, line: str) -> tuple[argparse.Namespace, str]:
        """The options at the start of a line, and the expression that follows them."""
        words = shlex.split(line, posix=True) if line.strip().startswith("-") else []
        options: list[str] = []
        rest = line
        while words and words[0].startswith("--"):
            word = words.pop(0)
            name = word.split("=")[0]
            action = self._option_string_actions.get(name)
            if action is None:
                known = sorted(self._option_string_actions)
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
                hint = " (did you mean %s?)" % close[0] if close else ""
                self.error("there is no option %s%s; there are %s" % (name, hint, ", ".join(known)))
            options.append(word)
            rest = rest.lstrip()[len(word) :] if rest.lstrip().startswith(word) else ""
            if action.nargs != 0 and "=" not in word:
                if not words:
                    self.error("%s wants a value" % name)
                options.append(words.pop(0))
                rest = " ".join(words)
        return self.parse_args(options), rest.strip()


@magics_class
class DispatchMagics(Magics):  # type: ignore[misc]
    """The magics of a Docker kernel."""

    @line_cell_magic  # type: ignore[untyped-decorator]
    def local(self, line: str, cell: str | None = None) -> Any:
        """Run a cell, or an expression, now in a fresh container that starts from this kernel's state.

        %%local [--name N] [--timeout S] [--memory M] [--cpus C]
        %local [options] EXPRESSION

        The cell works on the files of the workspace itself; what it assigns comes back when it ends.
        """
        options, expression = _Parser("local").read(line)
        return self._local(options, expression, cell)

    @line_cell_magic  # type: ignore[untyped-decorator]
    def dispatch(self, line: str, cell: str | None = None) -> Any:
        """Send a cell, or an expression, off as a job; the notebook goes on at once.

        %%dispatch [--on TARGET] [--local] [--wait] [--name N] [--timeout S] [--memory M] [--cpus C]
        %dispatch [options] EXPRESSION

        The value is a job: `.result()` waits and assigns what the cell assigned; `.logs()`, `.cancel()`, `.state`.
        """
        options, expression = _Parser("dispatch").read(line)
        if options.local:
            return self._local(options, expression, cell)
        job = self._start(options, expression, cell, target=options.on, live_workspace=False)
        return job.follow() if options.wait else job

    @line_magic  # type: ignore[untyped-decorator]
    def jobs(self, line: str) -> None:
        """List this kernel's jobs, the newest first."""
        from docker_kernel.guest import api

        print(api.jobs)

    def _start(
        self, options: argparse.Namespace, expression: str, cell: str | None, target: str, live_workspace: bool
    ) -> Any:
        from docker_kernel.guest import api

        if cell is not None and expression:
            raise UsageError(
                "%r is neither an option nor part of the cell: put code below the first line." % expression
            )
        if cell is None and not expression:
            raise UsageError("Give an expression on the line, or use the magic with two % and a cell.")
        return api.session().start(
            expression if cell is None else cell,
            target=target,
            expression=cell is None,
            live_workspace=live_workspace,
            name=options.name,
            timeout=options.timeout,
            memory=options.memory,
            cpus=options.cpus,
        )

    def _local(self, options: argparse.Namespace, expression: str, cell: str | None) -> Any:
        return self._start(options, expression, cell, target="local", live_workspace=True).follow()
