"""The account files of images, remembered: reading them from a container costs more than all else before a start."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import platformdirs

from docker_kernel import whole_file
from docker_kernel.engine import Engine
from docker_kernel.errors import NotFound


def _cache_file(image_id: str) -> Path:
    return platformdirs.user_cache_path("docker-kernel") / "accounts" / hashlib.sha256(image_id.encode()).hexdigest()


async def of_image(engine: Engine, container: str, image_id: str) -> tuple[bytes, bytes]:
    """An image's /etc/passwd and /etc/group, read through a container of it that has not been changed yet."""
    cached = _cache_file(image_id)
    try:
        passwd, _, group = (await asyncio.to_thread(cached.read_bytes)).partition(b"\0")
        return passwd, group
    except OSError:
        pass
    found = []
    for path in ("/etc/passwd", "/etc/group"):
        try:
            found.append(await engine.containers.read_file(container, path))
        except NotFound:
            found.append(b"")
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        await asyncio.to_thread(whole_file.write, cached, [b"\0".join(found)])
    return found[0], found[1]
