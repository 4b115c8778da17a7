"""Where results go: folders and URLs, each served by a thread of its own, so that none waits for another.

A sink gets new versions of `output.ipynb` and `output.html` as they come, and writes the latest when it is free; a
version appears whole or not at all. One that fails keeps what it has, is tried again, and costs the others nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

Pieces = Sequence[bytes]
Deadline = Callable[[], float]
"""A time of `time.monotonic`, which a signal may bring nearer."""

NOTEBOOK = "output.ipynb"
HTML = "output.html"
FILES = "files"

URL_SECONDS = 15.0
"""Between two versions for a URL."""

ATTEMPTS = 4
"""How often the last version is tried at a URL, with pauses that double."""

FIRST_PAUSE = 1.0


class Sink(ABC):
    """One place for results.

    Args:
        report: gets a sentence when the sink begins to fail.

    Attributes:
        place: how the user calls it.
        problems: why files are not there, or not the latest ones, by name.
    """

    seconds_between = 0.0
    attempts = 1

    def __init__(self, place: str, report: Callable[[str], None]) -> None:
        self.place = place
        self.problems: dict[str, str] = {}
        self._report = report
        self._changed = threading.Condition()
        self._waiting: dict[str, Pieces] = {}
        self._closing = False
        self._busy = False
        self._rested = 0.0
        self._thread = threading.Thread(target=self._serve, name=f"sink {place}", daemon=True)
        self._thread.start()

    def put(self, name: str, content: Pieces) -> None:
        """Have a new version of a file written; an older one that waits is dropped."""
        with self._changed:
            self._waiting[name] = content
            self._changed.notify_all()

    def finish(self, deadline: Deadline) -> None:
        """Have everything written that waits, or give up at the deadline."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while (self._waiting or self._busy) and time.monotonic() < deadline():
                self._changed.wait(max(0.0, min(0.5, deadline() - time.monotonic())))
            if self._waiting or self._busy:
                self._fail("it did not take the results in time", ", ".join(self._waiting) or "the last file")

    def bring(self, folder: Path, names: Iterable[str], deadline: Deadline) -> None:
        """Write files that the notebook made, below `files/`."""
        for name in names:
            if time.monotonic() > deadline():
                self._fail("it did not take all of them in time", FILES)
                return
            try:
                self._with_attempts(lambda name=name: self.copy(folder / name, f"{FILES}/{name}"), deadline)  # type: ignore[misc]
            except Exception as error:
                if (folder / name).exists():  # else something that the notebook left running has removed it
                    self._fail(words(error), f"{FILES}/{name}")

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting or (not self._closing and time.monotonic() < self._rested):
                    self._changed.wait(None if not self._waiting else max(0.0, self._rested - time.monotonic()))
                taken, self._waiting, self._busy = self._waiting, {}, True
                last = self._closing
            begun = time.monotonic()
            failed: dict[str, str] = {}
            for name, content in taken.items():
                try:
                    self._with_attempts(lambda name=name, content=content: self.write(name, content), None, last)  # type: ignore[misc]
                except Exception as error:
                    failed[name] = words(error)
            with self._changed:
                self._busy = False
                now = time.monotonic()
                # Large notebooks on slow disks: no more than a fifth of the time goes into writing them.
                self._rested = now + max(
                    self.seconds_between, min(30.0, 4 * (now - begun)) if now - begun > 0.05 else 0
                )
                for name in taken:
                    if name in failed:
                        self._fail(failed[name], name)
                    else:
                        self.problems.pop(name, None)
                self._changed.notify_all()

    def _with_attempts(self, work: Callable[[], None], deadline: Deadline | None, last: bool = True) -> None:
        pause = FIRST_PAUSE
        for attempt in range(self.attempts if last else 1):
            try:
                return work()
            except Exception:
                late = deadline is not None and time.monotonic() + pause > deadline()
                if not last or late or attempt == self.attempts - 1:
                    raise
            time.sleep(pause)
            pause *= 2
        return None

    def _fail(self, reason: str, name: str) -> None:
        known = self.problems.get(name)
        self.problems[name] = reason
        if reason != known:
            self._report(f"{self.place}: {name} could not be written ({reason}).")

    @abstractmethod
    def write(self, name: str, content: Pieces) -> None:
        """Write a file whole, or leave the version that is there."""

    @abstractmethod
    def copy(self, source: Path, name: str) -> None:
        """Copy a file to a relative path."""


class FolderSink(Sink):
    """A folder, mounted or not."""

    def write(self, name: str, content: Pieces) -> None:
        _replace(Path(self.place) / name, lambda path: _write(path, content))

    def copy(self, source: Path, name: str) -> None:
        target = Path(self.place) / name
        if os.path.realpath(source) == os.path.realpath(target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, lambda path: _copy(source, path))


def _replace(target: Path, make: Callable[[Path], None]) -> None:
    made = target.with_name(f".{target.name}.new")
    try:
        make(made)
        made.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink()
        raise


def _write(path: Path, content: Pieces) -> None:
    with path.open("wb") as file:
        file.writelines(content)


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)
    with contextlib.suppress(OSError):
        shutil.copystat(source, path)


class UrlSink(Sink):
    """A place that fsspec knows, such as s3://bucket/folder, with the credentials of the environment."""

    seconds_between = URL_SECONDS
    attempts = ATTEMPTS

    def write(self, name: str, content: Pieces) -> None:
        system, root = self._place()
        self._folder(system, f"{root}/{name}")
        system.pipe_file(f"{root}/{name}", b"".join(content))  # type: ignore[attr-defined]

    def copy(self, source: Path, name: str) -> None:
        system, root = self._place()
        self._folder(system, f"{root}/{name}")
        system.put_file(str(source), f"{root}/{name}")  # type: ignore[attr-defined]

    def _place(self) -> tuple[object, str]:
        import fsspec

        system, root = fsspec.core.url_to_fs(self.place)
        return system, root.rstrip("/")

    def _folder(self, system: object, path: str) -> None:
        # Stores of objects have no folders, and making one there may be what is not allowed.
        if getattr(system, "protocol", "") not in (("s3", "s3a"), ("gs", "gcs")):
            system.makedirs(path.rpartition("/")[0], exist_ok=True)  # type: ignore[attr-defined]


def cannot_write(folder: str) -> str:
    """Why an output folder cannot be written, and what to do: one sentence; empty if it can be."""
    probe = Path(folder) / f".docker-kernel-{os.getpid()}"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with probe.open("wb"):
            pass
        probe.unlink()
        return ""
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        reason = error
    if reason.errno == errno.EROFS:
        return (
            f"The output folder {folder} is on a read-only file system: mount a folder of yours there, with "
            f"`-v $PWD/out:{folder}` for example."
        )
    if reason.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The output folder {folder} is on a full disk: make space there, or name another place with --output."
    if reason.errno in (errno.EACCES, errno.EPERM):
        uid = os.getuid()
        owner = ""
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            owner = f", as it belongs to user {status.st_uid} with mode {status.st_mode & 0o7777:o}"
        return (
            f"The output folder {folder} cannot be written by user {uid}{owner}: give it to that user on the host "
            f"(`sudo chown {uid} FOLDER`), or start the container as its owner (`--user $(id -u):$(id -g)`)."
        )
    return f"The output folder {folder} cannot be written ({words(reason)}): name another place with --output."


def words(error: Exception) -> str:
    """An error in a few words, without a full stop."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left there"
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text[:300].rstrip(".")
