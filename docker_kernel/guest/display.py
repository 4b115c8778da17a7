"""Jobs' live display in the cell that sent them, kept up to date after the cell has ended.

One mime bundle has it as widgets, as HTML and as text. Where a frontend renders widgets, they follow the job, also
after the page was loaded anew (if the notebook was saved with the output); at the job's end HTML takes their place, as
that needs no kernel to be read. Elsewhere the HTML and the text are updated as a whole.
"""

from __future__ import annotations

import html
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from docker_kernel.guest.job import FINAL, Job, JobFailed
from docker_kernel.guest.widget_values import VIEW as WIDGET

REFRESH_SECONDS = 0.2
BYTES_A_SECOND = 200_000
"""All displays together are refreshed this seldom, and send no more than this."""

PATIENCE_SECONDS = 1.5
"""How long a frontend has to show the widgets, before it gets updates of the HTML instead."""

MAX_OUTPUTS = 100
"""Rich outputs that a display shows; after them the last one is replaced."""

MAX_METRICS = 12
TEXT_ROWS = 20

NOTHING = {"text/plain": "", "text/html": ""}

COLOURS = {
    "succeeded": "var(--jp-success-color1, #2e7d32)",
    "failed": "var(--jp-error-color1, #c62828)",
    "lost": "var(--jp-error-color1, #c62828)",
    "cancelled": "var(--jp-ui-font-color2, #757575)",
}
UNDER_WAY = "var(--jp-brand-color1, #1565c0)"
FAINT = "color:var(--jp-ui-font-color2, #757575)"
FRAME = "line-height:1.5;border-left:3px solid %s;padding-left:.7em"
LOG = (
    "display:flex;flex-direction:column-reverse;max-height:18em;overflow:auto;margin-top:.3em;padding:.3em .6em;"
    "background:rgba(128,128,128,.1)"
)
PRE = (
    "flex:0 0 auto;overflow:visible;margin:0;padding:0;white-space:pre-wrap;"
    "overflow-wrap:anywhere;background:none;color:inherit;line-height:1.35;"
    "font-family:var(--jp-code-font-family, monospace);font-size:var(--jp-code-font-size, 13px)"
)
TABLE = "table-layout:fixed;width:100%;margin:0;border-collapse:collapse;font-size:var(--jp-ui-font-size1, 13px)"
CELL = "text-align:left;padding:.1em .6em .1em 0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)|[\x00-\x08\x0b-\x1f\x7f]")


