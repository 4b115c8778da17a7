"""A notebook image's own main process, run as a job: what its log says becomes the job's own output and markers.

The image may be years older than this package, so all that is taken for granted is what docs/notebook-image.md
promises: its log, its exit codes, and the folder for results. The nonce of its markers is made here; the job's own
never reaches the image.
"""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from typing import Any

from docker_kernel.guest import work_process
from docker_kernel.guest.job_log import JobLog

NONCE = "DOCKER_KERNEL_NONCE"
"""The variable that tells the runner of an image with which nonce it writes its markers."""

PASSED_ON = frozenset({"progress", "metrics", "raised"})
"""The events of an image's log that are the job's, too. Its "end" is not: what it wrote has yet to be kept."""

PAUSE_SECONDS = 0.3
"""After which a line's end is passed on, which a marker may have been about to follow."""

KILL_SECONDS = 9
"""How long an image that is told to stop may take: it needs up to 8 s to write what it has."""


class EntryPoint:
    """The process, which is started at once.

    Args:
        spec: the job's: `command`, `cwd`, `env` and `secrets` over the container's own variables, and `files`, paths of
            new files to their content in base64.
    """

    kill_seconds = KILL_SECONDS

    def __init__(self, spec: dict[str, Any]) -> None:
        nonce = os.urandom(16).hex()
        self._log = JobLog(nonce)
        self.end: dict[str, Any] = {}
        """What the process itself said last: `oom`, `timeout`."""

        env = {**os.environ, **spec["env"], **(spec.get("secrets") or {}), NONCE: nonce}
        self.output, output = os.pipe()
        self.events, closed = os.pipe()
        os.close(closed)
        try:
            for path, content in spec["files"].items():
                with open(path, "wb") as file:
                    file.write(base64.b64decode(content))
            self.pid = work_process.start(spec["command"], env, output, cwd=spec["cwd"])
        finally:
            os.close(output)

    def give(self, spec: dict[str, Any]) -> None:
        """It has all that it needs from its command line."""

    def stop(self) -> None:
        """Tell it to end; it writes what it has."""
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send a signal to the process, a SIGKILL to all that it started in its session, too."""
        try:
            (os.killpg if number == signal.SIGKILL else os.kill)(self.pid, number)
        except ProcessLookupError:
            pass

    def parts(self, data: bytes) -> Iterator[bytes | dict[str, Any]]:
        """What a piece of its output has of text, and of markers that are the job's, in order."""
        for part in self._log.feed(data):
            if isinstance(part, bytes):
                yield part
            elif part.get("event") == "end":
                self.end = part
            elif part.get("event") in PASSED_ON:
                yield part

    def pause(self) -> bytes:
        """What was held back, when nothing has come for a moment."""
        return self._log.pause()

    def rest(self) -> bytes:
        """What was held back at the end."""
        return self._log.rest()
