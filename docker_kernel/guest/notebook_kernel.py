"""In the kernel that runs a dispatched notebook: it gets the job's state before the first cell, and keeps what a cell
raises for who sent the job."""

from __future__ import annotations

import atexit
import json
import os
from typing import Any

from docker_kernel.guest import snapshot
from docker_kernel.guest.in_job import EVENTS, _sender, job
from docker_kernel.guest.worker import ERROR, restore_state, stream_of


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
    restore_state(spec, manifest, shell)
    job._begin(spec, _sender(os.environ[EVENTS]), os.environ["DOCKER_KERNEL_OUTPUTS"], stream_of(spec))
    atexit.register(job.flush)

    def keep_error(result: Any) -> None:
        error = result.error_in_exec or result.error_before_exec
        if error is not None:
            digest = snapshot.capture({ERROR: error}, shell.user_ns, spec["state"]).digest
            with open(spec["error"], "w") as file:
                file.write(digest)

    shell.events.register("post_run_cell", keep_error)
