"""Prune: what of ours nobody needs, and nothing else."""

from __future__ import annotations

import os
import secrets
from typing import Any

import pytest

from docker_kernel import background, cli, labels, prune
from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import ImageMissing
from docker_kernel.kernel.running import Leftovers
from tests.conftest import ImageMaker
from tests.notebook import Notebook


def test_only_unused_images_of_ours_are_planned_and_removed(
    notebook: Notebook, engine: Engine, python_image: str, make_image: ImageMaker
) -> None:
    unused = make_image(f"FROM {python_image}\nLABEL probe=1\n")
    background.run_blocking(engine.tag(unused, "docker-kernel-test/second-tag", "1"))
    kept = make_image(f"FROM {python_image}\nLABEL probe=2\n")
    plan = background.run_blocking(prune.plan(engine, [kept]))
    names = [tag for image in plan.images for tag in image.tags]
    assert unused in names and kept not in names
    running = background.run_blocking(engine.inspect(notebook.container.container_id)).image
    assert running not in [image.id for image in plan.images]
    only = prune.Plan(Leftovers([], []), [image for image in plan.images if unused in image.tags])
    assert background.run_blocking(prune.carry_out(engine, only)) == []
    with pytest.raises(ImageMissing):
        background.run_blocking(engine.image(unused))
    background.run_blocking(engine.image(kept))


def test_what_jobs_need_is_no_leftover(engine: Engine, python_image: str) -> None:
    common: dict[str, Any] = {"owner": "kernel:x", "kernel_id": "x", "target": "local"}
    waiting = JobRecord(group=secrets.token_hex(6), state="queued", **common)
    over = JobRecord(group=secrets.token_hex(6), state="succeeded", settled=True, **common)
    unheard = JobRecord(group=secrets.token_hex(6), state="succeeded", result="sha256:" + "0" * 64, **common)

    def holder(group: str) -> str:
        marks = {labels.KIND: labels.KIND_STATE, labels.KERNEL_ID: "x", labels.USER: str(os.getuid())}
        spec = ContainerSpec(python_image, ["true"], name=labels.STATE_NAME + group, labels=marks)
        return background.run_blocking(engine.create(spec))

    def ended(job: str) -> str:
        marks = {labels.KIND: labels.KIND_JOB, labels.JOB_ID: job, labels.USER: str(os.getuid())}
        container = background.run_blocking(engine.create(ContainerSpec(python_image, ["true"], labels=marks)))
        background.run_blocking(engine.start(container))
        background.run_blocking(engine.wait(container))
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
            background.run_blocking(engine.remove(container))


def test_nothing_is_removed_unasked(make_image: ImageMaker, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    unused = make_image("FROM docker-kernel/python:latest\nLABEL probe=3\n")
    assert cli.main(["prune"]) == 1
    captured = capsys.readouterr()
    assert unused in captured.out and "say --yes" in captured.err
    background.run_blocking(engine.image(unused))
