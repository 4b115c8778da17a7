"""What an engine refuses is known by its kind, whatever words the engine has for it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import pytest

from docker_kernel import background, labels
from docker_kernel.engine import ContainerSpec, Engine, VolumeMount
from docker_kernel.errors import Conflict, EngineError, ImageMissing, NotFound, ProgramMissing, RetryableError
from tests.conftest import ImageMaker

run = background.run_blocking

MARKS = {labels.KIND: labels.KIND_BUILD}


@contextlib.contextmanager
def container(engine: Engine, image: str, *command: str, volume: str | None = None) -> Iterator[str]:
    mounts = [] if volume is None else [VolumeMount(volume, "/v", MARKS)]
    name = f"{labels.BUILD_NAME}{secrets.token_hex(6)}"
    spec = ContainerSpec(image=image, command=command, name=name, labels=MARKS, network="none", mounts=mounts)
    run(engine.containers.create(spec))
    try:
        yield name
    finally:
        run(engine.containers.remove(name))


def test_a_name_that_is_taken_is_a_conflict(engine: Engine, python_image: str) -> None:
    with container(engine, python_image, "true") as taken, container(engine, python_image, "true") as other:
        with pytest.raises(Conflict) as caught:
            run(engine.containers.create(ContainerSpec(image=python_image, command=["true"], name=taken, labels=MARKS)))
        assert taken in caught.value.reason
        with pytest.raises(Conflict):
            run(engine.containers.rename(other, taken))


def test_what_containers_use_is_not_removed(engine: Engine, make_image: ImageMaker) -> None:
    image, volume = make_image("FROM scratch\nLABEL a=b"), f"docker-kernel-test-{secrets.token_hex(6)}"
    with container(engine, image, "true", volume=volume):
        with pytest.raises(Conflict):
            run(engine.images.remove(image))
        assert run(engine.volumes.remove(volume)) is False
    assert run(engine.volumes.remove(volume)) is True
    assert run(engine.volumes.remove(volume)) is True, "that it is gone already is no error"


def test_a_program_that_the_image_lacks_is_known_from_other_refusals(engine: Engine, python_image: str) -> None:
    for command in ("no-such-program", "/no/such/program"):
        with container(engine, python_image, command) as made, pytest.raises(ProgramMissing):
            run(engine.containers.start(made))


def test_what_is_not_there_is_named_by_what_it_is(engine: Engine, python_image: str) -> None:
    with pytest.raises(ImageMissing, match=r"docker-kernel-test/none:1"):
        run(engine.images.inspect("docker-kernel-test/none:1"))
    with pytest.raises(ImageMissing, match=r"docker-kernel-test/none:1"):
        run(engine.containers.create(ContainerSpec(image="docker-kernel-test/none:1", command=["true"], labels=MARKS)))
    with pytest.raises(NotFound) as caught:
        run(engine.containers.inspect("0" * 64))
    assert not isinstance(caught.value, ImageMissing)
    with container(engine, python_image, "true") as made, pytest.raises(NotFound):
        run(engine.containers.get(made, "/no/such/path"))


def test_a_signal_to_what_has_ended_is_no_error(engine: Engine, python_image: str) -> None:
    with container(engine, python_image, "true") as made:
        run(engine.containers.start(made))
        run(engine.containers.wait(made))
        run(engine.containers.kill(made))
    run(engine.containers.kill(made))


def test_an_image_that_went_before_it_was_pushed_may_be_pushed_again(engine: Engine) -> None:
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1:1/none:1 could not be pushed"):
        run(engine.images.push("127.0.0.1:1/none", "1", lambda text: None))


def test_the_reason_of_a_failed_pull_is_short(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        run(engine.images.pull("127.0.0.1:1/none:1", lambda event: None))
    assert caught.value.reason == "connection refused"
    assert "refused" in run(engine.images.why_not_pullable("127.0.0.1:1/none"))
