"""What is kept of a job's task, so that another process can start it: its own part, and its dispatch's."""

from __future__ import annotations

from typing import Any

from docker_kernel.batch.record import JobRecord
from docker_kernel.targets.base import InputMount, JobTask

OWN = ("job", "params", "stream")
"""What of its spec a job's own folder keeps. Its nonce is its record's, its source the ledger's."""


def own_part(task: JobTask) -> dict[str, Any]:
    """What a job's folder keeps of its task (`task.json`)."""
    return {"spec": {name: task.spec[name] for name in OWN if name in task.spec}}


def shared_part(task: JobTask) -> dict[str, Any]:
    """What their dispatch's folder keeps of its jobs' tasks (`task.json`), which differ in nothing else."""
    return {
        "spec": {name: value for name, value in task.spec.items() if name not in (*OWN, "nonce", "source")},
        "inputs": [[one.name, one.source, one.volume, one.path] for one in task.inputs],
        "secrets": sorted(task.secrets),
    }


def kept_parts(shared: dict[str, Any], own: dict[str, Any] | None) -> dict[str, Any] | None:
    """Both together, None if something lacks. A job of the versions that kept no shared part has all in its own."""
    if own is None:
        return None
    kept = {**shared, **own, "spec": {**shared["spec"], **own["spec"]}}
    return kept if "inputs" in kept and "source" in kept["spec"] else None


def attempted_task(record: JobRecord) -> JobTask:
    """What of a job's task is always known: enough to find the attempt that its record is at."""
    return JobTask(record.id, record.name, {"nonce": record.nonce}, replicas=record.replicas, attempt=record.attempt)


def kept_task(record: JobRecord, kept: dict[str, Any], secrets: dict[str, str]) -> JobTask:
    """A job's task, from what is kept of it, for the attempt that its record is at."""
    return JobTask(
        job_id=record.id,
        name=record.name,
        spec={**kept["spec"], "nonce": record.nonce},
        secrets={name: secrets[name] for name in kept["secrets"]},
        memory=record.memory,
        cpus=record.cpus,
        gpus=record.gpus,
        replicas=record.replicas,
        inputs=[InputMount(*one) for one in kept["inputs"]],
        attempt=record.attempt,
    )
