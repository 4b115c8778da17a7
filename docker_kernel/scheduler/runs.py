"""The containers of notebook jobs: started, followed, stopped and put away.

Nothing here remembers a run: what is under way is what the engine and jupyter-scheduler's database say, looked at again
and again. So a server that comes back goes on where the last one ended, and a job whose container is gone is never left
at "In progress". Everything runs on the background loop (docker_kernel/background.py), never on the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_scheduler.models import DescribeJob, Status

from docker_kernel import background, config, kernelspec, labels
from docker_kernel.batch.job_log import JobLog
from docker_kernel.config import KernelConfig, UserConfig
from docker_kernel.containerize import files
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.inspect import describe
from docker_kernel.containerize.plan import read_notebook
from docker_kernel.containerize.request import Request
from docker_kernel.engine import BindMount, ContainerSpec, ContainerState, Engine
from docker_kernel.errors import (
    ConfigError,
    ContainerizeError,
    DockerKernelError,
    EngineError,
    EngineUnavailable,
    NotFound,
)
from docker_kernel.guest.credentials import looks_secret
from docker_kernel.kernel.locality import check_local
from docker_kernel.kernel.user import container_user
from docker_kernel.kernel.workspace import kernel_mounts
from docker_kernel.scheduler import outputs
from docker_kernel.scheduler.environments import IMAGE, KERNEL, OWN_IMAGES
from docker_kernel.scheduler.store import JobStore

BUSY_SECONDS = 1.0
"""Between two looks while a job is under way."""

IDLE_SECONDS = 15.0
"""Otherwise: another server may share the database."""

AWAY_SECONDS = 5.0
"""While no engine answers."""

STOP_SECONDS = 12.0
"""From the signal to stop to the end: the entry point takes up to 8 s to bring its results out."""

LATE_SECONDS = 180.0
"""A run that is this much over its time cannot end itself."""

LAST_LINES = 40
"""Of the log, in which the entry point says how it ended."""

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
        self._stop_at: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._engine: Engine | None = None
        self._complaint = ""
        self._tidy = False

    def begin(self) -> None:
        """Follow all runs, those of a server before this one, too, from now on."""
        background.submit(self._watch())

    def wake(self) -> None:
        """Look at once; may be called from any thread."""
        background.loop().call_soon_threadsafe(self._changed.set)

    async def stop(self, job_id: str) -> None:
        """Have a job stopped; it is when its container is gone."""
        if await asyncio.to_thread(
            self._store.change, job_id, (Status.QUEUED, Status.IN_PROGRESS), status=Status.STOPPING
        ):
            self._changed.set()

    async def forget(self, job_id: str) -> None:
        """End what there is of a job that will be deleted."""
        await asyncio.to_thread(
            self._store.change, job_id, (Status.QUEUED, Status.IN_PROGRESS, Status.STOPPING), status=Status.STOPPED
        )
        if (task := self._tasks.get(job_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        self._tidy = False
        try:
            engine = await self._connected()
            await engine.containers.remove(_name(job_id))
            await _untag(engine, job_id)
        except EngineUnavailable:
            self._changed.set()  # the container of a job that is not known is removed once an engine answers

    # What is under way

    async def _watch(self) -> None:
        while True:
            pause = BUSY_SECONDS
            try:
                pause = BUSY_SECONDS if await self._look() else IDLE_SECONDS
                self._complaint = ""
            except DockerKernelError as error:
                if self._engine is not None and isinstance(error, EngineError):
                    self._engine.close()
                    self._engine = None
                if str(error) != self._complaint:
                    self._log.warning("Notebook jobs wait: %s", error)
                self._complaint = str(error)
                pause = AWAY_SECONDS
            except Exception:
                self._log.exception("Notebook jobs could not be looked after")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause)
            self._changed.clear()

    async def _connected(self) -> Engine:
        if self._engine is None:
            engine = await Engine.connect()
            await check_local(engine)
            self._engine = engine
        return self._engine

    async def _look(self) -> bool:
        """Do for each run what is due; returns whether any is under way."""
        if self._tidy and not await asyncio.to_thread(self._store.active):
            return False
        engine = await self._connected()
        # In this order: a container that is made in between belongs to a job that is known.
        found = await engine.containers.list({labels.KIND: labels.KIND_SCHEDULED, labels.SCHEDULER: self._store.id})
        containers = {state.labels.get(labels.JOB_ID, ""): state for state in found if not _is_going(state)}
        active = await asyncio.to_thread(self._store.active)
        for job in active:
            container = containers.pop(job.job_id, None)
            if (task := self._tasks.get(job.job_id)) is not None:
                if job.status == Status.STOPPING and container is None:
                    task.cancel()
            elif container is None:
                await self._without_container(engine, job)
            elif container.running:
                await self._running(engine, job, container)
            elif container.status == "created":
                self._spawn(job, self._go(engine, job, container.id))
            else:
                self._spawn(job, self._finish(engine, job, container))
        for job_id, container in containers.items():
            if job_id not in self._tasks:
                await engine.containers.remove(container.id)  # of a job that is over, or deleted
                await _untag(engine, job_id)
        self._tidy = not active
        return bool(active)

    def _spawn(self, job: DescribeJob, work: Coroutine[Any, Any, None]) -> None:
        """Work for a job in a task of its own; only one process does, and one task."""
        task = asyncio.get_running_loop().create_task(self._alone(job, work))
        self._tasks[job.job_id] = task
        task.add_done_callback(lambda task: self._tasks.pop(job.job_id, None))

    async def _alone(self, job: DescribeJob, work: Coroutine[Any, Any, None]) -> None:
        folder = Path(self._paths(job)["input"]).parent
        try:
            with _lock(folder / outputs.LOCK) as ours:
                if ours:
                    await work
        except EngineUnavailable:
            self._log.warning("The notebook job %s waits for the engine", job.job_id)
        except DockerKernelError as error:
            await self._end(job, Status.FAILED, str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._log.exception("The notebook job %s failed", job.job_id)
            await self._end(job, Status.FAILED, f"{type(error).__name__}: {error}")
        finally:
            work.close()

    async def _without_container(self, engine: Engine, job: DescribeJob) -> None:
        if job.status == Status.QUEUED:
            self._spawn(job, self._start(engine, job))
        elif job.status == Status.STOPPING:
            await self._end(job, Status.STOPPED, "")
        else:
            try:
                # It may have been made after the containers were listed.
                gone = _is_going(await engine.containers.inspect(_name(job.job_id)))
            except NotFound:
                gone = True
            if gone:
                await self._end(job, Status.FAILED, "Its container was removed before the notebook was done.")
                await _untag(engine, job.job_id)

    async def _running(self, engine: Engine, job: DescribeJob, container: ContainerState) -> None:
        if job.status == Status.QUEUED:
            await self._in_progress(job)  # the server before this one had no time left to say so
        elif job.status == Status.STOPPING:
            now = time.monotonic()
            if job.job_id not in self._stop_at:
                self._stop_at[job.job_id] = now + STOP_SECONDS
                await engine.containers.kill(container.id, 15)
            elif now > self._stop_at[job.job_id]:
                await engine.containers.kill(container.id)
        elif self._is_late(job):
            await engine.containers.kill(container.id)

    def _is_late(self, job: DescribeJob) -> bool:
        limit = self._limit(job)
        return bool(limit and job.start_time and time.time() > job.start_time / 1000 + limit + LATE_SECONDS)

    def _limit(self, job: DescribeJob) -> float:
        return options(job.runtime_environment_parameters).timeout or self._timeout

    async def _in_progress(self, job: DescribeJob) -> bool:
        values = {"status": Status.IN_PROGRESS, "start_time": _now()}
        return await asyncio.to_thread(self._store.change, job.job_id, (Status.QUEUED,), **values)

    async def _end(self, job: DescribeJob, status: Status, message: str, **values: Any) -> None:
        having = (Status.QUEUED, Status.IN_PROGRESS, Status.STOPPING)
        values = {**values, "status": status, "status_message": message, "end_time": _now()}
        await asyncio.to_thread(self._store.change, job.job_id, having, **values)
        self._stop_at.pop(job.job_id, None)

    # The beginning

    async def _start(self, engine: Engine, job: DescribeJob) -> None:
        async with self._starting:
            image, settings = await self._image(engine, job)
            container = await self._create(engine, job, image, settings)
        await self._go(engine, job, container)

    async def _go(self, engine: Engine, job: DescribeJob, container: str) -> None:
        """Start a job's container; one whose job is to be stopped is removed instead."""
        wanted = await self._in_progress(job) if job.status == Status.QUEUED else job.status == Status.IN_PROGRESS
        if not wanted:
            await engine.containers.remove(container)
            return
        try:
            await engine.containers.start(container)
        except EngineError:
            await engine.containers.remove(container)
            raise

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
            return about.image_id, KernelConfig()
        spec = name.removeprefix(KERNEL)
        installed = await asyncio.to_thread(kernelspec.ours)
        if spec not in installed:
            raise ConfigError(f"The kernelspec {spec!r} is not installed any more: `docker-kernel list` shows others.")
        stanza = installed[spec]["spec"]["metadata"]["kernel_provisioner"].get("config") or {}
        settings = (await asyncio.to_thread(config.load)).kernel_config(stanza, f"The kernelspec {spec}")
        made = await containerize(Request(notebook, tag=_own_image(job.job_id), kernel=spec), engine=engine)
        return made.image_id, settings

    async def _create(self, engine: Engine, job: DescribeJob, image: str, settings: KernelConfig) -> str:
        folder = Path(self._paths(job)["input"]).parent / outputs.FOLDER
        info = await engine.info()
        mounts = await asyncio.to_thread(lambda: _extra_mounts(settings, config.load()))
        user = container_user(settings, info, [mount.target for mount in mounts])
        await asyncio.to_thread(_make_folder, folder, settings)
        entry = (await engine.images.inspect(image))["Config"]["Entrypoint"]
        nonce = secrets.token_hex(8)
        spec = ContainerSpec(
            image=image,
            command=[*entry, *self._arguments(job)],
            name=_name(job.job_id),
            user=user.spec,
            env={**_secrets(settings), "DOCKER_KERNEL_NONCE": nonce},
            labels={
                labels.KIND: labels.KIND_SCHEDULED,
                labels.SCHEDULER: self._store.id,
                labels.JOB_ID: job.job_id,
                labels.USER: str(os.getuid()),
                labels.NOTEBOOK: job.input_filename,
                labels.NONCE: nonce,
            },
            mounts=[*mounts, BindMount(str(folder), "/output")],
            network=settings.network,
            memory=settings.memory,
            cpus=settings.cpus,
            pids=settings.pids,
            shm_size=settings.shm,
            gpus=settings.gpus,
            cap_add=settings.capabilities,
            group_add=user.groups,
            userns_mode=user.userns_mode,
        )
        making = asyncio.ensure_future(engine.containers.create(spec))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await engine.containers.remove(await making)  # it is made whether or not anybody waits
            raise

    def _arguments(self, job: DescribeJob) -> list[str]:
        wanted = options(job.runtime_environment_parameters)
        made = [part for name, value in (job.parameters or {}).items() for part in ("-p", f"{name}={value}")]
        if limit := self._limit(job):
            made += ["--timeout", f"{limit:g}"]
        if wanted.cell_timeout:
            made += ["--cell-timeout", f"{wanted.cell_timeout:g}"]
        return [*made, "--no-input"] if wanted.no_input else made

    # The end

    async def _finish(self, engine: Engine, job: DescribeJob, container: ContainerState) -> None:
        log = await engine.containers.logs(container.id, tail=LAST_LINES)
        written = await asyncio.to_thread(outputs.collect, self._paths(job))
        packaged = sorted({*(job.packaged_files or ()), *written})
        if job.status == Status.STOPPING:
            await self._end(job, Status.STOPPED, "", packaged_files=packaged)
        elif container.exit_code == 0:
            await self._end(job, Status.COMPLETED, "", packaged_files=packaged)
        else:
            reason = _reason(container, log)
            await self._end(job, Status.FAILED, reason, packaged_files=packaged)
        await engine.containers.remove(container.id)
        await _untag(engine, job.job_id)


