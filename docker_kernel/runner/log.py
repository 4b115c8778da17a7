"""The container's log: what cells print, and markers as jobs have them (guest/run_job.py).

On a terminal, progress is a line for a reader instead. The nonce is "-" where nobody gave one: then anything that the
notebook prints could pass for a marker, as far as a reader of the log can tell.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import Any

from docker_kernel.guest.run_job import Log

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
NO_NONCE = "-"


class RunLog(Log):
    """The log of one run.

    Args:
        nonce: of the reader who wants to tell our markers from the notebook's output; "" for none.
    """

    def __init__(self, nonce: str) -> None:
        super().__init__(nonce or NO_NONCE)
        self._terminal = not nonce and os.isatty(1)
        self._said: float | None = None
        self._lock = threading.RLock()

    def text(self, data: bytes) -> None:
        with self._lock:
            super().text(data)

    def marker(self, content: dict[str, Any]) -> None:
        with self._lock:
            super().marker(content)

    def cell(self, number: int, cells: int) -> None:
        """Tell that a cell begins.

        Args:
            number: from 0; `cells` when all are done.
        """
        if number == cells:
            value, text = 1.0, f"{cells} cells"
        else:
            value, text = number / cells, f"cell {number + 1} of {cells}"
            # What the notebook itself tells is more than a count of cells.
            value = value if self._said is None else self._said
        if self._terminal:
            self.say(f"\x1b[2m── {text}\x1b[0m")
        else:
            self.marker({"event": "progress", "value": value, "text": text})

    def bar(self, data: bytes) -> None:
        """A bar of tqdm's is of one cell: on a terminal it shows itself, in the markers it would mislead."""

    def tell(self, content: dict[str, Any]) -> None:
        """Write a marker that only programs read."""
        if not self._terminal:
            self.marker(content)

    def say(self, text: str) -> None:
        """Write a line of our own."""
        line = (text if text.endswith("\n") else text + "\n").encode(errors="replace")
        with self._lock:
            self.text(line if self.at_line_start else b"\n" + line)

    def event(self, content: dict[str, Any]) -> None:
        """Pass on what the notebook tells by `job.progress` and `job.log`."""
        if content["event"] == "progress":
            self._said = content["value"]
        if not self._terminal:
            self.marker(content)
        elif content["event"] == "progress":
            self.say(f"\x1b[2m── {content['value']:.0%} {content['text']}\x1b[0m")

    def traceback(self, lines: list[str]) -> None:
        """Write a cell's traceback, in colours on a terminal only."""
        text = "\n".join(lines)
        self.say(text if os.isatty(1) else ANSI.sub("", text))


def complain(text: str) -> None:
    """Say on standard error, in one sentence, why nothing was run."""
    print(f"docker-kernel: {text}", file=sys.stderr, flush=True)
