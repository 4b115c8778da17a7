"""What every target is: a place where a job runs, behind one small class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from docker_kernel.engine import File


@dataclass(frozen=True)
class JobTask:
    """A job as a target sees it.

    Args:
        image: the id of the image to run, made by package.py.
        files: what the container gets before its start, the job's spec among it.
        live_workspace: whether the job works on the kernel's own workspace; else on a copy.
        memory: limit in bytes; cpus: limit, fractions allowed; None for the kernel's own.
    """

    job_id: str
    name: str
    image: str
    files: list[File] = field(default_factory=list)
    live_workspace: bool = True
    memory: int | None = None
    cpus: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a job's container ended."""

    exit_code: int
    out_of_memory: bool = False
    lost: str = ""
    """Why nobody knows how it ended; empty otherwise."""


class Target(ABC):
    """A place where jobs run. One instance serves the jobs of one kernel."""

    @abstractmethod
    async def prepare(self, task: JobTask) -> None:
        """Take over all that the job starts from; when this returns, the kernel and its files may change."""

    @abstractmethod
    async def start(self, job_id: str) -> None:
        """Start a prepared job."""

    @abstractmethod
    def output(self, job_id: str) -> AsyncIterator[bytes]:
        """What the job prints, in pieces, from its start to its end."""

    @abstractmethod
    async def outcome(self, job_id: str) -> Outcome:
        """Wait for the job's end."""

    @abstractmethod
    async def cancel(self, job_id: str) -> None:
        """Stop a job; no-op if it has ended."""

    @abstractmethod
    async def clean(self, job_id: str) -> None:
        """Remove all that the job left on the target, its results excepted; no-op if done already."""
