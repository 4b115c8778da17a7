"""Files as the archives in which an engine takes them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from docker.utils.build import exclude_paths


@dataclass(frozen=True)
class File:
    """One entry of an archive that is put into a container.

    Args:
        path: where it goes, relative to the folder the archive is unpacked in.
        data: its bytes; None makes a folder.
        mode: permission bits.
        uid, gid: its owner inside the container.
    """

    path: str
    data: bytes | None = None
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


def archive(files: Iterable[File]) -> bytes:
    """A tar archive of the given files, as the engine's put_archive takes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            info = tarfile.TarInfo(file.path)
            info.mode, info.uid, info.gid = file.mode, file.uid, file.gid
            if file.data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(file.data)
                tar.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


def paths_not_ignored(root: Path, patterns: Sequence[str]) -> set[str]:
    """The paths below a folder that are left when those that .dockerignore patterns name are taken away."""
    found: set[str] = exclude_paths(str(root), list(patterns))
    return {path for path in found if path}
