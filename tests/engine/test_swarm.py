"""A Swarm of one node: what its manager refuses, and what a service's task prints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from docker_kernel import background
from docker_kernel.engine import Engine, Swarm, TaskSpec
from docker_kernel.errors import Conflict
from tests.batch.small_image import small_image
from tests.engines import SecondEngine
from tests.patience import until

run = background.run_blocking

IMAGE = "localhost/docker-kernel-test:small"
"""A node looks for it in its registry before it takes its own: here it learns at once that there is none."""


@pytest.fixture(scope="module")
def swarm(second_engine: SecondEngine) -> Iterator[Swarm]:
    second_engine.docker("swarm", "init", "--advertise-addr", second_engine.address)
    there = run(Engine.connect(second_engine.url))
    small_image(there, IMAGE)
    try:
        yield there.swarm
    finally:
        second_engine.docker("swarm", "leave", "--force")
        run(there.images.remove(IMAGE))
        there.close()


def test_a_swarms_refusals_are_known_by_their_kind(swarm: Swarm) -> None:
    network = run(swarm.create_network("net", {}))
    spec = TaskSpec(name="one", image=IMAGE, command=["sleep", "600"], labels={}, network=network)
    service = run(swarm.create(spec))
    secret = run(swarm.create_secret("secret", b"x", {}))
    for taken in (swarm.create(spec), swarm.create_secret("secret", b"y", {}), swarm.create_network("net", {})):
        with pytest.raises(Conflict):
            run(taken)
    assert run(swarm.remove_network(network)) is False, "a service has it"
    run(swarm.stop(service))
    for _ in range(2):
        run(swarm.remove(service))
        run(swarm.remove_secret(secret))
    assert run(swarm.has_service(service)) is False
    until(lambda: run(swarm.remove_network(network)), what="the network's end")
    assert run(swarm.remove_network(network)) and run(swarm.remove_network("net")), "that it is gone is no error"


def test_a_services_output_is_read_while_its_task_runs_and_afterwards(swarm: Swarm) -> None:
    marks = {"a": "b"}
    service = run(swarm.create(TaskSpec(name="says", image=IMAGE, command=["sleep"], labels=marks)))

    async def output(follow: bool) -> str:
        stream = await swarm.logs(service, follow)
        try:
            return (await stream.read()).decode()
        finally:
            stream.close()

    try:
        assert "missing operand" in run(output(follow=True))
        (task,) = until(lambda: [task for task in run(swarm.tasks(marks)) if task.over], what="the task's end")
        assert (task.exit_code, run(swarm.services(marks))) == (1, {service: "says"})
        assert "missing operand" in run(output(follow=False))
    finally:
        run(swarm.remove(service))
