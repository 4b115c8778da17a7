"""jupyter-scheduler's notebook jobs, as jobs of ours: each is started, waited for, stopped, and its end written down.

Here it is only translated. A job's id follows from the scheduler's, so that a server that comes back finds it; what is
under way is what batch/manager.py says. Everything runs on the background loop (docker_kernel/background.py), never on
the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_scheduler.models import DescribeJob, Status

from docker_kernel import background, config, kernelspec
from docker_kernel.batch import image_jobs
from docker_kernel.batch.image_jobs import ImageJob
from docker_kernel.batch.image_origin import entry_point
from docker_kernel.batch.manager import NOT_HERE, JobManager, manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.config import KernelConfig, UserConfig
from docker_kernel.containerize import files
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.inspect import describe
from docker_kernel.containerize.plan import read_notebook
from docker_kernel.containerize.request import Request
from docker_kernel.engine import BindMount, Engine
from docker_kernel.errors import (
    ConfigError,
    ContainerizeError,
    DockerKernelError,
    EngineError,
    EngineUnavailable,
)
from docker_kernel.guest.credentials import looks_secret
from docker_kernel.kernel.locality import check_local
from docker_kernel.kernel.user import container_user
from docker_kernel.kernel.workspace import kernel_mounts
from docker_kernel.scheduler import outputs
from docker_kernel.scheduler.environments import IMAGE, KERNEL, OWN_IMAGES
from docker_kernel.scheduler.store import JobStore

BUSY_SECONDS = 1.0
"""Between two looks into the database while a job is under way: another server may share it."""

IDLE_SECONDS = 15.0

AWAY_SECONDS = 5.0
"""Until a job is tried again for which no engine answers."""

OWNER = "scheduler:"
"""What the owner of a scheduler's jobs begins with; which database follows."""

TARGET = "local"

Paths = Callable[[DescribeJob], dict[str, str]]


@dataclass(frozen=True)
class Options:
    """What a job's runtime_environment_parameters ask for.

    Args:
        timeout, cell_timeout: seconds; 0 for no limit.
        no_input: whether the page hides the code.
    """

    timeout: float = 0
    cell_timeout: float = 0
    no_input: bool = False


def options(given: Mapping[str, Any] | None) -> Options:
    """Typed options; raises ConfigError where there is no such one, or it has a wrong value."""
    given = given or {}
    for name, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
        if name not in Options.__dataclass_fields__:
            raise ConfigError(
                f"There is no runtime environment parameter {name!r}, but {', '.join(Options.__dataclass_fields__)}."
            )
        if not (isinstance(value, bool) if name == "no_input" else number):
            wanted = "true or false" if name == "no_input" else "a number of seconds"
            raise ConfigError(f"The runtime environment parameter {name} must be {wanted}, not {value!r}.")
    return Options(**given)


class _Unreadable(DockerKernelError):
    """The ledger cannot be read now: whether a job is known is not."""


