"""What a job starts from, as image layers: the same content always makes the same bytes, so that it is sent once.

A layer is an uncompressed tar archive, which is made only when someone reads it. Large blobs have a layer each; small
ones share a few, by the names of their variables, so that a change of one variable changes one small layer. Those that
change the least come first: what an engine has of an image is found by its layers from the bottom up (OCI image spec,
"Layer ChainID").
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import platformdirs

from docker_kernel.batch.manifest import Manifest, parse
from docker_kernel.batch.targets.base import Package
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import JobError, NotFound
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle

log = logging.getLogger(__name__)

CHUNK = 1 << 20
OWN_LAYER = 1 << 18
"""Bytes from which a blob has a layer of its own."""

MAX_OWN = 40
"""Blobs with a layer of their own; an image may have 125 layers in all (overlay2's limit)."""

BUCKETS = 16
OWN_FILE = 1 << 20
"""Bytes from which a file of the workspace is not in the layer of its small ones, which changes with each of them."""


@dataclass(frozen=True)
class Layer:
    """A part of a job's image.

    Args:
        digest: sha256 of its tar archive, "sha256:…": its diff id (OCI image spec).
        size: bytes of the archive.
        open: gives the archive in pieces; it blocks, and must not be read on an event loop.
    """

    digest: str
    size: int
    open: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class _Entry:
    """One entry of a layer's archive; a regular file's content comes in pieces from `read`."""

    info: tarfile.TarInfo
    read: Callable[[], Iterable[bytes]] | None = None


async def job_layers(kernel: KernelHandle, package: Package) -> list[Layer]:
    """The layers that make a job's image of its environment's image, lowest first.

    Raises:
        JobError: a blob of the snapshot is gone, or was changed.
    """
    uid, _, gid = kernel.user.partition(":")
    state = _StateFolder(kernel.engine, package.holder or kernel.container_id, int(uid), int(gid))
    manifest = parse(Manifest, package.manifest)
    own, buckets = _partition(manifest)
    layers = [await asyncio.to_thread(_layer_of_files, [*kernel.guest_files(), *state.folders()])]
    for blobs in own:
        layers.append(await asyncio.to_thread(state.layer, blobs))
    if package.workspace is not None:
        layers += await asyncio.to_thread(_workspace_layers, package.workspace)
    for blobs in buckets:
        layers.append(await asyncio.to_thread(state.layer, blobs))
    file = File(
        f"{guest_files.STATE.lstrip('/')}/manifests/{package.digest[7:]}",
        package.manifest.encode(),
        uid=int(uid),
        gid=int(gid),
    )
    layers.append(await asyncio.to_thread(_layer_of_files, [*state.folders(), file]))
    return layers


def _partition(manifest: Manifest) -> tuple[list[list[tuple[str, int]]], list[list[tuple[str, int]]]]:
    """A manifest's blobs, each with its size: those with a layer of their own, and the others in buckets by name."""
    sizes: dict[str, int] = {}
    names: dict[str, str] = {}
    for pack in manifest.packs:
        found = [(pack.blob, sum(pack.sizes)), *((str(digest), int(size)) for digest, size in pack.buffers)]
        for digest, size in found:
            sizes[digest] = size
            names.setdefault(digest, pack.groups[0][0])
    large = sorted((blob for blob in sizes if sizes[blob] >= OWN_LAYER), key=lambda blob: (-sizes[blob], blob))
    del large[MAX_OWN:]
    buckets: dict[int, list[tuple[str, int]]] = {}
    for blob in sorted(set(sizes) - set(large)):
        key = hashlib.sha256(names[blob].encode(errors="surrogatepass")).digest()[0] % BUCKETS
        buckets.setdefault(key, []).append((blob, sizes[blob]))
    return [[(blob, sizes[blob])] for blob in large], [buckets[key] for key in sorted(buckets)]


class _StateFolder:
    """The kernel volume, read through a container that has it."""

    def __init__(self, engine: Engine, container: str, uid: int, gid: int) -> None:
        self._engine = engine
        self._container = container
        self._owner = (uid, gid)
        self._loop = asyncio.get_running_loop()

    def folders(self) -> list[File]:
        """The state folder; every layer that has a file in it has these, as the uppermost one's owners count."""
        uid, gid = self._owner
        state = guest_files.STATE.lstrip("/")
        return [
            File(guest_files.BASE, mode=0o755),
            File(state, mode=0o700, uid=uid, gid=gid),
            *(File(f"{state}/{name}", mode=0o755, uid=uid, gid=gid) for name in ("blobs", "manifests")),
        ]

    def layer(self, blobs: list[tuple[str, int]]) -> Layer:
        entries = [_Entry(_info(file)) for file in self.folders()]
        for digest, size in blobs:
            info = tarfile.TarInfo(f"{guest_files.STATE.lstrip('/')}/blobs/{digest[7:]}")
            info.size, info.mode, (info.uid, info.gid) = size, 0o644, self._owner
            entries.append(_Entry(info, lambda digest=digest, size=size: self._blob(digest, size)))  # type: ignore[misc]
        key = json.dumps([1, self._owner, blobs])
        return _layer(entries, key)

    def _blob(self, digest: str, size: int) -> Iterator[bytes]:
        """A blob's content, which is what its digest says or raises JobError."""
        path = f"{guest_files.STATE}/blobs/{digest[7:]}"
        try:
            chunks = asyncio.run_coroutine_threadsafe(
                self._engine.get_stream(self._container, path), self._loop
            ).result()
        except NotFound:
            raise JobError(f"A part of the kernel's state ({digest[:19]}) is gone: run the cell again.") from None
        found, left = hashlib.sha256(), size
        for data in tar_content(chunks):
            found.update(data)
            left -= len(data)
            yield data
        if left or found.hexdigest() != digest[7:]:
            raise JobError(
                f"A part of the kernel's state ({digest[:19]}) was changed after it was written; it is not sent. "
                "Restart the kernel, and run the cell again."
            )


def _workspace_layers(workspace: Path) -> list[Layer]:
    """The workspace's copy: large files in buckets by name, and one layer with all that is small, and the folders."""
    with tarfile.open(workspace) as tar:
        members = tar.getmembers()
    folders = {member.name: member for member in members if member.isdir()}
    buckets: dict[int, list[tarfile.TarInfo]] = {}
    for member in members:
        if member.isreg() and member.size >= OWN_FILE:
            key = hashlib.sha256(member.name.encode(errors="surrogatepass")).digest()[0] % BUCKETS
            buckets.setdefault(key, []).append(member)
    large = {member.name for found in buckets.values() for member in found}

    def entry(member: tarfile.TarInfo) -> _Entry:
        offset, size = member.offset_data, member.size
        if not member.isreg():
            return _Entry(member)
        return _Entry(member, lambda: _part(workspace, offset, size))

    layers = []
    for key in sorted(buckets):
        above = {str(parent) for member in buckets[key] for parent in PurePosixPath(member.name).parents}
        parents = [_still(folders[name]) for name in sorted(above & set(folders))]
        layers.append(_layer([*map(_Entry, parents), *map(entry, buckets[key])]))
    small = [_still(member) if member.isdir() else member for member in members if member.name not in large]
    layers.append(_layer([entry(member) for member in small]))
    return layers


def _still(folder: tarfile.TarInfo) -> tarfile.TarInfo:
    """A folder without its time, which changes with every file in it."""
    return folder.replace(mtime=0, deep=False)


def _part(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while size and (data := file.read(min(CHUNK, size))):
            size -= len(data)
            yield data


def _info(file: File) -> tarfile.TarInfo:
    info = tarfile.TarInfo(file.path)
    info.mode, info.uid, info.gid = file.mode, file.uid, file.gid
    if file.data is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = len(file.data)
    return info


def _layer_of_files(files: list[File]) -> Layer:
    data = archive({file.path: file for file in files}.values())  # engines refuse a path that is there twice
    return Layer(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), lambda: iter([data]))


def _layer(entries: list[_Entry], key: str = "") -> Layer:
    """A layer of entries.

    Args:
        key: what its bytes depend on, where reading them is dear: its digest is looked up by that.
    """

    def pieces() -> Iterator[bytes]:
        for entry in entries:
            yield entry.info.tobuf(tarfile.PAX_FORMAT)
            if entry.read is not None:
                yield from entry.read()
                yield bytes(-entry.info.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    size = 2 * tarfile.BLOCKSIZE
    for entry in entries:
        size += len(entry.info.tobuf(tarfile.PAX_FORMAT))
        if entry.read is not None:
            size += entry.info.size + -entry.info.size % tarfile.BLOCKSIZE
    digest = _DIGESTS.get(key) if key else None
    if digest is None:
        found = hashlib.sha256()
        for piece in pieces():
            found.update(piece)
        digest = f"sha256:{found.hexdigest()}"
        if key:
            _DIGESTS.put(key, digest)
    return Layer(digest, size, pieces)


class _DigestCache:
    """The digests of layers that were made before, in the user's cache folder: losing it costs only time."""

    def __init__(self) -> None:
        self._path = platformdirs.user_cache_path("docker-kernel") / "layers.sqlite"

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS layers (key TEXT PRIMARY KEY, digest TEXT NOT NULL)")
        return connection

    def get(self, key: str) -> str | None:
        try:
            with closing(self._open()) as connection:
                row = connection.execute("SELECT digest FROM layers WHERE key = ?", (self._short(key),)).fetchone()
        except (OSError, sqlite3.Error) as error:
            log.warning("the cache %s cannot be read: %s", self._path, error)
            return None
        return None if row is None else str(row[0])

    def put(self, key: str, digest: str) -> None:
        try:
            with closing(self._open()) as connection:
                connection.execute("INSERT OR REPLACE INTO layers VALUES (?, ?)", (self._short(key), digest))
        except (OSError, sqlite3.Error) as error:
            log.warning("the cache %s cannot be written: %s", self._path, error)

    def _short(self, key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()


_DIGESTS = _DigestCache()


def tar_content(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of the only file of a tar archive that arrives in pieces, none of which is held for long.

    Raises:
        JobError: there is no file in it.
    """
    with tarfile.open(fileobj=_Reader(chunks), mode="r|") as tar:  # type: ignore[call-overload]
        member = tar.next()
        file: IO[bytes] | None = tar.extractfile(member) if member is not None and member.isreg() else None
        if file is None:
            raise JobError("Where a part of a job's state was is no file.")
        while data := file.read(CHUNK):
            yield data


class _Reader:
    """Pieces of bytes as a file, for tarfile."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, length = [self._rest], len(self._rest)
        while length < size and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            length += len(chunk)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]
