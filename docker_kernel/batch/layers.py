"""What a job starts from, as image layers: the same content always makes the same bytes, so that it is sent once.

A layer is an uncompressed tar archive, which is made only when someone reads it. Large blobs have a layer each; small
ones share a few, by the names of their variables, so that a change of one variable changes one small layer. Those that
change the least come first: what an engine has of an image is found by its layers from the bottom up (OCI image spec,
"Layer ChainID").
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import platformdirs

from docker_kernel import background
from docker_kernel.batch.manifest import Manifest, parse
from docker_kernel.engine import STREAM_STDOUT, ExecStream, File, archive
from docker_kernel.errors import DockerKernelError, JobError, NotFound
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import Package

log = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK = 1 << 20
OWN_LAYER = 1 << 18
"""Bytes from which a blob has a layer of its own."""

MAX_OWN = 40
"""Blobs with a layer of their own; an image may have 125 layers in all (overlay2's limit)."""

BUCKETS = 16

KEPT = 16 << 20
"""Bytes of small layers that are kept in memory from when their digest is found until they are sent."""

QUICK_SECONDS = 30
"""How long the kernel's container may take to give a small blob, before the engine is asked."""

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


def file_pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes, in pieces of at most CHUNK."""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data


@dataclass(frozen=True)
class _Entry:
    """One entry of a layer's archive; a regular file's content comes in pieces."""

    info: tarfile.TarInfo
    content: Iterable[bytes] | None = None


async def job_layers(kernel: KernelHandle, package: Package) -> list[Layer]:
    """The layers that make a job's image of its environment's image, lowest first.

    Raises:
        JobError: a blob of the snapshot is gone, or was changed.
    """
    state = _StateFolder(kernel, package.holder or kernel.container_id)
    if not package.manifest:
        return [await asyncio.to_thread(lambda: _layer_of_files([*kernel.guest_files(), *state.folders()]))]
    uid, _, gid = kernel.user.partition(":")
    manifest = parse(Manifest, package.manifest)
    own, buckets = _partition(manifest)
    layers = [await asyncio.to_thread(lambda: _layer_of_files([*kernel.guest_files(), *state.folders()]))]
    for blobs in own:
        layers.append(await background.in_own_thread(state.layer, blobs))
    if package.workspace is not None:
        layers += await background.in_own_thread(_workspace_layers, package.workspace)
    async with state.kept_open():
        for blobs in buckets:
            layers.append(await background.in_own_thread(state.layer, blobs))
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
    """The kernel volume, read through a container that has it; small blobs through the kernel's own while it runs."""

    def __init__(self, kernel: KernelHandle, container: str) -> None:
        uid, _, gid = kernel.user.partition(":")
        self._kernel = kernel
        self._container = container
        self._owner = (int(uid), int(gid))
        self._loop = asyncio.get_running_loop()
        self._quick: _QuickReader | None = None
        self._kept = 0

    @contextlib.asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Read small blobs of several layers in one go."""
        self._quick = _QuickReader(self._kernel, self._loop)
        try:
            yield
        finally:
            self._quick.close()
            self._quick = None

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
        folders = [_info(file) for file in self.folders()]
        files = []
        for digest, size in blobs:
            info = tarfile.TarInfo(f"{guest_files.STATE.lstrip('/')}/blobs/{digest[7:]}")
            info.size, info.mode, (info.uid, info.gid) = size, 0o644, self._owner
            files.append(info)

        def entries() -> Iterator[_Entry]:
            yield from map(_Entry, folders)
            contents = self._contents(blobs)
            with contextlib.closing(contents):
                for info, content in zip(files, contents, strict=True):
                    yield _Entry(info, content)

        size = _size([*folders, *files])
        made = _layer(entries, size, json.dumps([1, self._owner, blobs]), size <= KEPT - self._kept)
        self._kept += made.kept
        return made.layer

    def _contents(self, blobs: list[tuple[str, int]]) -> Generator[Iterator[bytes], None, None]:
        """The blobs' contents, each of which is what its digest says or raises JobError."""
        shared = self._quick
        quick = shared or _QuickReader(self._kernel, self._loop)
        try:
            small = [(digest, size) for digest, size in blobs if size < OWN_LAYER]
            given = quick.read(small) if len(small) > 1 else iter(())
            for digest, size in blobs:
                data = next(given, None) if size < OWN_LAYER else None
                yield iter([data]) if data is not None else self._blob(digest, size)
        finally:
            if quick is not shared:
                quick.close()

    def _blob(self, digest: str, size: int) -> Iterator[bytes]:
        path = f"{guest_files.STATE}/blobs/{digest[7:]}"
        try:
            stream = asyncio.run_coroutine_threadsafe(
                self._kernel.engine.containers.get_stream(self._container, path), self._loop
            ).result()
        except NotFound:
            raise JobError(f"A part of the kernel's state ({digest[:19]}) is gone: run the cell again.") from None
        found, left = hashlib.sha256(), size
        with contextlib.closing(stream):
            for data in tar_content(stream):
                left -= len(data)
                if left < 0:
                    break  # not a byte more than was said: what follows would be taken for what comes after the blob
                found.update(data)
                yield data
        if left or found.hexdigest() != digest[7:]:
            raise JobError(
                f"A part of the kernel's state ({digest[:19]}) was changed after it was written; it is not sent. "
                "Restart the kernel, and run the cell again."
            )


class _QuickReader:
    """Reads small blobs by one process in the kernel's container, as an archive of each costs the engine 50 ms.

    It may fail at any time: what it does not give, or what is not as its digest says, is to be had from the engine.
    """

    SCRIPT = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    for path in json.loads(line):\n"
        "        with open(path, 'rb') as file:\n"
        "            sys.stdout.buffer.write(file.read())\n"
        "    sys.stdout.buffer.flush()\n"
    )

    def __init__(self, kernel: KernelHandle, loop: asyncio.AbstractEventLoop) -> None:
        self._kernel = kernel
        self._loop = loop
        self._stream: ExecStream | None = None
        self._frames: AsyncIterator[tuple[int, bytes]]
        self._rest = b""
        self._failed = False

    def read(self, blobs: Sequence[tuple[str, int]]) -> Iterator[bytes | None]:
        """Each blob's content, None for those that it cannot give. To be called in a thread."""
        asked = False
        for digest, size in blobs:
            data = None
            if not self._failed:
                try:
                    if not asked:
                        self._do(self._ask([f"{guest_files.STATE}/blobs/{one[7:]}" for one, _ in blobs]))
                        asked = True
                    data = self._do(self._take(size))
                    if hashlib.sha256(data).hexdigest() != digest[7:]:
                        data = None
                        self._failed = True
                except (DockerKernelError, OSError, EOFError, TimeoutError, asyncio.TimeoutError) as error:
                    log.debug("small blobs are not read in the kernel's container", exc_info=error)
                    self._failed = True
            yield data

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, QUICK_SECONDS), self._loop).result()

    async def _ask(self, paths: list[str]) -> None:
        if self._stream is None:
            command = [self._kernel.python, "-I", "-S", "-c", self.SCRIPT]
            kernel = self._kernel
            self._stream = await kernel.engine.containers.exec(kernel.container_id, command, user=kernel.user)
            self._frames = self._stream.frames()
        await self._stream.write(json.dumps(paths).encode() + b"\n")

    async def _take(self, size: int) -> bytes:
        parts, length = [self._rest], len(self._rest)
        while length < size:
            stream, data = await anext(self._frames, (0, b""))
            if not stream:
                raise EOFError("it ended")
            if stream == STREAM_STDOUT:
                parts.append(data)
                length += len(data)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]

    def close(self) -> None:
        self._failed = True
        if self._stream is not None:
            self._loop.call_soon_threadsafe(self._stream.close)


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

    def layer(infos: list[tarfile.TarInfo]) -> Layer:
        def entries() -> Iterator[_Entry]:
            for info in infos:
                yield _Entry(info, _part(workspace, info.offset_data, info.size) if info.isreg() else None)

        return _layer(entries, _size(infos)).layer

    layers = []
    for key in sorted(buckets):
        above = {str(parent) for member in buckets[key] for parent in PurePosixPath(member.name).parents}
        parents = [_still(folders[name]) for name in sorted(above & set(folders))]
        layers.append(layer([*parents, *buckets[key]]))
    layers.append(
        layer([_still(member) if member.isdir() else member for member in members if member.name not in large])
    )
    return layers


