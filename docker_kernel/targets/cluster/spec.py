"""A job's spec, as a cluster keeps it for the job's task alone: one secret, with the job's own secrets in it."""

from __future__ import annotations

import json

from docker_kernel.config import format_size
from docker_kernel.errors import JobError
from docker_kernel.targets.base import JobTask


def task_spec(task: JobTask, rank: int, result: object, master_addr: str, master_port: int) -> dict[str, object]:
    """What the runner of one of a job's tasks reads.

    Args:
        result: where it puts what is too large for its log; only rank 0's is asked for.
    """
    spec = {**task.spec, "secrets": dict(task.secrets), "result": None if rank else result}
    if task.replicas > 1:
        spec |= {"rank": rank, "world_size": task.replicas, "master_addr": master_addr, "master_port": master_port}
    return spec


def encoded(spec: dict[str, object], most: int, place: str) -> bytes:
    """A spec as the bytes of a secret.

    Args:
        most: bytes that a secret may have there.
        place: what the cluster is called, with its article.

    Raises:
        JobError: it is larger.
    """
    data = json.dumps(spec).encode()
    if len(data) > most:
        raise JobError(
            f"The job's code, parameters and secrets have {format_size(len(data))}, and {place} takes "
            f"{format_size(most)} apart from the notebook's state: make variables of what is large, and use them."
        )
    return data
