"""Answers one kernel's requests on its link: start, follow, list and cancel its own jobs, and nothing else.

All that a kernel sends is hostile input. It names a target of the user's config, never an image, a path, a mount or a
device; what it may not name is taken from the kernel's own settings.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from docker_kernel.batch.job_log import MARKERS, End, JobLog
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.manifest import checked_digest
from docker_kernel.batch.package import environment_image
from docker_kernel.batch.targets.base import JobTask, Outcome, Target
from docker_kernel.batch.targets.local import LocalTarget
from docker_kernel.config import Size, format_size
from docker_kernel.engine import File
from docker_kernel.errors import DockerKernelError, EngineError, JobError
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle

log = logging.getLogger(__name__)

MAX_JOBS = 32
"""Jobs of one kernel that may run at once."""

MAX_REMEMBERED = 500
LOG_TAIL = 1 << 20
"""Bytes of a job's output that the host keeps for `job.logs()`."""

KILLED_EXIT = 137
"""Of a container whose runner was killed: for memory, as far as experience goes, also where the engine does not say."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StartRequest(_Request):
    """Run a snapshot plus a cell.

    `environment` is the guest's stamp of what was installed (guest/environment.py), "" for nothing; `workspace` says
    whether the job works on the kernel's own workspace or on a copy of it.
    """

    manifest: Annotated[str, Field(max_length=8 << 20)]
    environment: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    kind: Literal["cell", "expression"]
    source: Annotated[str, Field(max_length=8 << 20)]
    target: Annotated[str, Field(max_length=64)] = "local"
    workspace: Literal["live", "copy"] = "live"
    name: Annotated[str, Field(max_length=200)] = ""
    cwd: Annotated[str, Field(max_length=4096)] = ""
    timeout: Annotated[float, Field(gt=0, le=366 * 86400)] | None = None
    memory: Annotated[str, Field(max_length=32)] | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None


class JobRequest(_Request):
    """Name one of the kernel's jobs."""

    job: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class NoArguments(_Request):
    pass


class _Limits(BaseModel):
    memory: Size | None = None


@dataclass
class Job:
    """One job of this kernel, as the host knows it."""

    id: str
    name: str
    target: str
    snapshot: str
    nonce: str
    image: str = ""
    memory: int | None = None
    state: str = "queued"
    reason: str = ""
    created: float = field(default_factory=time.time)
    ended: float | None = None
    result: str = ""
    exit_code: int | None = None
    out_of_memory: bool = False
    output: bytearray = field(default_factory=bytearray)
    wanted_end: str = ""
    """Why we ourselves stop it: "cancelled" or "timeout"."""

    @property
    def over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled", "lost")

    def public(self) -> dict[str, Any]:
        names = ("id", "name", "target", "state", "reason", "created", "ended", "result")
        return {name: getattr(self, name) for name in names}


