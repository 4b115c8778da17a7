"""What of ours on an engine nobody needs: unused images, volumes, stopped containers. Nothing else is ever touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from docker_kernel import labels
from docker_kernel.batch.manager import manager
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError
from docker_kernel.kernel import running

CATCH_UP_SECONDS = 20.0
"""How long jobs that nobody follows are looked after, or a target may not answer."""


@dataclass(frozen=True)
class UnusedImage:
    """An image of ours that no container runs and no kernelspec names; `size` in bytes."""

    id: str
    name: str
    size: int
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a prune would remove."""

    leftovers: running.Leftovers
    images: Sequence[UnusedImage]

    @property
    def empty(self) -> bool:
        return not (self.images or self.leftovers.containers or self.leftovers.volumes)


async def conclude_jobs() -> None:
    """Bring home what jobs that ended unheard left on their targets; what cannot be had now stays there."""
    await manager().catch_up(CATCH_UP_SECONDS)


async def leftovers(engine: Engine) -> running.Leftovers:
    """What no kernel and no job will need again."""
    known = await asyncio.to_thread(manager().jobs)
    unsettled = {one.id for one in known if not one.settled and (one.result or not one.over)}
    waiting = {one.group for one in known if not one.over}
    return await running.leftovers(engine, unsettled | waiting, {one.group for one in known} - waiting)


async def plan(engine: Engine, kept_images: Collection[str]) -> Plan:
    """Find what is unused.

    Args:
        kept_images: references that installed kernelspecs name.
    """
    left = await leftovers(engine)
    kept = set()
    for reference in kept_images:
        try:
            kept.add((await engine.images.inspect(reference))["Id"])
        except EngineError:
            continue
    used = await engine.images.used(but_by={state.id for state in left.containers})
    images = [
        UnusedImage(image["Id"], _name(image), int(image["Size"]), _tags(image))
        for image in await engine.images.list(labels.KIND)
        if image["Id"] not in kept and image["Id"] not in used and not _is_needed(image)
    ]
    return Plan(left, images)


def _is_needed(image: dict[str, Any]) -> bool:
    """Whether it is the user's to remove, or may be a stage of a build that runs."""
    staged = labels.BUILD in (image.get("Labels") or {}) and not _tags(image)
    return _is_the_users(image) or (staged and time.time() - image["Created"] < running.BUILD_SECONDS)


def _is_the_users(image: dict[str, Any]) -> bool:
    """Whether it is a notebook image or a saved kernel that can still be called for, which is the user's to remove."""
    marks = image.get("Labels") or {}
    return bool(_tags(image)) and (marks.get(labels.KIND) == labels.KIND_NOTEBOOK_IMAGE or labels.SAVED in marks)


def _tags(image: dict[str, Any]) -> tuple[str, ...]:
    return tuple(tag for tag in image.get("RepoTags") or [] if tag != "<none>:<none>")


def _name(image: dict[str, Any]) -> str:
    tags = _tags(image)
    return tags[0] if tags else str(image["Id"]).removeprefix("sha256:")[:12]


async def carry_out(engine: Engine, found: Plan) -> list[str]:
    """Remove what a plan names; returns a sentence for each image that could not go."""
    await running.reap(engine, found.leftovers)
    problems = []
    for image in found.images:
        try:
            # An engine removes no image by its id while it has several tags.
            for reference in image.tags or (image.id,):
                await engine.images.remove(reference)
        except EngineError as error:
            problems.append(f"The image {image.name} stays: {error}")
    return problems
