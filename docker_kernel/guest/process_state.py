"""What a process has besides its variables: random states and warnings filters. A job starts with its kernel's."""

from __future__ import annotations

import random
import sys
import warnings
from typing import Any

NAME = "__docker_kernel_process__"
"""Under which name it travels among the variables."""


def process_state() -> dict[str, Any]:
    """The states of `random` and, where it is in use, of numpy's global generator; and the warnings filters."""
    state: dict[str, Any] = {"random": random.getstate(), "warnings": list(warnings.filters)}
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        state["numpy"] = numpy_random.get_state()
    return state


def restore_process_state(state: dict[str, Any]) -> None:
    """Set what `process_state` told."""
    random.setstate(state["random"])
    warnings.filters[:] = state["warnings"]  # type: ignore[index]
    with warnings.catch_warnings():
        pass  # leaving it makes Python look at the filters anew
    if "numpy" in state:
        import importlib

        importlib.import_module("numpy.random").set_state(state["numpy"])
