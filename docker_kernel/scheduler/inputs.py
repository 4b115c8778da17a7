"""The folder of a notebook that is sent along with its job: what would go into its image, and nothing beyond."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath

from docker_kernel.containerize import files
from docker_kernel.containerize.plan import BUDGET
from docker_kernel.scheduler.outputs import FOLDER, LOCK, NO_FOLDER, opened

PIECE = 1 << 20
"""Bytes that are copied at once."""


def check(notebook: Path) -> files.Chosen:
    """What of a notebook's folder goes along.

    Raises:
        ContainerizeError: it is too much, or there is no notebook.
    """
    return files.choose(notebook, (), (), BUDGET)


def copy(notebook: Path, folder: Path) -> list[str]:
    """Copy a notebook's folder, but for the notebook itself; what runs there meanwhile cannot have other files copied.

    Args:
        folder: the job's, which is made if it is not there.

    Returns:
        The files' names, relative to the folder.

    Raises:
        ContainerizeError: it is too much.
    """
    chosen = check(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with opened(chosen.root.resolve()) as source, opened(folder) as target:
        for name, size in chosen.files:
            path = PurePosixPath(name)
            if name == notebook.name or path.parts[0] in (FOLDER, LOCK):
                continue
            with contextlib.suppress(*NO_FOLDER), contextlib.ExitStack() as stack:
                here, there = source, target
                for part in path.parts[:-1]:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=there)
                    here, there = stack.enter_context(opened(part, here)), stack.enter_context(opened(part, there))
                if _copy(path, size, here, there):
                    found.append(name)
    return found


def _copy(path: PurePosixPath, size: int, source: int, target: int) -> bool:
    """Copy a file, up to a size, or what else has its name; returns whether it is a file."""
    mode = os.stat(path.name, dir_fd=source, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(path.name, dir_fd=target)
    elif stat.S_ISLNK(mode):
        link = os.readlink(path.name, dir_fd=source)
        if _stays(path, link):
            os.symlink(link, path.name, dir_fd=target)
    elif stat.S_ISREG(mode):
        # Another may have taken its place: neither a link nor a pipe that nobody writes to.
        given = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
        with os.fdopen(given, "rb") as reader:
            made = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o777 | 0o600, dir_fd=target)
            with os.fdopen(made, "wb") as writer:
                while size > 0 and (data := reader.read(min(size, PIECE))):
                    writer.write(data)
                    size -= len(data)
        return True
    return False


def _stays(path: PurePosixPath, link: str) -> bool:
    """Whether a link leads nowhere but below the folder, whatever other links of that kind are on its way."""
    parts = PurePosixPath(link).parts
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return not link.startswith("/") and ".." not in parts[up:] and up < len(path.parts)
