"""Cells that send jobs from jobs are told what is possible."""

from __future__ import annotations

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from docker_kernel.guest import api, nested
from docker_kernel.guest.in_job import job
from docker_kernel.guest.job import JobFailed


@pytest.mark.parametrize(
    ("cell", "refused"),
    [
        ("%%local\nx = 1", True),
        ("%%dispatch --on cluster\nx = 1", True),
        ("x = 1\ny = %local x + 1", True),
        ("%dispatch f(1)", True),
        ("%%time\nx = 1", False),
        ("%env A=1\nx = f.value", False),
        ("if False:\n    %local f(1)", False),
    ],
)
def test_a_cell_is_refused_that_sends_jobs_whatever_else_it_does(cell: str, refused: bool) -> None:
    assert bool(nested.refusal_of(TransformerManager().transform_cell(cell))) is refused


def test_code_in_a_job_or_an_image_is_told_that_it_sends_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="This is not a Docker kernel"):
        api.dispatch("1")
    monkeypatch.setenv("DOCKER_KERNEL_EVENTS", "/tmp/events")
    with pytest.raises(JobFailed, match="A notebook image cannot send jobs: run this code in it as it is"):
        api.dispatch("1")
    monkeypatch.setattr(job, "id", "a1b2c3")
    with pytest.raises(JobFailed, match="A job can neither send jobs nor ask for the notebook's"):
        api.jobs["fit"]
