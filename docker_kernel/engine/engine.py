"""One engine (Docker or Podman): the connection to it, and what is asked of it as a whole."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from docker_kernel.engine.connection import Connection
from docker_kernel.engine.containers import Containers
from docker_kernel.engine.images import Images
from docker_kernel.engine.networks import Networks
from docker_kernel.engine.swarm import Swarm
from docker_kernel.engine.volumes import Volumes
from docker_kernel.errors import EngineError


@dataclass(frozen=True)
class EngineInfo:
    """What kind of engine answers.

    Args:
        kernel: the release of the Linux kernel that its containers run on.
        architecture: what the engine calls its machine, such as x86_64.
        data_folder: where it keeps its data, on its own machine.
    """

    url: str
    name: str
    version: str
    kernel: str
    product: str
    rootless: bool
    userns_remap: bool
    cgroup_version: str
    memory_limits: bool
    cpus: int
    memory: int
    architecture: str
    data_folder: str

    @property
    def local(self) -> bool:
        return self.url.startswith(("unix://", "http+unix://", "npipe://"))


class Engine:
    """One engine. Make it with `await Engine.connect()`; it is safe to use from several tasks at once, and in a process
    that was forked from the one that made it.

    Attributes:
        swarm: the Swarm that this engine manages.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.containers = Containers(connection)
        self.images = Images(connection)
        self.networks = Networks(connection)
        self.volumes = Volumes(connection)
        self.swarm = Swarm(connection)
        self._info: asyncio.Future[EngineInfo] | None = None

    @property
    def url(self) -> str:
        return self.connection.url

    @classmethod
    async def connect(cls, url: str | None = None, timeout: int = 60, tls: Path | None = None) -> Engine:
        """Reach an engine.

        Args:
            url: its address, or the name of a docker context; None for the one that `docker` would use.
            timeout: seconds that it may take to answer.
            tls: a folder with ca.pem, cert.pem and key.pem, for a tcp:// address.

        Raises:
            EngineUnavailable: nothing answers there, or we may not talk to it.
        """
        return cls(await Connection.open(url, timeout, tls))

    def close(self) -> None:
        self.containers.close()
        self.connection.close()

    async def info(self) -> EngineInfo:
        """What kind of engine this is; asked once, also by those who want to know it at the same time."""
        # Who asked may be on a forked process's parent's loop, and never hear of it.
        if self._info is None or not (self._info.done() or self._info.get_loop() is asyncio.get_running_loop()):
            self._info = asyncio.ensure_future(self._ask())
        try:
            return await asyncio.shield(self._info)
        except EngineError:
            self._info = None
            raise

    async def _ask(self) -> EngineInfo:
        raw = await self.connection.call(self.connection.client.info)
        version = await self.connection.call(self.connection.client.version)
        security = [option.split(",")[0] for option in raw.get("SecurityOptions") or []]
        product = "podman" if "Podman" in json.dumps(version.get("Components", [])) else "docker"
        return EngineInfo(
            url=self.url,
            name=raw.get("Name", ""),
            version=raw.get("ServerVersion", ""),
            kernel=raw.get("KernelVersion", ""),
            product=product,
            rootless="name=rootless" in security,
            userns_remap="name=userns" in security,
            cgroup_version=str(raw.get("CgroupVersion") or "1"),
            memory_limits=bool(raw.get("MemoryLimit", True)),
            cpus=int(raw.get("NCPU", 0)),
            memory=int(raw.get("MemTotal", 0)),
            architecture=str(raw.get("Architecture", "")),
            data_folder=str(raw.get("DockerRootDir", "")),
        )
