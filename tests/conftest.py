"""What tests share. They run against the real engine, and remove what they made also when they fail."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping

import pytest

from docker_kernel import background, images, labels
from docker_kernel.build_settings import host_settings
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import EngineError

ImageMaker = Callable[..., str]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine that `docker` reaches."""
    engine = background.run_blocking(Engine.connect())
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def python_image(engine: Engine) -> str:
    """The kernel image `docker-kernel/python:latest`, built if it is not there."""
    return background.run_blocking(images.kernel_image(engine, "docker-kernel/python:latest")).reference


@pytest.fixture
def used_images(engine: Engine) -> Iterator[list[str]]:
    """Append the images that a test makes: they are removed after it, the last one first."""
    used: list[str] = []
    yield used
    for reference in reversed(used):
        with contextlib.suppress(EngineError):
            background.run_blocking(engine.remove_image(reference))


@pytest.fixture
def make_image(engine: Engine, used_images: list[str]) -> ImageMaker:
    """Builds a throwaway image from a Dockerfile's text; `. /host/env` there gives it the host's package settings."""

    def make(dockerfile: str, files: Mapping[str, str] | None = None) -> str:
        settings = host_settings()
        tag = f"docker-kernel-test/{uuid.uuid4().hex[:12]}:latest"
        context = [File("Dockerfile", dockerfile.encode()), File("host/env", settings.script("/host/ca.pem").encode())]
        context += [File("host/ca.pem", settings.ca or b"")]
        context += [File(path, text.encode()) for path, text in (files or {}).items()]
        used_images.append(tag)
        background.run_blocking(
            engine.build(
                archive(context), tag, {}, {labels.KIND: labels.KIND_BUILD}, lambda event: None, network="host"
            )
        )
        return tag

    return make
