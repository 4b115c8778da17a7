"""What every target is: a place where jobs run, behind one small class.

The order of calls, for a dispatch with one or more jobs: `prepare` once, then for each job `start`, `output` and
`outcome`, `result`, `clean`; `release` when nobody will start one again. What `prepare` and `start` return is JSON
that is kept: a host process that starts later goes on with it, on another instance of the class. Where the process was
killed before it had kept that, the next one calls `abandon`, and before it starts the job `find`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from docker_kernel import labels
from docker_kernel.config import TargetConfig, TargetTable
from docker_kernel.errors import JobError
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle

ConfigT = TypeVar("ConfigT", bound=TargetConfig)
"""A kind's settings."""

PreparedT = TypeVar("PreparedT", bound=Mapping[str, object])
"""What its `prepare` returns: a TypedDict, as it is kept as JSON. Nobody else reads it."""

JobT = TypeVar("JobT", bound=Mapping[str, object])
"""What its `start` returns, and finds a job by: a TypedDict, too."""


@dataclass(frozen=True)
class Package:
    """What one dispatch took from its kernel, for all its jobs; or the notebook image that a job runs.

    Args:
        image: the id, on the kernel's engine, of the image with the kernel's environment; or of the notebook image.
        manifest: the snapshot's manifest, as its file has it, "" for a notebook image.
        digest: of that file, "sha256:…".
        holder: a container on the kernel's engine, never started, that has the kernel volume at `guest_files.STATE` and
            so keeps it from going with the kernel: read blobs from it. "" where the kernel outlives the job's start.
        live_workspace: whether jobs work on the kernel's own workspace (targets on its own engine only).
        workspace: a tar archive of the workspace's copy, with paths relative to `/`; None where there is none.
        lib: where the guest package goes in the job's container.
    """

    package_id: str
    image: str
    manifest: str
    digest: str
    holder: str = ""
    live_workspace: bool = False
    workspace: Path | None = None
    lib: str = guest_files.LIB


def runner_script(prepared: Mapping[str, object]) -> str:
    """The script that a job's container starts with."""
    # What an older version of this package prepared has its guest where kernels have it.
    return f"{prepared.get('lib', guest_files.LIB)}/docker_kernel/guest/run_job.py"


ALLOWED_INPUTS = f"/{guest_files.BASE}/inputs"
"""In a job: below it are folders of which a part is an input."""


@dataclass(frozen=True)
class InputMount:
    """Data that a job finds, read-only, at `/inputs/NAME`.

    What the target's config allows is mounted as a whole, where `at` says, and the job's worker makes `/inputs/NAME` a
    link to a path in it: so no link there leads to what is not allowed, whoever writes there, and whenever.

    Args:
        source: a folder (or file) of the target's machine, or one of its volumes, as the config has it.
        path: what of it is meant, below it; "" for all.
    """

    name: str
    source: str
    volume: bool
    path: str = ""

    @property
    def at(self) -> str:
        """Where to mount the source, read-only."""
        return f"{ALLOWED_INPUTS}/{self.name}" if self.path else f"/inputs/{self.name}"


STOP_SECONDS = 10
IMAGE_STOP_SECONDS = 30
"""Between SIGTERM and SIGKILL."""


class JobUnknown(JobError):
    """Nobody can tell whether an attempt of a job was started, or whether it still runs: so it is not tried again."""


@dataclass(frozen=True)
class JobTask:
    """One attempt of a job, as a target sees it.

    Args:
        attempt: its number, from 1. It and the job's id are kept before anything of the attempt is made.
        spec: what the runner reads (guest/run_job.py), JSON; it has the job's nonce: keep it private.
        secrets: values the runner gives to the job's process, by name: never in an image, a label or a log.
        memory: limit in bytes; cpus: limit, fractions allowed; gpus: as in a kernelspec; None for none.
        replicas: tasks that find each other by RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
    """

    job_id: str
    name: str
    spec: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    cpus: float | None = None
    gpus: str | None = None
    replicas: int = 1
    inputs: Sequence[InputMount] = ()
    attempt: int = 1

    @property
    def stop_seconds(self) -> int:
        """How long its runner may take to end when it is told to: an image needs 8 s, and then its files are kept."""
        return IMAGE_STOP_SECONDS if self.spec.get("kind") == "image" else STOP_SECONDS

    @property
    def label(self) -> str:
        """What everything is called that is made for this attempt; what there are several of is numbered."""
        return f"{labels.JOB_NAME}{self.job_id}-{self.attempt}"

    def names(self) -> list[str]:
        """What its tasks are called, by rank."""
        return [self.label] if self.replicas == 1 else [f"{self.label}-{rank}" for rank in range(self.replicas)]


def partly_started(count: int, task: JobTask) -> str:
    """Why an attempt is lost of which not all tasks were started."""
    begun = f"{count} of its {task.replicas} replicas had begun, and were ended"
    return f"its Jupyter server ended while it was started: {begun}"


@dataclass(frozen=True)
class Output:
    """A piece of what one of a job's tasks printed.

    Args:
        position: where the task's log goes on behind this piece, as the target writes it: a number of bytes, a time
            stamp with a number, a token. `output` gets it back, to go on from there.
    """

    rank: int
    data: bytes
    position: str


