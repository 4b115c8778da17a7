"""Warm kernel containers: made before a kernel is asked for, each used by one.

A spare is a kernel container whose supervisor waits; its forkserver has imported what a kernel needs, and no kernel
process has run in it yet, so that a claimed spare has no state of anybody's and takes keys, environment and folder from
the start that claims it. A claim is a rename: of those who are after one spare, one wins. Any server of the same user
on the same engine may claim it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker_kernel import labels
from docker_kernel.engine import Engine, VolumeMount
from docker_kernel.errors import DockerKernelError
from docker_kernel.guest.forks import acts_at_start
from docker_kernel.kernel import bytecode, guest_files, running
from docker_kernel.kernel.connection import Keys
from docker_kernel.kernel.container import KernelContainer, KernelLaunch

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
"""A spare is prepared when no kernel has been started for so long: those who wait go first."""

AT_ONCE = 4 * (os.cpu_count() or 1)
"""How many containers may start at once: more would only take the CPUs from each other."""

MAX_AGE = 12 * 3600.0
"""Seconds after which a spare is replaced, so that none is older than a day's clocks, certificates and DNS."""

UPKEEP_SECONDS = 30.0
NAME_SERVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
"""What an engine copies into a container at its start: a spare knows no network that was joined later."""

FREE_MEMORY = 0.1
"""The share of the machine's memory that has to be available; with less there are no spares."""


def _content(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def _found(source: str) -> list[object]:
    """What a container keeps as it was at its start, of a path that is mounted in it: which folder or file that is,
    and the file systems that are mounted below it (proc(5), mountinfo)."""
    try:
        status = Path(source).stat()
    except OSError:
        return []
    below: list[str] = []
    with contextlib.suppress(OSError):
        start = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", source.rstrip("/")) + "/"
        mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()]
        below = sorted(" ".join(mount[2:5]) for mount in mounts if mount[4].startswith(start))
    return [status.st_dev, status.st_ino, *below]


def surroundings(sources: Iterable[str]) -> list[object]:
    """What a container keeps as it was at its start, besides what it is created from.

    Args:
        sources: what of the host is mounted in it.
    """
    return [*(_found(source) for source in sources), *(_content(path) for path in NAME_SERVERS)]


