"""In the kernel that runs a dispatched notebook: it gets the job's state before the first cell, and keeps what a cell
raises for who sent the job."""

from __future__ import annotations

import atexit
import json
import os
import sys
from typing import Any

from docker_kernel.guest import generators, snapshot
from docker_kernel.guest.in_job import EVENTS, _sender, job
from docker_kernel.guest.process_state import NAME as PROCESS
from docker_kernel.guest.process_state import ProcessState
from docker_kernel.guest.worker import ERROR, stream_of


def begin(path: str) -> None:
    """Restore the state of a job.

    Args:
        path: a file with the job's spec, and in `error` where to put the digest of what the last failed cell raised.

    Raises:
        SnapshotError: the state cannot be read.
    """
    from IPython import get_ipython

    with open(path) as file:
        spec = json.load(file)
    shell = get_ipython()
    manifest = snapshot.read_manifest(spec["state"], spec["manifest"])
    if manifest.get("sys_path"):
        sys.path[:] = manifest["sys_path"]
    stream = stream_of(spec)
    process = ProcessState(shell.user_ns, stream)
    with generators.noted() as found:
        restored, failed = snapshot.restore(spec["state"], manifest, shell.user_ns)
    sent = restored.pop(PROCESS, ({}, []))
    shell.user_ns.update(restored)
    failed += [*process.apply(sent[0]), *process.give_stream(found)]
    for one in failed:
        print("docker-kernel: %s is not here: %s" % (one.name, one.reason), file=sys.stderr)
    job._begin(spec, _sender(os.environ[EVENTS]), os.environ["DOCKER_KERNEL_OUTPUTS"], stream)
    atexit.register(job.flush)

    def keep_error(result: Any) -> None:
        error = result.error_in_exec or result.error_before_exec
        if error is not None:
            digest = snapshot.capture({ERROR: error}, shell.user_ns, spec["state"]).digest
            with open(spec["error"], "w") as file:
                file.write(digest)

    shell.events.register("post_run_cell", keep_error)
