"""What a run leaves: from the folder that its container writes to where jupyter-scheduler and the user look for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_scheduler.job_files_manager import JobFilesManager

FOLDER = ".docker-kernel-output"
"""In a job's staging folder: what its container has at /output."""

PRODUCED = {"ipynb": "output.ipynb", "html": "output.html"}
FILES = "files"


def collect(staged: Mapping[str, str]) -> list[str]:
    """Bring what a run wrote to where jupyter-scheduler looks for it; done again, it does no harm.

    The notebook runs as the container's user and may have written anything: links are not followed.

    Args:
        staged: a job's staging paths, by output format, and of its input.

    Returns:
        The files that the notebook itself wrote, relative to the staging folder.
    """
    source = Path(staged["input"]).parent / FOLDER
    kept = {Path(path).name for path in staged.values()}
    for output_format, name in PRODUCED.items():
        if output_format in staged:
            _bring(source / name, Path(staged[output_format]))
    found = []
    for folder, _, names in os.walk(source / FILES):
        for name in names:
            path = Path(folder) / name
            relative = path.relative_to(source / FILES)
            if str(relative) not in kept and _bring(path, source.parent / relative):
                found.append(str(relative))
    shutil.rmtree(source, ignore_errors=True)
    return sorted(found)


def _bring(source: Path, target: Path) -> bool:
    if source.is_symlink() or not source.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
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
