"""A live display's widgets, where the kernel has ipywidgets 8: a bar, texts and buttons.

They are changed by the displays' refresher only, and only where something is new; buttons just tell the display.
"""

from __future__ import annotations

import html
import importlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from docker_kernel.guest import display as shown

if TYPE_CHECKING:
    from docker_kernel.guest.display import LiveDisplay

ROWS_A_PART = 10
"""Rows of a sweep's table that are sent together."""


_MARK = "docker-kernel-job"
_AWAY = "docker-kernel-away"

AWAY = (
    "<style>"
    ".{mark}.{dead}::before, .{mark} .{dead}::before {{content: none !important}}"
    ".{mark}.{dead} button, .{away} {{display: none !important}}"
    ".{dead}.{away}, .{dead} .{away} {{display: block !important}}"
    "</style>"
    '<div class="{away}" style="line-height:1.5;{faint}">%s</div>'
).format(mark=_MARK, away=_AWAY, dead="jupyter-widgets-disconnected", faint=shown.FAINT)
"""What is to be seen of a panel whose kernel has gone: its last state, and how to get on, in place of a broken chain on
each widget, and of buttons that nobody hears."""


class NoWidgets(Exception):
    """The kernel has no ipywidgets, or they do not work."""


def _library() -> Any:
    try:
        library = importlib.import_module("ipywidgets")
        new_enough = int(library.__version__.split(".")[0]) >= 8
    except Exception:
        raise NoWidgets from None
    if not new_enough:
        raise NoWidgets
    return library


_live: set[str] = set()
"""Ids of the panels that there are."""


def model_id(key: str) -> str:
    """The id of what is displayed, by which a page that was saved finds it again in any kernel of the notebook."""
    return "docker-kernel-%s" % key


class Panel:
    """The widgets of one display.

    Attributes:
        seen: a frontend has rendered them.
        refused: a frontend does not know widgets, and has told so.
    """

    def __init__(self, display: LiveDisplay) -> None:
        self._display = display
        self._library = library = _library()
        self._style = library.HTML().style
        self._plain = library.Layout(margin="0", flex="0 0 auto")
        self.seen = False
        self.refused = False
        self._size = 0
        self.head = self._html()
        self.bar = library.FloatProgress(
            min=0, max=1, layout=library.Layout(width="240px", height="18px", margin="4px 8px 4px 0")
        )
        self.left = self._html()
        self.cancel = self._button("Cancel", self._display.cancel)
        self.retry = self._button("Retry", self._display.retry)
        self.message = self._html()
        self.under_way = library.HBox(
            [self.bar, self.left, self.cancel], layout=library.Layout(align_items="center", margin="0")
        )
        self._id = next(one for one in self._ids() if one not in _live)
        _live.add(self._id)
        self.foot = library.HBox(
            [self.retry, self.message],
            layout=library.Layout(align_items="center", margin="4px 0 0 -8px"),
            model_id=self._id + "-foot",
        )
        self.root: Any = None

    def _ids(self) -> Iterator[str]:
        first = model_id(self._display.key)
        return itertools.chain([first], ("%s-%d" % (first, number) for number in itertools.count(2)))

    def _html(self) -> Any:
        return self._library.HTML(layout=self._plain, style=self._style)

    def _button(self, text: str, action: Any) -> Any:
        layout = self._library.Layout(width="auto", height="26px", margin="0 8px 0 8px", flex="0 0 auto")
        button = self._library.Button(description=text, layout=layout)
        button.on_click(lambda _: action())
        return button

    def _make_root(self, children: list[Any]) -> None:
        layout = self._library.Layout(border_left="3px solid %s" % shown.UNDER_WAY, padding="0 0 0 8px", margin="0")
        away = self._html()
        away.value = AWAY % html.escape(
            "The kernel that showed this has gone. %s So does this page when it is loaded anew."
            % shown.how_to_get_on(self._display.key)
        )
        # Zero asks the frontend to count the views: that is how one knows that there are any.
        self.root = self._library.VBox([*children, away], layout=layout, _view_count=0, model_id=self._id)
        self.root.add_class(_MARK)
        self.root.observe(self._on_views, names="_view_count")
        self.root.comm.on_close(self._on_close)
        self.update()

    def _on_views(self, change: Any) -> None:
        if change["new"]:
            self.seen = True
            self._display.changed()

    def _on_close(self, _: Any) -> None:
        if self.root is not None:
            self.refused = True
            self._display.changed()

    def view(self) -> dict[str, Any]:
        return _view(self.root)

    def view_of_retry(self) -> dict[str, Any]:
        return _view(self.foot)

    def close(self) -> None:
        """Take the widgets away."""
        root, self.root, self.refused = self.root, None, True
        _live.discard(self._id)
        pending = [] if root is None else [root]
        while pending:
            widget = pending.pop()
            pending += getattr(widget, "children", ())
            widget.close()

    def update(self) -> int:
        """Send what has changed; returns how much that is."""
        self._size = 0
        if self.root is not None:
            self._update()
        return self._size

    def _update(self) -> None:
        raise NotImplementedError

    def _set(self, widget: Any, **values: Any) -> None:
        changed = {name: value for name, value in values.items() if getattr(widget, name) != value}
        if changed:
            with widget.hold_sync():
                for name, value in changed.items():
                    setattr(widget, name, value)
            self._size += sum(len(str(value)) for value in changed.values()) + 200

    def _show(self, widget: Any, visible: bool) -> None:
        self._set(widget.layout, display=None if visible else "none")

    def _update_buttons(self, over: bool, failed: bool) -> None:
        busy = self._display.busy
        self._show(self.under_way, not over)
        self._set(self.cancel, disabled=bool(busy), description="Cancelling…" if busy == "cancel" else self.cancel_text)
        self._set(self.retry, disabled=bool(busy), description="Retrying…" if busy == "retry" else self.retry_text)
        self._show(self.foot, failed or bool(self._display.message))
        self._show(self.retry, failed)
        text = html.escape(shown.clean(self._display.message))
        self._set(self.message, value=text and '<span style="color:%s">%s</span>' % (shown.colour("failed"), text))

    cancel_text = "Cancel"
    retry_text = "Retry"


