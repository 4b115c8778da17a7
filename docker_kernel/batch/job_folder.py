"""A job's folder on the host: what it printed, what it showed and measured, its result, and who follows it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import platformdirs

log = logging.getLogger(__name__)

MAX_OUTPUT = 64 << 20
"""Bytes of a job's output that are kept; of more, the last half of it."""

MAX_EVENTS = 64 << 20
"""Bytes of rich outputs and metrics that are kept; what comes later is dropped."""


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("what a job says cannot be kept in %s: %s", path, error)


def root() -> Path:
    """Where the ledger and the jobs' folders are."""
    return platformdirs.user_data_path("docker-kernel")


class Folder:
    """A folder of our own with private JSON files; its methods block, and may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, name: str, content: Any) -> None:
        """Keep JSON that only the user may read."""
        self.make()
        descriptor = os.open(self.path / f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        (self.path / f"{name}.new").replace(self.path / name)

    def read(self, name: str) -> Any:
        """What `write` kept; None if it is not there."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def lock(self) -> Lock | None:
        """Become the one who is at this folder: until the returned lock is closed, or the process ends.

        None if another process is, or another part of this one.
        """
        root().mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = Lock.take(self.path.name)
        if lock is not None:
            # Only now: others take a folder that is not locked for one that was left.
            self.make()
        return lock


class DispatchFolder(Folder):
    """What the jobs of one dispatch start from, for as long as one of them may start.

    It is locked from before anything is made for them until the ledger knows them.
    """

    def __init__(self, group: str) -> None:
        super().__init__(root() / "dispatches" / group)

    def forget_holder(self) -> None:
        """Keep that the container has gone which kept the kernel volume for jobs that have yet to start."""
        sent = self.read("dispatch.json")
        if sent is not None and sent["holder"]:
            self.write("dispatch.json", {**sent, "holder": ""})

    @property
    def workspace(self) -> Path:
        """The copy of the workspace, as a tar archive."""
        return self.path / "workspace.tar"


class JobFolder(Folder):
    """One job's folder. Who holds its lock follows the job.

    Output is written to `output.1` until it has MAX_OUTPUT / 2 bytes, and then becomes `output.0`: what a job prints
    costs a bounded part of the disk.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(root() / "jobs" / job_id)
        self._writing = threading.Lock()

    @property
    def result(self) -> Path:
        """Where the result's manifest and blobs are, each named by its digest."""
        return self.path / "result"

    def restart(self) -> None:
        """Forget output and events: the job's log is read anew, or the job runs anew."""
        for name in ("position.json", "output.0", "output.1", "events.jsonl"):
            (self.path / name).unlink(missing_ok=True)

    def keep_position(self, position: dict[str, Any]) -> None:
        """Keep up to where the job's log is here. A disk that refuses is logged."""
        with self._writing, _logged(self.path):
            current = self.path / "output.1"
            current.touch()
            sizes = {"events": self._size("events.jsonl"), "output": self._size("output.1")}
            self.write("position.json", {**position, **sizes, "file": current.stat().st_ino})

    def go_back_to_position(self, attempt: int) -> dict[str, Any] | None:
        """Cut output and events to what was here at the last `keep_position` of an attempt; returns what was kept.

        None where that cannot be done: all of the log is to be read anew.
        """
        kept: dict[str, Any] | None = self.read("position.json")
        if kept is None or kept["attempt"] != attempt:
            return None
        current, aside = self.path / "output.1", self.path / "output.0"
        try:
            if not current.exists() or current.stat().st_ino != kept["file"]:
                if aside.stat().st_ino != kept["file"]:
                    return None
                aside.replace(current)  # it was put aside since
            for path, size in ((current, kept["output"]), (self.path / "events.jsonl", kept["events"])):
                if self._size(path.name) < size:
                    return None
                if size or path.exists():
                    os.truncate(path, size)
        except OSError as error:
            log.warning("what a job said in %s cannot be gone on with: %s", self.path, error)
            return None
        return kept

    def _size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return 0

    def ask_to_cancel(self, why: str) -> None:
        """Ask the process that follows this job to stop it, or the one that does after it."""
        self.write("cancel.json", {"why": why})

    def asked_to_cancel(self) -> str:
        """Why the job is to be stopped, "" if nobody asked."""
        asked = self.read("cancel.json")
        return "" if asked is None else str(asked["why"])

    def forget_cancel(self) -> None:
        """Nobody has to stop this job any more."""
        with _logged(self.path):
            (self.path / "cancel.json").unlink(missing_ok=True)

    def add_output(self, data: bytes) -> None:
        """Keep output. A disk that refuses is logged, never the job's problem."""
        with self._writing, _logged(self.path):
            current = self.path / "output.1"
            with current.open("ab") as file:
                file.write(data)
                full = file.tell() >= MAX_OUTPUT // 2
            if full:
                current.replace(self.path / "output.0")

    def output(self, last: int | None = None) -> bytes:
        """What the job printed: all that is kept, or so many of the last bytes."""
        parts: list[bytes] = []
        left = MAX_OUTPUT if last is None else last
        for name in ("output.1", "output.0"):
            with contextlib.suppress(OSError), (self.path / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - left))
                parts.insert(0, file.read(left))
                left -= len(parts[0])
        return b"".join(parts)

    def add_event(self, event: dict[str, Any]) -> None:
        """Keep a display or a metric; as `add_output`."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._writing, _logged(self.path), (self.path / "events.jsonl").open("ab") as file:
            if file.tell() + len(line) <= MAX_EVENTS:
                file.write(line)

    def events(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The kept events of some kinds, in order."""
        with contextlib.suppress(OSError), (self.path / "events.jsonl").open("rb") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # a host process was killed while it wrote
                if event.get("event") in kinds:
                    yield event


class Lock:
    """A byte of a file that all jobs and dispatches share, locked by this process: one that waits costs no descriptor.

    Such a lock (POSIX, fcntl(2)) is a process's, not a descriptor's: it goes when the process closes any descriptor of
    the file. So the file is opened once, and its descriptor is not given out.
    """

    _guard = threading.Lock()
    _held: ClassVar[set[tuple[int, int, int]]] = set()
    _files: ClassVar[dict[tuple[int, Path], int]] = {}

    def __init__(self, descriptor: int, offset: int) -> None:
        self._key = (os.getpid(), descriptor, offset)

    @classmethod
    def take(cls, name: str) -> Lock | None:
        """Lock the byte of a job's or dispatch's id; None if it is locked."""
        offset = int(name, 16)
        with cls._guard:
            lock = cls(cls._file(), offset)
            if lock._key in cls._held:
                return None
            try:
                fcntl.lockf(lock._key[1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                return None
            cls._held.add(lock._key)
        return lock

    @classmethod
    def _file(cls) -> int:
        """This process's descriptor of the file with the locks; another where somebody removed the file."""
        path = root() / "locks"
        known = cls._files.get((os.getpid(), path))
        if known is None or os.fstat(known).st_nlink == 0:
            known = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            cls._files[os.getpid(), path] = known
        return known

    def close(self) -> None:
        """Let go; no-op if that was done."""
        with self._guard:
            if self._key in self._held:
                self._held.discard(self._key)
                fcntl.lockf(self._key[1], fcntl.LOCK_UN, 1, self._key[2])
