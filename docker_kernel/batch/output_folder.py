"""The folder of the user's that a job's files are brought to, which what ran may have meddled with: no link there is
followed, and a file that is there is replaced."""

from __future__ import annotations

import os
import secrets
from pathlib import Path, PurePosixPath
from typing import IO

from docker_kernel.batch.manifest import ResultManifest, parse
from docker_kernel.batch.result_store import ResultFolder
from docker_kernel.errors import JobError


def make_folder(folder: Path) -> None:
    """Make an output folder, before anything runs for it.

    What ran in the current folder may have put a link in its place: no link there is followed. A path that leads
    elsewhere is the user's own.

    Raises:
        JobError: it cannot be made or written, or is a link.
    """
    try:
        here = Path.cwd()
        whole = here / folder
        str(whole).encode()
        ours = [one for one in (*reversed(whole.parents), whole) if one == whole or here in one.parents]
        for one in ours:
            if one.is_symlink():
                raise JobError(f"The folder {one} is a link to {one.readlink()}: name the folder itself with --output.")
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
    except UnicodeEncodeError:
        raise JobError(f"The path of the folder {os.fsencode(whole)!r} is not UTF-8: name another one.") from None
    except OSError as error:
        raise JobError(f"The folder {folder} cannot be made: {error.strerror}.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise JobError(f"You may not write to the folder {folder}: name another one with --output.")


def bring_files(result: ResultFolder, digest: str, folder: Path) -> list[str]:
    """Copy a result's files to a folder; returns their paths in it.

    Raises:
        JobError: one cannot be written.
    """
    manifest = parse(ResultManifest, result.file("manifests", digest).read_bytes())
    try:
        if folder.is_symlink():
            raise JobError(f"The results are not brought to {folder}: it has become a link.")
        folder.mkdir(parents=True, exist_ok=True)
        for file in manifest.files:
            with result.file("blobs", file.blob).open("rb") as content:
                _write(folder, PurePosixPath(file.path).parts, content)
    except OSError as error:
        place = error.filename2 or folder
        raise JobError(f"The results cannot be written to {place}: {error.strerror or error}.") from None
    return [file.path for file in manifest.files]


def _write(folder: Path, parts: tuple[str, ...], content: IO[bytes]) -> None:
    """Write one file; what is there, a link too, is replaced, and no link in its path is followed."""
    place = folder
    for part in parts[:-1]:
        place = place / part
        if place.is_symlink() or place.is_file():
            place.unlink()
        place.mkdir(exist_ok=True)
    made = place / f".{secrets.token_hex(8)}"
    try:
        with made.open("xb") as file:
            while data := content.read(1 << 20):
                file.write(data)
        made.replace(place / parts[-1])
    finally:
        made.unlink(missing_ok=True)
