"""A kernel's process and its jobs' processes, without containers: the state goes there and comes home as it does with
them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.patience import patient
from tests.warm import python

COMMON = """
import json as _json, subprocess as _subprocess, sys as _sys
from docker_kernel.guest import generators as _generators, snapshot as _snapshot
from docker_kernel.guest.process_state import NAME as _NAME, ProcessState as _ProcessState
_space = _sys.modules["__main__"].__dict__
_asked = _json.load(_sys.stdin)
if _asked["shell"]:
    from IPython.core.interactiveshell import InteractiveShell as _InteractiveShell
    class _Shell(_InteractiveShell):
        def enable_gui(self, gui=None): pass
    _Shell.instance(user_ns=_space, user_module=_sys.modules["__main__"])
_beside = set(_space)
def _run(source):
    exec(compile(source, "<cell>", "exec"), _space)
def _capture(changes):
    variables = {k: v for k, v in _space.items() if k not in _beside and not k.startswith("_")}
    with _generators.noted() as found:
        taken = _snapshot.capture({**variables, _NAME: changes[:2]}, _space, _asked["state"])
    return taken.digest, found
def _tell(text, reports):
    for one in reports:
        print(text + ": %s (%s): %s; %s." % one, file=_sys.stderr)
"""

JOB = """
_process = _ProcessState(_space, tuple(_asked["stream"]))
def _start():
    manifest = _snapshot.read_manifest(_asked["state"], _asked["digest"])
    with _generators.noted() as found:
        restored, failed = _snapshot.restore(_asked["state"], manifest, _space)
    sent = restored.pop(_NAME)
    _space.update(restored)
    _tell("not here", [*failed, *_process.apply(sent[0]), *_process.give_stream(found)])
    _process.begin()
_start()
_run(_asked["cell"])
print("\\n" + _capture(_process.changes())[0])
"""

KERNEL = """
_process = _ProcessState(_space)
def _finish(job, live, settings):
    result = _snapshot.read_manifest(_asked["state"], job.stdout.split()[-1])
    values, failed = _snapshot.restore(_asked["state"], result, _space)
    state, left_out = values.pop(_NAME)
    kept, more = _process.bring_home(state, settings, with_random=live)
    _tell("not brought back", [*failed, *left_out, *more])
    for name in kept:
        print("kept: %s" % name, file=_sys.stderr)
    values.pop("results", None)
    _space.setdefault("results", []).append(values)
    if live:
        _space.update(values)
def _dispatch(cell, streams, live):
    changes = _process.changes(all_random=True)
    _tell("left out", changes.left_out)
    digest, found = _capture(changes)
    if not live:
        _process.move_on(found)
        _run(_asked["meanwhile"])
    for stream in streams:
        asked = {**_asked, "cell": cell, "digest": digest, "stream": stream}
        command = [_asked["python"], "-c", _asked["job"]]
        job = _subprocess.run(command, input=_json.dumps(asked), stdout=_subprocess.PIPE, text=True)
        if job.returncode:
            _sys.exit("the job failed")
        _finish(job, live, None if live else changes.settings)
_process.begin()
_run(_asked["before"])
for _cell, _streams, _live in _asked["jobs"]:
    _dispatch(_cell, _streams, _live)
_run(_asked["after"])
"""

IMPORTED = ("json", "subprocess", "docker_kernel.guest.generators", "docker_kernel.guest.process_state",
            "docker_kernel.guest.snapshot")  # fmt: skip


class Job(NamedTuple):
    """One dispatch: the cell, the streams of its jobs, and whether the kernel waits for it, as `%%local` does."""

    cell: str
    streams: tuple[tuple[int, ...], ...] = ((),)
    live: bool = True


def needs(library: str) -> None:
    """Skip a test whose processes use a library that is not installed. It is not imported in this one."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def run_kernel(
    folder: Path,
    before: str = "",
    *jobs: Job | str,
    meanwhile: str = "",
    after: str = "",
    shell: bool = False,
    env: dict[str, str] | None = None,
) -> str:
    """Run code in a kernel, cells in its jobs, and code in the kernel again, which finds what the jobs had at their
    ends in `results`; returns what was said of what did not travel.

    Args:
        meanwhile: runs in the kernel after each dispatch that it does not wait for.
        shell: both have an IPython shell.
    """
    asked = {
        "state": str(folder / "state"),
        "before": textwrap.dedent(before),
        "jobs": [(textwrap.dedent(one.cell), one.streams, one.live) for one in map(_job, jobs)],
        "meanwhile": textwrap.dedent(meanwhile),
        "after": textwrap.dedent(after),
        "shell": shell,
        "job": COMMON + JOB,
        "python": python(*IMPORTED, "json"),  # another process, with other hashes
    }
    command = [python(*IMPORTED), "-c", COMMON + KERNEL]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, timeout=patient(60), cwd=folder, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def _job(one: Job | str) -> Job:
    return Job(one) if isinstance(one, str) else one
