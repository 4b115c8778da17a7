"""Room on the stack for what is nested deeply, as pickle goes down as deep as its objects do.

The code of an object's class may run meanwhile, so that it has to be the same thread, whose locals and event loop that
code sees. Linux lets the main thread's stack grow to its limit; another thread's is as large as it was made.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from collections.abc import Iterator

STACK = 80 << 20
"""Bytes that the main thread's stack may then have; Linux keeps 128 MiB free for it, whatever its limit was."""

LEVEL = 4 << 10
"""Bytes of it for each level of recursion: twice what code has been seen to take."""


def is_too_deep(error: BaseException) -> bool:
    """Whether an error says that Python's recursion limit was reached."""
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Let code go deeper meanwhile, as deep as the stack allows."""
    is_main = threading.current_thread() is threading.main_thread()
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    size, here = soft, sys.getrecursionlimit()
    if is_main and _is_less(soft, STACK):
        size = STACK if _is_less(STACK, hard) else hard
        resource.setrlimit(resource.RLIMIT_STACK, (size, hard))
    sys.setrecursionlimit(max(here, (STACK if _is_less(STACK, size) else size) // LEVEL))
    try:
        yield
    finally:
        sys.setrecursionlimit(here)
        if size != soft:
            resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def _is_less(limit: int, other: int) -> bool:
    """Whether a limit of the system's is below another one, of which there may be none."""
    return limit != resource.RLIM_INFINITY and (other == resource.RLIM_INFINITY or limit < other)
