"""Runs the cell of a job as its notebook would: read once, and interrupted only while it runs."""

from __future__ import annotations

import signal
from typing import Any, Callable

_EXIT_HINT = "To exit: use"
"""Begins what IPython warns of where a cell raises SystemExit: the notebook warns when that comes home."""


class JobCell:
    """The code of a job, which goes through its shell's input transformers once, as a notebook's cell does.

    Attributes:
        code: the code as Python, magics transformed.
    """

    def __init__(self, shell: Any, source: str) -> None:
        self._shell = shell
        self._source = source
        self._read = True
        try:
            self.code: str = shell.transform_cell(source)
        except Exception:
            self.code, self._read = source, False  # the shell will say so

    def run(self, send: Callable[[dict[str, Any]], None], as_value_of: str = "") -> Any:
        """Run it; returns IPython's result.

        Args:
            send: takes the events of its begin and its end: it can be interrupted between them.
            as_value_of: the name that gets its value, if it is an expression.
        """
        shell, source = self._shell, self._source
        _give_no_exit_hint()
        _let_awaits_end(shell)
        if as_value_of:
            source = "%s = (\n%s\n)" % (as_value_of, source)
        elif self._read:
            _take_as_read(shell, source, self.code)
        result = shell.last_execution_result = None
        try:
            try:
                send({"event": "cell", "running": True})
                result = shell.run_cell(source, store_history=not as_value_of)
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is too late: what the cell did is on its way home
        except KeyboardInterrupt as error:  # a moment before the cell, or a moment after it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            result = result or shell.last_execution_result or _failed_with(error)
        send({"event": "cell", "running": False})
        return result


def job_cell(shell: Any, source: str) -> JobCell:
    """The one of a job's shell."""
    known: JobCell | None = vars(shell).get("_docker_kernel_cell")
    if known is None:
        known = shell._docker_kernel_cell = JobCell(shell, source)
    return known


def _failed_with(error: BaseException) -> Any:
    from IPython.core.interactiveshell import ExecutionResult

    result = ExecutionResult(None)
    result.error_in_exec = error
    return result


def _take_as_read(shell: Any, source: str, code: str) -> None:
    """Let a shell that is about to run a cell take what that has become already."""
    transform = shell.transform_cell

    def once(raw: str) -> Any:
        if raw != source:
            return transform(raw)
        del shell.transform_cell
        return code

    shell.transform_cell = once


def _let_awaits_end(shell: Any) -> None:
    """Let an interrupt of a cell that awaits something be its cancellation, as in a notebook: its `finally` would not
    run otherwise."""
    from IPython.core.interactiveshell import _asyncio_runner

    if shell.loop_runner is not _asyncio_runner:
        return

    def runner(cell: Any) -> Any:
        import asyncio

        begun: list[Any] = []

        async def run() -> Any:
            begun.append(asyncio.current_task())
            return await cell

        try:
            return _asyncio_runner(run())
        except KeyboardInterrupt:
            if not begun or begun[0].done():
                raise
            begun[0].cancel()
            return begun[0].get_loop().run_until_complete(begun[0])

    shell.loop_runner = runner


def _give_no_exit_hint() -> None:
    from IPython.core import interactiveshell

    warn = interactiveshell.warn

    def without_hint(message: Any, *args: Any, **kwargs: Any) -> None:
        if not str(message).startswith(_EXIT_HINT):
            warn(message, *args, **kwargs)

    interactiveshell.warn = without_hint
