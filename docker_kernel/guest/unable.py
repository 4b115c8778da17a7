"""A setting that is there, and cannot be taken to another process."""

from __future__ import annotations

from typing import Any, NamedTuple


class Unable(NamedTuple):
    """What it is, why it stays, what to do about that; and the object itself, which tells it from others."""

    kind: str
    reason: str
    hint: str
    of: Any
