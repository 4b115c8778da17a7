"""run: an image of a notebook, with its parameters, its progress, and a readable end."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker_kernel.cli.base import Subparsers, command, format_seconds, printable
from docker_kernel.errors import ConfigError

if TYPE_CHECKING:
    from docker_kernel.batch.record import JobRecord
    from docker_kernel.containerize.run import RunRequest

Event = dict[str, Any]

TRANSFER_SECONDS = 5.0
"""Between two lines that tell how a transfer goes, where no terminal shows it."""

BAD_PARAMETERS = 2
"""As the image itself says it (docs/notebook-image.md)."""


def add(commands: Subparsers) -> None:
    run = command(commands, "run", _run, "run an image of a notebook, and bring its results home")
    run.add_argument("image", metavar="IMAGE")
    run.add_argument("-p", "--param", action="append", default=[], metavar="K=V", help="a parameter of the notebook")
    run.add_argument("--params", type=Path, metavar="FILE", help="a JSON or YAML file of parameters")
    run.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="DIR|URL",
        help="where results go: a folder (./out if none is named), and URLs such as s3://…",
    )
    run.add_argument("--on", default="local", metavar="TARGET", help="where it runs: a target of the config")
    run.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="for the container")
    run.add_argument("--no-input", action="store_true", help="leave the code out of output.html")
    run.add_argument("--timeout", type=_positive, metavar="SECONDS", help="how long it may take")
    run.add_argument("--cell-timeout", type=_positive, metavar="SECONDS", help="how long one cell may take")
    run.add_argument("--cpus", type=_positive, help="how many CPUs it may use, fractions allowed")
    run.add_argument("--memory", help="how much memory it may use, such as 4g")
    run.add_argument("--retries", type=int, default=0, metavar="N", help="how often to try again when it fails")
    run.add_argument("--detach", "-d", action="store_true", help="do not wait: `docker-kernel jobs` follows it")


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _run(arguments: argparse.Namespace) -> int:
    from docker_kernel import background
    from docker_kernel.containerize import run

    request = _request(arguments)
    ends: list[int] = []

    def end(number: int, _: object) -> None:
        ends.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with _display() as on_event:
            record = background.run_blocking(run.run(request, on_event, arguments.detach))
    except run.WrongParameters as error:
        print(f"docker-kernel: {error}", file=sys.stderr)
        return BAD_PARAMETERS
    except KeyboardInterrupt:
        print("docker-kernel: Stopped; what the notebook had is in the output folder.", file=sys.stderr)
        return 128 + (ends[0] if ends else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not record.over:
        print(f"The job {record.id} runs on {record.target}; `docker-kernel jobs logs -f {record.id}` follows it.")
        return 0
    _print_end(record)
    return 0 if record.state == "succeeded" else record.exit_code or 1


def _request(arguments: argparse.Namespace) -> RunRequest:
    from docker_kernel.config import parse_size
    from docker_kernel.containerize.run import RunRequest

    folders = [place for place in arguments.output if "://" not in place]
    if len(folders) > 1:
        raise ConfigError("Name one folder with --output; other places can be URLs.")
    try:
        memory = parse_size(arguments.memory) if arguments.memory else None
    except ValueError as error:
        raise ConfigError(f"--memory {arguments.memory}: {error}.") from None
    return RunRequest(
        image=arguments.image,
        output=Path(folders[0] if folders else "out"),
        values=dict(_pair("-p", text) for text in arguments.param),
        params_file=arguments.params,
        urls=tuple(place for place in arguments.output if "://" in place),
        target=arguments.on,
        no_input=arguments.no_input,
        timeout=arguments.timeout,
        cell_timeout=arguments.cell_timeout,
        cpus=arguments.cpus,
        memory=int(memory) if isinstance(memory, (int, float)) else None,
        env=dict(_variable(text) for text in arguments.env),
        retries=arguments.retries,
    )


def _pair(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"{option} {text}: write {option} NAME=VALUE.")
    return name, value


def _variable(text: str) -> tuple[str, str]:
    """As `docker run -e`: a name alone takes this process's value."""
    if "=" not in text and text not in os.environ:
        raise ConfigError(f"-e {text}: there is no such variable here: write -e NAME=VALUE.")
    return _pair("-e", text) if "=" in text else (text, os.environ[text])


@contextmanager
def _display() -> Iterator[Callable[[Event], None]]:
    """Shows a run: its output and a bar of progress on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        yield _Plain()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task("starts", total=None)
        rest = ""

        def on_event(event: Event) -> None:
            nonlocal rest
            if event["event"] == "output":
                # Only whole lines: what is printed lands above the bar.
                lines, _, rest = (rest + event["text"]).rpartition("\n")
                if lines:
                    console.print(Text.from_ansi(lines), highlight=False, soft_wrap=True)
            elif event["event"] == "progress":
                value, text = event["value"], printable(event["text"])
                bars.update(task, description=text, completed=value or 0, total=None if value is None else 1)
            elif event["event"] == "state" and event["state"] == "queued" and event["reason"]:
                bars.update(task, description=printable(event["reason"]))

        yield on_event
    if rest:
        print(printable(rest))


class _Plain:
    """Prints how a run goes, for a log."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        if event["event"] == "output":
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        elif event["event"] == "progress":
            self._say(event["text"])
        elif event["event"] == "state" and event["state"] == "queued" and time.monotonic() >= self._next:
            self._next = time.monotonic() + TRANSFER_SECONDS
            self._say(event["reason"] or "starts")

    @staticmethod
    def _say(text: str) -> None:
        print(f"-- {printable(text)}", file=sys.stderr, flush=True)


def _print_end(record: JobRecord) -> None:
    took = f" in {format_seconds(record.cost.seconds)}" if record.cost is not None else ""
    outcomes = {0: f"Done{took}", 124: f"Out of time{took}", 143: f"Stopped{took}"}
    code = record.exit_code
    said = f"Failed{took}" if code is None else outcomes.get(code, f"Failed{took} with exit code {code}")
    if record.reason and code != 124:
        said += f": {printable(record.reason)}"
    print(f"\n{said.rstrip('.')}.", flush=True)
    page = Path(record.output) / "output.html"
    if page.exists():
        print(f"Read it: {page}")
