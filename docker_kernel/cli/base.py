"""What the commands share: how they are declared, reach the engine, and show tables and progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from docker_kernel.errors import ConfigError

if TYPE_CHECKING:
    from rich.text import Text

    from docker_kernel.engine import Engine
    from docker_kernel.images import Event, Progress

T = TypeVar("T")
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

WIDTH = 160
"""Of tables that no terminal shows."""


def command(commands: Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    """A subcommand's parser, wired to the function that runs it."""
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    sub.set_defaults(run=run)
    return sub


def group(commands: Subparsers, name: str, text: str) -> Subparsers:
    """A command that only has subcommands."""
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return sub.add_subparsers(title="actions", metavar="ACTION", required=True)


def with_engine(use: Callable[[Engine], Awaitable[T]]) -> T:
    """Run a coroutine function with the engine that `docker` would reach."""
    from docker_kernel import background
    from docker_kernel.engine import Engine

    async def run() -> T:
        engine = await Engine.connect()
        try:
            return await use(engine)
        finally:
            engine.close()

    return background.run_blocking(run())


def confirm(question: str, yes: bool) -> bool:
    """Whether the user agrees.

    Raises:
        ConfigError: nobody can be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was removed, as nobody can be asked here: say --yes.")
    agreed = input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    if not agreed:
        print("Nothing was removed.")
    return agreed


def mark(state: str) -> Text:
    """A word for how something stands, in its colour."""
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "fails": "red", "succeeded": "green", "failed": "red", "lost": "red"}
    return Text(state, style=colours.get(state, ""))


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], box: bool = True, whole: Collection[str] = ()
) -> None:
    """Print a table; texts are shown as they are, without what would steer a terminal.

    Args:
        whole: headings of columns whose texts are not broken, however narrow the terminal.

    A column without any text is left out.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table() if box else Table.grid(padding=(0, 2))
    filled = [number for number in range(len(headings)) if any(str(row[number]) for row in rows)]
    for number in filled:
        table.add_column(headings[number], no_wrap=headings[number] in whole)
    for row in rows:
        cells = [row[number] for number in filled]
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in cells))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def printable(text: str) -> str:
    """A text of a container's or notebook's without control characters."""
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text)


def format_seconds(seconds: float, units: int = 2) -> str:
    """A duration for a reader: 0.8 s, 42 s, 3 min 20 s, 2 h 5 min, 4 d 3 h; in one unit, or two."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    known = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    left = round(seconds)
    parts: list[str] = []
    for name, length in known:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
    return " ".join(part for part in parts[:units] if part)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Shows events: a live line with the tool's own output and a bar on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        yield lambda event: None if event.detail else print(event.text, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bars:
        task = bars.add_task("", total=None)

        def show(event: Event) -> None:
            if event.detail:
                line = Text(event.text)
                line.truncate(max(20, console.width - 60), overflow="ellipsis")
                bars.update(task, description=line.plain, completed=event.done or 0, total=event.total)
            else:
                console.print(event.text, markup=False, highlight=False)
                bars.update(task, description="", completed=0, total=None)

        yield show
