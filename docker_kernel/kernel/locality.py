"""Local engines only, for now: a remote one has other paths and another 127.0.0.1; its kernels would never connect."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

from docker_kernel.engine import Engine, EngineInfo
from docker_kernel.errors import EngineError, KernelStartError


async def check_local(engine: Engine) -> EngineInfo:
    """The engine's facts, if it shares this machine's files and loopback.

    Raises:
        KernelStartError: it is remote, or this process is itself in one of its containers.
    """
    info = await engine.info()
    if not info.local:
        raise KernelStartError(
            f"The engine at {info.url} is on another machine, whose kernels could not be reached and would not see "
            "your files: use a local engine (unset DOCKER_HOST, or `docker context use default`)."
        )
    if await _inside(engine):
        raise KernelStartError(
            "Jupyter runs in a container of this same engine, so its paths and 127.0.0.1 are not the engine's: "
            "run Jupyter outside containers, or give its container an engine of its own."
        )
    return info


async def _inside(engine: Engine) -> bool:
    """Whether this process runs in a container that the engine knows."""
    if not any(Path(marker).exists() for marker in ("/.dockerenv", "/run/.containerenv")):
        return False
    try:
        names = own_ids(socket.gethostname(), await asyncio.to_thread(Path("/proc/self/mountinfo").read_text))
    except OSError:
        names = own_ids(socket.gethostname(), "")
    for name in names:
        try:
            state = await engine.containers.inspect(name)
        except EngineError:
            continue
        if state.id.startswith(name):
            return True
    return False


def own_ids(hostname: str, mountinfo: str) -> set[str]:
    """The ids that this process's container may have, were it in one.

    Only what is mounted over this process's own /etc/hostname and its like counts: where an engine runs beside us, be
    it in a virtual machine or in this same container, the mounts of its containers come and go in our mount table.
    """
    ids = {hostname} if re.fullmatch(r"[0-9a-f]{12}", hostname) else set()
    for line in mountinfo.splitlines():
        _, _, _, root, target, *_ = line.split(" ")
        found = re.search(r"/(?:overlay-)?containers/([0-9a-f]{64})/", root)
        if found and target in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf"):
            ids.add(found[1])
    return ids
