"""Where jobs run: one module a kind of target, all behind `base.Target`; kinds are entry points, plugins' too."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from docker_kernel.batch.record import JobRecord
from docker_kernel.batch.targets.base import InputMount, JobTask, Target
from docker_kernel.config import TargetConfig
from docker_kernel.errors import ConfigError

GROUP = "docker_kernel.targets"


def load(name: str, config: TargetConfig) -> Target:
    """A target of the user's config.

    Raises:
        ConfigError: nothing that is installed knows its kind, or what does cannot be imported.
    """
    kinds = {entry.name: entry for entry in entry_points(group=GROUP)}
    if config.kind not in kinds:
        raise ConfigError(
            f"[targets.{name}]: there is no kind {config.kind!r} of target: there are {', '.join(sorted(kinds))}, and "
            f"plugins can add more (entry-point group {GROUP})."
        )
    entry = kinds[config.kind]
    try:
        kind = entry.load()
    except Exception as error:
        raise ConfigError(
            f"[targets.{name}]: the kind {config.kind!r} cannot be used: {entry.value} fails with {error!r}."
        ) from None
    made: Target = kind(name, config)
    return made


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
