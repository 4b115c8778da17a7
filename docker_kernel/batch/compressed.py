"""Layers as every registry takes them: compressed, each once.

A layer is known by its digest before it is compressed (OCI image spec, "diff id"), a registry's blob by that of what
was made of it. Which blob a layer became is remembered: so a layer that a registry has is not even read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from docker_kernel.batch.layers import CHUNK, DigestCache, Layer

SPOOL = Path("/var/tmp")
"""On a disk, where /tmp may be memory."""

IN_MEMORY = 8 << 20
"""Bytes up to which a compressed layer is kept in memory until it is sent."""

SAMPLE = 1 << 17
WORTH = 0.95
"""Of so many of a layer's first bytes, what compressing must leave at most to be worth its time."""

GZIP = 31
"""Has zlib write gzip's format (zlib manual, deflateInit2), with no time and no name in it."""

_KNOWN = DigestCache()


@dataclass(frozen=True)
class Blob:
    """A layer in a registry: the digest and the size of its compressed bytes."""

    digest: str
    size: int


def known_blob(layer: Layer) -> Blob | None:
    """Which blob a layer became, if it was compressed before."""
    digest, _, size = (_KNOWN.get(f"gzip {layer.digest}") or "").partition(" ")
    return Blob(digest, int(size)) if size else None


@contextlib.contextmanager
def compressed(layer: Layer, on_bytes: Callable[[int], None]) -> Iterator[tuple[Blob, Callable[[], Iterator[bytes]]]]:
    """A layer's blob, and its bytes in pieces, as often as they are asked for. Blocks.

    Args:
        on_bytes: hears of each piece of the layer that was read, by its size; what it raises ends it.
    """
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(SPOOL) if os.access(SPOOL, os.W_OK) else None) as file:
        digest, size = hashlib.sha256(), 0
        for piece in _gzip(layer.open(), on_bytes):
            digest.update(piece)
            size += len(piece)
            file.write(piece)
        blob = Blob(f"sha256:{digest.hexdigest()}", size)
        _KNOWN.put(f"gzip {layer.digest}", f"{blob.digest} {blob.size}")
        yield blob, lambda: _from_start(file)


def _gzip(pieces: Iterator[bytes], on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    sample = b""
    for piece in pieces:
        on_bytes(len(piece))
        sample += piece
        if len(sample) >= SAMPLE:
            break
    shorter = len(zlib.compress(sample, 1)) <= WORTH * len(sample)
    compressor = zlib.compressobj(1 if shorter else 0, zlib.DEFLATED, GZIP)
    yield compressor.compress(sample)
    for piece in pieces:
        on_bytes(len(piece))
        yield compressor.compress(piece)
    yield compressor.flush()


def _from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while data := file.read(CHUNK):
        yield data