class Runs:
    """All runs of one scheduler.

    Args:
        paths: a job's staging paths.
        timeout: seconds that a run may take where its job does not say; 0 for no limit.
        max_starting: how many images are made at once.
    """

    def __init__(self, store: JobStore, paths: Paths, timeout: float, max_starting: int, log: logging.Logger) -> None:
        self._store, self._paths, self._timeout, self._log = store, paths, timeout, log
        self._starting = asyncio.Semaphore(max_starting)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Follow all runs, those of a server before this one, too, from now on."""
        background.submit(self._watch())

    def wake(self) -> None:
        """Look at once; may be called from any thread."""
        background.loop().call_soon_threadsafe(self._changed.set)

    async def stop(self, job_id: str) -> None:
        """Have a job stopped; it is when its run has ended."""
        if await asyncio.to_thread(
            self._store.change, job_id, (Status.QUEUED, Status.IN_PROGRESS), status=Status.STOPPING
        ):
            self._changed.set()

    async def forget(self, job_id: str) -> None:
        """End what there is of a job that will be deleted."""
        await asyncio.to_thread(
            self._store.change, job_id, (Status.QUEUED, Status.IN_PROGRESS, Status.STOPPING), status=Status.STOPPED
        )
        jobs = manager()
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        if await self._record(jobs, job_id) is not None:
            with contextlib.suppress(EngineUnavailable):
                await jobs.cancel(record_id(job_id), "it was deleted")
                await jobs.wait(record_id(job_id))
        await _remove_own_image(job_id)

    async def _watch(self) -> None:
        while True:
            busy = True
            try:
                busy = await self._look()
            except Exception:
                self._log.exception("Notebook jobs could not be looked after")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), BUSY_SECONDS if busy else IDLE_SECONDS)
            self._changed.clear()

    async def _look(self) -> bool:
        """Have a task for each job that is not over; returns whether there is one."""
        active = await asyncio.to_thread(self._store.active)
        for job in active:
            task = self._tasks.get(job.job_id)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._alone(job))
                self._tasks[job.job_id] = task
                task.add_done_callback(lambda _, job_id=job.job_id: self._tasks.pop(job_id, None))  # type: ignore[misc]
            elif job.status == Status.STOPPING:
                await self._stop(job.job_id, task)
        return bool(active)

    async def _stop(self, job_id: str, task: asyncio.Task[None]) -> None:
        """Stop a job whose task goes on until its end, or which has not come to be one."""
        jobs = manager()
        if await self._record(jobs, job_id) is None:
            task.cancel()
            return
        try:
            await jobs.cancel(record_id(job_id), "it was stopped")
        except DockerKernelError as error:
            self._log.warning("The notebook job %s cannot be stopped yet: %s", job_id, error)

    async def _alone(self, job: DescribeJob) -> None:
        """Do what is due for a job, unless another process does."""
        folder = Path(self._paths(job)["input"]).parent
        try:
            with _lock(folder / outputs.LOCK) as ours:
                if ours:
                    await self._ours(job)
                else:
                    await asyncio.sleep(AWAY_SECONDS)
        except (EngineUnavailable, _Unreadable) as error:
            self._log.warning("The notebook job %s waits: %s", job.job_id, error)
            await asyncio.sleep(AWAY_SECONDS)
        except DockerKernelError as error:
            await self._end(job, Status.FAILED, str(error))
        except Exception as error:
            self._log.exception("The notebook job %s failed", job.job_id)
            await self._end(job, Status.FAILED, f"{type(error).__name__}: {error}")

    async def _ours(self, job: DescribeJob) -> None:
        try:
            await self._run(job)
        except asyncio.CancelledError:
            # It may have come to be one of our jobs all the same.
            jobs = manager()
            if await self._record(jobs, job.job_id) is not None:
                await jobs.cancel(record_id(job.job_id), "it was stopped")
                await jobs.wait(record_id(job.job_id))
            await asyncio.to_thread(self._store.change, job.job_id, (Status.STOPPING,), status=Status.STOPPED)
            raise

    async def _run(self, job: DescribeJob) -> None:
        """Start a job if that was not done yet, and see it to its end."""
        jobs = manager()
        if await self._record(jobs, job.job_id) is None:
            if job.status == Status.STOPPING:
                await self._end(job, Status.STOPPED, "")
                return
            if job.status == Status.IN_PROGRESS:
                await self._end(job, Status.FAILED, "What was known of its run is gone.")
                return
            await self._start(jobs, job)
        await self._in_progress(job)
        if job.status == Status.STOPPING:
            await jobs.cancel(record_id(job.job_id), "it was stopped")
        record = await jobs.wait(record_id(job.job_id))
        if record.state == "lost" and record.started is None and record.attempt == 1:
            # It waited for its turn when its server ended. What is secret in its kernelspec is kept nowhere else.
            settings = await self._settings(job)
            record = await jobs.wait((await jobs.retry(record.id, _secrets(settings))).id)
        await self._finish(job, record)

    async def _record(self, jobs: JobManager, job_id: str) -> JobRecord | None:
        """What our jobs know of one; None where they know that there is none.

        Raises:
            _Unreadable: nobody can tell.
        """
        job = record_id(job_id)
        if jobs.follows(job):
            return jobs.get(job)
        found = await asyncio.to_thread(jobs.ledger.of_ids, [job])
        if found is None:
            raise _Unreadable(f"{jobs.ledger.path} cannot be read.")
        return found[0] if found else None

    def _limit(self, job: DescribeJob) -> float:
        return options(job.runtime_environment_parameters).timeout or self._timeout

    async def _in_progress(self, job: DescribeJob) -> None:
        values = {"status": Status.IN_PROGRESS, "start_time": _now()}
        await asyncio.to_thread(self._store.change, job.job_id, (Status.QUEUED,), **values)

    async def _end(self, job: DescribeJob, status: Status, message: str, **values: Any) -> None:
        having = (Status.QUEUED, Status.IN_PROGRESS, Status.STOPPING)
        values = {**values, "status": status, "status_message": message, "end_time": _now()}
        await asyncio.to_thread(self._store.change, job.job_id, having, **values)

    async def _start(self, jobs: JobManager, job: DescribeJob) -> None:
        engine = await Engine.connect()
        with contextlib.closing(engine):
            await check_local(engine)
            async with self._starting:
                image, settings = await self._image(engine, job)
            folder = Path(self._paths(job)["input"]).parent / outputs.FOLDER
            mounts = await asyncio.to_thread(lambda: _extra_mounts(settings, config.load()))
            entry = entry_point((await engine.images.inspect(image))["Config"])
            work = ImageJob(
                image=image,
                reference=job.name or job.input_filename,
                notebook=job.input_filename,
                command=[*entry, *self._arguments(job)],
                output=folder,
                params=job.parameters or {},
                env=_secrets(settings),
                mounts=mounts,
                user=container_user(settings, await engine.info(), [mount.target for mount in mounts]),
                settings=settings,
                timeout=self._limit(job) or None,
                id=record_id(job.job_id),
                owner=OWNER + self._store.id,
            )
            await image_jobs.submit(jobs, engine, work, TARGET)

    async def _image(self, engine: Engine, job: DescribeJob) -> tuple[str, KernelConfig]:
        """The image that a job runs, and how containers of its kernelspec are made."""
        notebook = Path(self._paths(job)["input"])
        name = job.runtime_environment_name
        if name.startswith(IMAGE):
            reference = name.removeprefix(IMAGE)
            about = await describe(engine, reference)
            content = await asyncio.to_thread(lambda: files.clean(read_notebook(notebook), keep_outputs=False))
            if files.digest(content) != about.notebook_digest:
                raise ContainerizeError(
                    f"{job.input_filename} is not what the image {reference} was made of: containerize it again, or "
                    "choose a kernelspec as the environment."
                )
            return about.image_id, await self._settings(job)
        settings = await self._settings(job)
        spec = name.removeprefix(KERNEL)
        made = await containerize(Request(notebook, tag=_own_image(job.job_id), kernel=spec), engine=engine)
        return made.image_id, settings

    async def _settings(self, job: DescribeJob) -> KernelConfig:
        """How containers of a job's kernelspec are made.

        Raises:
            ConfigError: it is not installed any more.
        """
        name = job.runtime_environment_name
        if name.startswith(IMAGE):
            return KernelConfig()
        spec = name.removeprefix(KERNEL)
        installed = await asyncio.to_thread(kernelspec.ours)
        if spec not in installed:
            raise ConfigError(f"The kernelspec {spec!r} is not installed any more: `docker-kernel list` shows others.")
        stanza = installed[spec]["spec"]["metadata"]["kernel_provisioner"].get("config") or {}
        return (await asyncio.to_thread(config.load)).kernel_config(stanza, f"The kernelspec {spec}")

    def _arguments(self, job: DescribeJob) -> list[str]:
        wanted = options(job.runtime_environment_parameters)
        made = [part for name, value in (job.parameters or {}).items() for part in ("-p", f"{name}={value}")]
        if limit := self._limit(job):
            made += ["--timeout", f"{limit:g}"]
        if wanted.cell_timeout:
            made += ["--cell-timeout", f"{wanted.cell_timeout:g}"]
        return [*made, "--no-input"] if wanted.no_input else made

    async def _finish(self, job: DescribeJob, record: JobRecord) -> None:
        written = await asyncio.to_thread(outputs.collect, self._paths(job))
        packaged = sorted({*(job.packaged_files or ()), *written})
        status = {"succeeded": Status.COMPLETED, "cancelled": Status.STOPPED}.get(record.state, Status.FAILED)
        if NOT_HERE in record.reason and status == Status.COMPLETED:
            status = Status.FAILED  # who looks for its outputs would find none
        reason = record.reason if status == Status.FAILED else ""
        await self._end(job, status, reason[:1].upper() + reason[1:], packaged_files=packaged)
        await _remove_own_image(job.job_id)


def record_id(job_id: str) -> str:
    """The id, among our jobs, of a job of the scheduler's."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:12]


def _own_image(job_id: str) -> str:
    return f"{OWN_IMAGES}:{job_id}"


async def _remove_own_image(job_id: str) -> None:
    with contextlib.suppress(EngineError):
        engine = await Engine.connect()
        with contextlib.closing(engine):
            await engine.images.remove(_own_image(job_id))


def _extra_mounts(settings: KernelConfig, user_config: UserConfig) -> list[BindMount]:
    """What a kernelspec mounts besides the workspace, of which the image has its own copy."""
    return kernel_mounts(settings.model_copy(update={"workspace": False}), user_config, None, "/")


def _secrets(settings: KernelConfig) -> dict[str, str]:
    """The variables of a kernelspec that are kept out of its jobs' images, as they look like credentials."""
    return {name: value for name, value in settings.env.items() if looks_secret(name, value)}


def _now() -> int:
    return int(time.time() * 1000)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this process may work for a job: others that share the database leave it alone meanwhile."""
    try:
        file = path.open("w")
    except FileNotFoundError:
        raise ContainerizeError(f"The folder of this job is gone: {path.parent}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
