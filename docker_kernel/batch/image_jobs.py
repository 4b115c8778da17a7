"""Notebook images as jobs: what `docker-kernel run` and jupyter-scheduler ask for, as work that every target takes.

The image's own main process is what runs (guest/entry_point.py); the files that it writes to its folder for results are
the job's result, and are brought to a folder of the user's. All else is as with any other job.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker_kernel import config
from docker_kernel.batch.image_origin import OUTPUT, WORKING_DIRECTORY, ImageOrigin
from docker_kernel.batch.job_folder import DispatchFolder
from docker_kernel.batch.manager import JobManager
from docker_kernel.batch.output_folder import make_folder
from docker_kernel.batch.record import JobRecord, digest_of
from docker_kernel.config import KernelConfig
from docker_kernel.engine import BindMount, Engine
from docker_kernel.guest.credentials import looks_secret
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.user import ContainerUser
from docker_kernel.targets.base import JobTask, Package

OWNER = "image:"
"""What the owner of an image's jobs begins with; the image's name follows."""


@dataclass(frozen=True)
class ImageJob:
    """One run of a notebook image.

    Args:
        image: its id on the engine; reference: its name there.
        command: the image's entry point, and the run's own arguments.
        output: the folder that its results are brought to.
        files: paths of files that it finds in its container.
        env: variables, over the image's own.
        mounts, user: folders of this machine, and whom they belong to: for a target that sees them.
        settings: limits and network; what `memory`, `cpus` and `timeout` (seconds) say goes before.
        id: the job's; what is asked for twice by one id runs once.
        owner: whose job it is; its image's where nothing is given.
    """

    image: str
    reference: str
    notebook: str
    command: Sequence[str]
    output: Path
    params: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[BindMount] = ()
    user: ContainerUser | None = None
    settings: KernelConfig = field(default_factory=KernelConfig)
    memory: int | None = None
    cpus: float | None = None
    timeout: float | None = None
    retries: int = 0
    id: str = ""
    owner: str = ""


async def submit(jobs: JobManager, engine: Engine, job: ImageJob, target_name: str) -> JobRecord:
    """Start a job of a notebook image, which goes on whatever becomes of this process.

    Args:
        engine: has the image.

    Raises:
        DockerKernelError: with a sentence for the user; then nothing was started.
    """
    settings = (await asyncio.to_thread(config.load)).target(target_name)
    target = jobs.target(target_name, settings)
    await asyncio.to_thread(make_folder, job.output)
    origin = await ImageOrigin.of(engine, job.image, job.settings, job.mounts, job.user)
    given = {"id": job.id} if job.id else {}
    record = JobRecord(
        **given,
        group=secrets.token_hex(6),
        owner=job.owner or OWNER + job.reference,
        kernel_id="",
        notebook=job.notebook,
        name=job.reference,
        target=target_name,
        kind="image",
        params={name: "…" if looks_secret(name, str(value)) else value for name, value in job.params.items()},
        retries=job.retries,
        timeout=job.timeout,
        memory=job.memory,
        cpus=job.cpus,
        image=job.image,
        output=str(job.output.absolute()),
    )
    package = Package(record.group, job.image, "", "", lib=guest_files.JOB_LIB)
    spec = _spec(record, job, origin)
    record.source_digest = digest_of(spec["source"])
    task = JobTask(
        job_id=record.id,
        name=record.name,
        spec=spec,
        secrets={name: value for name, value in job.env.items() if looks_secret(name, value)},
        memory=record.memory,
        cpus=record.cpus,
        gpus=job.settings.gpus,
    )
    lock = await asyncio.to_thread(DispatchFolder(record.group).lock)
    submitting = asyncio.ensure_future(jobs.submit(origin, target, package, [(record, task)]))
    try:
        await asyncio.shield(submitting)
    except asyncio.CancelledError:
        while not submitting.done():
            with contextlib.suppress(asyncio.CancelledError):  # whoever cancels twice is to know what became of it, too
                await asyncio.wait([submitting])
        raise
    finally:
        if lock is not None:
            lock.close()
    await jobs.forget_old_dispatches(record.owner, target_name)
    return record


def _spec(record: JobRecord, job: ImageJob, origin: ImageOrigin) -> dict[str, Any]:
    """What the runner reads (guest/run_job.py)."""
    return {
        "job": record.id,
        "kind": record.kind,
        "nonce": record.nonce,
        "source": " ".join(["docker-kernel run", job.reference, *(f"-p {name}=…" for name in job.params)]),
        "command": list(job.command),
        "cwd": WORKING_DIRECTORY,
        "python": origin.python,
        "env": {name: value for name, value in job.env.items() if not looks_secret(name, value)},
        "files": {path: base64.b64encode(data).decode() for path, data in job.files.items()},
        "state": guest_files.STATE,
        "outputs": OUTPUT,
        "timeout": None,  # the image watches it itself, and brings out what it has
    }
