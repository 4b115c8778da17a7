"""run: an image of a notebook, with its parameters, its progress, and a readable end."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
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

LONG_LINE = 1 << 16
"""Characters of a line that are shown on a terminal before it has ended."""

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
    run.add_argument("--retries", type=_times, default=0, metavar="N", help="how often to try again when it fails")
    run.add_argument("--detach", "-d", action="store_true", help="do not wait: `docker-kernel jobs` follows it")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _times(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not 0, 1, 2, …")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    from docker_kernel import background
    from docker_kernel.batch.manager import NOT_HERE
    from docker_kernel.containerize import run
    from docker_kernel.guest.run_job import NOT_DELIVERED

    request = _request(arguments)
    ends: list[int] = []
    shown = _Shown()

    def end(number: int, _: object) -> None:
        ends.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with _display() as shown.display:
            record = background.run_blocking(run.run(request, shown, arguments.detach))
    except run.WrongParameters as error:
        print(f"docker-kernel: {error}", file=sys.stderr)
        return BAD_PARAMETERS
    except KeyboardInterrupt:
        print(f"docker-kernel: {shown.stopped()}", file=sys.stderr)
        return 128 + (ends[0] if ends else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    if not record.over:
        does = "waits" if record.started is None else "runs"
        print(f"The job {record.id} {does} on {record.target}; `docker-kernel jobs logs -f {record.id}` follows it.")
        return 0
    _print_end(record)
    if record.state == "succeeded":
        return NOT_DELIVERED if NOT_HERE in record.reason else 0
    return record.exit_code or 1


def _request(arguments: argparse.Namespace) -> RunRequest:
    from docker_kernel.config import parse_size
    from docker_kernel.containerize.run import RunRequest

    folders = [place for place in arguments.output if "://" not in place]
    if len(folders) > 1:
        raise ConfigError("Name one folder with --output; other places can be URLs.")
    if "" in arguments.output:
        raise ConfigError("--output needs the name of a folder, or a URL.")
    memory = None
    if arguments.memory is not None:
        try:
            memory = parse_size(arguments.memory)
        except ValueError as error:
            raise ConfigError(f"--memory {arguments.memory}: {error}.") from None
        if memory == 0:
            raise ConfigError(f"--memory {arguments.memory} leaves nothing: name a size such as 512m or 2g.")
    return RunRequest(
        image=arguments.image,
        output=Path(folders[0] if folders else "out"),
        values=dict(_parameter(text) for text in arguments.param),
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


def _parameter(text: str) -> tuple[str, str]:
    name, value = _pair("-p", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"-p {printable(text)}: this is not UTF-8.") from None
    return name, value


def _variable(text: str) -> tuple[str, str]:
    """As `docker run -e`: a name alone takes this process's value."""
    if "=" not in text and text not in os.environ:
        raise ConfigError(f"-e {printable(text)}: there is no such variable here: write -e NAME=VALUE.")
    return _pair("-e", text) if "=" in text else (text, os.environ[text])


class _Shown:
    """Shows a run for as long as somebody looks, and knows how far it came."""

    def __init__(self) -> None:
        self.display: Callable[[Event], None] | None = None
        self._job: Event = {}

    def __call__(self, event: Event) -> None:
        if event["event"] == "state":
            self._job = event
        if self.display is None:
            return
        try:
            self.display(event)
        except OSError:
            self.display = None  # the terminal, or who read from us, has gone: the run goes on

    def stopped(self) -> str:
        """What became of a run that was interrupted."""
        from docker_kernel.batch.record import FINAL

        job = self._job
        over = job.get("state") in FINAL
        if not job or (over and job["started"] is None):
            return "Stopped before it began."
        if not over:
            return f"The job {job['id']} has yet to stop: `docker-kernel jobs show {job['id']}` says when it has."
        if job["state"] != "cancelled":
            return (
                f"The job {job['id']} had {job['state']} before it could be stopped; what is not in "
                f"{printable(job['output'])} yet, the next docker-kernel command brings there."
            )
        left = f"what the notebook had is in {printable(job['output'])}" if job["result"] or job["partial"] else ""
        return f"Stopped; {left or 'the notebook left nothing'}."


@contextlib.contextmanager
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
                lines, _, rest = (rest + _in_encoding(event["text"])).rpartition("\n")
                if len(rest) > LONG_LINE:
                    lines, rest = f"{lines}\n{rest}".lstrip("\n"), ""
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


def _in_encoding(text: str) -> str:
    """A text without what standard output cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


class _Plain:
    """Prints how a run goes, for a log."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, event: Event) -> None:
        if event["event"] == "output":
            sys.stdout.write(_in_encoding(event["text"]))
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
    with contextlib.suppress(OSError):
        if page.stat().st_mtime < record.created:
            return  # an earlier run's
        print(f"Read it: {page}")
