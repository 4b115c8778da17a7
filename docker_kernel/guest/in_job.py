"""What code in a job can say: `from docker_kernel import job; job.progress(0.4, loss=0.12); job.log(step=3, loss=0.1)`.

The same code runs in a notebook image, whose runner passes it on, and in a notebook: there it says once that nobody
listens, and does nothing.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import socket
import sys
import threading
import time
from typing import Any, Callable

EVENTS = "DOCKER_KERNEL_EVENTS"
"""In a notebook image: the socket at which its runner takes events (runner/execute.py)."""

PARAMETERS = "DOCKER_KERNEL_PARAMETERS"
"""There, too: the run's parameters, as JSON."""

SECONDS_BETWEEN = 0.1
"""Progress that comes faster is not sent each time; metrics always are."""


class JobReporter:
    """The running job.

    Attributes:
        id, name: the job's; "" outside of a job.
        params: its parameters.
        outputs: the folder whose files come back with the job.
        rank, replicas: which of how many tasks this one is.
        stream: which stream of random numbers is this one's, of those of its dispatch: its number in the sweep and its
            rank, as far as there are several; (1,) is that of the second job of a sweep.
    """

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.params: dict[str, Any] = {}
        self.outputs = os.environ.get("DOCKER_KERNEL_OUTPUTS", ".")
        self.rank, self.replicas = 0, 1
        self.stream: tuple[int, ...] = ()
        self._send: Callable[[dict[str, Any]], None] | None = None
        self._told = False
        self._lock = threading.Lock()
        self._last = 0.0
        self._pending: dict[str, Any] | None = None
        if os.environ.get(EVENTS):
            self.params = json.loads(os.environ.get(PARAMETERS, "{}"))
            self._send = _sender(os.environ[EVENTS])
            atexit.register(self.flush)

    def __reduce__(self) -> Any:
        """It is the other side's own that a notebook's variable stands for there."""
        return _the_job, ()

    def progress(self, fraction: float, text: str = "", **metrics: float) -> None:
        """Say how far the job is.

        Args:
            fraction: from 0 to 1.
            text: a few words, such as "epoch 3 of 10".
            metrics: values measured now, as in `log`.
        """
        value = float(fraction)
        if not math.isfinite(value):
            raise ValueError("a job's progress is a number from 0 to 1, not %r" % fraction)
        event = {"event": "progress", "value": min(1.0, max(0.0, value)), "text": str(text)[:200]}
        with self._lock:
            now = time.monotonic()
            if now - self._last >= SECONDS_BETWEEN or value >= 1:
                self._last, self._pending = now, None
                self._emit(event)
            else:
                self._pending = event
        if metrics:
            self.log(**metrics)

    def log(self, step: float | None = None, **metrics: float) -> None:
        """Record values: what `.metrics` shows in the notebook, and `%jobs compare` between jobs."""
        values = {name: float(value) for name, value in metrics.items()}
        self._emit(
            {
                "event": "metrics",
                "step": None if step is None else float(step),
                "values": values,
                "time": time.time(),
            }
        )

    def flush(self) -> None:
        """Send the progress that was held back."""
        with self._lock:
            event, self._pending = self._pending, None
        if event is not None:
            self._emit(event)

    def _emit(self, event: dict[str, Any]) -> None:
        if self._send is not None:
            self._send(event)
        elif not self._told:
            self._told = True
            print("This is not a job: progress and metrics are shown when %%dispatch runs it.", file=sys.stderr)

    def _begin(
        self,
        spec: dict[str, Any],
        send: Callable[[dict[str, Any]], None],
        outputs: str,
        stream: tuple[int, ...] = (),
    ) -> None:
        """Be the job of a spec; called once, by the worker."""
        self.id, self.name, self.params = spec["job"], spec.get("name", ""), dict(spec.get("params") or {})
        self.rank, self.replicas = int(spec.get("rank", 0)), int(spec.get("world_size", 1))
        self.outputs, self._send, self.stream = outputs, send, stream


def _sender(path: str) -> Callable[[dict[str, Any]], None]:
    """What sends events to a socket; a runner that is gone already does not matter to the notebook."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def send(event: dict[str, Any]) -> None:
        try:
            sock.sendto(json.dumps(event).encode(), path)
        except OSError:
            pass

    return send


def _the_job() -> JobReporter:
    return job


job = JobReporter()
