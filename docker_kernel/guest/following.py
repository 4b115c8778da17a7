"""Shows a job in the cell that waits for it, and passes that cell's interrupts on."""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable

from docker_kernel.guest import history, widget_values
from docker_kernel.guest.interrupts import Interrupts, interrupted, is_shown
from docker_kernel.guest.job import JobCancelled, JobFailed, is_end

if TYPE_CHECKING:
    from docker_kernel.guest.job import Job

PRESSED: dict[str, Any] = {"event": "pressed"}
"""Among the job's events: an interrupt of the cell that waits."""


class Following:
    """One cell that waits for a job.

    Args:
        shows_value: as of `Job.follow`.
    """

    def __init__(self, job: Job, shows_value: bool) -> None:
        self._job = job
        self._shows_value = shows_value
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._views = widget_values.Views()
        self._value: dict[str, Any] | None = None
        """How the job showed the value that ends its cell, where that is not shown here yet."""
        self._began, self._ended = False, False
        """Whether the job's cell has."""
        self._presses, self._passed = 0, 0

    def follow(self) -> Any:
        """Wait for the end; returns the job's result, or raises what its cell raised."""
        # Raised wherever this is, an interrupt would lose an event, or leave half of a result assigned.
        with Interrupts(lambda: self._events.put(PRESSED)) as interrupts:
            self._wait()
            before = interrupts.count
            interrupts.tell = lambda: _be_patient(interrupts.count - before)
            value = self._result()
            if interrupts.count > self._passed:
                raise interrupted("The cell had ended before, and what it did is here.")
        return value

    def _wait(self) -> None:
        """Show what the job shows, until it has ended."""
        job = self._job
        job._session.follow(job)

        def listener(job: Job, event: dict[str, Any]) -> None:
            self._events.put(event)

        with job._delivery:
            past, over = list(job._past), job.over
            job._listeners.append(listener)
        try:
            for event in past:
                self._show(event)
            while not over:
                event = self._events.get()
                if event is PRESSED:
                    self._on_press()
                elif event["event"] == "refused":
                    raise event["error"]
                else:
                    self._show(event)
                    over = is_end(event)
        finally:
            job._unlisten(listener)

    def _result(self) -> Any:
        job, value = self._job, None
        try:
            value = job.result()
        except JobCancelled:
            if not self._presses:
                raise
            raise interrupted(self._what_was_stopped()) from None
        except KeyboardInterrupt as error:
            if is_shown(error):
                raise
            raise interrupted(
                "Its result was not brought home, and nothing of it is assigned: jobs[%r].result() brings it." % job.id
            ) from None
        finally:
            if value is None or isinstance(value, history.NotBrought):
                self._show_value()
            self._views.show(job._session.shell.display_pub)
        return value

    def _on_press(self) -> None:
        self._presses += 1
        if self._presses == 1 and self._ended:
            print("The cell has ended, and its result is on its way; another interrupt does without.", file=sys.stderr)
        elif self._presses == 1:
            self._passed = 1
            self._ask(self._job.interrupt)
        elif self._presses == 2:
            self._ask(self._job.cancel)
        elif self._presses > 2:
            # Whatever became of its end: nobody waits longer than they want to.
            raise interrupted("The job %s is not stopped yet: jobs[%r] has its state." % (self._job.id, self._job.id))

    def _ask(self, request: Callable[[], object]) -> None:
        """Ask the host side, which may be slow, while this goes on."""

        def ask() -> None:
            try:
                request()
            except JobFailed as error:
                self._events.put({"event": "refused", "error": error})

        threading.Thread(target=ask, name="docker-kernel-interrupt", daemon=True).start()

    def _what_was_stopped(self) -> str:
        job = self._job
        if job.record["kind"] == "notebook":
            text = "The notebook was stopped."
        elif self._began:
            text = "The cell was stopped, and nothing that it did came home."
        else:
            text = "The job was stopped before its cell began."
        return "%s jobs[%r].files has what it wrote." % (text, job.id) if job.record["partial"] else text

    def _show(self, event: dict[str, Any]) -> None:
        publisher = self._job._session.shell.display_pub
        kind = event.get("event")
        if kind == "output":
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        elif kind == "display":
            transient = self._views.note(event["data"], event["metadata"], event["transient"])
            publisher.publish(event["data"], event["metadata"], transient=transient, update=event["update"])
        elif kind == "result_display":
            self._show_value()
            self._value = event
            if self._shows_value:
                self._show_value()
        elif kind == "clear":
            publisher.clear_output(event["wait"])
        elif kind == "cell":
            self._began, self._ended = True, not event["running"]

    def _show_value(self) -> None:
        event, self._value = self._value, None
        if event is not None:
            transient = self._views.note(event["data"], event["metadata"], {})
            self._job._session.shell.display_pub.publish(event["data"], event["metadata"], transient=transient)


def _be_patient(presses: int) -> None:
    """The first interrupt of what brings a result home waits for that, another one ends it."""
    if presses > 1:
        raise KeyboardInterrupt