@dataclass(frozen=True)
class Note:
    """Why a job waits, in words for the user ("no node has room: insufficient memory on 2 nodes"), who sees them until
    the next note, or until the job runs. "" when it waits no more."""

    text: str


@dataclass(frozen=True)
class Outcome:
    """How a job ended, as the target's engine tells it.

    Args:
        exit_code: of rank 0, or of the first task that failed.
        out_of_memory: whether it was killed for memory; None where the engine cannot tell.
        lost: why nobody knows how it ended; empty otherwise.
        reason: what the engine says beyond the exit code, in words for the user.
    """

    exit_code: int
    out_of_memory: bool | None = False
    lost: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that `docker-kernel targets check` looked at."""

    name: str
    found: str
    ok: bool
    fix: str = ""


Progress = Callable[[str], None]
"""Takes a few words on how a transfer goes ("sends 12 of 300 MiB"); may be called from any thread."""


class Target(ABC, Generic[ConfigT, PreparedT, JobT]):
    """A place where jobs run. One instance serves all kernels of a process; its coroutines run on the background loop.

    Every method raises DockerKernelError with a sentence for the user; none waits without an end unless it says so.
    """

    kind: ClassVar[str]
    """What a config file calls it."""

    Config: ClassVar[type[TargetConfig]] = TargetTable
    """Its settings. Without ones of its own, a kind gets its table of the config file unchecked."""

    beside_kernel: ClassVar[bool] = False
    """Whether jobs run on the kernel's own engine: with its volume, within its limits, and on its workspace itself
    where that is asked for (`%%local`)."""

    default_max_jobs: ClassVar[int] = 8
    """How many jobs run at once where the config says nothing: many where an engine has a queue of its own."""

    def __init__(self, name: str, config: ConfigT) -> None:
        self.name = name
        self.config = config

    @abstractmethod
    async def check(self) -> list[Check]:
        """Look whether jobs could run there; each problem says what to do."""

    @abstractmethod
    async def missing(self, kernel: KernelHandle, package: Package) -> int:
        """How many bytes `prepare` would send at most; refuses what could not run there, as another architecture."""

    @abstractmethod
    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> PreparedT:
        """Bring what the jobs start from to the target. When this returns the kernel is needed no more.

        May be cancelled; then nothing is left behind.
        """

    @abstractmethod
    async def start(self, task: JobTask, prepared: PreparedT) -> JobT:
        """Start a job; returns what the other methods find it by. When it raises, nothing is left behind.

        What an earlier attempt left goes first.
        """

    async def find(self, task: JobTask, prepared: PreparedT) -> JobT | None:
        """Look for an attempt whose process was killed while it started it: it may have come to that, or not.

        What was made for it and never ran is removed.

        Args:
            task: without the values of its secrets, and maybe without most of its spec.

        Returns:
            What `start` would have returned; None where nothing runs or ran, so that it can be started.

        Raises:
            JobUnknown: this cannot be told.
            JobError: only some of its tasks were started; they have been ended and removed.
            EngineError: nobody could look; it is looked for again.
        """
        raise JobUnknown(
            f"its Jupyter server ended while it was started, and a target of the kind {self.kind!r} cannot be asked "
            "whether it runs: look there before you run its cell again"
        )

    @abstractmethod
    def output(self, job: JobT, after: Mapping[int, str]) -> AsyncIterator[Output | Note]:
        """What the job's tasks print, to their end, and why the job waits before it runs.

        Ends when the job has ended, or is lost. May be asked for again, by another process, too.

        Args:
            after: by rank, behind which piece to go on (Output.position): all before it is here already, and may be
                gone there, as logs are rotated. Without one, from the very first byte.
        """

    @abstractmethod
    async def outcome(self, job: JobT) -> Outcome:
        """How the job ended, in the engine's own words; waits for it.

        Called after `output` has ended, or the runner has said its last word: that does not know who told it to end (a
        drain, an eviction), or what the engine counted.
        """

    async def interrupt(self, job: JobT) -> bool:
        """Send SIGINT to the runners of a job, which interrupt its cell; returns whether that can be done there. A job
        for which it cannot is cancelled instead."""
        return False

    @abstractmethod
    async def cancel(self, job: JobT) -> None:
        """Stop a job: its runner gets SIGTERM and some seconds, then SIGKILL. No-op if it has ended."""

    @abstractmethod
    async def result(self, job: JobT, digest: str, folder: Path) -> None:
        """Bring a result, rank 0's, into a folder of the host, which is then as a state folder (guest/snapshot.py).

        Every file is checked against its digest before it is there under its name; what is there is not fetched again.

        Raises:
            JobError: it is gone, or was changed.
        """

    @abstractmethod
    async def clean(self, job: JobT) -> None:
        """Remove all that the job left on the target; no-op if done already."""

    async def abandon(self, package_id: str) -> None:
        """Remove what a `prepare` made whose process was killed in it; no-op if there is nothing."""
        return

    @abstractmethod
    async def release(self, prepared: PreparedT) -> None:
        """Remove what `prepare` made and no other dispatch can use again; no-op if done already."""

    async def forget_kernel(self, kernel_id: str) -> None:
        """Remove what is kept ready for the next jobs of a kernel that ends."""
        return


AnyTarget: TypeAlias = Target[Any, Any, Any]
"""A target whose kind does not matter: who has one keeps what it returns as JSON, and gives it back."""
