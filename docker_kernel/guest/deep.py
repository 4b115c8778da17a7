"""Room on the stack for what is nested deeply, as pickle goes down as deep as its objects do.

The code of an object's class may run meanwhile, so that it has to be the same thread, whose locals and event loop that
code sees. Linux lets the main thread's stack grow to its limit; another thread's is as large as it was made, so that
there things are as they are.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from collections.abc import Iterator

STACK = 112 << 20
"""Bytes that the main thread's stack may then have; Linux keeps 128 MiB free for it, whatever its limit was."""

LEVEL = 2560
"""Bytes of it for each level of recursion: a third more than any code has been seen to take."""


PURE = sys.version_info >= (3, 12)
"""Whether code in C stops at a depth of its own, while Python's takes no stack."""

MOST = 100_000
"""The recursion limit there, which then bounds but memory."""


def is_too_deep(error: BaseException) -> bool:
    """Whether an error says that Python's recursion limit was reached."""
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Let code of the main thread go deeper meanwhile, as deep as the stack allows."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    size, here = soft, sys.getrecursionlimit()
    if _is_less(soft, STACK):
        size = STACK if _is_less(STACK, hard) else hard
        resource.setrlimit(resource.RLIMIT_STACK, (size, hard))
    depth = MOST if PURE and not _is_less(size, STACK) else min(size, STACK, key=_as_number) // LEVEL
    sys.setrecursionlimit(max(here, depth))
    try:
        yield
    finally:
        sys.setrecursionlimit(here)
        if size != soft:
            resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def _as_number(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _is_less(limit: int, other: int) -> bool:
    """Whether a limit of the system's is below another one, of which there may be none."""
    return _as_number(limit) < _as_number(other)
