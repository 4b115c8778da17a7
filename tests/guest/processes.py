"""A kernel's process and its jobs' processes, without containers: the state goes there and comes home as it does with
them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from tests.patience import patient

COMMON = """
import json, sys
from docker_kernel.guest import generators, snapshot
from docker_kernel.guest.process_state import NAME, ProcessState
space = sys.modules["__main__"].__dict__
OURS = {*space, "OURS", "asked", "process"}
asked = json.load(sys.stdin)
if asked["shell"]:
    from IPython.core.interactiveshell import InteractiveShell
    InteractiveShell.instance(user_ns=space, user_module=sys.modules["__main__"])
def run(source):
    exec(compile(source, "<cell>", "exec"), space)
def variables():
    return {k: v for k, v in space.items() if k not in OURS and not k.startswith("_")}
def capture(changes):
    with generators.noted() as found:
        taken = snapshot.capture({**variables(), NAME: changes[:2]}, space, asked["state"])
    return taken.digest, found
"""

JOB = """
process = ProcessState(space, tuple(asked["stream"]))
OURS |= set(space)
manifest = snapshot.read_manifest(asked["state"], asked["digest"])
with generators.noted() as found:
    restored, failed = snapshot.restore(asked["state"], manifest, space)
sent = restored.pop(NAME)
space.update(restored)
failed += [*process.apply(sent[0]), *process.give_stream(found)]
for one in failed:
    print("not here: %s (%s): %s; %s." % one, file=sys.stderr)
process.begin()
run(asked["cell"])
print("\\n" + capture(process.changes())[0])
"""

KERNEL = """
import subprocess
process = ProcessState(space)
process.begin()
OURS |= set(space)
run(asked["before"])
for cell, streams, live in asked["jobs"]:
    changes = process.changes(all_random=True)
    for one in changes.left_out:
        print("left out: %s (%s): %s; %s." % one, file=sys.stderr)
    digest, found = capture(changes)
    if not live:
        process.move_on(found)
        run(asked["meanwhile"])
    for stream in streams:
        asked.update(cell=cell, digest=digest, stream=stream)
        command = [sys.executable, "-c", asked["job"]]
        job = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True)
        result = snapshot.read_manifest(asked["state"], job.stdout.split()[-1])
        values, _ = snapshot.restore(asked["state"], result, space)
        state, left_out = values.pop(NAME)
        kept, failed = process.bring_home(state, None if live else changes.settings, with_random=live)
        for one in [*left_out, *failed]:
            print("not brought back: %s (%s): %s; %s." % one, file=sys.stderr)
        for name in kept:
            print("kept: %s" % name, file=sys.stderr)
        space.setdefault("results", []).append(values)
        if live:
            space.update({name: value for name, value in values.items() if name != "results"})
run(asked["after"])
"""


class Job(NamedTuple):
    """One dispatch: the cell, the streams of its jobs, and whether the kernel waits for it, as `%%local` does."""

    cell: str
    streams: tuple[tuple[int, ...], ...] = ((),)
    live: bool = True


def run_kernel(
    folder: Path,
    before: str = "",
    *jobs: Job | str,
    meanwhile: str = "",
    after: str = "",
    shell: bool = False,
    env: dict[str, str] | None = None,
) -> str:
    """Run code in a kernel, cells in its jobs, and code in the kernel again, which finds what the jobs had at their ends
    in `results`; returns what it says of what did not travel.

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
    }
    command = [sys.executable, "-c", COMMON + KERNEL]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, timeout=patient(60), cwd=folder, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def _job(one: Job | str) -> Job:
    return Job(one) if isinstance(one, str) else one
