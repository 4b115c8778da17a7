"""Jobs that would send jobs: what they are told."""

from __future__ import annotations

import ast
import os
from typing import Any

from docker_kernel.guest.in_job import EVENTS, job

_IN_JOB = (
    "A job can neither send jobs nor ask for the notebook's: run this code in it as it is, or send it from the "
    "notebook, where --sweep makes a job for each value."
)
_IN_IMAGE = "A notebook image cannot send jobs: run this code in it as it is, without %%local or %%dispatch."
_MAGICS = ("local", "dispatch")


def refusal() -> str:
    """Why this process can send no jobs; "" where it may be a kernel that can."""
    if job.id:
        return _IN_JOB
    return _IN_IMAGE if os.environ.get(EVENTS) else ""


def refusal_of(code: str) -> str:
    """Why code would fail that sends jobs itself, whatever else it does; "" where it does not.

    Args:
        code: a cell as Python, magics transformed.
    """
    return _IN_JOB if any(map(_sends, ast.parse(code).body)) else ""


def _sends(statement: ast.stmt) -> bool:
    """Whether a statement is one of our magics, or binds what one gives."""
    value: Any = getattr(statement, "value", None)
    if not isinstance(value, ast.Call) or getattr(value.func, "attr", "") not in ("run_line_magic", "run_cell_magic"):
        return False
    return bool(value.args) and getattr(value.args[0], "value", None) in _MAGICS