class Refresher:
    """The one thread that brings displays up to date, so that neither the link's reader nor a cell waits for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted: dict[LiveDisplay, float] = {}
        self._thread: threading.Thread | None = None

    def want(self, display: LiveDisplay, after: float = 0) -> None:
        """Refresh a display as soon as its turn comes, but not within `after` seconds."""
        due = time.monotonic() + after
        with self._changed:
            self._wanted[display] = min(due, self._wanted.get(display, due))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="docker-kernel-display", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            display = self._next()
            try:
                size, again = display.refresh()
            except Exception as error:
                print("docker-kernel: a job's display failed: %r" % error, file=sys.__stderr__)
                size, again = 0, None
            if again is not None:
                self.want(display, again)
            time.sleep(max(REFRESH_SECONDS, size / BYTES_A_SECOND) if size else 0)

    def _next(self) -> LiveDisplay:
        with self._changed:
            while True:
                now = time.monotonic()
                # The one that has waited for longest.
                display, due = min(self._wanted.items(), key=lambda pair: pair[1], default=(None, 0.0))
                if display is not None and due <= now:
                    del self._wanted[display]
                    return display
                self._changed.wait(None if display is None else due - now)


_refresher = Refresher()


class Outputs:
    """A job's rich outputs as they are now: what it showed, updated and cleared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: list[dict[str, Any]] = []
        self._stale = False

    def receive(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "clear":
            with self._lock:
                self._stale = True
                if not event.get("wait"):
                    self._shown = []
        elif kind in ("display", "result_display"):
            # The job's own widgets ended with it.
            data = {name: value for name, value in event["data"].items() if name != WIDGET}
            name = (event.get("transient") or {}).get("display_id")
            new = {"data": data, "metadata": event.get("metadata") or {}, "name": name}
            with self._lock:
                if event.get("update"):
                    self._shown = [new if name and one["name"] == name else one for one in self._shown]
                    return
                shown = [] if self._stale else self._shown[: MAX_OUTPUTS - 1]
                self._stale, self._shown = False, [*shown, new]

    def begin_with(self, events: list[dict[str, Any]]) -> None:
        """Put what was shown before in front of what has come since."""
        before = Outputs()
        for event in events:
            before.receive(event)
        with self._lock:
            since = [one for one in self._shown if one not in before._shown]
            self._shown = [*before._shown, *since][:MAX_OUTPUTS]

    def clear(self) -> None:
        with self._lock:
            self._shown, self._stale = [], False

    def now(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._shown)


class LiveDisplay:
    """Shows jobs in the output of the cell that runs.

    Messages go out with that cell's header: frontends route them to its output by that and by the display's id. Where
    a frontend drops them (nbclient, once a cell is done), the first state stays.

    Args:
        revived: it is there already, in a page that a kernel before this one filled: its widgets are made anew.
    """

    def __init__(self, jobs: Sequence[Job], shell: Any, revived: bool = False) -> None:
        self.jobs = list(jobs)
        self._single = len(self.jobs) == 1
        self._revived = revived
        self.key = str(self.jobs[0].id if self._single else self.jobs[0].record["group"])
        """What `jobs[...]` gives the same by."""
        self._kernel = getattr(shell, "kernel", None)
        self._parent = dict(shell.parent_header) if hasattr(shell, "parent_header") else {}
        self._id = "docker-kernel-job-%s" % uuid.uuid4().hex
        self.outputs = Outputs()
        self._placed: list[dict[str, Any] | None] = []
        self.notes: dict[str, str] = {}
        """What jobs say about their progress."""
        self.message = ""
        """Why a button's wish was not granted."""
        self.busy = ""
        """What a button has asked for."""
        self._attempts = {job.id: job.record.get("attempt") for job in self.jobs}
        self._began = time.monotonic()
        self._closed = False
        self._offered = False
        self._panel: Any = None
        _replace_older(self, self._parent)
        self._panel = self._make_panel()
        self._published: dict[str, Any] = {}
        self._publish("display_data", self._bundle(all(job.over for job in jobs)))
        if self._single:
            self._subscribe(self.jobs[0])
        else:
            for job in self.jobs:
                self._listen(job)
        for job in self.jobs:
            job._session.follow(job)
        _refresher.want(self)

    @property
    def _failed(self) -> bool:
        return any(job.state in ("failed", "lost") for job in self.jobs)

    def _make_panel(self) -> Any:
        from docker_kernel.guest import widgets

        wanted = self._revived or self._failed or any(not job.over for job in self.jobs)
        if self._kernel is None or not wanted:
            return None
        try:
            return widgets.JobPanel(self) if self._single else widgets.SweepPanel(self)
        except widgets.NoWidgets:
            return None

    # Events: on the link's reader thread, which must not be held up

    def _listen(self, job: Job) -> list[dict[str, Any]]:
        """Hear of a job's events from now on; returns those before."""
        with job._delivery:
            job._listeners.append(self._on_event)
            return list(job._past)

    def _subscribe(self, job: Job) -> None:
        past = self._listen(job)
        if job._sent_here and len(past) < 1000:
            self.outputs.begin_with([event for event in past if event.get("event") != "state"])
        else:
            # Sent by an earlier kernel, or long ago: the host side knows what it has shown.
            self.in_background(lambda: self._catch_up(job))

    def _catch_up(self, job: Job) -> None:
        try:
            self.outputs.begin_with(job._events())
            if not job._text:
                before, since = job.logs(), "".join(job._text)
                overlap = before.rfind(since[:200]) if since else len(before)
                job._text[:] = [before[: overlap if overlap >= 0 else len(before)], since]
                job._size = sum(map(len, job._text))
        except JobFailed:
            pass  # what it showed is gone: there is its state

    def _on_event(self, job: Job, event: dict[str, Any]) -> None:
        try:
            attempt = job.record.get("attempt")
            if attempt != self._attempts.get(job.id):
                self._attempts[job.id] = attempt
                self.notes.pop(job.id, None)
                self.outputs.clear()
            if event.get("event") == "progress":
                self.notes[job.id] = str(event.get("text") or "")
            if self._single:
                self.outputs.receive(event)
            self.changed()
        except Exception as error:
            print("docker-kernel: a job's display failed: %r" % error, file=sys.__stderr__)

    def changed(self) -> None:
        """Have it refreshed soon."""
        if not self._closed:
            _refresher.want(self)

    def close(self) -> None:
        """Stop following: its output is gone."""
        self._closed = True
        if self._panel is not None:
            self._panel.close()  # at once: the next display may be of the same job, and have its ids
        for job in self.jobs:
            with job._delivery:
                if self._on_event in job._listeners:
                    job._listeners.remove(self._on_event)

    # Wishes: whatever asks the host side has a thread of its own

    def in_background(self, action: Callable[[], object]) -> None:
        """Do what waits for the host side; a failure becomes a sentence in the display."""

        def work() -> None:
            try:
                action()
            except Exception as error:
                self.message = str(error) or type(error).__name__
            self.busy = ""
            self.changed()

        threading.Thread(target=work, name="docker-kernel-display-wish", daemon=True).start()

    def _wish(self, busy: str, action: Callable[[Job], object], jobs: list[Job]) -> None:
        def each() -> None:
            errors = []
            for job in jobs:
                try:
                    action(job)
                except Exception as error:
                    errors.append(str(error) or type(error).__name__)
                self.changed()
            if errors:
                more = " (and so for %d more)" % (len(errors) - 1) if len(errors) > 1 else ""
                raise JobFailed(errors[0] + more)

        self.busy, self.message = busy, ""
        self.in_background(each)
        self.changed()

    def cancel(self) -> None:
        """Cancel all that are under way."""
        self._wish("cancel", Job.cancel, [job for job in reversed(self.jobs) if not job.over])

    def retry(self) -> None:
        """Run those that failed or were lost once more."""
        self._wish("retry", Job.retry, [job for job in self.jobs if job.state in ("failed", "lost")])

    # Showing: on the refresher's thread

    def refresh(self) -> tuple[int, float | None]:
        """Send what has changed; returns how many bytes, and in how many seconds to look again."""
        if self._closed:
            return 0, None
        over = all(job.over for job in self.jobs)
        bundle = self._bundle(over)
        size = 0
        panel = self._panel
        if panel is not None and not panel.refused:
            size += panel.update()
        waited = time.monotonic() - self._began
        shown = panel is not None and panel.seen and not panel.refused
        unsure = panel is not None and not panel.seen and not panel.refused
        if over or not (shown or (unsure and waited < PATIENCE_SECONDS)):
            size += self._publish("update_display_data", bundle)
            size += self._place(self.outputs.now())
            if over and self._failed and panel is not None and not panel.refused:
                self._offer_retry()
        elif WIDGET not in self._published:
            # It was over, and runs again.
            size += self._publish("update_display_data", bundle) + self._place([])
        if over:
            return size, None
        if unsure:
            # Each update makes the widgets anew where there are any.
            return size, max(PATIENCE_SECONDS - waited, 0.7)
        longest = max(job.seconds for job in self.jobs)
        return size, min(max(1.0, longest / 60), 30.0)

    def _bundle(self, over: bool) -> dict[str, Any]:
        if self._single:
            bundle: dict[str, Any] = dict(render(self.jobs[0], self.notes.get(self.jobs[0].id, "")))
        else:
            bundle = dict(render_sweep(self.jobs))
        if self._panel is not None and not self._panel.refused and not over:
            bundle[WIDGET] = self._panel.view()
        return bundle

    def _publish(self, kind: str, bundle: dict[str, Any]) -> int:
        if bundle == self._published:
            return 0
        self._published = bundle
        return self._send(kind, bundle, {}, self._id)

    def _place(self, outputs: list[dict[str, Any]]) -> int:
        """Show rich outputs below the display, each at a place of its own that can be used again."""
        size = 0
        for number in range(max(len(outputs), len(self._placed))):
            new = outputs[number] if number < len(outputs) else None
            kind = "update_display_data" if number < len(self._placed) else "display_data"
            if kind == "display_data":
                self._placed.append(new)
            elif self._placed[number] is new:
                continue
            self._placed[number] = new
            data, metadata = (NOTHING, {}) if new is None else (new["data"], new["metadata"])
            size += self._send(kind, data, metadata, "%s-%d" % (self._id, number))
        return size

    def _offer_retry(self) -> None:
        """Have a button below the HTML that took the widgets' place."""
        if not self._offered:
            self._offered = True
            self._send("display_data", {**NOTHING, WIDGET: self._panel.view_of_retry()}, {}, self._id + "-retry")

    def _send(self, kind: str, data: dict[str, Any], metadata: dict[str, Any], display_id: str) -> int:
        if self._kernel is None or self._revived:
            return 0  # for a cell's output that is not this kernel's, a frontend would drop it
        content = {"data": data, "metadata": metadata, "transient": {"display_id": display_id}}
        self._kernel.session.send(
            self._kernel.iopub_socket, kind, content, parent=self._parent, ident=("kernel.%s" % kind).encode()
        )
        return sum(len(str(value)) for value in data.values())


_by_cell: dict[str, list[tuple[Any, LiveDisplay]]] = {}


def _replace_older(display: LiveDisplay, parent: dict[str, Any]) -> None:
    """A cell that runs again has lost the displays of its last run: they end."""
    cell = (parent.get("metadata") or {}).get("cellId")
    run = (parent.get("header") or {}).get("msg_id")
    if not cell:
        return
    known = _by_cell.setdefault(str(cell), [])
    for one in [pair for pair in known if pair[0] != run]:
        known.remove(one)
        one[1].close()
    known.append((run, display))


# What there is to see. All that comes from a job is escaped.


def colour(state: str) -> str:
    return COLOURS.get(state, UNDER_WAY)


def clean(text: str) -> str:
    """A text without terminal escapes and control characters."""
    return _ESCAPES.sub("", text)


def safe(text: Any) -> str:
    return html.escape(clean(str(text)))


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return "%d s" % seconds if seconds >= 10 else "%.1f s" % seconds
    if seconds < 3600:
        return "%d min %02d s" % divmod(int(seconds), 60)
    return "%d h %02d min" % divmod(int(seconds) // 60, 60)


def seconds_left(job: Job) -> float | None:
    """As the job says, or as it follows from how far it came in the time since its start."""
    if job.remaining is not None or job.over:
        return job.remaining
    started = job.record.get("started")
    if not started or not job.progress or job.progress < 0.02:
        return None
    return max(0.0, time.time() - float(started)) * (1 - job.progress) / job.progress


def how_far(job: Job, note: str = "") -> str:
    """The job's progress in words."""
    parts = [] if job.progress is None else ["%d%%" % (100 * job.progress)]
    left = seconds_left(job)
    if left is not None:
        parts.append("%s left" % duration(round(left)).replace(".0", ""))
    return ", ".join([*parts, *filter(None, [clean(note)])])


def metrics_text(job: Job) -> str:
    pairs = list(dict(job.last_metrics).items())
    more = ", and %d more" % (len(pairs) - MAX_METRICS) if len(pairs) > MAX_METRICS else ""
    return clean(", ".join("%s = %.4g" % pair for pair in pairs[:MAX_METRICS])) + more


def params_text(job: Job) -> str:
    return ", ".join("%s=%r" % pair for pair in job.params.items())


def state_html(job: Job) -> str:
    return '<span style="color:%s;white-space:nowrap">&#9679; %s</span>' % (colour(job.state), safe(job.state))


def head_html(job: Job) -> str:
    """Who the job is, how it is, what it measured and why."""
    title = '<b>%s</b> <span style="%s">%s' % (safe(job.name or "Job"), FAINT, safe(job.id))
    where = "on %s</span>" % safe(job.target)
    parts = ["<div>%s %s &ensp;%s &ensp;%s</div>" % (title, where, state_html(job), duration(job.seconds))]
    if job.params:
        parts.append('<div style="%s">%s</div>' % (FAINT, safe(params_text(job))))
    if job.last_metrics:
        parts.append("<div>%s</div>" % safe(metrics_text(job)))
    if job.reason:
        parts.append(
            '<div style="color:%s">%s</div>' % (colour(job.state) if job.over else "inherit", safe(job.reason))
        )
    return "".join(parts)


def log_html(job: Job) -> str:
    """The tail of the job's output, the newest line in sight."""
    tail = clean(job.tail())
    return '<div style="%s"><pre style="%s">%s</pre></div>' % (LOG, PRE, html.escape(tail)) if tail else ""


def as_of(key: str) -> str:
    """What a reader is to know of a state that nobody brings up to date any more: of when it is, and how to get on."""
    return "As of %s. %s" % (time.strftime("%Y-%m-%d %H:%M %Z").strip(), how_to_get_on(key))


def how_to_get_on(key: str) -> str:
    return 'jobs["%s"] shows it as it is now.' % key


def render(job: Job, note: str = "") -> dict[str, str]:
    """A job as text and as HTML."""
    parts = ['<div style="%s">' % (FRAME % colour(job.state)), head_html(job)]
    words = "" if job.over else how_far(job, note)
    if words:
        bar = '<progress value="%.3f" max="1"></progress> ' % job.progress if job.progress is not None else ""
        parts.append("<div>%s%s</div>" % (bar, html.escape(words)))
    parts.append(log_html(job))
    hint = ""
    if job.state in ("failed", "lost"):
        hint = 'jobs["%s"].retry() runs it once more' % job.id
        parts.append('<div style="%s"><code>%s</code></div>' % (FAINT, safe(hint)))
    elif not job.over:
        hint = as_of(job.id)
        parts.append('<div style="%s">%s</div>' % (FAINT, safe(hint)))
    parts.append("</div>")
    text = [clean(repr(job)), metrics_text(job), clean(note) if not job.over else "", clean(job.tail()), hint]
    return {"text/plain": "\n".join(filter(None, text)), "text/html": "".join(parts)}


def counts(jobs: Sequence[Job]) -> dict[str, int]:
    """How many jobs are in which state, those under way first."""
    order = ("running", "starting", "queued", *FINAL)
    states = [job.state for job in jobs]
    return {state: states.count(state) for state in sorted(set(states), key=order.index)}


def sweep_progress(jobs: Sequence[Job]) -> float:
    return sum(1.0 if job.over else job.progress or 0.0 for job in jobs) / len(jobs)


def sweep_colour(jobs: Sequence[Job]) -> str:
    states = counts(jobs)
    if any(not job.over for job in jobs):
        return UNDER_WAY
    return colour("failed" if "failed" in states or "lost" in states else next(iter(states)))


def sweep_left(jobs: Sequence[Job]) -> str:
    """How long the rest of a sweep takes, if it goes on as it has."""
    done = sweep_progress(jobs)
    if not 0.05 <= done < 1:
        return "%d%%" % (100 * done)
    passed = time.time() - min(job.created for job in jobs)
    return "%d%%, %s left" % (100 * done, duration(round(passed / done * (1 - done))).replace(".0", ""))


def sweep_head_html(jobs: Sequence[Job]) -> str:
    states = [
        '<span style="color:%s;white-space:nowrap">&#9679; %d %s</span>' % (colour(state), number, safe(state))
        for state, number in counts(jobs).items()
    ]
    last = time.time() if any(not job.over for job in jobs) else max(job.ended or job.created for job in jobs)
    title = "<b>%s</b>" % safe(jobs[0].name or "Sweep")
    return '<div>%s <span style="%s">%d jobs on %s</span> &ensp;%s &ensp;%s</div>' % (
        title, FAINT, len(jobs), safe(jobs[0].target), " &ensp;".join(states),
        duration(last - min(job.created for job in jobs)),
    )  # fmt: skip


SWEEP_COLUMNS = (("job", 17), ("parameters", 24), ("state", 16), ("done", 8), ("metrics and reason", 35))


def sweep_row(job: Job) -> list[str]:
    """A job's cells, as HTML."""
    done = "%d%%" % (100 * job.progress) if job.progress is not None and not job.over else ""
    last = ", ".join(filter(None, [clean(job.reason), metrics_text(job)]))
    return [safe(job.id), safe(params_text(job)), state_html(job), done, html.escape(last)]


def table(columns: Sequence[tuple[str, int]], rows: Sequence[list[str]], head: bool = True) -> str:
    """An HTML table of cells that are HTML; columns have names and widths in per cent, so that tables below each other
    align."""
    parts = ['<table style="%s">' % TABLE]
    parts += ["<colgroup>", *('<col style="width:%d%%">' % width for _, width in columns), "</colgroup>"]
    if head:
        cells = "".join('<th style="%s">%s</th>' % (CELL, html.escape(name)) for name, _ in columns)
        parts.append("<thead><tr>%s</tr></thead>" % cells)
    for row in rows:
        cells = "".join('<td style="%s" title="%s">%s</td>' % (CELL, _title(cell), cell) for cell in row)
        parts.append("<tr>%s</tr>" % cells)
    return "".join([*parts, "</table>"])


def _title(cell: str) -> str:
    return re.sub("<[^>]*>", "", cell)


def render_sweep(jobs: Sequence[Job]) -> dict[str, str]:
    """A sweep's jobs as text and as an HTML table."""
    over = all(job.over for job in jobs)
    states = ", ".join("%d %s" % (number, state) for state, number in counts(jobs).items())
    lines = ["%d jobs on %s: %s" % (len(jobs), jobs[0].target, states), *map(repr, jobs[:TEXT_ROWS])]
    if len(jobs) > TEXT_ROWS:
        lines.append("and %d more" % (len(jobs) - TEXT_ROWS))
    bar = hint = ""
    if not over:
        lines.append(as_of(str(jobs[0].record["group"])))
        hint = '<div style="%s">%s</div>' % (FAINT, safe(lines[-1]))
        bar = '<div><progress value="%.3f" max="1"></progress> %s</div>' % (sweep_progress(jobs), sweep_left(jobs))
    body = table(SWEEP_COLUMNS, [sweep_row(job) for job in jobs])
    parts = (FRAME % sweep_colour(jobs), sweep_head_html(jobs), bar, body, hint)
    found = '<div style="%s">%s%s<div style="max-height:24em;overflow:auto">%s</div>%s</div>' % parts
    return {"text/plain": clean("\n".join(lines)), "text/html": found}


MAX_ROWS = 200
"""Jobs that a list shows."""

JOBS_COLUMNS = (("job", 16), ("name", 12), ("on", 9), ("state", 15), ("took", 9), ("parameters", 16), ("", 23))


def render_jobs(jobs: Sequence[Job]) -> dict[str, str]:
    """A list of jobs, in its order, as text and as an HTML table."""
    if not jobs:
        text = "This notebook has sent no job yet."
        return {"text/plain": text, "text/html": text}
    rows = []
    for job in jobs[:MAX_ROWS]:
        words = how_far(job) if not job.over else ""
        last = ", ".join(filter(None, [clean(job.reason), words, metrics_text(job)]))
        cells = [safe(job.id), safe(job.name), safe(job.target), state_html(job), duration(job.seconds)]
        rows.append([*cells, safe(params_text(job)), html.escape(last)])
    older = "There are older ones: jobs.to_frame() and jobs[...] have all." if len(jobs) > MAX_ROWS else ""
    found = '<div style="max-height:36em;overflow:auto">%s</div>%s' % (table(JOBS_COLUMNS, rows), older)
    text = clean("\n".join(map(repr, jobs[:MAX_ROWS])))
    return {"text/plain": "\n".join(filter(None, [text, older])), "text/html": found}
