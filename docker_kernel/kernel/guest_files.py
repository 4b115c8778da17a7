"""What is put into a container at its start: the guest package and the host's own cloudpickle.

Host and guest are thus always of one version, and any image with ipykernel works.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import cloudpickle

import docker_kernel
from docker_kernel.engine import File

BASE = "opt/docker-kernel"
LIB = f"/{BASE}/lib"
JOB_LIB = f"/{BASE}/job"
"""Where the guest package is in a job of a notebook image, which has one of its own, of its own age, at LIB."""

RUN = f"/{BASE}/run"
"""For files that are read and unlinked at the start; only the container's user can enter."""

CA_FILE = f"{RUN}/ca.pem"
"""The host's CA bundle, where its user has one of their own."""

USER_BASE = f"/{BASE}/user"
"""PYTHONUSERBASE: where `%pip install` puts what the image's own folders may not take."""

STATE = f"/{BASE}/state"
"""Where the kernel volume is mounted."""


def library(lib: str = LIB) -> tuple[File, ...]:
    """The guest package and cloudpickle, as files below a folder of the container. Blocks at its first call."""
    return _library(lib)


@functools.cache
def _library(lib: str) -> tuple[File, ...]:
    package = Path(docker_kernel.__file__).parent
    place = lib.lstrip("/")
    files = [File(BASE, mode=0o755), File(place, mode=0o755)]
    for source, name in (
        (package / "guest", "docker_kernel/guest"),
        (Path(cloudpickle.__file__).parent, "cloudpickle"),
    ):
        files += [File(f"{place}/{name}/{path.name}", path.read_bytes()) for path in sorted(source.glob("*.py"))]
    files.append(File(f"{place}/docker_kernel/__init__.py", (package / "__init__.py").read_bytes()))
    return tuple(files)


@functools.cache
def digest() -> str:
    """The digest of the library's content."""
    content = hashlib.sha256()
    for file in library():
        content.update(f"{file.path}\0{len(file.data or b'')}\0".encode() + (file.data or b""))
    return content.hexdigest()


def folders(uid: int, gid: int, home: str) -> list[File]:
    """The folders that belong to the container's user."""
    return [
        File(f"{BASE}/run", mode=0o700, uid=uid, gid=gid),
        File(f"{BASE}/user", mode=0o755, uid=uid, gid=gid),
        File(f"{BASE}/state", mode=0o700, uid=uid, gid=gid),
        File(home.lstrip("/"), mode=0o755, uid=uid, gid=gid),
        *(File(name, mode=0o755, uid=uid, gid=gid) for name in ("inputs", "outputs")),
    ]
