"""Memory that is free in this process goes back to the system."""

from __future__ import annotations

import ctypes
import functools


@functools.cache
def _trim() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back_memory() -> None:
    """Give back what was freed. Of large texts, glibc keeps up to tens of MB for each thread that had some
    (mallopt(3), M_TRIM_THRESHOLD); no-op elsewhere. Blocks for some milliseconds."""
    trim = _trim()
    if trim is not None:
        trim(0)
