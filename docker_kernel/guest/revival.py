"""Makes the widgets of jobs' displays anew that kernels before this one made, when a page wants to show them.

A page that is loaded asks its kernel for the widgets that its saved outputs name. Without an answer it says that
something is missing, in place of a job that runs on.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from typing import Any

from docker_kernel.guest.job import Job, JobFailed

MAX_DISPLAYS = 20
"""Of the notebook's latest dispatches."""

CONTROL = "jupyter.widget.control"
"""What pages ask for all widgets, where the kernel has imported ipywidgets."""


class Revival:
    """Waits for the first page that asks a kernel for its widgets."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._done = False
        if kernel is None:
            return
        for kind in ("comm_info_request", "comm_open"):
            kernel.shell_handlers[kind] = self._before(kind, kernel.shell_handlers[kind])

    def _before(self, kind: str, handler: Any) -> Any:
        def handle(stream: Any, ident: Any, message: dict[str, Any]) -> Any:
            if not self._done and (kind != "comm_open" or message["content"].get("target_name") == CONTROL):
                self._done = True
                try:
                    self._revive()
                except Exception as error:  # which must not cost the page its other widgets
                    print("docker-kernel: jobs' displays are not made anew: %r" % error, file=sys.__stderr__)
            return handler(stream, ident, message)

        return handle

    def _revive(self) -> None:
        if importlib.util.find_spec("ipywidgets") is None:
            return
        from docker_kernel.guest import widgets
        from docker_kernel.guest.api import session
        from docker_kernel.guest.display import LiveDisplay

        found: dict[str, Any] = {}
        try:
            for job in itertools.islice(session().newest(), 500):
                group = job.record["group"]
                if not job.record["live"] and group not in found:
                    if len(found) == MAX_DISPLAYS:
                        break
                    found[group] = session().together(job)
        except JobFailed:
            return  # nobody has them
        for group, sent in found.items():
            jobs = [sent] if isinstance(sent, Job) else list(sent)
            key = jobs[0].id if len(jobs) == 1 else group
            if not widgets.has_panel(key):
                LiveDisplay(jobs, self._kernel.shell, revived=True)