def fit(kernel: KernelContainer) -> str:
    """The digest of all that must be the same for a container to be a kernel's.

    Args:
        kernel: what is to be started, resolved.
    """
    spec = kernel.spec()
    folder = str(Path(kernel.sockets).parent) if kernel.sockets else None
    facts = dataclasses.asdict(spec)
    facts["name"] = None
    facts["labels"] = {
        name: value
        for name, value in spec.labels.items()
        if name not in (labels.KERNEL_ID, labels.NOTEBOOK, labels.CONNECTION_FILE, labels.MAKER)
    }
    mounts = [one for one in spec.mounts if not isinstance(one, VolumeMount) and one.source != folder]
    facts["mounts"] = [dataclasses.asdict(mount) for mount in mounts]
    facts["surroundings"] = surroundings(mount.source for mount in mounts)
    facts["guest"] = guest_files.digest()
    facts["command"] = kernel.launch.command
    facts["ipc"] = folder is not None
    facts["start"] = {name: value for name, value in kernel.env.items() if acts_at_start(name)}
    facts["files"] = [hashlib.sha256(kernel.packages.ca or b"").hexdigest(), kernel.account.name]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def memory_is_short() -> bool:
    """Whether this machine has little memory left (proc(5), MemAvailable)."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) < FREE_MEMORY * int(lines["MemTotal"].split()[0])
    except (OSError, KeyError, ValueError):
        return False


@dataclass
class Spare:
    """A container that waits, and since when (time.monotonic)."""

    container: KernelContainer
    born: float


@dataclass
class Pool:
    """The spares of one kernelspec.

    Args:
        fit: the digest of the starts that they fit.
        pattern: what they are made from.
    """

    fit: str
    pattern: KernelLaunch
    waiting: list[Spare] = field(default_factory=list)
    trouble: str = ""
    """Why the last spare could not be prepared, which is said once."""

    @property
    def lacking(self) -> bool:
        return len(self.waiting) < self.pattern.config.warm_spares


class Spares:
    """The spares of this process on one engine; its coroutines run on the background loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pools: dict[str, Pool] = {}
        self._starting = 0
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._last_start = 0.0
        self._swept = False
        self._filling: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, launch: KernelLaunch, keep: bool) -> KernelContainer:
        """Start a kernel: in a spare where one fits, else in a new container.

        Args:
            keep: whether spares are to be kept for the next ones, as in a server.

        Raises:
            DockerKernelError: with a sentence for the user.
        """
        self._starting += 1
        kernel = KernelContainer(self._engine, launch)
        try:
            wanted = launch.config.warm_spares if launch.host_ports is None else 0
            digest = ""
            if wanted:
                await kernel.resolve()
                digest = await asyncio.to_thread(fit, kernel)
                claimed = await self._claim(kernel, digest)
                if claimed is not None:
                    kernel = claimed
            if not kernel.container_id:
                await self._start(kernel)
        except BaseException:
            await kernel.remove()
            raise
        finally:
            self._starting -= 1
            self._last_start = time.monotonic()
        if not self._swept:
            self._swept = True
            self._spawn(running.sweep(self._engine))
        if keep and wanted:
            self.keep(launch, digest)
        elif keep and not launch.config.warm_spares:
            self._drop(launch.spec_name)
        if keep:
            self._keep_up_soon()
        return kernel

    async def _start(self, kernel: KernelContainer) -> None:
        """Start a kernel in a new container, of which only so many may have their imports before them at once."""
        await self._slots.acquire()
        try:
            await kernel.start()
        except BaseException:
            self._slots.release()
            raise
        self._spawn(kernel.until_started()).add_done_callback(self._has_started)

    def _has_started(self, _: asyncio.Task[None]) -> None:
        self._slots.release()
        self._last_start = time.monotonic()

    async def warm_up(self, launch: KernelLaunch) -> None:
        """Have spares for kernels like this one before the first is asked for; raises as `start` does."""
        kernel = KernelContainer(self._engine, launch)
        await kernel.resolve()
        self.keep(launch, await asyncio.to_thread(fit, kernel))

    async def _claim(self, kernel: KernelContainer, digest: str) -> KernelContainer | None:
        """A spare that has become this kernel; None where there is none."""
        pool = self._pools.get(kernel.launch.spec_name)
        while pool is not None and pool.fit == digest and pool.waiting:
            own = pool.waiting.pop(0).container
            if await self._become(own, kernel, own.kernel_id):
                return own
        if kernel.sockets:
            return None  # the folder of another server's spare is not ours to mount
        for state in await self._engine.containers.list(
            {labels.SPARE: digest, labels.USER: str(os.getuid())}, stopped=False
        ):
            if state.name.startswith(labels.SPARE_NAME) and state.status == "running":
                spare = KernelContainer(self._engine, kernel.launch)
                spare.adopt(kernel, state)
                if await self._become(spare, kernel, state.name.removeprefix(labels.SPARE_NAME)):
                    return spare
        return None

    async def _become(self, spare: KernelContainer, kernel: KernelContainer, spare_id: str) -> bool:
        try:
            await spare.become(kernel, spare_id)
        except DockerKernelError as error:
            log.debug("a spare could not be used: %s", error)
            return False
        return True

    def keep(self, launch: KernelLaunch, digest: str) -> None:
        """Have as many spares for the next kernels like this one as its settings say."""
        start_env = {name: value for name, value in launch.launch_env.items() if acts_at_start(name)}
        pattern = dataclasses.replace(launch, launch_env=start_env, arguments=[], connection_file="")
        pool = self._pools.get(launch.spec_name)
        if pool is None or pool.fit != digest:
            self._drop(launch.spec_name)
            pool = self._pools[launch.spec_name] = Pool(digest, pattern)
        pool.pattern = pattern  # how many there are to be may have changed
        self._release(pool, *pool.waiting[pattern.config.warm_spares :])
        self._fill_soon()
        self._keep_up_soon()

    async def close(self) -> None:
        """Remove all spares that nobody has claimed, and make no more."""
        making = [task for task in (self._filling, self._keeping) if task is not None]
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        for name in list(self._pools):
            self._drop(name)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fill_soon(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = self._spawn(self._fill())

    def _keep_up_soon(self) -> None:
        if self._keeping is None or self._keeping.done():
            self._keeping = self._spawn(self._keep_up())

    async def _fill(self) -> None:
        """Prepare what is lacking, one after the other, while nobody waits for a kernel."""
        failed: list[Pool] = []
        while True:
            lacking = [pool for pool in self._pools.values() if pool.lacking and pool not in failed]
            if not lacking or memory_is_short():
                return
            quiet = self._last_start + QUIET_SECONDS - time.monotonic()
            if self._starting or quiet > 0:
                await asyncio.sleep(max(quiet, QUIET_SECONDS / 4))
                continue
            pool = lacking[0]
            try:
                await self._prepare(pool)
                pool.trouble = ""
            except DockerKernelError as error:
                failed.append(pool)
                if pool.trouble != str(error):
                    pool.trouble = str(error)
                    log.warning("no spare kernel container could be prepared: %s", error)

    async def _prepare(self, pool: Pool) -> None:
        pattern = dataclasses.replace(pool.pattern, kernel_id=str(uuid.uuid4()), keys=Keys.make(encrypted=False))
        container = KernelContainer(self._engine, pattern)
        await container.resolve()
        await bytecode.make(self._engine, container.image, container.python)
        if await asyncio.to_thread(fit, container) != pool.fit:
            if self._pools.get(pattern.spec_name) is pool:
                self._drop(pattern.spec_name)  # the image or a setting has changed: the next start tells to what
            return
        await container.prepare(pool.fit)
        spare = Spare(container, time.monotonic())
        container.when_lost = lambda: self._lost(pool, spare)
        pool.waiting.append(spare)
        if self._pools.get(pattern.spec_name) is not pool:
            self._release(pool, spare)  # meanwhile a start had other settings

    def _lost(self, pool: Pool, spare: Spare) -> None:
        if spare in pool.waiting:
            self._release(pool, spare)
            if time.monotonic() - spare.born > QUIET_SECONDS:  # one that ends at once would end again
                self._fill_soon()

    def _drop(self, name: str) -> None:
        """Have no spares of a kernelspec any more."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            self._release(pool, *pool.waiting)

    def _release(self, pool: Pool, *spares: Spare) -> None:
        for spare in spares:
            pool.waiting.remove(spare)
            self._spawn(self._remove(spare.container))

    async def _remove(self, container: KernelContainer) -> None:
        try:
            await container.release(container.kernel_id)
        except DockerKernelError as error:
            log.warning("a spare kernel container could not be removed: %s", error)

    async def _keep_up(self) -> None:
        """Replace spares that are old, have none while memory is short, and remove what killed starts left."""
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            short = memory_is_short()
            for pool in self._pools.values():
                old = [one for one in pool.waiting if short or time.monotonic() - one.born > MAX_AGE]
                self._release(pool, *old)
            self._fill_soon()
            await running.sweep(self._engine)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
