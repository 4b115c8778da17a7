"""The supervisor's end of its forkserver (forkserver.py)."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

from docker_kernel.guest.link import LineBuffer, encode
from docker_kernel.guest.memory import set_oom_score

FORK_SECONDS = 10
"""How long a fork may take once the imports are done; then an interpreter is started."""

LOAD_SECONDS = 15
"""How long a start waits for the imports, which an interpreter would do as well. With FORK_SECONDS it is less than the
host waits for a restart, which would then give up the container and what is installed in it."""


AT_START = ("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_", "OMP_", "MKL_", "OPENBLAS_", "PYDEVD_", "DEBUGPY_", "JUPYTER_",
            "IPYTHON", "VIRTUAL_ENV", "OPENSSL_")  # fmt: skip
AT_START_NAMES = ("LANG", "LANGUAGE", "TZ", "HOME", "USER", "LOGNAME", "PATH")


def acts_at_start(name: str) -> bool:
    """Whether a variable acts while an interpreter starts, so that a change needs a new one; thread counts are among
    them, as libraries read them when they are loaded."""
    return name.startswith(AT_START) or name in AT_START_NAMES or name.endswith("_NUM_THREADS")


class Unsure(Exception):
    """A fork might come out different from an interpreter that is started now."""


class ForkServer:
    """A forkserver that runs.

    Args:
        python: the interpreter's command, with its options.
        env: the environment of the kernels that it is to fork.
    """

    def __init__(self, python: list[str], env: dict[str, str], oom_score: int) -> None:
        self.sock, theirs = socket.socketpair()
        self.deadline: float | None = None
        """Until when an answer is awaited."""
        self._asked = False
        self._loaded = False
        self._env = env
        self._lines = LineBuffer()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "forkserver.py")
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_DFL)
                set_oom_score(oom_score)
                os.set_inheritable(theirs.fileno(), True)
                os.chdir("/")
                os.execvpe(python[0], [*python, script, str(theirs.fileno())], env)
            finally:
                os._exit(127)
        theirs.close()
        self.sock.setblocking(False)

    def ask(self, argv: list[str], env: dict[str, str], cwd: str, oom_score: int) -> None:
        """Ask for a kernel process; the answer comes as a message.

        Raises:
            Unsure: its variables differ in one that acts while an interpreter starts.
            OSError: the forkserver is gone, or takes no request.
        """
        changes = {name: env.get(name) for name in {*env, *self._env} if env.get(name) != self._env.get(name)}
        if any(map(acts_at_start, changes)):
            raise Unsure
        self._asked = True
        self._set_deadline()
        self.sock.settimeout(FORK_SECONDS)
        self.sock.sendall(encode({"type": "fork", "argv": argv, "env": changes, "cwd": cwd, "oom_score": oom_score}))
        self.sock.setblocking(False)

    def go(self) -> None:
        """Let the forked process be a kernel, which no other one may be from now on; raises OSError as `ask` does.

        It ends where this is not said, so that there are never two of them.
        """
        self.sock.sendall(encode({"type": "go"}))

    def messages(self) -> list[dict[str, object]] | None:
        """What the forkserver says now; None when it has ended."""
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        messages: list[dict[str, object]] = [json.loads(line) for line in self._lines.feed(data)]
        for message in messages:
            if message["type"] == "loaded":
                self._loaded = True
            else:
                self._asked = False
            self._set_deadline()
        return messages

    def _set_deadline(self) -> None:
        seconds = FORK_SECONDS if self._loaded else LOAD_SECONDS
        self.deadline = time.monotonic() + seconds if self._asked else None

    def end(self) -> None:
        """End the process; its forks live on."""
        self.sock.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
