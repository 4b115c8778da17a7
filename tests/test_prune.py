"""Prune: what of ours nobody needs, and nothing else."""

from __future__ import annotations

import pytest

from docker_kernel import background, cli, prune
from docker_kernel.engine import Engine
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


def test_nothing_is_removed_unasked(make_image: ImageMaker, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    unused = make_image("FROM docker-kernel/python:latest\nLABEL probe=3\n")
    assert cli.main(["prune"]) == 1
    captured = capsys.readouterr()
    assert unused in captured.out and "say --yes" in captured.err
    background.run_blocking(engine.image(unused))
