"""jobs list|show|logs|cancel|retry|prune: the jobs of all notebooks of this user.

A command is a process like any other that follows jobs (batch/manager.py): it concludes those that ended while nobody
followed them, leaves those that another process follows to it, and tells that process what it wants of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from docker_kernel.cli.base import Subparsers, command, confirm, format_seconds, group, mark, print_table, printable
from docker_kernel.errors import ConfigError, DockerKernelError, JobError

if TYPE_CHECKING:
    from docker_kernel.batch.manager import JobManager
    from docker_kernel.batch.record import JobRecord

T = TypeVar("T")

LISTED = 20
CATCH_UP_SECONDS = 3.0
"""How long a command looks after jobs that nobody follows: enough to conclude those that have ended."""

POLL_SECONDS = 0.2
CANCEL_SECONDS = 40
"""How long a cancelled job, or the process that follows it, may take."""

START_SECONDS = 20
"""How long an interrupted `retry` waits for its job's start."""

WORK = {"cell": "a cell", "expression": "an expression", "notebook": "a notebook", "image": "a notebook image"}

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add(commands: Subparsers) -> None:
    actions = group(commands, "jobs", "list, show, follow, cancel, retry and forget jobs")
    named = {"metavar": "JOB", "help": "its name (the latest that has it), or the start of its id"}

    listing = command(actions, "list", _list, "list jobs, the newest first")
    listing.add_argument("--all", action="store_true", help="all, not only the latest")
    listing.add_argument("--limit", type=int, default=LISTED, metavar="N", help=f"how many (default {LISTED})")
    listing.add_argument("--json", action="store_true", help="as JSON, with all that is known")

    show = command(actions, "show", _show, "show all that is known of a job")
    show.add_argument("job", **named)
    show.add_argument("--json", action="store_true", help="as JSON")

    logs = command(actions, "logs", _logs, "print what a job prints")
    logs.add_argument("job", **named)
    logs.add_argument("-f", "--follow", action="store_true", help="to its end; the exit code says how it ended")

    cancel = command(actions, "cancel", _cancel, "stop jobs")
    cancel.add_argument("jobs", nargs="+", **named)

    retry = command(actions, "retry", _retry, "run a job that has ended once more, and follow it to its end")
    retry.add_argument("job", **named)

    prune = command(actions, "prune", _prune, "forget jobs that have ended, with their results")
    prune.add_argument(
        "--older-than", type=_age, default="7d", metavar="AGE", help="such as 12h, 7d (default), or 0 for all"
    )
    prune.add_argument("--yes", "-y", action="store_true", help="do not ask")


def with_manager(use: Callable[[JobManager], Awaitable[T]]) -> T:
    """Run a coroutine function with this process's manager, when it has concluded what has ended unheard."""
    from docker_kernel import background
    from docker_kernel.batch.manager import manager

    async def run() -> T:
        jobs = manager()
        await jobs.catch_up(CATCH_UP_SECONDS)
        return await use(jobs)

    return background.run_blocking(run())


async def find(jobs: JobManager, *names: str) -> list[JobRecord]:
    """The jobs that a user means, each by its id, its name (the latest that has it), or the start of its id.

    Raises:
        JobError: there is none, or several ids begin so.
    """
    known = await asyncio.to_thread(jobs.jobs)
    return [_named(known, name) for name in names]


async def find_whole(jobs: JobManager, *names: str) -> list[JobRecord]:
    """As `find`, but that the name of a sweep means all of its jobs, in their order.

    Raises:
        JobError: there is none, or several ids begin so.
    """
    known = await asyncio.to_thread(jobs.jobs)
    found = []
    for name in names:
        one = _named(known, name)
        whole = one.swept and name == one.name
        found += [other for other in reversed(known) if other.group == one.group] if whole else [one]
    return found


def _named(known: Sequence[JobRecord], name: str) -> JobRecord:
    begin = [one for one in known if name and one.id.startswith(name)]
    exact = [one for one in begin if one.id == name] or [one for one in known if name and one.name == name]
    if exact:
        return exact[0]
    if len(begin) == 1:
        return begin[0]
    problem = f"Several jobs' ids begin with {name!r}" if begin else f"There is no job {name!r}"
    raise JobError(f"{problem}: `docker-kernel jobs list` shows them.")


