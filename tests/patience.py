"""How long tests wait for what takes as long as the machine is slow, before they call it a failure.

Nobody waits longer for that: a limit is reached only by what never happens. Limits are written for an idle machine on
which `import ipykernel` takes a third of a second, and multiplied by how much slower this one is, and by how busy a run
in several workers makes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FACTOR = "DOCKER_KERNEL_TEST_PATIENCE"
"""Names the variable in which one process of a run tells the others what it measured."""

IDLE_SECONDS = 0.35
"""Of an interpreter that starts and imports what a kernel does, on the machine that limits are written for."""

BUSY = 3.0
"""How much longer everything may take while other tests, or whatever else, run beside."""

PAUSE = 0.05
LONGEST_PAUSE = 0.25
LOOKS = 20
"""What takes long is looked at less and less often, so many times in what it has taken so far: most looks ask an
engine, which has other things to do."""


def measure() -> float:
    """How many times longer than on an idle, quick machine things may take on this one; at least BUSY."""
    best = float("inf")
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import ipykernel.kernelapp"], check=True)
        best = min(best, time.monotonic() - began)
    return BUSY * max(1.0, best / IDLE_SECONDS)


def factor() -> float:
    """What limits are multiplied with, measured once for a run."""
    if FACTOR not in os.environ:
        os.environ[FACTOR] = f"{measure():.2f}"
    return float(os.environ[FACTOR])


def patient(seconds: float) -> float:
    """A limit in seconds for this machine.

    Args:
        seconds: what would be ample on an idle, quick machine.
    """
    return seconds * factor()


def until(condition: Callable[[], T], seconds: float = 20, what: str = "") -> T:
    """Wait until a condition holds; returns what it gives then.

    Args:
        seconds: as of `patient`.
        what: is waited for, for the failure's text.

    Raises:
        AssertionError: it did not come to hold in that time.
    """
    began, limit = time.monotonic(), patient(seconds)
    while not (found := condition()):
        taken = time.monotonic() - began
        assert taken < limit, f"{what or 'what is waited for'} did not happen within {limit:.0f} s"
        time.sleep(min(max(PAUSE, taken / LOOKS), LONGEST_PAUSE))
    return found
