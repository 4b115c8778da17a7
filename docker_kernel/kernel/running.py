"""The kernels that an engine holds, found by their labels: list, stop, and reap what no link will ever end."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from docker_kernel import labels
from docker_kernel.engine import NEVER_RAN, ContainerState, Engine
from docker_kernel.errors import EngineError, NotFound
from docker_kernel.kernel import claims, makers, sockets

log = logging.getLogger(__name__)

START_SECONDS = 120
"""A container that was created longer ago than this and never ran is no start under way, where its maker is unknown."""

BUILD_SECONDS = 3600
"""What is left of an image's build for longer than this is no build under way, which looks for minutes as if it rested:
while a layer is saved, or while the next stage is made."""


@dataclass(frozen=True)
class RunningKernel:
    """One kernel container of this user.

    Args:
        spare: whether it still waits for its kernel.
    """

    kernel_id: str
    spec: str
    notebook: str
    connection_file: str
    container: ContainerState
    spare: bool = False

    @classmethod
    def of(cls, state: ContainerState) -> RunningKernel:
        """What a kernel container's labels say, and for a spare its name and the record of its claim."""
        marks = state.labels
        about = claims.Claim(
            notebook=marks.get(labels.NOTEBOOK, ""), connection_file=marks.get(labels.CONNECTION_FILE, "")
        )
        kernel_id = marks.get(labels.KERNEL_ID, "")
        spare = bool(marks.get(labels.SPARE))
        waiting = (labels.KERNEL_NAME, labels.SPARE_NAME, labels.CLAIMED_NAME)
        if spare and state.name not in [name + kernel_id for name in waiting]:
            spare = False
            about, kernel_id = claims.read(state.id), state.name.removeprefix(labels.KERNEL_NAME)
        return cls(kernel_id, marks.get(labels.SPEC, ""), about.notebook, about.connection_file, state, spare)

    @property
    def age(self) -> datetime.timedelta:
        return _since(self.container.created)


def _since(moment: str) -> datetime.timedelta:
    """How long ago a moment was, as an engine writes it."""
    then = datetime.datetime.fromisoformat(moment[:19]).replace(tzinfo=datetime.timezone.utc)
    return datetime.datetime.now(datetime.timezone.utc) - then


async def kernels(engine: Engine) -> list[RunningKernel]:
    """This user's kernel containers, spares among them, the newest first."""
    filters = {labels.KIND: labels.KIND_KERNEL, labels.USER: str(os.getuid())}
    found = [RunningKernel.of(state) for state in await engine.containers.list(filters)]
    return sorted(found, key=lambda kernel: kernel.container.created, reverse=True)


async def find(engine: Engine, name: str | None) -> RunningKernel:
    """The running kernel that a user means.

    Args:
        name: the start of a kernel's or container's id, or a part of its notebook's name; None for the only one.

    Raises:
        NotFound: none or several fit; the message lists what there is.
    """
    running = [kernel for kernel in await kernels(engine) if kernel.container.running and not kernel.spare]
    if not running:
        raise NotFound("No Docker kernel is running: start one from a notebook first.")
    fitting = [
        kernel
        for kernel in running
        if name is None
        or kernel.kernel_id.startswith(name)
        or kernel.container.id.startswith(name)
        or name in kernel.notebook
    ]
    if len(fitting) == 1:
        return fitting[0]
    listing = ", ".join(f"{kernel.kernel_id[:8]} ({kernel.notebook or kernel.spec})" for kernel in running)
    problem = "Several kernels run" if fitting else f"No running kernel is called {name!r}"
    raise NotFound(f"{problem}: name one of {listing}.")


async def stop(engine: Engine, kernel: RunningKernel) -> None:
    """End a kernel; its server sees that it died."""
    await engine.containers.remove(kernel.container.id)


