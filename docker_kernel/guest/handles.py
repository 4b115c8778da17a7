"""Jobs as values: a handle that a variable holds travels by the job's id, and is the same job when it comes home.

In another job it says what was known of its job when the variables were sent. It can ask for nothing there.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

NAME = "__docker_kernel_jobs__"
"""Under which name travels what is known of the jobs that variables hold: apart from these, as it changes by itself."""

LASTING = ("id", "name", "target", "kind", "params", "created", "live", "swept")
"""What does not change in a job's record."""

_noted: list[dict[str, Any]] = []


@contextlib.contextmanager
def noted() -> Iterator[Known]:
    """Collect the jobs that are pickled meanwhile."""
    found: dict[str, Any] = {}
    _noted.append(found)
    try:
        yield Known(found)
    finally:
        _noted.pop()


class Known:
    """What is known of the jobs that were pickled until it is pickled itself."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def __reduce__(self) -> Any:
        return dict, ([(name, _record(job)) for name, job in sorted(self._found.items())],)


def _record(job: Any) -> dict[str, Any]:
    now = {"progress": job.progress, "remaining": job.remaining, "metrics": dict(job.last_metrics)}
    # What is the job's own would link these to the variables that hold it.
    return copy.deepcopy({**job.record, **now})


def reduce(job: Any) -> Any:
    """How a job is pickled."""
    if _noted:
        _noted[-1][job.id] = job
    return _job, ({name: job.record[name] for name in LASTING if name in job.record},)


def _job(record: dict[str, Any]) -> Any:
    from docker_kernel.guest import api

    return (api.own_session() or _away).handle(record)


def tell(records: Iterable[dict[str, Any]]) -> None:
    """Let this job's handles know what was known of their jobs."""
    for record in records:
        _away.handle(record)._take(record)


class _Away:
    """In a job: stands for the session of the kernel whose jobs these are."""

    shell = None

    def __init__(self) -> None:
        self._jobs: dict[str, Any] = {}

    def handle(self, record: dict[str, Any]) -> Any:
        from docker_kernel.guest.job import Job

        if record["id"] not in self._jobs:
            self._jobs[record["id"]] = Job(self, {"state": "queued", "reason": "", "ended": None, **record})  # type: ignore[arg-type]
        return self._jobs[record["id"]]

    def request(self, method: str, params: dict[str, Any]) -> Any:
        from docker_kernel.guest.job import JobFailed

        raise JobFailed(
            "The job %s is the notebook's, and no job can ask for another: take its result there, as in "
            "`value = job.result()`, and let the cell use that." % params["job"]
        )

    def follow(self, job: Any) -> None:
        self.request("job.get", {"job": job.id})

    def kept_secrets(self, job: Any) -> dict[str, str]:
        return {}


_away = _Away()