def _list(arguments: argparse.Namespace) -> int:
    limit = 100_000 if arguments.all else arguments.limit
    if limit < 1:
        raise ConfigError(f"--limit is the number of jobs to list, not {limit}.")

    async def look(jobs: JobManager) -> list[JobRecord]:
        return await asyncio.to_thread(jobs.jobs, None, limit + 1)

    found = with_manager(look)
    if arguments.json:
        print(json.dumps([_json(record) for record in found[:limit]], indent=2))
        return 0
    if not found:
        print("No job was sent yet, or all are forgotten: %%dispatch in a notebook sends one.")
        return 0
    now = time.time()
    rows = [
        (
            record.id,
            _title(record),
            Path(record.notebook).name,
            record.target,
            mark(record.state),
            f"{format_seconds(now - record.created, units=1)} ago",
            _took(record, now),
            _news(record),
        )
        for record in found[:limit]
    ]
    print_table(["job", "name", "notebook", "target", "state", "sent", "ran", ""], rows, whole=("job", "state", "sent"))
    if len(found) > limit:
        print("There are older ones: --all or --limit N.")
    return 0


def _json(record: JobRecord) -> Any:
    """A record as JSON that every reader takes: without infinities."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return plain(record.public())


def _title(record: JobRecord) -> str:
    params = ", ".join(f"{name}={value!r}" for name, value in record.params.items())
    return " ".join(part for part in (record.name, params and f"({params})") if part)


def _took(record: JobRecord, now: float) -> str:
    return "" if record.started is None else format_seconds((record.ended or now) - record.started)


def _news(record: JobRecord) -> str:
    """What there is to say of a job beyond its state."""
    parts = [record.reason]
    if record.progress is not None and not record.over:
        left = f", {format_seconds(record.remaining)} left" if record.remaining is not None else ""
        parts.append(f"{record.progress:.0%}{left}")
    parts += [f"{name}={value:.4g}" for name, value in record.metrics.items()]
    return "; ".join(part for part in parts if part)


def _show(arguments: argparse.Namespace) -> int:
    from docker_kernel.batch.job_folder import JobFolder

    async def look(jobs: JobManager) -> tuple[JobRecord, str | None]:
        record = (await find(jobs, arguments.job))[0]
        return record, await asyncio.to_thread(jobs.ledger.source, record)

    record, source = with_manager(look)
    if arguments.json:
        print(json.dumps(_json(record), indent=2))
        return 0
    folder = JobFolder(record.id)
    rows = [(label, value) for label, value in _facts(record) if value]
    rows += [("files", text) for text in _files(record, folder.result)]
    rows.append(("kept", f"{_size(folder.path)} in {folder.path}"))
    print_table(["", ""], rows, box=False)
    if record.kind != "notebook" and source:
        print(f"\n{printable(source)}")
    return 0


def _facts(record: JobRecord) -> list[tuple[str, Any]]:
    from docker_kernel.config import format_size

    limits = [
        record.cpus and f"{record.cpus:g} CPUs",
        record.memory and format_size(record.memory),
        record.gpus and f"GPUs: {record.gpus}",
        record.timeout and f"{format_seconds(record.timeout)} at most",
    ]
    cost = record.cost
    waited = record.started and format_seconds(record.started - record.created)
    return [
        ("job", record.id),
        ("name", record.name),
        ("state", f"{record.state}: {record.reason}" if record.reason else record.state),
        ("progress", record.progress is not None and f"{record.progress:.0%}"),
        ("notebook", record.notebook),
        ("target", record.target),
        ("what", WORK[record.kind]),
        ("parameters", ", ".join(f"{name}={value!r}" for name, value in record.params.items())),
        ("sent", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))),
        ("waited", waited),
        ("ran", _took(record, time.time())),
        ("attempt", f"{record.attempt} of {max(record.attempt, record.retries + 1)}"),
        ("replicas", record.replicas > 1 and record.replicas),
        ("limits", ", ".join(str(limit) for limit in limits if limit)),
        (
            "used",
            cost and f"{format_seconds(cost.cpu_seconds)} of CPU, {format_size(cost.peak_memory)} of memory at most",
        ),
        ("exit code", record.exit_code is not None and str(record.exit_code)),
        ("exception", record.error),
        ("metrics", ", ".join(f"{name}={value:g}" for name, value in record.metrics.items())),
        ("inputs", ", ".join(f"{name}: {uri}" for name, uri in record.versioned_inputs().items())),
        ("image", record.image),
        ("git commit", record.commit),
        ("code", record.code),
        ("snapshot", record.snapshot),
        ("result", record.result),
        ("files in", record.output),
    ]


def _files(record: JobRecord, result: Path) -> list[str]:
    """The files that a job wrote to its output folder, as far as its result is on this machine."""
    from docker_kernel.batch.manifest import ResultManifest, parse
    from docker_kernel.config import format_size

    try:
        manifest = (result / "manifests" / record.kept.removeprefix("sha256:")).read_bytes()
        files = parse(ResultManifest, manifest).files
    except (OSError, DockerKernelError):
        return []
    return [f"{file.path}  {format_size(file.size)}" for file in files]


def _size(folder: Path) -> str:
    from docker_kernel.config import format_size

    return format_size(_bytes(folder))


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _logs(arguments: argparse.Namespace) -> int:
    from docker_kernel.batch.job_folder import JobFolder

    async def look(jobs: JobManager) -> JobRecord:
        record = (await find(jobs, arguments.job))[0]
        return await _follow(jobs, record) if arguments.follow else record

    record = with_manager(look)
    if not arguments.follow:
        _write(JobFolder(record.id).output())
        return 0
    return _ended(record)


def _write(data: bytes) -> None:
    if data:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


def _say(text: str) -> None:
    print(f"docker-kernel: {printable(text)}", file=sys.stderr)


def _ended(record: JobRecord) -> int:
    """Say how a job ended; returns the exit code."""
    reason = f": {record.reason}" if record.reason else ""
    took = f" after {format_seconds(record.ended - record.created)}" if record.ended else ""
    _say(f"the job {record.id} {'was ' if record.state in ('cancelled', 'lost') else ''}{record.state}{took}{reason}.")
    return 0 if record.state == "succeeded" else 1


async def _follow(jobs: JobManager, record: JobRecord) -> JobRecord:
    """Print what a job prints until it ends, whichever process follows it."""
    from docker_kernel.batch.job_folder import JobFolder
    from docker_kernel.batch.output_tail import OutputTail

    tail = OutputTail(JobFolder(record.id))
    ended = asyncio.ensure_future(jobs.wait(record.id))
    state = record.state
    try:
        while True:
            over = ended.done()
            now = await asyncio.to_thread(jobs.get, record.id)
            if now.state != state and not now.over:
                state = now.state
                _say(f"the job {now.id} is {state}" + (f": {now.reason}." if now.reason else "."))
            await asyncio.to_thread(_write, await asyncio.to_thread(tail.read, now.attempt))
            if over:
                return ended.result()
            await asyncio.wait([ended], timeout=POLL_SECONDS)
    except asyncio.CancelledError:
        await _leave(jobs, record.id)
        raise
    finally:
        ended.cancel()


async def _leave(jobs: JobManager, job: str) -> None:
    """Let a job go on without this process, which may only end between the steps of its start."""
    for _ in range(int(START_SECONDS / POLL_SECONDS)):
        if not jobs.follows(job) or (await asyncio.to_thread(jobs.get, job)).state not in ("queued", "starting"):
            break
        await asyncio.sleep(POLL_SECONDS)
    if not (await asyncio.to_thread(jobs.get, job)).over:
        _say(f"the job {job} goes on; `docker-kernel jobs logs -f {job}` follows it again.")


def _cancel(arguments: argparse.Namespace) -> int:
    async def cancel(jobs: JobManager) -> list[str]:
        found = {record.id: record for record in await find_whole(jobs, *arguments.jobs)}
        return await asyncio.gather(*(_stop(jobs, record) for record in found.values()))

    for sentence in with_manager(cancel):
        print(printable(sentence))
    return 0


async def _stop(jobs: JobManager, record: JobRecord) -> str:
    if record.over or not await jobs.cancel(record.id):
        record = await asyncio.to_thread(jobs.get, record.id)
        return f"The job {record.id} has ended already: it is {record.state}."
    try:
        record = await asyncio.wait_for(jobs.wait(record.id), CANCEL_SECONDS)
    except asyncio.TimeoutError:
        return f"The job {record.id} is to stop, but has not done so within {CANCEL_SECONDS} s."
    return f"The job {record.id} is {record.state}."


def _retry(arguments: argparse.Namespace) -> int:
    async def retry(jobs: JobManager) -> JobRecord:
        record = (await find(jobs, arguments.job))[0]
        names = await asyncio.to_thread(jobs.secret_names, record)
        secrets = {name: os.environ[name] for name in names if name in os.environ}
        record = await jobs.retry(record.id, secrets)
        _say(f"the job {record.id} runs again, attempt {record.attempt}.")
        return await _follow(jobs, record)

    return _ended(with_manager(retry))


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"write an age such as 90m, 12h, 7d or 0, not {text!r}")
    return float(found[1]) * UNITS[found[2]]


def _prune(arguments: argparse.Namespace) -> int:
    from docker_kernel.batch.job_folder import JobFolder
    from docker_kernel.config import format_size

    async def look(jobs: JobManager) -> list[JobRecord]:
        return await asyncio.to_thread(jobs.ended, arguments.older_than)

    async def prune(jobs: JobManager) -> list[JobRecord]:
        return await jobs.prune(arguments.older_than)

    found = with_manager(look)
    if not found:
        print("There is no job to forget.")
        return 0
    size = sum(_bytes(JobFolder(record.id).path) for record in found)
    what = f"{len(found)} {'job' if len(found) == 1 else 'jobs'} with {format_size(size)} of output and results"
    if not confirm(f"Forget {what}?", arguments.yes):
        return 0
    gone = with_manager(prune)
    print(f"Forgot {len(gone)} {'job' if len(gone) == 1 else 'jobs'}.")
    return 0