@dataclass(frozen=True)
class Leftovers:
    """What starts and builds that were cut off, and jobs that nobody knows any more, left on an engine."""

    containers: Sequence[ContainerState]
    volumes: Sequence[str]


async def leftovers(engine: Engine, needed: Collection[str] = (), over: Collection[str] = ()) -> Leftovers:
    """Containers of this user that ended or never started, or of a dead build, and volumes that no other container has.

    Args:
        needed: ids of jobs, and of dispatches, whose containers stay.
        over: ids of dispatches that have no job left to start.
    """
    user = str(os.getuid())
    everyones = await engine.containers.list({labels.KIND: ""})
    found = [state for state in everyones if state.labels.get(labels.USER) == user or _is_of_a_build(state)]
    live = {RunningKernel.of(state).kernel_id for state in found if _is(state, labels.KIND_KERNEL) and state.running}
    containers = [state for state in found if _is_over(state, over) and not _is_needed(state, needed, live)]
    gone = {state.id for state in containers}
    used = {name for state in found if state.id not in gone for name in state.volumes.values()}
    volumes = [
        str(volume["Name"])
        for volume in await engine.volumes.list(f"{labels.KIND}={labels.KIND_VOLUME}")
        if (volume.get("Labels") or {}).get(labels.USER) == user and volume["Name"] not in used
    ]
    return Leftovers(containers, volumes)


def _is(state: ContainerState, *kinds: str) -> bool:
    return state.labels.get(labels.KIND) in kinds


def _is_of_a_build(state: ContainerState) -> bool:
    staged = _is(state, labels.KIND_BUILD) and labels.BUILD in state.labels
    return staged or state.name.startswith(labels.BUILD_NAME)


def _is_over(state: ContainerState, over: Collection[str]) -> bool:
    """Whether a container ended, or was made and never will start."""
    if _is(state, labels.KIND_STATE) and _dispatch(state) in over:
        return True
    if labels.MAKER in state.labels and state.status in NEVER_RAN:
        return _never_starts(state)
    if _is_of_a_build(state):
        idle = _since(max(state.created, state.finished)).total_seconds()
        return not state.running and idle > BUILD_SECONDS
    ours = _is(state, labels.KIND_KERNEL, labels.KIND_JOB, labels.KIND_STATE)
    return ours and not state.running and (state.status not in NEVER_RAN or _never_starts(state))


def _never_starts(state: ContainerState) -> bool:
    """Whether nobody is left who would start a container that never ran."""
    lives = makers.lives(state.labels.get(labels.MAKER, ""))
    return not lives if lives is not None else _since(state.created).total_seconds() > START_SECONDS


async def sweep(engine: Engine) -> None:
    """Remove what processes of this user made and never started, as they were killed; trouble is logged."""
    try:
        filters = {labels.MAKER: "", labels.USER: str(os.getuid())}
        for state in await engine.containers.list(filters, status="created"):
            if _never_starts(state):
                await engine.containers.remove_unstarted(state.id)
    except EngineError as error:
        log.debug("what killed starts left could not be removed: %s", error)


def _is_needed(state: ContainerState, needed: Collection[str], live: Collection[str | None]) -> bool:
    """Whether a job still needs a container; what belongs to a kernel that runs is its own host side's to remove."""
    if _is(state, labels.KIND_KERNEL):
        return False
    owners = {state.labels.get(labels.JOB_ID), _dispatch(state)}
    return state.labels.get(labels.KERNEL_ID) in live or not owners.isdisjoint(needed)


def _dispatch(state: ContainerState) -> str:
    return state.name.removeprefix(labels.STATE_NAME)


async def reap(engine: Engine, found: Leftovers) -> None:
    """Remove leftovers, and the folders of sockets that killed processes left; a volume that is in use stays."""
    await asyncio.to_thread(sockets.sweep)
    for state in found.containers:
        await engine.containers.remove(state.id)
    for volume in found.volumes:
        await engine.volumes.remove(volume)
