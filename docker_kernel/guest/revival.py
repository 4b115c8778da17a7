"""Makes the widgets of jobs' displays anew that kernels before this one made, when a page wants to show them.

A page that is loaded asks its kernel for the widgets that its saved outputs name. Without an answer it says that
something is missing, in place of a job that runs on.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeout
from typing import Any

from docker_kernel.guest.job import Job, JobFailed

MAX_DISPLAYS = 20
"""Of the notebook's latest dispatches."""

MAX_JOBS = 500
"""Of the notebook's latest, among which they are."""

WAIT_SECONDS = 3
"""How long the host side may take to name them, while the kernel's cells wait."""

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
        from docker_kernel.guest.display import LiveDisplay

        answer: Future[list[list[Job]]] = Future()

        def ask() -> None:
            try:
                answer.set_result(_latest())
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="docker-kernel-revival", daemon=True).start()
        try:
            found = answer.result(WAIT_SECONDS)
        except (FuturesTimeout, JobFailed):
            self._done = False  # the next page may have more luck; cells do not wait any longer
            return
        for jobs in found:
            if not widgets.has_panel(jobs[0].id if len(jobs) == 1 else jobs[0].record["group"]):
                LiveDisplay(jobs, self._kernel.shell, revived=True)


def _latest() -> list[list[Job]]:
    """The jobs of the notebook's latest dispatches."""
    from docker_kernel.guest.api import session

    found: dict[str, list[Job]] = {}
    for job in itertools.islice(session().newest(), MAX_JOBS):
        group = job.record["group"]
        if job.record["live"] or group in found:
            continue
        if len(found) == MAX_DISPLAYS:
            break
        sent = session().together(job)
        found[group] = [sent] if isinstance(sent, Job) else list(sent)
    return list(found.values())
