"""What a job's container is given; no engine is needed for that."""

from __future__ import annotations

from docker_kernel.config import KernelConfig
from tests.scheduler.server import needs_scheduler

pytestmark = needs_scheduler


def test_a_kernelspecs_secrets_are_given_to_the_run_as_no_image_has_them() -> None:
    from docker_kernel.scheduler.runs import _secrets

    settings = KernelConfig(env={"API_TOKEN": "a1b2c3", "LANG": "C.UTF-8"})
    assert _secrets(settings) == {"API_TOKEN": "a1b2c3"}
