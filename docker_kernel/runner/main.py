"""The main process of a notebook image's container.

Run as a script, with `-I -S`: neither the notebook's packages nor its files can shadow ours. It is process 1, so it
stays small: it starts the process that does the work, passes signals on, reaps orphans, and ends all others at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import Callable

LIB = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = os.path.join(os.path.dirname(LIB), "runner")

PR_SET_CHILD_SUBREAPER = 36
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main() -> int:
    """Run the command line; returns the container's exit code."""
    sys.path[:0] = [LIB, PACKAGES]
    from docker_kernel.runner import run

    return supervise(lambda: run.main(sys.argv[1:]), run.was_killed)


def supervise(work: Callable[[], int], killed: Callable[[int], int]) -> int:
    """Do some work in a child process, in a session of its own.

    Args:
        killed: takes the signal that killed the child, says why, and returns the exit code.

    Returns:
        The exit code, when the child and all that it started have ended.
    """
    alone = os.getpid() == 1
    if not alone:
        # Under another init, as in a pod with one: orphans come to us nevertheless (prctl(2)).
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    early: list[int] = []
    for one in FORWARDED:
        signal.signal(one, lambda number, _: early.append(number))
    child = os.fork()
    if child == 0:
        _become(work)

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for one in FORWARDED:
        signal.signal(one, forward)
    for number in early:
        forward(number, None)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            break
    code = killed(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if not alone:
        _end_descendants()
    return code


def _become(work: Callable[[], int]) -> None:
    code = 1
    try:
        os.setsid()
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Threads that wait for a store which does not answer keep nobody here.
        os._exit(code)


def _end_descendants() -> None:
    """Kill what is left of our children; theirs become ours when they end."""
    own = str(os.getpid())
    while True:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of the program, which may contain anything, is in brackets (proc(5)).
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if parent.decode() == own:
                    found.append((int(name), state))
        if not found:
            return
        for pid, _ in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid, _ in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