def _still(folder: tarfile.TarInfo) -> tarfile.TarInfo:
    """A folder without its time, which changes with every file in it."""
    still = folder.replace(mtime=0, deep=False)
    still.pax_headers = {key: value for key, value in folder.pax_headers.items() if key != "mtime"}
    return still


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


def _size(infos: Iterable[tarfile.TarInfo]) -> int:
    """Bytes of an archive of entries."""
    size = 2 * tarfile.BLOCKSIZE
    for info in infos:
        size += len(info.tobuf(tarfile.PAX_FORMAT))
        if info.isreg():
            size += info.size + -info.size % tarfile.BLOCKSIZE
    return size


def _pieces(entries: Iterable[_Entry]) -> Iterator[bytes]:
    for entry in entries:
        yield entry.info.tobuf(tarfile.PAX_FORMAT)
        if entry.content is not None:
            yield from entry.content
            yield bytes(-entry.info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class _Made:
    """A layer, and how many bytes of it are kept in memory."""

    layer: Layer
    kept: int


def _layer(entries: Callable[[], Iterable[_Entry]], size: int, key: str = "", keep: bool = False) -> _Made:
    """A layer of entries.

    Args:
        entries: gives them, each time that the layer is read.
        key: what its bytes depend on, where reading them is dear: its digest is looked up by that.
        keep: whether what is read for the digest may be kept, so that it need not be read again.
    """
    digest = _DIGESTS.get(key) if key else None
    if digest is not None:
        return _Made(Layer(digest, size, lambda: _pieces(entries())), 0)
    found, kept = hashlib.sha256(), []
    for piece in _pieces(entries()):
        found.update(piece)
        if keep:
            kept.append(piece)
    digest = f"sha256:{found.hexdigest()}"
    if key:
        _DIGESTS.put(key, digest)
    if keep:
        return _Made(Layer(digest, size, lambda: iter(kept)), size)
    return _Made(Layer(digest, size, lambda: _pieces(entries())), 0)


class DigestCache:
    """What is known of layers that were made before, in the user's cache folder: losing it costs only time."""

    def __init__(self) -> None:
        self._path = platformdirs.user_cache_path("docker-kernel") / "layers.sqlite"

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS layers (key TEXT PRIMARY KEY, digest TEXT NOT NULL)")
        return connection

    def get(self, key: str) -> str | None:
        try:
            with contextlib.closing(self._open()) as connection:
                row = connection.execute("SELECT digest FROM layers WHERE key = ?", (self._short(key),)).fetchone()
        except (OSError, sqlite3.Error) as error:
            log.warning("the cache %s cannot be read: %s", self._path, error)
            return None
        return None if row is None else str(row[0])

    def put(self, key: str, digest: str) -> None:
        try:
            with contextlib.closing(self._open()) as connection:
                connection.execute("INSERT OR REPLACE INTO layers VALUES (?, ?)", (self._short(key), digest))
        except (OSError, sqlite3.Error) as error:
            log.warning("the cache %s cannot be written: %s", self._path, error)

    def _short(self, key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()


_DIGESTS = DigestCache()


def tar_content(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of the only file of a tar archive that arrives in pieces, none of which is held for long.

    Raises:
        JobError: there is no file in it, or it breaks off.
    """
    for _, content in tar_files(chunks):
        yield from content
        return
    raise JobError("Where a part of a job's state was is no file.")


def tar_files(chunks: Iterable[bytes]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The names and bytes of the files of a tar archive that arrives in pieces; each is to be read before the next.

    Raises:
        JobError: it breaks off.
    """
    with _broken_off(), tarfile.open(fileobj=_Reader(chunks), mode="r|", bufsize=CHUNK) as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield PurePosixPath(member.name).name, _content(file)
            tar.members = []  # it would keep them all


def _content(file: IO[bytes]) -> Iterator[bytes]:
    with _broken_off():
        while data := file.read(CHUNK):
            yield data


@contextlib.contextmanager
def _broken_off() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise JobError(f"The engine broke off while a part of a job's state was read ({error}).") from None


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
