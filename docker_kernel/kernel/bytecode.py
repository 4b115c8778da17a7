"""The guest package compiled by an image's own Python, kept on the host: compiling it takes 30 ms of every start.

It is made in a container of its own, where no notebook's code has run, and used in containers of that image alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import tarfile
from pathlib import Path

import platformdirs

from docker_kernel import labels, whole_file
from docker_kernel.engine import ContainerSpec, Engine, File
from docker_kernel.images import throwaway_container
from docker_kernel.kernel import guest_files

SIZE = 8 << 20
"""Bytes that the compiled files may have together; they are about 1 MB."""


def _cache_file(image_id: str) -> Path:
    name = f"{guest_files.digest()[:16]}-{image_id.removeprefix('sha256:')[:32]}.tar"
    return platformdirs.user_cache_path("docker-kernel") / "bytecode" / name


@functools.lru_cache(maxsize=8)
def _read(cached: Path) -> tuple[File, ...]:
    with tarfile.open(cached) as tar:
        return tuple(
            File(member.name, data.read()) for member in tar if member.isreg() and (data := tar.extractfile(member))
        )


def of_image(image_id: str) -> tuple[File, ...]:
    """The compiled files for an image, for its containers; none where they have not been made yet."""
    try:
        return _read(_cache_file(image_id))
    except (OSError, tarfile.TarError):
        return ()


async def make(engine: Engine, image_id: str, python: str) -> None:
    """Compile the guest package for an image, unless that has been done.

    Args:
        python: the path of its Python.

    Raises:
        EngineError: the engine could not run it.
    """
    cached = await asyncio.to_thread(_cache_file, image_id)
    if await asyncio.to_thread(cached.exists):
        return
    compile_all = [python, "-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    spec = ContainerSpec(
        image=image_id,
        command=[*compile_all, guest_files.LIB],
        user="0:0",
        labels={labels.KIND: labels.KIND_BUILD},
        network="none",
        cap_drop=("ALL",),
    )
    async with throwaway_container(engine, spec) as container:
        await engine.containers.put(container, await asyncio.to_thread(guest_files.library))
        await engine.containers.start(container)
        await engine.containers.wait(container)
        found = await engine.containers.get(container, guest_files.LIB)
    await asyncio.to_thread(_keep, cached, found)


def _keep(cached: Path, found: bytes) -> None:
    """Store the compiled files of an archive whose folder is called lib; a cache that cannot be written costs time."""
    buffer, size = io.BytesIO(), 0
    with tarfile.open(fileobj=io.BytesIO(found)) as source, tarfile.open(fileobj=buffer, mode="w") as kept:
        for member in source:
            path = Path(member.name)
            if not (member.isreg() and path.suffix == ".pyc" and path.parent.name == "__pycache__"):
                continue
            size += member.size
            if ".." in path.parts or size > SIZE:
                return
            info = tarfile.TarInfo(f"{guest_files.BASE}/{member.name}")
            info.size = member.size
            kept.addfile(info, source.extractfile(member))
    with contextlib.suppress(OSError):
        for old in cached.parent.glob("*.tar"):
            if not old.name.startswith(guest_files.digest()[:16]):
                old.unlink()  # of another version of ours
        whole_file.write(cached, [buffer.getvalue()])
