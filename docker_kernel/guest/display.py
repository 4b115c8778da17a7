"""Jobs' live display in the cell that sent them, kept up to date after the cell has ended."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Sequence
from typing import Any

from docker_kernel.guest.job import FINAL, Job

REFRESH_SECONDS = 0.2
COLOURS = {"succeeded": "#2e7d32", "failed": "#c62828", "lost": "#c62828", "cancelled": "#616161"}


class LiveDisplay:
    """Shows jobs as text and HTML.

    Messages go out with the sending cell's own header: frontends route them to its output by that and by the display's
    id. Where a frontend drops them (nbclient, once a cell is done), the first state stays.
    """

    def __init__(self, jobs: Sequence[Job], shell: Any) -> None:
        self._jobs = list(jobs)
        self._kernel = getattr(shell, "kernel", None)
        self._parent = dict(shell.parent_header) if hasattr(shell, "parent_header") else {}
        self._id = "docker-kernel-job-%s" % jobs[0].id
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._last = 0.0
        self._publish("display_data")
        for job in jobs:
            job._listeners.append(self._on_event)
            job._session.follow(job)
        if all(job.over for job in jobs):
            self._publish("update_display_data")

    def _on_event(self, job: Job, event: dict[str, Any]) -> None:
        if event["event"] in ("display", "result_display") and len(self._jobs) == 1:
            self._send(
                "display_data", {"data": event["data"], "metadata": event.get("metadata") or {}, "transient": {}}
            )
        with self._lock:
            wait = self._last + REFRESH_SECONDS - time.monotonic()
            if wait > 0 and not all(one.over for one in self._jobs):
                if self._timer is None:
                    self._timer = threading.Timer(wait, self._late)
                    self._timer.daemon = True
                    self._timer.start()
                return
            self._last = time.monotonic()
        self._publish("update_display_data")

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._last = time.monotonic()
        self._publish("update_display_data")

    def _publish(self, kind: str) -> None:
        data = render(self._jobs[0]) if len(self._jobs) == 1 else render_sweep(self._jobs)
        self._send(kind, {"data": data, "metadata": {}, "transient": {"display_id": self._id}})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        if self._kernel is not None:
            self._kernel.session.send(
                self._kernel.iopub_socket, kind, content, parent=self._parent, ident=("kernel.%s" % kind).encode()
            )


def render(job: Job) -> dict[str, str]:
    """A job as text and as HTML."""
    tail = job.tail()
    colour = COLOURS.get(job.state, "#1565c0")
    parts = [
        '<div style="border-left:3px solid %s;padding-left:.6em">' % colour,
        "<b>Job %s</b>%s on %s &middot; " % (job.id, html.escape(job.name and " " + job.name), html.escape(job.target)),
        '<span style="color:%s">%s</span> &middot; %.1f s' % (colour, job.state, job.seconds),
    ]
    if job.progress is not None and job.state == "running":
        left = "" if job.remaining is None else ", %d s left" % job.remaining
        parts.append('<br><progress value="%.3f" max="1"></progress> %d%%%s' % (job.progress, 100 * job.progress, left))
    if job.last_metrics:
        parts.append("<br>%s" % html.escape(metrics_text(job)))
    if job.reason:
        parts.append("<br>%s" % html.escape(job.reason))
    if tail:
        parts.append('<pre style="margin:.3em 0;max-height:20em;overflow:auto">%s</pre>' % html.escape(tail))
    parts.append("</div>")
    text = [repr(job), metrics_text(job), tail]
    return {"text/plain": "\n".join(filter(None, text)), "text/html": "".join(parts)}


def metrics_text(job: Job) -> str:
    return ", ".join("%s = %.4g" % pair for pair in job.last_metrics.items())


def render_sweep(jobs: Sequence[Job]) -> dict[str, str]:
    """A sweep's jobs as text and as an HTML table."""
    counts = {state: sum(job.state == state for job in jobs) for state in dict.fromkeys(job.state for job in jobs)}
    over = sum(job.state in FINAL for job in jobs)
    headline = "%d jobs on %s: %s" % (
        len(jobs),
        jobs[0].target,
        ", ".join("%d %s" % (number, state) for state, number in counts.items()),
    )
    rows = []
    for job in jobs:
        cells = [
            job.id,
            ", ".join("%s=%r" % pair for pair in job.params.items()),
            job.state,
            metrics_text(job),
            job.reason,
        ]
        colour = COLOURS.get(job.state, "#1565c0")
        style = ' style="text-align:left;color:%s"' % colour
        rows.append("<tr>%s</tr>" % "".join("<td%s>%s</td>" % (style, html.escape(cell)) for cell in cells))
    table = (
        '<div><b>%s</b><br><progress value="%d" max="%d"></progress><div style="max-height:20em;overflow:auto"><table>'
        "<tr><th>job</th><th>parameters</th><th>state</th><th>metrics</th><th></th></tr>%s</table></div></div>"
    ) % (html.escape(headline), over, len(jobs), "".join(rows))
    return {"text/plain": "\n".join([headline, *map(repr, jobs)]), "text/html": table}
