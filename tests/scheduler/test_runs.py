"""What a job's container is given; no engine is needed for that."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from docker_kernel import background
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.manager import JobManager
from docker_kernel.config import KernelConfig
from tests.scheduler.server import needs_scheduler

pytestmark = needs_scheduler


def test_a_kernelspecs_secrets_are_given_to_the_run_as_no_image_has_them() -> None:
    from docker_kernel.scheduler.runs import _secrets

    settings = KernelConfig(env={"API_TOKEN": "a1b2c3", "LANG": "C.UTF-8"})
    assert _secrets(settings) == {"API_TOKEN": "a1b2c3"}


def test_a_ledger_that_cannot_be_read_does_not_mean_that_a_job_never_began(tmp_path: Path) -> None:
    from docker_kernel.scheduler.runs import Runs, _Unreadable
    from docker_kernel.scheduler.store import JobStore

    runs = Runs(JobStore(f"sqlite:///{tmp_path}/scheduler.sqlite"), lambda _: {}, 0, 1, logging.getLogger())
    jobs = JobManager()
    jobs.ledger = Ledger(tmp_path / "jobs.sqlite")
    assert background.run_blocking(runs._record(jobs, "one")) is None
    jobs.ledger.path.write_bytes(b"damaged" * 1000)
    with pytest.raises(_Unreadable):
        background.run_blocking(runs._record(jobs, "one"))
