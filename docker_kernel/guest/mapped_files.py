"""Large content of a state, mapped from its files: it is not copied, and what nobody has written to is known at once.

A mapping is private: what is written to it is in this process's memory only. So its content can be used as if it had
been read, and Linux knows which of its pages were written to since.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import weakref
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from docker_kernel.guest.blob_files import changed_since, path_of

LARGE = 4 << 20
"""Bytes from which content is mapped."""

_MOST = 64
"""How many files are mapped, as each of them takes a descriptor: the largest."""

_FILE, _PRESENT = 1, 4
"""What Linux says of a page, from the 62nd bit on: that it is a file's, and in memory."""


class _Mapping(NamedTuple):
    memory: weakref.ref[mmap.mmap]
    digest: str
    path: str


_mappings: list[_Mapping] = []


class Mapper:
    """Maps content, and makes sure by threads that it is what was stored, while what has no large content is read.

    Args:
        buffers: the digest and the size of each.
    """

    def __init__(self, state: str, buffers: Iterable[tuple[str, int]]) -> None:
        large = sorted((pair for pair in buffers if pair[1] >= LARGE), key=lambda pair: -pair[1])[:_MOST]
        self._pool = ThreadPoolExecutor(2)
        self._found: dict[str, list[Future[memoryview]]] = {}
        for digest, _ in large:
            path = path_of(state, "blobs", digest)
            memory = _map(path)
            if memory is not None:
                self._found.setdefault(digest, []).append(self._pool.submit(_checked, memory, digest))
                _mappings.append(_Mapping(weakref.ref(memory), digest, path))

    def __enter__(self) -> Mapper:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def has_any(self, buffers: Iterable[tuple[str, int]]) -> bool:
        """Whether one of them is mapped."""
        return any(self._found.get(digest) for digest, _ in buffers)

    def take(self, digest: str) -> memoryview | None:
        """The content of a digest, each time that of another mapping; None where none is left.

        Raises:
            SnapshotError: it is not what was stored.
        """
        found = self._found.get(digest)
        return found.pop().result() if found else None


def _map(path: str) -> mmap.mmap | None:
    """Map a file; None where that cannot be done."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):
        return None


def _checked(memory: mmap.mmap, digest: str) -> memoryview:
    # At once: each step of its own would have to wait until pickle lets other threads go on.
    if hashlib.sha256(memory).hexdigest() != digest[7:]:
        raise changed_since(digest)
    return memoryview(memory)


def is_untouched(digest: str, raw: memoryview) -> bool:
    """Whether memory shows what was mapped of a digest, and nobody has written to it.

    What this says no to may be the same all the same: where Linux does not tell, and where that was written which had
    been there.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    address = _address(numpy, raw)
    for mapping in _mappings:
        # One that is gone may have left its address to other memory.
        memory = mapping.memory()
        if memory is not None and mapping.digest == digest and _address(numpy, memory) == address:
            return len(memory) == raw.nbytes and _tells(numpy, mapping.path) and _is_clean(numpy, address, raw.nbytes)
    return False


def _address(numpy: Any, memory: Any) -> int:
    address: int = numpy.frombuffer(memory, "u1").__array_interface__["data"][0]
    return address


def _tells(numpy: Any, path: str) -> bool:
    """Whether it can be seen here which pages were written to: not under every emulator or other kernel."""
    try:
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):
        return False
    address = _address(numpy, memory)
    first = memory[0]
    if not _is_clean(numpy, address, mmap.PAGESIZE):
        return False
    memory[0] = first
    return not _is_clean(numpy, address, mmap.PAGESIZE)


def _is_clean(numpy: Any, address: int, size: int) -> bool:
    """Whether all pages of a mapped file are the file's own, or not in memory."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            os.lseek(file.fileno(), address // mmap.PAGESIZE * 8, os.SEEK_SET)
            left = -(-size // mmap.PAGESIZE) * 8
            while left:
                data = file.read(min(left, 1 << 20))
                if not data:
                    return False
                left -= len(data)
                states = numpy.frombuffer(data, "u8") >> numpy.uint64(61)
                is_own = (states == _PRESENT | _FILE) | (states == _FILE) | (states == 0)
                if not is_own.all():
                    return False
    except (OSError, ValueError):
        return False
    return True
