"""Builds images for tests."""

from __future__ import annotations

from collections.abc import Mapping

from docker_kernel import background, labels
from docker_kernel.build_settings import host_settings
from docker_kernel.engine import Engine, File, archive


def build(
    engine: Engine,
    dockerfile: str,
    tag: str,
    files: Mapping[str, str] | None = None,
    marks: Mapping[str, str] | None = None,
) -> None:
    """Build an image from a Dockerfile's text; `. /host/env` there gives it the host's package settings.

    Args:
        files: the text of others, by their path beside it.
        marks: labels, beside that of a build.
    """
    settings = host_settings()
    context = [File("Dockerfile", dockerfile.encode()), File("host/env", settings.script("/host/ca.pem").encode())]
    context += [File("host/ca.pem", settings.ca or b"")]
    context += [File(path, text.encode()) for path, text in (files or {}).items()]
    kind = {labels.KIND: labels.KIND_BUILD, **(marks or {})}
    background.run_blocking(engine.images.build(archive(context), tag, {}, kind, lambda event: None, network="host"))
