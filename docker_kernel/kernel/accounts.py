"""The account files of images, remembered: reading them from a container costs more than all else before a start."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import platformdirs

from docker_kernel import labels, whole_file
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import JobError, NotFound


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


async def own_user(engine: Engine, image_id: str, user: str) -> str:
    """Whom an image's containers run as, "UID:GID", by its USER, which may be names and may have no group.

    Raises:
        JobError: the image has no such account.
    """
    name, _, group_name = user.partition(":")
    if name.isdecimal() and group_name.isdecimal():
        return user
    spec = ContainerSpec(image=image_id, command=["true"], labels={labels.KIND: labels.KIND_BUILD})
    container = await engine.containers.create(spec)
    try:
        passwd, group = await of_image(engine, container, image_id)
    finally:
        await asyncio.shield(engine.containers.remove(container))
    found = ids(user, passwd, group)
    if found is None:
        raise JobError(f"The image runs as {user}, of whom it has no account: give its USER as UID:GID.")
    return found


def ids(user: str, passwd: bytes, group: bytes) -> str | None:
    """A user of an image as "UID:GID", as an engine reads it: `NAME|UID[:NAME|GID]`; None where it is not known."""
    name, _, group_name = user.partition(":")
    account = _line(passwd, name)
    if account is None and not name.isdecimal():
        return None
    uid, own_gid = (name, "0") if account is None else account[2:4]
    if not group_name:
        return f"{uid}:{own_gid}"
    found = _line(group, group_name)
    gid = group_name if found is None else found[2]
    return f"{uid}:{gid}" if gid.isdecimal() else None


def _line(accounts: bytes, name: str) -> list[str] | None:
    """The fields of an account, by its name or else by its number."""
    lines = [line.split(":") for line in accounts.decode(errors="surrogateescape").splitlines()]
    whole = [fields for fields in lines if len(fields) >= 4 and fields[2].isdecimal()]
    for position in (0, 2):
        for fields in whole:
            if fields[position] == name:
                return fields
    return None
