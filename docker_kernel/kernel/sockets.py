"""The folder of a kernel's sockets, where its messages go over files (transport "ipc") and not over ports.

It is the kernel's alone: the container sees all of it. Whoever made it holds a lock on it, so that the folder of a
process that was killed can be told from one in use, whatever engine its kernel runs on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

from docker_kernel.config import KernelConfig
from docker_kernel.engine import EngineInfo
from docker_kernel.errors import ConfigError
from docker_kernel.kernel.connection import IPC_PORTS
from docker_kernel.kernel.user import ContainerUser

PREFIX = "docker-kernel-ipc-"
NAME = "kernel"
LONGEST = 107
"""Bytes that a socket's path may have (sockaddr_un of Linux, without its closing NUL)."""

ATTEMPTS = 3


class SocketFolder:
    """One kernel's sockets, in a new folder that only its user may enter; removed at the latest with this process."""

    def __init__(self, user: ContainerUser, config: KernelConfig) -> None:
        """Make the folder.

        Raises:
            ConfigError: with a sentence for the user.
        """
        self.path, lock = _make()
        self.remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())
        if config.user != "host":
            try:
                os.chown(self.path, user.uid, user.gid)
            except PermissionError:
                self.remove()
                raise ConfigError(
                    f'user = "{config.user}" needs ports: leave `network` at "bridge" and `transport` at "tcp", or '
                    'set `user` to "host".'
                ) from None

    @property
    def prefix(self) -> str:
        """What a connection file has as the address."""
        return f"{self.path}/{NAME}"


def check_shared_kernel(info: EngineInfo) -> None:
    """See that the engine's containers run on this machine's Linux kernel, without which no socket joins both sides.

    Raises:
        ConfigError: they run in a virtual machine, as those of Docker Desktop do.
    """
    if info.kernel not in ("", os.uname().release):
        raise ConfigError(
            "The engine runs its containers in a virtual machine, which sockets in files do not reach: leave "
            '`transport` at "tcp", and `network` at "bridge".'
        )


def sweep() -> None:
    """Remove the folders of processes that were killed, once their kernels have gone, too."""
    for place in _places():
        for path in place.glob(f"{PREFIX}*"):
            lock = _lock(path)
            if lock is None:
                continue
            try:
                if not _answers(path):
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:
                pass  # somebody removes it just now, or its sockets, as a kernel that ends does
            finally:
                os.close(lock)


def _places() -> Iterable[Path]:
    """Where sockets may go, the best first: the user's runtime folder is in memory, and goes when they log out."""
    named = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
    return dict.fromkeys(Path(name) for name in named if name)


def _make() -> tuple[str, int]:
    """A new folder in the first place that is there and near enough, and the lock that is held on it."""
    sweep()
    longest = max(len(f"/{NAME}-{port}") for port in IPC_PORTS.values())
    # Before it is locked, another process may take it for a leftover.
    for place in [place for place in _places() for _ in range(ATTEMPTS)]:
        with contextlib.suppress(OSError):
            path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
            lock = _lock(Path(path)) if len(os.fsencode(path)) + longest <= LONGEST else None
            if lock is not None:
                return path, lock
            Path(path).rmdir()
    raise ConfigError(
        f"There is no folder for the kernel's sockets, whose paths may have {LONGEST} bytes: let XDG_RUNTIME_DIR name "
        'one with a short path that you may write to, or leave `transport` at "tcp".'
    )


def _lock(path: Path) -> int | None:
    """The lock of a folder of ours, to be closed; None if another process has it, or it is not ours to look into."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed it in between.
        if os.path.samestat(os.fstat(descriptor), path.lstat()) and os.getuid() in (0, os.fstat(descriptor).st_uid):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _answers(path: Path) -> bool:
    """Whether a kernel still listens: it lives on for some time after the process that started it."""
    for file in path.iterdir():
        if not stat.S_ISSOCK(file.lstat().st_mode):
            continue
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(str(file))
                return True
            except BlockingIOError:
                return True
            except OSError:
                continue
    return False


def _remove(path: str, lock: int, owner: int) -> None:
    # What this process forks is not the one to tidy up when it ends.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
