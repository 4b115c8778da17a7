"""Prune: what of ours nobody needs, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import secrets
from typing import Any

import pytest

from docker_kernel import background, cli, images, labels, prune
from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import ImageMissing
from docker_kernel.kernel import running
from docker_kernel.kernel.running import Leftovers
from tests.conftest import ImageMaker
from tests.notebook import Notebook


def test_only_unused_images_of_ours_are_planned_and_removed(
    notebook: Notebook, engine: Engine, python_image: str, make_image: ImageMaker
) -> None:
    unused = make_image(f"FROM {python_image}\nLABEL probe=1\n")
    background.run_blocking(engine.images.tag(unused, "docker-kernel-test/second-tag", "1"))
    kept = make_image(f"FROM {python_image}\nLABEL probe=2\n")
    plan = background.run_blocking(prune.plan(engine, [kept]))
    names = [tag for image in plan.images for tag in image.tags]
    assert unused in names and kept not in names
    running = background.run_blocking(engine.containers.inspect(notebook.container.container_id)).image
    assert running not in [image.id for image in plan.images]
    only = prune.Plan(Leftovers([], []), [image for image in plan.images if unused in image.tags])
    assert background.run_blocking(prune.carry_out(engine, only)) == []
    with pytest.raises(ImageMissing):
        background.run_blocking(engine.images.inspect(unused))
    background.run_blocking(engine.images.inspect(kept))


def test_what_jobs_need_is_no_leftover(engine: Engine, python_image: str) -> None:
    common: dict[str, Any] = {"owner": "kernel:x", "kernel_id": "x", "target": "local"}
    waiting = JobRecord(group=secrets.token_hex(6), state="queued", **common)
    over = JobRecord(group=secrets.token_hex(6), state="succeeded", settled=True, **common)
    unheard = JobRecord(group=secrets.token_hex(6), state="succeeded", result="sha256:" + "0" * 64, **common)

    def holder(group: str) -> str:
        marks = {labels.KIND: labels.KIND_STATE, labels.KERNEL_ID: "x", labels.USER: str(os.getuid())}
        spec = ContainerSpec(python_image, ["true"], name=labels.STATE_NAME + group, labels=marks)
        return background.run_blocking(engine.containers.create(spec))

    def ended(job: str) -> str:
        marks = {labels.KIND: labels.KIND_JOB, labels.JOB_ID: job, labels.USER: str(os.getuid())}
        container = background.run_blocking(
            engine.containers.create(ContainerSpec(python_image, ["true"], labels=marks))
        )
        background.run_blocking(engine.containers.start(container))
        background.run_blocking(engine.containers.wait(container))
        return container

    ledger = Ledger(root() / "jobs.sqlite")
    made: dict[str, str] = {}
    try:
        ledger.save(waiting, over, unheard)
        made = {"waiting": holder(waiting.group), "over": holder(over.group)}
        made |= {"unheard": ended(unheard.id), "settled": ended(over.id), "unknown": ended("f" * 12)}
        found = {state.id for state in background.run_blocking(prune.leftovers(engine)).containers}
        assert {name for name, container in made.items() if container in found} == {"over", "settled", "unknown"}
    finally:
        ledger.delete(waiting.id, over.id, unheard.id)
        for container in made.values():
            background.run_blocking(engine.containers.remove(container))


def test_what_a_killed_build_left_goes_and_what_a_build_may_still_need_stays(
    engine: Engine,
    python_image: str,
    make_image: ImageMaker,
    used_images: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = secrets.token_hex(16)
    stage = f"FROM {python_image} AS build\nLABEL {labels.KIND}={labels.KIND_BUILD} {labels.BUILD}={build}\n"
    make_image(f"{stage}FROM {python_image}\nCOPY --from=build /etc/passwd /\n")
    (stage_image,) = [
        str(image["Id"]) for image in background.run_blocking(engine.images.list(f"{labels.BUILD}={build}"))
    ]
    used_images.append(stage_image)
    asleep = ContainerSpec(python_image, ["sleep", "600"], labels={labels.KIND: labels.KIND_BUILD})

    async def look() -> list[list[str]]:
        async with images.throwaway_container(engine, asleep) as runs:
            await engine.containers.start(runs)
            step = await engine.containers.create(ContainerSpec(stage_image, ["true"]))
            cut_off = await engine.containers.create(dataclasses.replace(asleep, name=labels.BUILD_NAME + build[:12]))
            theirs = await engine.containers.create(asleep)
            names = {step: "step", cut_off: "cut off", runs: "runs", theirs: "theirs", stage_image: "stage"}
            try:
                await engine.containers.start(step)
                await engine.containers.wait(step)
                early = await prune.plan(engine, [])
                monkeypatch.setattr(running, "BUILD_SECONDS", 0)
                late = await prune.plan(engine, [])
                mine = Leftovers([state for state in late.leftovers.containers if state.id in names], [])
                await prune.carry_out(engine, prune.Plan(mine, [one for one in late.images if one.id == stage_image]))
            finally:
                for container in (step, cut_off, theirs):
                    await engine.containers.remove(container)
        found = [[one.id for one in (*plan.leftovers.containers, *plan.images)] for plan in (early, late)]
        return [sorted(names[one] for one in ids if one in names) for ids in found]

    assert background.run_blocking(look()) == [[], ["cut off", "stage", "step"]]
    with pytest.raises(ImageMissing):
        background.run_blocking(engine.images.inspect(stage_image))


def test_nothing_is_removed_unasked(make_image: ImageMaker, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    unused = make_image("FROM docker-kernel/python:latest\nLABEL probe=3\n")
    assert cli.main(["prune"]) == 1
    captured = capsys.readouterr()
    assert unused in captured.out and "say --yes" in captured.err
    background.run_blocking(engine.images.inspect(unused))
