"""Jobs as a table, and compared: a row a run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from docker_kernel.guest.job import Job, JobFailed


def rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What a table says of each job: parameters as `param.NAME`, last metrics as `metric.NAME`, times in seconds."""
    found = []
    for job in jobs:
        record = job.record
        cost = record.get("cost") or {}
        started = record.get("started")
        row = {
            "job": job.id,
            "name": job.name,
            "target": job.target,
            "state": job.state,
            "reason": job.reason,
            **{"param.%s" % name: value for name, value in job.params.items()},
            **{"metric.%s" % name: value for name, value in job.last_metrics.items()},
            "created": record["created"],
            "waited": None if started is None else started - record["created"],
            "ran": None if started is None or record["ended"] is None else record["ended"] - started,
            "cpu_seconds": cost.get("cpu_seconds"),
            "peak_memory": cost.get("peak_memory"),
            "attempt": record["attempt"],
            "error": record["error"],
            "code": record["code"],
            "image": record["image"],
            "commit": record["commit"],
        }
        found.append(row)
    return found


def to_frame(jobs: Sequence[Job]) -> Any:
    """A pandas DataFrame with a row a job, indexed by the job's id.

    Raises:
        JobFailed: the kernel has no pandas.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise JobFailed("This kernel has no pandas, which the table is made with: %pip install pandas") from None
    frame = pandas.DataFrame(rows(jobs))
    if not len(frame):
        return frame
    frame["created"] = pandas.to_datetime(frame["created"], unit="s", utc=True)
    return frame.set_index("job")


def compare(jobs: Sequence[Job], name: str, metric: str | None = None) -> Any:
    """A table of the runs of a name, with what differs between them; and a plot of their metrics where there is
    matplotlib.

    Args:
        jobs: the runs, in the order they were sent.
        metric: plot this one only.

    Raises:
        JobFailed: there is no run of that name, or none with that metric.
    """
    if not jobs:
        raise JobFailed("No job is called %r: give runs a name with --name, and list them with %%jobs." % name)
    frame = to_frame(jobs)
    same = [
        column
        for column in frame.columns
        if column not in ("state", "ran")
        and not column.startswith("metric.")
        and frame[column].astype(str).nunique() < 2
    ]
    points = {job: job.metrics for job in jobs}
    known = sorted({key for found in points.values() for point in found for key in point} - {"step", "time"})
    if metric is not None and metric not in known:
        raise JobFailed("No run of %r logged %r; there are %s." % (name, metric, ", ".join(known) or "none"))
    _plot(points, [metric] if metric else known)
    return frame.drop(columns=same)


def _plot(points: dict[Job, list[dict[str, Any]]], metrics: list[str]) -> None:
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return
    if not metrics:
        return
    figure, axes = pyplot.subplots(1, len(metrics), figsize=(5 * len(metrics), 3.5), squeeze=False)
    for axis, metric in zip(axes[0], metrics):
        for job, found in points.items():
            curve = [(point["step"], point[metric]) for point in found if metric in point]
            steps = [number if step is None else step for number, (step, _) in enumerate(curve)]
            label = ", ".join("%s=%r" % pair for pair in job.params.items()) or job.id
            axis.plot(steps, [value for _, value in curve], marker="." if len(curve) > 1 else "o", label=label)
        axis.set_title(metric)
        axis.set_xlabel("step")
    axes[0][-1].legend(fontsize="small")
    figure.tight_layout()
    pyplot.show()
