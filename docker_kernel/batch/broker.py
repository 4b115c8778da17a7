"""Answers one kernel's requests on its link: start, follow, fetch, list and cancel its own jobs, and nothing else.

All that a kernel sends is hostile input. It names a target of the user's config, never an image, a mount or a device;
what it may not name is taken from the kernel's own settings.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import os
import re
import secrets
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from docker_kernel import background, checkout, labels
from docker_kernel.batch.job_folder import DispatchFolder, JobFolder, root
from docker_kernel.batch.manager import manager
from docker_kernel.batch.manifest import ResultManifest, checked_digest, parse
from docker_kernel.batch.package import (
    Environment,
    environment_image,
    installed_packages,
    workspace_files,
    write_workspace,
)
from docker_kernel.batch.record import JobRecord, digest_of
from docker_kernel.config import Size, TargetTable, format_size
from docker_kernel.engine import ContainerSpec, VolumeMount
from docker_kernel.errors import EngineError, JobError
from docker_kernel.guest.credentials import looks_secret, names_credentials, without_credentials
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import AnyTarget, InputMount, JobTask, Package

log = logging.getLogger(__name__)

MAX_JOBS = 2000
"""Jobs of one owner that may be under way at once."""

MAX_PARAMS = 8 << 20
"""Bytes of parameters and inputs, as JSON, that the jobs of one request may have together: each job's record has its
own, and so has each word of its state."""

MIN_MEMORY = 6 << 20
"""Bytes, below which an engine makes no container."""

MAX_LISTED = 500
"""Jobs in one answer; a kernel asks for the others with the next one."""

LOG_TAIL = 1 << 20
"""Bytes of a job's output that one request gets."""

MAX_WAITING = 8 << 20
"""Bytes of output events that wait for a kernel that does not read them; what comes then it must ask for."""

MAX_REPLY = 12 << 20
"""Bytes of events in one answer, less than what a message on the link may have."""

OUTPUTS = "/outputs"
"""Where a job finds its output folder."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PlanRequest(_Request):
    """Say what a start would send.

    `environment` is the guest's stamp of what was installed (guest/environment.py), "" for nothing; `workspace` says
    whether the job works on the kernel's own workspace or on a copy of it.
    """

    manifest: Annotated[str, Field(max_length=8 << 20)]
    environment: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    target: Annotated[str, Field(max_length=64)] = "local"
    workspace: Literal["live", "copy"] = "live"


class StartRequest(PlanRequest):
    """Run a snapshot plus a cell, an expression or a notebook: one job for each of `params`.

    `swept`: they are a sweep's, also where that has one value only.
    """

    kind: Literal["cell", "expression", "notebook"]
    source: Annotated[str, Field(max_length=8 << 20)]
    params: Annotated[list[dict[Name, JsonValue]], Field(min_length=1, max_length=MAX_JOBS)] = [{}]
    name: Annotated[str, Field(max_length=200)] = ""
    cwd: Annotated[str, Field(max_length=4096)] = ""
    timeout: Annotated[float, Field(gt=0, le=366 * 86400)] | None = None
    memory: Annotated[str, Field(max_length=32)] | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    gpus: Annotated[str, Field(max_length=200)] | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    swept: bool = False
    env: Annotated[dict[Name, str], Field(max_length=1000)] = {}
    secrets: Annotated[dict[Name, str], Field(max_length=100)] = {}
    inputs: Annotated[dict[Name, Annotated[str, Field(max_length=4096)]], Field(max_length=100)] = {}
    pull: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=10_000)] | None = None


class JobRequest(_Request):
    """Name one of the kernel's jobs."""

    job: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class RetryRequest(JobRequest):
    """Run a job once more, with the secrets that it had, which nobody keeps."""

    secrets: Annotated[dict[Name, str], Field(max_length=100)] = {}


