"""What a notebook image has of its own, as layers: the workspace's files and the notebook below /notebook, the folder
for results, and what the runner must know. The same files make the same bytes: what did not change is not sent again.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from docker_kernel.batch.layers import Layer, file_pieces
from docker_kernel.errors import ContainerizeError

FOLDER = "notebook"
OUTPUT = "output"
SPEC = "opt/docker-kernel/notebook/notebook.json"
LOCK = "opt/docker-kernel/notebook/lock.json"

UID = 1000
"""Who runs notebooks, with the group 0: clusters that choose a uid for each run keep that group (OpenShift's rule)."""

TIME = 315_619_200
"""When every file was written, as a checkout of the same commit has other times each: 1980, which zip files can say."""

OWN_LAYER = 1 << 20
"""Bytes from which a file has a layer of its own."""

MAX_OWN = 40
"""Files with a layer of their own; an image may have 125 layers in all (overlay2's limit)."""


def layers(
    root: Path, names: Iterable[str], notebook: str, source: bytes, documents: Mapping[str, bytes], spool: Path
) -> list[Layer]:
    """The layers of a workspace's files, lowest first.

    Args:
        root: the folder that the names are relative to.
        notebook: the notebook's name there; `source` goes in under it, in place of the file.
        documents: paths in the image to what is written there.
        spool: an empty folder for copies of the layers, which must live until they are sent.

    Raises:
        ContainerizeError: a file cannot be read, or the copies not be written.
    """
    try:
        sizes = {name: (root / name).lstat().st_size for name in names if name != notebook}
        large = sorted((name for name in sizes if sizes[name] >= OWN_LAYER), key=lambda name: (-sizes[name], name))
        own = sorted(large[:MAX_OWN])
        made = [_spooled(spool / str(number), _files(root, [name])) for number, name in enumerate(own)]
        small = sorted(set(sizes) - set(own))
        made.append(_spooled(spool / "files", _files(root, small)))
        made.append(_spooled(spool / "notebook", _notebook(notebook, source, documents)))
    except OSError as error:
        where = error.filename or spool
        raise ContainerizeError(f"{where} cannot be copied into the image: {error.strerror or error}.") from None
    return made


Entry = tuple[tarfile.TarInfo, "IO[bytes] | None"]


def _files(root: Path, names: list[str]) -> Iterator[Entry]:
    """The entries of files, with the folders above them."""
    yield _folder(FOLDER), None
    real, folders = root.resolve(), set()
    for name in names:
        for parent in [*PurePosixPath(name).parents][-2::-1]:
            if parent not in folders:
                folders.add(parent)
                yield _folder(f"{FOLDER}/{parent}"), None
        path = root / name
        info = tarfile.TarInfo(f"{FOLDER}/{name}")
        status = path.lstat()
        info.uid, info.mtime = UID, TIME
        if stat.S_ISLNK(status.st_mode):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
            yield info, None
        elif stat.S_ISDIR(status.st_mode):
            yield _folder(f"{FOLDER}/{name}"), None
        else:
            # A folder above may be a link by now: only where the file really is counts.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                here = Path(f"/proc/self/fd/{file.fileno()}")
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode) and (not here.exists() or here.readlink().is_relative_to(real)):
                    info.size, info.mode = status.st_size, _mode(status.st_mode)
                    yield info, file


def _notebook(name: str, source: bytes, documents: Mapping[str, bytes]) -> Iterator[Entry]:
    yield _folder(FOLDER), None
    for parent in [*PurePosixPath(name).parents][-2::-1]:
        yield _folder(f"{FOLDER}/{parent}"), None
    for path, data, uid in [
        (f"{FOLDER}/{name}", source, UID),
        *((path, documents[path], 0) for path in sorted(documents)),
    ]:
        info = tarfile.TarInfo(path)
        info.size, info.mode, info.uid = len(data), 0o664 if uid else 0o644, uid
        yield info, io.BytesIO(data)
    output = tarfile.TarInfo(OUTPUT)
    output.type, output.mode, output.uid = tarfile.DIRTYPE, 0o777, UID
    yield output, None


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid = tarfile.DIRTYPE, 0o775, UID
    return info


def _mode(mode: int) -> int:
    """A file's permissions, the same whatever the umask was: whoever runs the image can read it."""
    return 0o775 if mode & 0o100 else 0o664


class _Hashed:
    """A file that is written, and its digest and size so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


def _spooled(path: Path, entries: Iterable[Entry]) -> Layer:
    """A layer of entries, kept in a file."""
    with path.open("wb") as file:
        out = _Hashed(file)
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for info, content in entries:
                tar.addfile(info, content)
    return Layer(f"sha256:{out.digest.hexdigest()}", out.size, lambda: file_pieces(path))