def _is_going(container: ContainerState) -> bool:
    """Whether a container is being removed."""
    return container.status in ("removing", "dead")


def _reason(container: ContainerState, log: bytes) -> str:
    """Why a run failed, in a sentence: what its entry point said last."""
    reader = JobLog(container.labels.get(labels.NONCE, ""))
    parts = [*reader.feed(log), reader.rest()]
    markers = {part["event"]: part for part in parts if isinstance(part, dict) and "event" in part}
    raised, end = markers.get("raised"), markers.get("end") or {}
    if end.get("oom") or container.oom_killed or (container.exit_code == 137 and not end):
        return "The notebook was killed, most likely because it was out of memory (exit code 137)."
    if raised is not None:
        return f"{raised.get('name')}: {raised.get('value')}"
    said = b"".join(part for part in parts if isinstance(part, bytes)).decode(errors="replace")
    ours = [line.removeprefix("docker-kernel: ") for line in said.splitlines() if line.startswith("docker-kernel: ")]
    return ours[-1] if ours else container.error or f"The run ended with exit code {container.exit_code}."


def _name(job_id: str) -> str:
    """The name of a job's container: an engine has it only once, so that no job is started twice."""
    return f"docker-kernel-scheduled-{job_id}"


def _own_image(job_id: str) -> str:
    return f"{OWN_IMAGES}:{job_id}"


async def _untag(engine: Engine, job_id: str) -> None:
    """Remove the image that was made for a job; its layers stay as long as others have them."""
    with contextlib.suppress(EngineError):
        await engine.images.remove(_own_image(job_id))


def _extra_mounts(settings: KernelConfig, user_config: UserConfig) -> list[BindMount]:
    """What a kernelspec mounts besides the workspace, of which the image has its own copy."""
    return kernel_mounts(settings.model_copy(update={"workspace": False}), user_config, None, "/")


def _secrets(settings: KernelConfig) -> dict[str, str]:
    """The variables of a kernelspec that are kept out of its jobs' images, as they look like credentials."""
    return {name: value for name, value in settings.env.items() if looks_secret(name, value)}


def _make_folder(folder: Path, settings: KernelConfig) -> None:
    folder.mkdir(exist_ok=True)
    if settings.user != "host":
        folder.chmod(0o777)  # the folders above are the user's own


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