class FetchRequest(JobRequest):
    """Bring a job's result into the kernel volume: its variables, or one of the files it wrote.

    `bring`: also where it was there once; the guest may have let go of it.
    """

    bring: bool = False
    file: Annotated[str, Field(max_length=4096)] | None = None


class ListRequest(_Request):
    """List the notebook's jobs, or those of one of its dispatches, the newest first, so many of the newest left out."""

    skip: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    group: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None


class WithheldRequest(_Request):
    """Ask which of some files jobs do not get that work on a copy of the workspace."""

    paths: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=10_000)]


class _Limits(BaseModel):
    memory: Size | None = None


class Broker:
    """Serves one kernel for as long as its link lives. Its jobs go on without it, but those on its own workspace."""

    def __init__(self, kernel: KernelHandle) -> None:
        self._kernel = kernel
        self._manager = manager()
        self._owner, self._notebook = "", ""
        """Whose jobs it sends and sees: its notebook's (notebooks.py), or its own where there is none; and where the
        notebook is. They are known from the first request on."""
        self._recognizing: asyncio.Task[None] | None = None
        self._noting: asyncio.Task[None] | None = None
        self._environments: dict[str, Environment] = {}
        self._packaging = asyncio.Lock()
        self._outbox: collections.deque[dict[str, Any]] = collections.deque()
        self._waiting = 0
        self._skipped = False
        self._sender: asyncio.Task[None] | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._methods: dict[str, tuple[type[_Request], Callable[[Any], Awaitable[dict[str, Any]]]]] = {
            "job.start": (StartRequest, self._start),
            "job.plan": (PlanRequest, self._plan),
            "job.interrupt": (JobRequest, self._interrupt),
            "job.cancel": (JobRequest, self._cancel),
            "job.retry": (RetryRequest, self._retry),
            "job.get": (JobRequest, self._get),
            "job.logs": (JobRequest, self._logs),
            "job.events": (JobRequest, self._events),
            "job.fetch": (FetchRequest, self._fetch),
            "job.list": (ListRequest, self._list),
            "workspace.withheld": (WithheldRequest, self._withheld),
        }

    async def handle(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer one request.

        Raises:
            DockerKernelError: it is refused, or cannot be done; the message goes to the cell.
        """
        if method not in self._methods:
            raise JobError(f"There is no request {method!r}.")
        model, answer = self._methods[method]
        try:
            request = model.model_validate(params)
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"])
            raise JobError(f"The request {method!r} is refused: {where}: {detail['msg']}.") from None
        if self._adopting is None:
            self._adopting = asyncio.create_task(self._manager.adopt())
        await self._recognized()
        return await answer(request)

    async def _recognized(self) -> None:
        """Know whose jobs the kernel's are, before anything is done for it."""
        if self._recognizing is None:
            self._recognizing = asyncio.create_task(self._recognize())
        await asyncio.shield(self._recognizing)

    async def _recognize(self) -> None:
        sight = await self._kernel.notebook()
        owner = f"kernel:{self._kernel.kernel_id}"
        if sight is not None:
            owner = await asyncio.to_thread(self._manager.notebooks.owner, sight, self._kernel.kernel_id)
            self._notebook = sight.path
            await self._note(owner)
        self._owner = owner
        self._manager.listen(owner, self._on_event)

    async def _note(self, owner: str) -> None:
        """See what the notebook looks like now and where it is, by which its next kernel finds it."""
        if owner.startswith("notebook:"):
            self._notebook = await asyncio.to_thread(self._manager.notebooks.note, owner) or self._notebook

    async def resync(self) -> None:
        """Tell the kernel how its jobs stand, after a break of the link in which events were lost."""
        await self._recognized()
        for record in await asyncio.to_thread(self._manager.jobs, self._owner, MAX_JOBS):
            if record.kernel_id == self._kernel.kernel_id:
                await self._on_event(record, {"event": "state", **record.public()})

    async def close(self) -> None:
        """End the jobs that work on the kernel's own workspace; the others go on."""
        if self._recognizing is None:
            return  # it has asked for nothing
        await self._recognized()
        for record in await asyncio.to_thread(self._manager.ledger.find, self._owner, unsettled=True):
            if record.live and record.kernel_id == self._kernel.kernel_id and not record.over:
                await self._manager.cancel(record.id, "its kernel was shut down")
                await self._manager.wait(record.id)
        await self._manager.forget_kernel(self._kernel.kernel_id)
        self._manager.unlisten(self._owner, self._on_event)
        if self._noting is not None:
            self._noting.cancel()
        await self._note(self._owner)
        if self._sender is not None:
            self._sender.cancel()

    # Starting

    async def _start(self, request: StartRequest) -> dict[str, Any]:
        kernel, live = self._kernel, request.workspace == "live"
        config, target = self._target(request.target, live)
        if live and len(request.params) > 1:
            raise JobError("A cell runs once on the workspace itself: send a sweep with %%dispatch.")
        known = await asyncio.to_thread(self._manager.ledger.find, owner=self._owner, unsettled=True)
        under_way = sum(not one.over for one in known)
        if under_way + len(request.params) > MAX_JOBS:
            raise JobError(f"A notebook may have {MAX_JOBS} jobs under way at once, and this would be more.")
        size = len(json.dumps(request.params)) + len(request.params) * len(json.dumps(request.inputs))
        if size > MAX_PARAMS:
            raise JobError(
                f"The jobs' parameters and inputs have {format_size(size)} together, and {format_size(MAX_PARAMS)} is "
                "the most: keep what is large in variables, which are sent once, and let the parameters choose from it."
            )
        replicas = request.replicas
        most = config.max_jobs or target.default_max_jobs
        if replicas > max(1, most):
            raise JobError(
                f"A job may have {most} replicas at most there, as many as there may be jobs at once: raise `max_jobs` "
                f"in the settings of the target {request.target!r}."
            )
        memory = self._limit("memory", _memory(request.memory), config.memory, kernel.config.memory, target, replicas)
        cpus = self._limit("cpus", request.cpus, config.cpus, kernel.config.cpus, target, replicas)
        timeout = self._limit("timeout", request.timeout, config.timeout, None, target)
        gpus = self._gpus(request.gpus, config, target, replicas)
        mounts, fetched = _inputs(request.inputs, config, request.target)
        digest = checked_digest(request.manifest)
        environment = await self._environment(request.environment)
        image = environment.image
        group = secrets.token_hex(6)
        commit = await checkout.commit(Path(kernel.workspace)) if kernel.workspace else ""
        source_digest = digest_of(request.source)
        jobs = []
        for number, params in enumerate(request.params):
            record = JobRecord(
                group=group,
                owner=self._owner,
                kernel_id=kernel.kernel_id,
                notebook=self._notebook,
                name=request.name,
                target=request.target,
                kind=request.kind,
                source_digest=source_digest,
                params=params,
                retries=request.retries,
                live=live,
                swept=request.swept or len(request.params) > 1,
                stream=number if len(request.params) > 1 else None,
                replicas=request.replicas,
                timeout=timeout,
                memory=None if memory is None else int(memory),
                cpus=cpus,
                gpus=gpus,
                snapshot=digest,
                image=image,
                commit=commit,
                inputs={name: without_credentials(uri) for name, uri in request.inputs.items()},
                volume=kernel.volume if target.beside_kernel else "",
            )
            task = JobTask(
                job_id=record.id,
                name=record.name,
                spec=self._spec(record, request, fetched, mounts),
                secrets=request.secrets,
                memory=record.memory,
                cpus=cpus,
                gpus=gpus,
                replicas=record.replicas,
                inputs=mounts,
            )
            jobs.append((record, task))
        async with _locked(group, live):
            package, held_back = await self._packaged(request, digest, image, live, group)
            submitting = asyncio.ensure_future(self._manager.submit(kernel, target, package, jobs))
            try:
                await asyncio.shield(submitting)
            except BaseException:
                # Where the kernel's end came meanwhile, all of its jobs are taken over nonetheless, or none is.
                await asyncio.wait([submitting])
                if submitting.cancelled() or submitting.exception() is not None:
                    await asyncio.shield(self._discard(package))
                raise
        if not live:
            await self._manager.forget_old_dispatches(self._owner, request.target)
        self._noting = asyncio.create_task(self._note(self._owner))
        return {
            "jobs": [record.public() for record, _ in jobs],
            "held_back": held_back[:1000],
            "held_back_in_home": list(environment.held_back[:1000]),
        }

    def _target(self, name: str, live: bool) -> tuple[TargetTable, AnyTarget]:
        config = self._kernel.user_config.target(name)
        target = self._manager.target(name, config)
        if live and not target.beside_kernel:
            raise JobError(f"The target {name!r} cannot work on the workspace itself: use %%dispatch --on {name}.")
        return config, target

    async def _packaged(
        self, request: PlanRequest, digest: str, image: str, live: bool, group: str
    ) -> tuple[Package, list[str]]:
        """As `_package`; where the kernel's end comes meanwhile, nothing of it stays."""
        packaging = asyncio.ensure_future(self._package(request, digest, image, live, group))
        try:
            return await asyncio.shield(packaging)
        except asyncio.CancelledError:
            await asyncio.wait([packaging])
            if packaging.exception() is None:
                await asyncio.shield(self._discard(packaging.result()[0]))
            raise

    async def _package(
        self, request: PlanRequest, digest: str, image: str, live: bool, group: str
    ) -> tuple[Package, list[str]]:
        """What the jobs start from, kept apart from the kernel and its workspace; and which files are held back."""
        kernel = self._kernel
        if live:
            return Package(group, image, request.manifest, digest, live_workspace=True), []
        archive: Path | None = None
        held_back: list[str] = []
        if kernel.workspace is not None:
            uid, _, gid = kernel.user.partition(":")
            files = await background.in_own_thread(workspace_files, kernel.workspace)
            held_back = files.held_back
            archive = DispatchFolder(group).workspace
            await background.in_own_thread(write_workspace, kernel.workspace, files.names, int(uid), int(gid), archive)
        holder = await kernel.engine.containers.create(
            ContainerSpec(
                image=image,
                command=["true"],
                name=labels.STATE_NAME + group,
                network="none",
                mounts=[VolumeMount(kernel.volume, guest_files.STATE)],
                labels={
                    labels.KIND: labels.KIND_STATE,
                    labels.KERNEL_ID: kernel.kernel_id,
                    labels.USER: str(os.getuid()),
                },
            )
        )
        return Package(group, image, request.manifest, digest, holder, False, archive), held_back

    async def _discard(self, package: Package) -> None:
        """Let go of a package that no job will start from."""
        await asyncio.to_thread(DispatchFolder(package.package_id).remove)
        if package.holder:
            await self._kernel.engine.containers.remove(package.holder)
            await self._kernel.engine.volumes.remove(self._kernel.volume)  # stays while the kernel has it

    async def _plan(self, request: PlanRequest) -> dict[str, Any]:
        live = request.workspace == "live"
        _, target = self._target(request.target, live)
        digest = checked_digest(request.manifest)
        kernel = self._kernel
        packages: list[str] = []
        if request.environment:
            packages = installed_packages(await kernel.engine.containers.diff(kernel.container_id))
        files, size, held_back = 0, 0, []
        if not live and kernel.workspace is not None:
            found = await background.in_own_thread(workspace_files, kernel.workspace)
            files, size, held_back = len(found.names), found.size, found.held_back
        environment = await self._environment(request.environment)
        group = secrets.token_hex(6)
        async with _locked(group, live):
            package, _ = await self._packaged(request, digest, environment.image, live, group)
            try:
                new = await target.missing(kernel, package)
            finally:
                await asyncio.shield(self._discard(package))
        return {
            "packages": packages[:1000],
            "files": files,
            "files_size": size,
            "held_back": held_back[:1000],
            "held_back_in_home": list(environment.held_back[:1000]),
            "new": new,
        }

    async def _withheld(self, request: WithheldRequest) -> dict[str, Any]:
        folder = self._kernel.workspace
        withheld = {path for path in request.paths if names_credentials(path)}
        if folder is not None:
            copied = (await background.in_own_thread(workspace_files, folder)).names
            inside = {path for path in request.paths if PurePosixPath(path).is_relative_to(folder)}
            withheld = (withheld | inside) - {str(PurePosixPath(folder, name)) for name in copied}
        return {"paths": sorted(withheld)}

    async def _environment(self, stamp: str) -> Environment:
        """The image for a stamp. A kernel that lies about it only gets itself a job with older packages."""
        async with self._packaging:
            if stamp not in self._environments:
                plain = Environment(self._kernel.image)
                self._environments[stamp] = await environment_image(self._kernel) if stamp else plain
            return self._environments[stamp]

    def _limit(
        self,
        name: str,
        asked: float | None,
        targets: float | None,
        kernels: float | None,
        target: AnyTarget,
        replicas: int = 1,
    ) -> float | None:
        """A task's limit: what was asked for, or its part of the most that a job may have, which is the target's own
        word, or the kernel's limit.

        On another machine than the kernel's, that limit is one for each replica.
        """
        allowed = targets or kernels
        if allowed is None:
            return asked
        together = replicas if targets is not None or target.beside_kernel else 1
        if asked is None:
            return allowed / together
        if asked * together > allowed:
            shown, each = (format_size(one) if name == "memory" else f"{one:g}" for one in (allowed, asked))
            several = f", and {together} replicas of {each} have more" if together > 1 else ""
            raise JobError(
                f"A job's {name} may be {shown} at most here{several}: raise it in the kernel's or target's settings."
            )
        return asked

    def _gpus(self, asked: str | None, config: TargetTable, target: AnyTarget, replicas: int) -> str | None:
        allowed = config.gpus or (self._kernel.config.gpus if target.beside_kernel else None)
        if asked is None:
            return allowed if target.beside_kernel else None
        if allowed is None:
            raise JobError("Jobs have no GPU there: set `gpus` in the target's settings if it has some.")
        number = asked.isdigit() and allowed.isdigit()
        fits = int(asked) * replicas <= int(allowed) if number else allowed in ("all", asked)
        if not fits or not re.fullmatch(r"all|\d+|[\w:-]+(,[\w:-]+)*", asked):
            several = f" for all its {replicas} replicas" if replicas > 1 else ""
            raise JobError(
                f"A job's gpus may be {allowed!r} at most there{several}: raise it in the target's settings."
            )
        return asked

    def _spec(
        self, record: JobRecord, request: StartRequest, fetched: dict[str, str], mounts: list[InputMount]
    ) -> dict[str, Any]:
        """What the job's runner reads (guest/run_job.py).

        Of the kernel's environment, credentials stay behind, but where the job runs beside the kernel, as a part of it.
        """
        env = self._kernel.env
        if not record.live:
            env = {name: value for name, value in env.items() if not looks_secret(name, value)}
        return {
            "job": record.id,
            "name": record.name,
            "nonce": record.nonce,
            "manifest": record.snapshot,
            "state": guest_files.STATE,
            "outputs": OUTPUTS,
            "kind": record.kind,
            "source": request.source,
            "params": record.params,
            "stream": record.stream,
            "cwd": request.cwd or self._kernel.cwd,
            "python": self._kernel.python,
            "user_base": guest_files.USER_BASE,
            "env": {**env, **request.env},
            "timeout": record.timeout,
            "inputs": fetched,
            "linked": {one.name: [one.at, one.path] for one in mounts if one.path},
            "pull": request.pull,
        }

    # Following

    async def _on_event(self, record: JobRecord, event: dict[str, Any]) -> None:
        message = {**event, "type": "job", "job": record.id}
        if record.live:
            # A cell waits for it, and is to see all of it: a job that prints fast waits for its notebook.
            await self._kernel.notify(message)
            return
        said = [event.get("text", ""), *(event.get("data") or {}).values()]
        size = sum(map(len, map(str, said))) if event["event"] in ("output", "display", "result_display") else 0
        if size and self._waiting + size > MAX_WAITING:
            if not self._skipped:
                self._skipped = True
                text = "\n[output is skipped here, as it comes faster than it is read; .logs() has it]\n"
                self._outbox.append({"type": "job", "job": record.id, "event": "output", "text": text})
            return
        self._waiting += size
        self._outbox.append(message)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._outbox:
            message = self._outbox.popleft()
            if not self._outbox:
                self._waiting, self._skipped = 0, False
            await self._kernel.notify(message)

    async def _own(self, request: JobRequest) -> JobRecord:
        try:
            record = await asyncio.to_thread(self._manager.get, request.job)
        except JobError:
            record = None
        if record is None or record.owner != self._owner or record.id != request.job:
            raise JobError(f"This kernel has no job {request.job}.")
        return record

    async def _interrupt(self, request: JobRequest) -> dict[str, Any]:
        await self._own(request)
        return {"interrupted": await self._manager.interrupt(request.job)}

    async def _cancel(self, request: JobRequest) -> dict[str, Any]:
        await self._own(request)
        return {"cancelled": await self._manager.cancel(request.job)}

    async def _retry(self, request: RetryRequest) -> dict[str, Any]:
        record = await self._own(request)
        if record.live or (record.volume and record.volume != self._kernel.volume):
            raise JobError(f"What the job {record.id} started from went with its kernel: run its cell again.")
        return (await self._manager.retry(request.job, request.secrets)).public()

    async def _get(self, request: JobRequest) -> dict[str, Any]:
        return (await self._own(request)).public()

    async def _logs(self, request: JobRequest) -> dict[str, Any]:
        record = await self._own(request)
        data = await asyncio.to_thread(JobFolder(record.id).output, LOG_TAIL)
        return {"text": data.decode(errors="replace")}

    async def _events(self, request: JobRequest) -> dict[str, Any]:
        """What the job showed and measured: as much of it, from its beginning, as an answer takes."""
        record = await self._own(request)

        def read() -> list[dict[str, Any]]:
            found, size = [], 0
            for event in JobFolder(record.id).events("display", "result_display", "metrics"):
                size += len(json.dumps(event))
                if size > MAX_REPLY:
                    break
                found.append(event)
            return found

        return {"events": await asyncio.to_thread(read)}

    async def _fetch(self, request: FetchRequest) -> dict[str, Any]:
        """See to it that the result is in the kernel volume; answers with its digest."""
        record = await self._own(request)
        if record.volume != self._kernel.volume or not record.kept or (request.bring and not record.live):
            folder = await self._manager.collected(record)
            names = await asyncio.to_thread(_result_files, folder, record.kept, request.file)
            await self._bring(folder, names)
        return {"result": record.kept}

    async def _bring(self, folder: JobFolder, names: list[str]) -> None:
        uid, _, gid = self._kernel.user.partition(":")
        chunks = _tar_stream(folder.result, names, int(uid), int(gid))
        try:
            await self._kernel.engine.containers.put_stream(self._kernel.container_id, chunks, guest_files.STATE)
        except EngineError as error:
            raise JobError(f"The result could not be brought into the kernel's container: {error}") from None

    async def _list(self, request: ListRequest) -> dict[str, Any]:
        found = await asyncio.to_thread(self._manager.jobs, self._owner, MAX_LISTED, request.skip, request.group)
        records: list[dict[str, Any]] = []
        size = 0
        for record in found:
            public = record.public()
            size += len(json.dumps(public))
            if size > MAX_REPLY and records:
                break
            records.append(public)
        return {"jobs": records, "more": len(records) < len(found) or len(found) == MAX_LISTED}


@contextlib.asynccontextmanager
async def _locked(group: str, live: bool) -> AsyncIterator[None]:
    """Make a dispatch in here: others take what it has by then for a killed process's, unless it is locked."""
    try:
        lock = None if live else await asyncio.to_thread(DispatchFolder(group).lock)
    except OSError as error:
        raise JobError(f"The job cannot be kept in {root()}: {error.strerror or error}.") from None
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _memory(text: str | None) -> int | None:
    try:
        memory = _Limits.model_validate({"memory": text}).memory
    except ValidationError as error:
        raise JobError(f"--memory {text}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None
    if memory is not None and memory < MIN_MEMORY:
        raise JobError(f"--memory {text}: engines give a container {format_size(MIN_MEMORY)} at least.")
    return memory


def _inputs(asked: dict[str, str], config: TargetTable, target: str) -> tuple[list[InputMount], dict[str, str]]:
    """What of the inputs is mounted, and what the job fetches itself by URL."""
    mounts, fetched = [], {}
    for name, uri in asked.items():
        scheme, separator, rest = uri.partition("://")
        if separator and scheme != "file":
            fetched[name] = uri
            continue
        source = rest if separator else uri
        path = PurePosixPath(source)
        folders = [one for one in config.inputs if one.startswith("/") and path.is_relative_to(one)]
        if source in config.inputs:
            mounts.append(InputMount(name, source, volume=not source.startswith("/")))
        elif folders and ".." not in path.parts:
            folder = max(folders, key=len)
            below = path.relative_to(folder)
            mounts.append(InputMount(name, folder, volume=False, path="" if below == PurePosixPath() else str(below)))
        else:
            names = ", ".join(config.inputs) or "nothing"
            raise JobError(
                f"--input {name}: {source!r} is not among the `inputs` of [targets.{target}], which allows {names}: "
                "add the folder or volume there, or name a URL."
            )
    return mounts, fetched


def _result_files(folder: JobFolder, digest: str, file: str | None) -> list[str]:
    """The files of a result's folder that hold its manifest, and its variables or one of its files."""
    manifest = f"manifests/{digest.removeprefix('sha256:')}"
    parsed = parse(ResultManifest, (folder.result / manifest).read_bytes())
    if file is None:
        blobs = [blob for pack in parsed.packs for blob in pack.blobs()]
    else:
        blobs = [one.blob for one in parsed.files if one.path == file]
        if not blobs:
            raise JobError(f"The job wrote no file {file!r}.")
    return [manifest, *(f"blobs/{blob.removeprefix('sha256:')}" for blob in dict.fromkeys(blobs))]


def _tar_stream(folder: Path, names: list[str], uid: int, gid: int) -> Iterator[bytes]:
    """A tar archive of files, in pieces of at most 1 MiB: none of them is ever held whole."""
    made = {str(PurePosixPath(name).parent) for name in names}
    for directory in sorted(made):
        info = tarfile.TarInfo(directory)
        info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, uid, gid
        yield info.tobuf(tarfile.PAX_FORMAT)
    for name in names:
        with (folder / name).open("rb") as file:
            yield from _member(name, file, uid, gid)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, file: IO[bytes], uid: int, gid: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid, info.gid = file.seek(0, 2), 0o644, uid, gid
    file.seek(0)
    yield info.tobuf(tarfile.PAX_FORMAT)
    while chunk := file.read(1 << 20):
        yield chunk
    yield bytes(-info.size % tarfile.BLOCKSIZE)
