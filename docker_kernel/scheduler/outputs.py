"""What a run leaves: from the folder that its container writes to where jupyter-scheduler and the user look for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jupyter_scheduler.job_files_manager import JobFilesManager

FOLDER = ".docker-kernel-output"
"""In a job's staging folder: what its container has at /output."""

LOCK = ".docker-kernel-lock"
"""There, too: who works for the job holds it."""

PRODUCED = {"ipynb": "output.ipynb", "html": "output.html"}
FILES = "files"


def collect(staged: Mapping[str, str]) -> list[str]:
    """Bring what a run wrote to where jupyter-scheduler looks for it; done again, it does no harm.

    The notebook runs as the container's user and may have written anything: no link is followed, not in a folder's
    place either.

    Args:
        staged: a job's staging paths, by output format, and of its input.

    Returns:
        The files that the notebook itself wrote, relative to the staging folder.
    """
    home = Path(staged["input"]).parent
    kept = {FOLDER, LOCK, *(Path(path).name for path in staged.values())}
    found: list[str] = []
    with opened(home) as target, contextlib.suppress(*NO_FOLDER), opened(FOLDER, target) as source:
        for output_format, name in PRODUCED.items():
            if output_format in staged:
                _bring(source, name, target, Path(staged[output_format]).name)
        with contextlib.suppress(*NO_FOLDER), opened(FILES, source) as files:
            found += _bring_all(files, target, kept)
    shutil.rmtree(home / FOLDER, ignore_errors=True)
    return sorted(found)


NO_FOLDER = (FileNotFoundError, NotADirectoryError, FileExistsError)
"""What opening a folder raises where there is none, but nothing, a file, or a link."""


@contextlib.contextmanager
def opened(folder: str | Path, inside: int | None = None) -> Iterator[int]:
    """A folder's descriptor, which means that folder whatever takes its place later."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _bring_all(source: int, target: int, kept: Collection[str]) -> Iterator[str]:
    """Bring all files of a folder; nothing takes the place of what is `kept` at its top."""
    for folder, _, names, place in os.fwalk(".", dir_fd=source, follow_symlinks=False):
        parts = PurePosixPath(folder).parts
        files = [name for name in names if (*parts, name)[0] not in kept]
        if not files:
            continue
        with contextlib.suppress(*NO_FOLDER), contextlib.ExitStack() as stack:
            there = target
            for part in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=there)
                there = stack.enter_context(opened(part, there))
            for name in files:
                if _bring(place, name, there, name):
                    yield str(PurePosixPath(folder, name))


def _bring(source: int, name: str, target: int, new: str) -> bool:
    """Move a regular file from one folder to another; returns whether it was one."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            return False
        os.replace(name, new, src_dir_fd=source, dst_dir_fd=target)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


class DockerJobFiles(JobFilesManager):  # type: ignore[misc]
    """Copies a job's files to the user's folder.

    In a thread, and below the server's root folder wherever the server itself was started; jupyter-scheduler 2.12 forks
    the server for it, and takes the folder that it was started in.
    """

    async def copy_from_staging(self, job_id: str, redownload: bool | None = False) -> None:
        """Copy the outputs and files of a job; those that are there are copied again only if `redownload`."""
        scheduler: Any = self.scheduler
        job = scheduler.get_job(job_id, False)
        staged: dict[str, str] = scheduler.get_staging_paths(job)
        names: dict[str, Any] = scheduler.get_job_filenames(job)
        folder = Path(scheduler.get_local_output_path(model=job))
        pairs = [(Path(staged[key]), folder / names[key]) for key in (*(job.output_formats or ()), "input")]
        pairs += [(Path(staged["input"]).parent / name, folder / name) for name in names.get("files", ())]
        await asyncio.to_thread(_copy, pairs, bool(redownload))


def _copy(pairs: list[tuple[Path, Path]], again: bool) -> None:
    for source, target in pairs:
        if target.exists() and not again:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a run that failed early has not all of them
            shutil.copyfile(source, target)
