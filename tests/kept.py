"""What tests need but are not about, and what is dear to make: made once on a machine, and kept for the next run.

Its name has a digest of all it is made of. What has been there for longer than DAYS goes when its successor is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from docker_kernel import background, labels
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError, ImageMissing

run = background.run_blocking

DAYS = 2


def _root() -> Path:
    folder = platformdirs.user_cache_path("docker-kernel-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time makes it; the others wait, and find it made."""
    with (_root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def image(engine: Engine, name: str, parts: tuple[str, ...], make: Callable[[str], None]) -> str:
    """The tag of an image.

    Args:
        parts: all that it is made of.
        make: makes it under a tag.
    """
    repository = f"docker-kernel-test/kept-{name}"
    tag = f"{repository}:{_digest(parts)}"
    with _alone(name):
        try:
            run(engine.images.inspect(tag))
        except ImageMissing:
            make(tag)
            _remove_old(engine, repository)
    return tag


def _remove_old(engine: Engine, repository: str) -> None:
    for one in run(engine.images.list(labels.KIND)):
        for tag in one["RepoTags"] or []:
            if tag.startswith(f"{repository}:") and time.time() - one["Created"] > DAYS * 86400:
                with contextlib.suppress(EngineError):
                    run(engine.images.remove(tag))


def folder(name: str, parts: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """A folder.

    Args:
        parts: all that it is made of.
        make: fills an empty folder.
    """
    made = _root() / f"{name}-{_digest(parts)}"
    with _alone(name):
        if not made.exists():
            filling = made.with_suffix(".new")
            shutil.rmtree(filling, ignore_errors=True)
            filling.mkdir()
            make(filling)
            filling.rename(made)
            for other in _root().glob(f"{name}-*"):
                if time.time() - other.stat().st_mtime > DAYS * 86400:
                    shutil.rmtree(other)
    return made
