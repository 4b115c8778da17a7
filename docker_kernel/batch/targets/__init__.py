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


def kept_task(record: JobRecord, kept: dict[str, Any], secrets: dict[str, str]) -> JobTask:
    """A job's task, from what its folder keeps of it (`task.json`)."""
    return JobTask(
        job_id=record.id,
        name=record.name,
        spec=kept["spec"],
        secrets={name: secrets[name] for name in kept["secrets"]},
        memory=record.memory,
        cpus=record.cpus,
        gpus=record.gpus,
        replicas=record.replicas,
        inputs=[InputMount(*one) for one in kept["inputs"]],
    )