class JobPanel(Panel):
    """One job: what it is, its bar, the tail of its log, its rich outputs."""

    def __init__(self, display: LiveDisplay) -> None:
        super().__init__(display)
        self.log = self._html()
        self._outputs: Any = None
        self._placed: list[Any] = []
        self._make_root([self.head, self.under_way, self.log, self.foot])

    def _update(self) -> None:
        job = self._display.jobs[0]
        self._set(self.head, value='<div style="line-height:1.5">%s</div>' % shown.head_html(job))
        self._show(self.bar, job.progress is not None)
        self._set(self.bar, value=job.progress or 0.0)
        note = self._display.notes.get(job.id, "")
        self._set(self.left, value=html.escape(shown.how_far(job, note)))
        self._set(self.log, value=shown.log_html(job))
        self._set(self.root.layout, border_left="3px solid %s" % shown.colour(job.state))
        self._update_buttons(job.over, job.state in ("failed", "lost"))
        self._update_outputs()

    def _update_outputs(self) -> None:
        new = self._display.outputs.now()
        if len(new) == len(self._placed) and all(one is two for one, two in zip(new, self._placed)):
            return
        self._placed = new
        if self._outputs is None:
            self._outputs = self._library.Output()
            self._set(self.root, children=(*self.root.children, self._outputs))
        found = ({"output_type": "display_data", "data": one["data"], "metadata": one["metadata"]} for one in new)
        self._set(self._outputs, outputs=tuple(found))


class SweepPanel(Panel):
    """Many jobs: counts, a bar, and a table in parts, so that few rows travel when one changes."""

    cancel_text = "Cancel all"
    retry_text = "Retry failed"

    def __init__(self, display: LiveDisplay) -> None:
        super().__init__(display)
        library = self._library
        heading = self._html()
        heading.value = '<div style="line-height:1.5">%s</div>' % shown.table(shown.SWEEP_COLUMNS, [])
        self._parts = [self._html() for _ in range(0, len(display.jobs), ROWS_A_PART)]
        layout = library.Layout(max_height="24em", overflow="auto", display="block", margin="0")
        rows = library.Box([heading, *self._parts], layout=layout)
        self._make_root([self.head, self.under_way, rows, self.foot])

    def _update(self) -> None:
        jobs = self._display.jobs
        over = all(job.over for job in jobs)
        failed = any(job.state in ("failed", "lost") for job in jobs)
        self._set(self.head, value='<div style="line-height:1.5">%s</div>' % shown.sweep_head_html(jobs))
        self._set(self.bar, value=round(shown.sweep_progress(jobs), 3))
        self._set(self.left, value=shown.sweep_left(jobs))
        for number, part in enumerate(self._parts):
            rows = [shown.sweep_row(job) for job in jobs[number * ROWS_A_PART : (number + 1) * ROWS_A_PART]]
            table = shown.table(shown.SWEEP_COLUMNS, rows, head=False)
            self._set(part, value='<div style="line-height:1.5">%s</div>' % table)
        self._set(self.root.layout, border_left="3px solid %s" % shown.sweep_colour(jobs))
        self._update_buttons(over, failed)


def has_panel(key: str) -> bool:
    """Whether this kernel has a panel that a saved page finds by what it shows."""
    return model_id(key) in _live


def _view(widget: Any) -> dict[str, Any]:
    return {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
