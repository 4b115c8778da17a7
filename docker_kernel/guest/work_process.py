"""Starts the process that does a job's work, in a session of its own. Light modules only, as in the runner."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

from docker_kernel.guest.memory import set_oom_score


def start(
    command: list[str],
    env: dict[str, str],
    output: int,
    cwd: str | None = None,
    oom_score: int | None = None,
    inherited: Iterable[int] = (),
) -> int:
    """Start a process that prints to a pipe and reads nothing; returns its pid. It ends with 127 where it cannot be.

    Args:
        output: the descriptor that it prints to.
        cwd: its folder, / where that is none; None for this process's own.
        oom_score: as of `set_oom_score`; None for this process's own.
        inherited: descriptors that it has, too.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        if oom_score is not None:
            set_oom_score(oom_score)
        for descriptor in inherited:
            os.set_inheritable(descriptor, True)
        if cwd is not None:
            try:
                os.chdir(cwd)
            except OSError:
                os.chdir("/")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvpe(command[0], command, env)
    except OSError as error:
        os.write(2, ("docker-kernel: %s cannot be started: %s\n" % (command[0], error)).encode())
    finally:
        os._exit(127)