class Broker:
    """Serves one kernel for as long as its link lives; its jobs outlive restarts of the kernel process."""

    def __init__(self, kernel: KernelHandle, ledger: Ledger | None = None) -> None:
        self._kernel = kernel
        self._ledger = ledger or Ledger()
        self._jobs: dict[str, Job] = {}
        self._images: dict[str, str] = {}
        self._packaging = asyncio.Lock()
        self._targets: dict[str, Target] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._methods: dict[str, tuple[type[_Request], Callable[[Any], Awaitable[dict[str, Any]]]]] = {
            "job.start": (StartRequest, self._start),
            "job.cancel": (JobRequest, self._cancel),
            "job.get": (JobRequest, self._get),
            "job.logs": (JobRequest, self._logs),
            "job.list": (NoArguments, self._list),
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
        return await answer(request)

    async def resync(self) -> None:
        """Tell the kernel how its jobs stand, after a break of the link in which events were lost."""
        for job in list(self._jobs.values()):
            await self._event(job, {"event": "state", **job.public()})

    async def close(self) -> None:
        """End all jobs: the kernel volume, which has their state, goes with the kernel."""
        for job in list(self._jobs.values()):
            if not job.over:
                job.wanted_end = "cancelled"
                job.reason = "its kernel was shut down"
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _start(self, request: StartRequest) -> dict[str, Any]:
        target_config = self._kernel.user_config.target(request.target)
        if sum(not job.over for job in self._jobs.values()) >= MAX_JOBS:
            raise JobError(f"This kernel has {MAX_JOBS} jobs under way, which is the most it may have at once.")
        memory = self._limit("memory", _memory(request.memory), target_config.memory or self._kernel.config.memory)
        cpus = self._limit("cpus", request.cpus, target_config.cpus or self._kernel.config.cpus)
        timeout = self._limit("timeout", request.timeout, target_config.timeout)
        digest = checked_digest(request.manifest)
        job = Job(secrets.token_hex(6), request.name, request.target, digest, secrets.token_hex(16))
        job.image = await self._image(request.environment)
        job.memory = None if memory is None else int(memory)
        target = self._targets.setdefault(request.target, LocalTarget(self._kernel))
        task = JobTask(
            job_id=job.id,
            name=job.name,
            image=job.image,
            files=[*self._kernel.guest_files(), self._spec_file(job, request)],
            live_workspace=request.workspace == "live",
            memory=job.memory,
            cpus=cpus,
        )
        await target.prepare(task)
        self._remember(job)
        self._tasks[job.id] = asyncio.create_task(self._run(job, target, timeout))
        self._tasks[job.id].add_done_callback(lambda _: self._tasks.pop(job.id, None))
        return {"job": job.id}

    async def _image(self, stamp: str) -> str:
        """The image for a stamp. A kernel that lies about it only gets itself a job with older packages."""
        async with self._packaging:
            if stamp not in self._images:
                self._images[stamp] = await environment_image(self._kernel) if stamp else self._kernel.image
            return self._images[stamp]

    def _limit(self, name: str, asked: float | None, allowed: float | None) -> float | None:
        """A limit that was asked for, which may only be stricter than the configured one."""
        if asked is not None and allowed is not None and asked > allowed:
            shown = format_size(allowed) if name == "memory" else f"{allowed:g}"
            raise JobError(
                f"A job's {name} may be {shown} at most here: raise it in the kernel's or target's settings."
            )
        return asked if asked is not None else allowed

    def _spec_file(self, job: Job, request: StartRequest) -> File:
        """What the job's runner reads and unlinks (guest/run_job.py)."""
        spec = {
            "job": job.id,
            "nonce": job.nonce,
            "manifest": job.snapshot,
            "state": guest_files.STATE,
            "kind": request.kind,
            "source": request.source,
            "cwd": request.cwd or self._kernel.cwd,
            "python": self._kernel.python,
            "user_base": guest_files.USER_BASE,
            "env": self._kernel.env,
        }
        uid, _, gid = self._kernel.user.partition(":")
        path = f"{guest_files.BASE}/run/job.json"
        return File(path, json.dumps(spec).encode(), mode=0o600, uid=int(uid), gid=int(gid))

    def _remember(self, job: Job) -> None:
        self._jobs[job.id] = job
        for old in [old for old in self._jobs.values() if old.over][: max(0, len(self._jobs) - MAX_REMEMBERED)]:
            del self._jobs[old.id]

    async def _run(self, job: Job, target: Target, timeout: float | None) -> None:
        watch: asyncio.Task[None] | None = None
        try:
            await self._change(job, "starting")
            await target.start(job.id)
            await self._change(job, "running")
            if job.wanted_end:
                await target.cancel(job.id)  # it came before there was anything to stop
            if timeout is not None:
                watch = asyncio.create_task(self._stop_after(job, target, timeout))
            await self._follow(job, target)
            # The runner's last word has the job's nonce, and comes before the engine has taken the container down.
            known = job.exit_code is not None and not job.wanted_end
            outcome = Outcome(job.exit_code or 0, job.out_of_memory) if known else await target.outcome(job.id)
            await self._conclude(job, outcome, timeout)
        except DockerKernelError as error:
            await self._change(job, "lost", str(error))
        except asyncio.CancelledError:
            await self._change(job, "cancelled", job.reason or "its kernel was shut down")
            raise
        except Exception:
            log.exception("the job %s of kernel %s failed on the host side", job.id, self._kernel.kernel_id)
            await self._change(job, "lost", "its host side failed, whose log has the details")
        finally:
            if watch is not None:
                watch.cancel()
            try:
                await target.clean(job.id)
            except EngineError as error:
                log.error("the job %s left something behind: %s", job.id, error)

    async def _stop_after(self, job: Job, target: Target, seconds: float) -> None:
        await asyncio.sleep(seconds)
        job.wanted_end = "timeout"
        await target.cancel(job.id)

    async def _follow(self, job: Job, target: Target) -> None:
        parser = JobLog(job.nonce)
        async for data in target.output(job.id):
            for part in parser.feed(data):
                await self._part(job, part)
            if job.exit_code is not None:
                return
        if rest := parser.rest():
            await self._part(job, rest)

    async def _part(self, job: Job, part: bytes | dict[str, Any]) -> None:
        if isinstance(part, bytes):
            job.output += part
            del job.output[:-LOG_TAIL]
            await self._event(job, {"event": "output", "text": part.decode(errors="replace")})
            return
        try:
            marker = MARKERS.validate_python(part)
        except ValidationError as error:
            log.warning("the job %s wrote a marker that is none: %s", job.id, error)
            return
        if isinstance(marker, End):
            job.exit_code, job.out_of_memory, job.result = marker.code, marker.oom, marker.result
        else:
            await self._event(job, marker.model_dump())

    async def _conclude(self, job: Job, outcome: Outcome, timeout: float | None) -> None:
        if job.wanted_end:
            job.result = ""  # the exception of an interrupted cell is not what ended it
        if outcome.lost:
            await self._change(job, "lost", outcome.lost)
        elif job.wanted_end == "cancelled":
            await self._change(job, "cancelled", "it was cancelled")
        elif job.wanted_end == "timeout":
            await self._change(job, "failed", f"it took longer than its timeout of {timeout:g} s")
        elif outcome.exit_code == 0 and job.result:
            await self._change(job, "succeeded")
        elif outcome.exit_code == 1 and job.result:
            await self._change(job, "failed", "its cell raised an exception")
        elif outcome.out_of_memory or (job.exit_code is None and outcome.exit_code == KILLED_EXIT):
            limit = f"its {format_size(job.memory)}" if job.memory else "the engine has"
            await self._change(job, "failed", f"out of memory: it used more than {limit}; raise it with --memory")
        else:
            await self._change(job, "failed", f"its container ended with exit code {outcome.exit_code}")

    async def _change(self, job: Job, state: str, reason: str = "") -> None:
        job.state, job.reason = state, reason
        if job.over:
            job.ended = time.time()
        await asyncio.to_thread(
            self._ledger.record,
            job.id,
            self._kernel.kernel_id,
            job.name,
            job.target,
            job.state,
            job.reason,
            job.snapshot,
            job.image,
            job.created,
            job.ended,
        )
        await self._event(job, {"event": "state", **job.public()})

    async def _event(self, job: Job, event: dict[str, Any]) -> None:
        await self._kernel.notify({**event, "type": "job", "job": job.id})

    def _job(self, request: JobRequest) -> Job:
        if request.job not in self._jobs:
            raise JobError(f"This kernel has no job {request.job}.")
        return self._jobs[request.job]

    async def _cancel(self, request: JobRequest) -> dict[str, Any]:
        job = self._job(request)
        if not job.over:
            job.wanted_end = job.wanted_end or "cancelled"
            await self._targets[job.target].cancel(job.id)
        return {}

    async def _get(self, request: JobRequest) -> dict[str, Any]:
        return self._job(request).public()

    async def _logs(self, request: JobRequest) -> dict[str, Any]:
        return {"text": self._job(request).output.decode(errors="replace")}

    async def _list(self, request: NoArguments) -> dict[str, Any]:
        return {"jobs": [job.public() for job in self._jobs.values()]}


def _memory(text: str | None) -> int | None:
    try:
        return _Limits.model_validate({"memory": text}).memory
    except ValidationError as error:
        raise JobError(f"--memory: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None
