"""Content-addressed files in a state folder: stored once, by what is in them, and checked when they are read."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

LARGE = 1 << 20
"""Bytes from which content is stored by a thread, while what follows is pickled."""

_CHUNK = 1 << 18
_MAX_CANDIDATES = 64
_MAX_COMPARED = 3
"""How many blobs of its size content is compared with, in part and, where these are alike, as a whole."""

_RECENT_SECONDS = 60
"""A blob that is used again counts as new after these, so that nobody takes it for garbage."""


class SnapshotError(Exception):
    """A snapshot cannot be written, or what is read is not what was written."""


class Content:
    """Bytes that are stored apart from the pickle that they belong to, and then known by their digest only."""

    def __init__(self, raw: Any, settled: bool) -> None:
        self.raw: Any = raw
        self.size: int = raw.nbytes
        self.settled = settled
        """Whether it is stored in any case: not so the memory of an array that may be another's view."""
        self.digest = ""
        self.future: Future[None] | None = None

    def own_digest(self) -> str:
        """Its digest, made now if it is not stored."""
        return self.digest or digest(self.raw)


def not_written(error: OSError) -> SnapshotError:
    return SnapshotError("The state cannot be written: %s." % (error.strerror or error))


class Blobs:
    """Stores content in a state folder, what is large beside what else is done, and nothing twice."""

    def __init__(self, state: str) -> None:
        self._folder = os.path.join(state, "blobs")
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Content] = []
        self._lock = threading.Lock()
        self._names: dict[int, list[str]] | None = None

    def __enter__(self) -> Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        for content in self._waiting:
            if content.future is not None:
                content.future.cancel()
                content.future = None
        if self._pool is not None:
            self._pool.shutdown()

    def has(self, digest: str, size: int) -> bool:
        return _has(os.path.join(self._folder, digest[7:]), size)

    def store(self, content: Content) -> None:
        """Begin to store content, if nothing did; its digest is known when `finish` has returned.

        Raises:
            SnapshotError: it cannot be written.
        """
        if content.raw is None or content.future is not None:
            return
        if content.size < LARGE:
            try:
                content.digest, content.raw = write(self._folder, content.raw), None
            except OSError as error:
                raise not_written(error) from None
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(2)
        content.future = self._pool.submit(self._store, content)
        self._waiting.append(content)

    def finish(self) -> None:
        """Wait until all is stored; raises SnapshotError where that fails."""
        for content in self._waiting:
            try:
                if content.future is not None:
                    content.future.result()
            except OSError as error:
                raise not_written(error) from None

    def _store(self, content: Content) -> None:
        raw = content.raw
        alike = self._alike(content.size)
        likely = [name for name in alike[:_MAX_CANDIDATES] if _similar(os.path.join(self._folder, name), raw)]
        for name in likely[:_MAX_COMPARED]:
            path = os.path.join(self._folder, name)
            if _equal(path, raw) and _has(path, content.size):
                content.digest, content.raw = "sha256:" + name, None
                return
        # What is not there for sure is written while its digest is made.
        new = len(alike) <= _MAX_CANDIDATES and len(likely) <= _MAX_COMPARED
        content.digest = write(self._folder, raw, new)
        content.raw = None
        with self._lock:
            alike.insert(0, content.digest[7:])

    def _alike(self, size: int) -> list[str]:
        """The names of the blobs of a size, the newest first."""
        with self._lock:
            if self._names is None:
                self._names = {}
                found = []
                try:
                    found = [(entry.stat(), entry.name) for entry in os.scandir(self._folder)]
                except OSError:
                    pass
                for status, name in sorted(found, key=lambda pair: -pair[0].st_mtime_ns):
                    if len(name) == 64:
                        self._names.setdefault(status.st_size, []).append(name)
            return self._names.setdefault(size, [])


def is_stored(state: str, digest: str, content: Content) -> bool:
    """Whether the content is what a state folder has under a digest."""
    return content.size >= LARGE and _equal(os.path.join(state, "blobs", digest[7:]), content.raw)


def _similar(path: str, raw: memoryview) -> bool:
    """Whether a file has the same content where it is quick to see: at its beginning, middle and end."""
    last = (raw.nbytes - 1) // _CHUNK * _CHUNK
    starts = (0, last // 2 // _CHUNK * _CHUNK, last)
    return all(_equal_part(path, raw, start, min(start + _CHUNK, raw.nbytes)) for start in starts)


def _equal(path: str, raw: memoryview) -> bool:
    """Whether a file has the same content."""
    size = raw.nbytes
    middle = size // 2 // _CHUNK * _CHUNK
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(_equal_part(path, raw, middle, size)))
    other.start()
    try:
        found.append(_equal_part(path, raw, 0, middle))
    finally:
        other.join()
    return found == [True, True]


def _equal_part(path: str, raw: memoryview, start: int, stop: int) -> bool:
    chunk = bytearray(_CHUNK)  # Not a memoryview: that compares item by item.
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            for offset in range(start, stop, _CHUNK):
                if stop - offset < _CHUNK:
                    del chunk[stop - offset :]
                if file.readinto(chunk) != len(chunk) or chunk != raw[offset : offset + len(chunk)]:
                    return False
    except OSError:
        return False
    return True


def _has(path: str, size: int) -> bool:
    """Whether a file is there, and whole; it is then as good as just written."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    if status.st_mtime < time.time() - _RECENT_SECONDS:
        try:
            os.utime(path)
        except OSError:
            pass  # Another user's.
    return status.st_size == size


def digest(raw: Any) -> str:
    """The name of content: its sha256."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def write(folder: str, raw: memoryview, new: bool = False) -> str:
    """Store bytes under their digest, atomically; what is there already is not written again.

    Args:
        new: they are known not to be there, so that there is no need to wait for the digest.
    """
    digests: list[str] = []
    if not new:
        digests.append(digest(raw))
        if _has(os.path.join(folder, digests[0][7:]), raw.nbytes):
            return digests[0]
    hasher = threading.Thread(target=lambda: digests.append(digest(raw)))
    os.makedirs(folder, exist_ok=True)
    # Not the process's id: jobs that write to one volume at once have the same.
    fresh = os.path.join(folder, os.urandom(8).hex() + ".new")
    try:
        if new:
            hasher.start()
        try:
            with open(fresh, "wb", buffering=0) as file:
                written = 0
                while written < raw.nbytes:
                    written += file.write(raw[written:])
        finally:
            if new:
                hasher.join()
        os.replace(fresh, os.path.join(folder, digests[0][7:]))
    except BaseException:
        try:
            os.unlink(fresh)
        except OSError:
            pass
        raise
    return digests[0]


def path_of(state: str, folder: str, digest: str) -> str:
    """Where content of a digest is in a state folder."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise SnapshotError("%r is no digest." % digest)
    return os.path.join(state, folder, digest[7:])


def changed_since(digest: str) -> SnapshotError:
    return SnapshotError("The state's %s was changed after it was written; it is not used." % digest[:19])


def read(state: str, folder: str, digest: str) -> bytearray:
    """Read what was stored under a digest, and make sure that it is still that."""
    path = path_of(state, folder, digest)
    try:
        with open(path, "rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
    except OSError as error:
        raise SnapshotError("The state's %s cannot be read: %s." % (digest[:19], error.strerror)) from None
    if hashlib.sha256(data).hexdigest() != digest[7:]:
        raise changed_since(digest)
    return data
