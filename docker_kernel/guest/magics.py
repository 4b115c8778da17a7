"""%dispatch, %%dispatch, %local, %%local and %jobs: thin over api.py."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Sequence
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand

from docker_kernel.guest import history
from docker_kernel.guest.magic_line import HELP, Line, Parser
from docker_kernel.guest.options import closest

_HELP_ONLY = re.compile(r"\s*%%(local|dispatch)[ \t](.*[ \t])?(--help|-h)[ \t]*")


def help_without_a_body(lines: list[str]) -> list[str]:
    """Let `%%dispatch --help` be asked without code below it, which IPython refuses: an input transformer."""
    found = _HELP_ONLY.fullmatch(lines[0].rstrip("\n")) if lines and not "".join(lines[1:]).strip() else None
    return ["%%%s --help\n" % found[1]] if found else lines


@magics_class
class DispatchMagics(Magics):  # type: ignore[misc]
    """The magics of a Docker kernel."""

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def local(self, line: str, cell: str | None = None) -> Any:
        """Run a cell, or an expression, now in a fresh container that starts from this kernel's state.

        %%local [--name N] [--timeout S] [--memory M] [--cpus C] [--gpus G] [--pull NAMES] [--only NAMES]
                [--exclude NAMES] [--needed] [--dry-run] [--expand]
        %local [options] EXPRESSION
        %local [options] NOTEBOOK.ipynb [options]

        The cell works on the files of the workspace itself; what it assigns comes back when it ends.
        """
        read = self._read("local", line)
        return None if read is None else self._local(read, cell)

    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    def dispatch(self, line: str, cell: str | None = None) -> Any:
        """Send a cell, an expression or a notebook off as a job; the notebook goes on at once.

        %%dispatch [--on TARGET] [--name N] [--cpus C] [--memory M] [--gpus G] [--timeout S] [--retries N]
                   [--env NAME] [--secret NAME] [--pull NAMES] [--param K=V] [--sweep K=V1,V2] [--replicas N]
                   [--input NAME=URI] [--only NAMES] [--exclude NAMES] [--needed] [--wait] [--detach] [--dry-run]
                   [--local] [--expand]
        %dispatch [options] EXPRESSION
        %dispatch [options] NOTEBOOK.ipynb [options]

        The value is a job: `.result()` waits and assigns what the cell assigned; `.logs()`, `.cancel()`, `.state`.
        """
        read = self._read("dispatch", line)
        if read is None:
            return None
        if read.local:
            return self._local(read, cell)
        sent = self._start(read, cell)
        if sent is None or not read.options.wait:
            return _Silent(sent) if read.options.detach and sent is not None else sent
        return self._follow(sent, cell)

    @no_var_expand  # type: ignore[untyped-decorator]
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
        if words and words[0] in HELP:
            print(inspect.cleandoc(DispatchMagics.jobs.__doc__ or ""))
            return None
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

    def _read(self, name: str, line: str) -> Line | None:
        """Read the line of a magic; None where its help was asked for, and is shown."""
        parser = Parser(name, inspect.cleandoc(getattr(DispatchMagics, name).__doc__))
        read = parser.read(line, self.shell.user_ns)
        if not read.help:
            return read
        print(parser.format_help())
        return None

    def _start(self, read: Line, cell: str | None) -> Any:
        from docker_kernel.guest import api

        if cell is not None and read.code:
            raise UsageError("%r is neither an option nor part of the cell: put code below the first line." % read.code)
        if cell is None and not read.code:
            raise UsageError("Give an expression on the line, or use the magic with two % and a cell.")
        if cell is not None:
            return api.session().start(cell, read.options, "cell", first_line=2)
        return api.session().start(read.code, read.options, "notebook" if read.notebook else "expression")

    def _local(self, read: Line, cell: str | None) -> Any:
        read.options.live = True
        sent = self._start(read, cell)
        return None if sent is None else self._follow(sent, cell)

    def _follow(self, sent: Any, cell: str | None) -> Any:
        value = sent.follow()
        if cell is None or isinstance(sent, Sequence):
            return value
        # Its output shows what it ended with.
        history.remember(self.shell, value)
        return None


class _Silent:
    """A job that is not displayed where it was sent."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)

    def __reduce__(self) -> Any:
        return _Silent, (self.job,)

    def _ipython_display_(self) -> None:
        print(repr(self.job))
