"""One kernel container's life: create, start, signal, restart in place, replace, remove.

Both faces of the kernelspec (provisioner.py, launcher.py) are thin over `KernelContainer`. Its coroutines run on the
background loop; `exit_code` may be read from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from docker_kernel import labels
from docker_kernel.build_settings import BuildSettings, host_settings
from docker_kernel.config import KernelConfig, UserConfig, format_size
from docker_kernel.engine import BindMount, ContainerSpec, ContainerState, Engine, ExecStream, File, VolumeMount
from docker_kernel.errors import (
    ConfigError,
    DockerKernelError,
    EngineError,
    ImageMissing,
    KernelStartError,
    LinkError,
    NotFound,
)
from docker_kernel.guest.link import LEASE_EXIT, STARTED_LINE, WANTED_LINE
from docker_kernel.guest.link import RUN as GUEST_RUN
from docker_kernel.images import how_to_bring
from docker_kernel.kernel import accounts, bytecode, claims, guest_files, makers
from docker_kernel.kernel.connection import CONTAINER_PORTS, Keys, container_info, host_info
from docker_kernel.kernel.environment import kernel_env
from docker_kernel.kernel.link import Confirmed, Event, Exited, Hello, HostLink, Started, Warm, greeting
from docker_kernel.kernel.locality import check_local
from docker_kernel.kernel.notebook import Sight, look
from docker_kernel.kernel.sockets import SocketFolder, check_shared_kernel
from docker_kernel.kernel.user import ContainerUser, container_user
from docker_kernel.kernel.workspace import kernel_mounts

log = logging.getLogger(__name__)

LINK_SECONDS = 30
"""How long a started container may take to answer on its link, or to start its kernel process again."""

LINK_DELAY = 20.0
"""Seconds that a new container's link waits at most while nobody needs it: the engine's exec takes from the CPUs what
this kernel's start and those of others are after."""

CONFIRM_SECONDS = 10
"""How long a supervisor may take to confirm a signal."""

LINK_PAUSE = 0.1
"""Seconds before a link that was lost at once is opened again; twice as long each further time."""

CLAIM_SECONDS = 15
"""How long a claimed spare may take to start its kernel process; one that somebody has paused never does."""

SPARE_GRACE = 2.0
"""Seconds that a spare lives on without its server."""

UNKNOWN_EXIT = 137
"""Reported when a container vanished without a word: as after SIGKILL."""

LAST_WORDS = 2000
"""Bytes of the main process's output that are kept for the case that it ends."""


START_FILE = f"{guest_files.RUN}/start.json"
COMPLETE_FILE = f"{guest_files.RUN}/complete"
"""Put last: all other files are there, with their owners."""

_FIRST = f"""\
import os, select, sys
while not os.path.exists({COMPLETE_FILE!r}):
    if select.select([0], [], [], 0.002)[0] and not os.read(0, 4096):
        sys.exit("docker-kernel: the process that started this container has gone")
sys.path.insert(0, {guest_files.LIB!r})
from docker_kernel.guest import supervisor
sys.path.pop(0)
supervisor.main()
"""
"""What the container's main process does: it waits for the supervisor and what that starts from, for as long as the one
lives who is to put them there. The engine ends the standard input when that process has gone."""


class Service(Protocol):
    """What answers a kernel's requests (entry-point group docker_kernel.services)."""

    async def handle(self, method: str, params: dict[str, Any]) -> dict[str, Any]: ...

    async def resync(self) -> None:
        """Tell the kernel what it may have missed while there was no link."""
        ...

    async def close(self) -> None: ...


@dataclass
class KernelLaunch:
    """What a kernel is started from.

    Args:
        command: the kernel's command in the container, with {connection_file}; None runs ipykernel with our magics.
        arguments: added to the command.
        curve: whether the kernel supports CurveZMQ.
        host_ports: container port to host port, where the client dictates them; else the engine chooses.
        ipc: whether the client asks for transport ipc.
        root: the Jupyter server's root folder, where known.
    """

    kernel_id: str
    config: KernelConfig
    user_config: UserConfig
    cwd: str
    keys: Keys
    command: list[str] | None = None
    arguments: list[str] = field(default_factory=list)
    spec_name: str = ""
    root: str | None = None
    launch_env: Mapping[str, str] = field(default_factory=dict)
    spec_env: Mapping[str, str] = field(default_factory=dict)
    host_ports: dict[int, int] | None = None
    ipc: bool = False
    connection_file: str = ""
    grace: float | None = None


class KernelContainer:
    """A kernel in its container, from the host's side."""

    def __init__(self, engine: Engine, launch: KernelLaunch) -> None:
        self.engine = engine
        self.launch = launch
        self.kernel_id = launch.kernel_id
        self.config = launch.config
        self.container_id = ""
        self.image = ""
        self.python = launch.config.python or "python3"
        self.exit_code: int | None = None
        self.reason = ""
        self.connection_info: dict[str, Any] = {}
        self.published: dict[int, int] = {}
        self._ports: dict[int, int] = {}
        self.mounts: list[BindMount] = []
        self.cwd = launch.cwd
        self.workspace: str | None = None
        self.env: dict[str, str] = {}
        self._notebook: asyncio.Future[Sight] | None = None
        self.volume = ""
        self._account: ContainerUser | None = None
        self._account_files: list[File] = []
        self._sockets: SocketFolder | None = None
        self._link: HostLink | None = None
        self._link_ready = asyncio.Event()
        self._link_wanted = asyncio.Event()
        self._links_lost = 0
        self._linking: asyncio.Task[None] | None = None
        self._attached: ExecStream | None = None
        """The main process's streams, from before its start to its end: to hold its standard input is to be there."""
        self._heard = b""
        self._numbers = itertools.count(1)
        self._unconfirmed: dict[int, asyncio.Future[bool]] = {}
        """What the supervisor has not confirmed yet; False when the link breaks."""
        self._changed = asyncio.Event()
        self._service: Service | None = None
        self._removed = False
        self._packages = BuildSettings({}, None)
        self._started = asyncio.Event()
        """Set when the first kernel process is there, or has ended."""
        self._warm = asyncio.Event()
        self.when_lost: Callable[[], None] | None = None
        """While this is a spare: called when its link breaks, as when another server has claimed it."""
        self._tasks: set[asyncio.Task[None]] = set()

    # What a job's container is made from (kernel/handle.py)

    @property
    def account(self) -> ContainerUser:
        assert self._account is not None, "the container is not started"
        return self._account

    @property
    def user_config(self) -> UserConfig:
        return self.launch.user_config

    @property
    def user(self) -> str:
        return self.account.spec

    @property
    def group_add(self) -> tuple[int, ...]:
        return self.account.groups

    @property
    def userns_mode(self) -> str | None:
        return self.account.userns_mode

    async def notebook(self) -> Sight | None:
        """Its notebook as it was before the kernel ran anything; None where it has none."""
        self._look_at_notebook()  # where another server has started it
        return None if self._notebook is None else await asyncio.shield(self._notebook)

    def _look_at_notebook(self) -> None:
        path = self.env.get("JPY_SESSION_NAME", "")
        if self._notebook is None and path.startswith("/"):
            self._notebook = asyncio.ensure_future(asyncio.to_thread(look, path))

    def guest_files(self) -> list[File]:
        """What every container of this kernel gets before its start."""
        user = self.account
        return [*guest_files.library(), *guest_files.folders(user.uid, user.gid, user.home), *self._account_files]

    @property
    def packages(self) -> BuildSettings:
        """The host's package settings that it is started with."""
        return self._packages

    @property
    def sockets(self) -> str | None:
        """The prefix of the kernel's sockets; None where it has ports."""
        return self._ipc_prefix()

    async def notify(self, event: dict[str, Any]) -> None:
        """Send an event to the kernel process; dropped without a link, as events only add to what can be asked."""
        if self._link is not None and not self._link.closed:
            try:
                await self._link.send({"type": "event", "event": event})
            except LinkError:
                log.debug("an event for kernel %s was lost with its link", self.kernel_id)

    # Life

    async def start(self) -> dict[str, Any]:
        """Create and start the container and its kernel process; returns the host's connection info.

        When anything fails, nothing is left behind.

        Raises:
            DockerKernelError: with a sentence for the user.
        """
        try:
            if not self.image:
                await self.resolve()
            await self._start()
        except BaseException:
            await self._discard()
            raise
        return self.connection_info

    async def _start(self) -> None:
        self.exit_code, self.reason = None, ""
        await self._run(self.spec(), self._start_file())
        if not self.config.publish:
            self._linking = self._spawn(self._open_first_link())
        await self._read_state()
        self._connect()
        if self.config.publish:
            # The first cell may ask where its ports are.
            self._linking = self._spawn(self._open_link())
            await asyncio.wait([self._linking], timeout=LINK_SECONDS)

    async def resolve(self) -> None:
        """Find out what the kernel is to be started with: image, mounts, user, environment, folder.

        Raises:
            DockerKernelError: it cannot be started so.
        """
        launch, config = self.launch, self.config
        info = await check_local(self.engine)
        self.mounts = await asyncio.to_thread(kernel_mounts, config, launch.user_config, launch.root, launch.cwd)
        self.workspace = self.mounts[0].target if config.workspace else None
        try:
            image = await self.engine.images.inspect(config.image)
        except ImageMissing:
            raise ImageMissing(
                f"The kernel image {config.image} is not on this engine: {how_to_bring(config.image)}, then start the "
                "kernel again."
            ) from None
        self.image = str(image["Id"])
        image_labels = (image.get("Config") or {}).get("Labels") or {}
        self.python = config.python or image_labels.get(labels.PYTHON) or "python3"
        self._account = container_user(config, info, [mount.target for mount in self.mounts])
        self._packages = await asyncio.to_thread(host_settings)
        self.env = kernel_env(config, self._account, self._packages, launch.launch_env, launch.spec_env)
        self._look_at_notebook()
        self.cwd = str(await asyncio.to_thread(Path(launch.cwd).resolve))
        if not any(Path(self.cwd).is_relative_to(mount.target) for mount in self.mounts):
            self.cwd = self._account.home
        if self._over_sockets:
            check_shared_kernel(info)
            if self._sockets is None:
                self._sockets = await asyncio.to_thread(SocketFolder, self._account, config)

    async def _run(self, spec: ContainerSpec, start: dict[str, Any]) -> None:
        """Create and start the container, whose supervisor finds `start`."""
        user = self.account
        await self._create(spec)
        self._attached = await self.engine.containers.attach(self.container_id, stdin=True)
        self._spawn(self._read_output(self._attached))
        await self._make_account_files()
        # The engine takes longest to start the container, and as long as an interpreter's start to put files into it.
        await self.engine.containers.start(self.container_id)
        await self.engine.containers.put(
            self.container_id,
            [
                *await asyncio.to_thread(self.guest_files),
                *await asyncio.to_thread(bytecode.of_image, self.image),
                File(START_FILE.lstrip("/"), json.dumps(start).encode(), mode=0o600, uid=user.uid, gid=user.gid),
                File(COMPLETE_FILE.lstrip("/"), b""),
            ],
        )

    async def _make_account_files(self) -> None:
        found = await accounts.of_image(self.engine, self.container_id, self.image)
        self._account_files = self.account.account_files(*found)
        if self._packages.ca:
            self._account_files.append(File(guest_files.CA_FILE.lstrip("/"), self._packages.ca))

    async def _read_output(self, output: ExecStream) -> None:
        """Follow the main process's output, which says when the kernel has started, and when it wants a link."""
        self._heard = b""
        async for _, data in output.frames():
            said = self._heard + data
            if STARTED_LINE in said:
                self._started.set()
            if WANTED_LINE in said:
                self._link_wanted.set()
            self._heard = said[-LAST_WORDS:]
        if self._attached is output:
            self._detach()
            self._started.set()
            self._link_wanted.set()

    def _detach(self) -> None:
        """Hold the main process's standard input no longer."""
        if self._attached is not None:
            self._attached.close()
            self._attached = None

    async def until_started(self) -> None:
        """Wait until the imports before the first cell are over, which take the CPUs most of a start."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._started.wait(), LINK_SECONDS)

    async def _read_state(self) -> None:
        """Learn from the engine what it chose: volume and ports."""
        try:
            state = await self.engine.containers.inspect(self.container_id)
            code = None if state.running else state.exit_code
        except NotFound:
            code = await self._last_exit(self.container_id) or UNKNOWN_EXIT
        if code is not None:
            raise KernelStartError(
                f"The kernel's container ended at once (exit code {code}): {await self._last_words()}"
            )
        self._know(state)

    def _know(self, state: ContainerState) -> None:
        self.volume = state.volumes[guest_files.STATE]
        self._ports = dict(state.ports)
        self.published = {port: host for port, host in state.ports.items() if port not in CONTAINER_PORTS.values()}

    def _connect(self) -> None:
        self.connection_info = host_info(self.launch.keys, self._ipc_prefix(), self._ports)

    # Spares (spares.py): containers that wait for their kernel

    async def prepare(self, fit: str) -> None:
        """Create and start the container of a kernel that nobody has asked for yet, and wait until it is warm.

        `resolve` comes first. It is named as a spare only when it is warm, so that nobody who claims it has to wait.

        Args:
            fit: the digest of the starts that it fits.

        Raises:
            DockerKernelError: nothing is left behind.
        """
        try:
            spec = self.spec()
            spec.labels[labels.SPARE] = fit
            await self._run(spec, {**self._start_file(), "waiting": True, "grace": SPARE_GRACE})
            await self._read_state()
            await self._open_link()
            await asyncio.wait_for(self._warm.wait(), LINK_SECONDS)
            await self.engine.containers.rename(self.container_id, labels.SPARE_NAME + self.kernel_id)
        except BaseException as error:
            await self._discard()
            if isinstance(error, asyncio.TimeoutError):
                raise KernelStartError("A spare kernel container did not become ready in time.") from None
            raise

    def adopt(self, other: KernelContainer, state: ContainerState) -> None:
        """Be the host side of a spare that another server made.

        Args:
            other: what this server would start, resolved; the spare fits it.
        """
        self._take_over(other)
        self.container_id = state.id
        self._know(state)

    def _take_over(self, other: KernelContainer) -> None:
        self.kernel_id, self.launch, self.config = other.kernel_id, other.launch, other.config
        self.image, self.python, self.mounts, self.workspace = other.image, other.python, other.mounts, other.workspace
        self.env, self.cwd, self._account, self._packages = other.env, other.cwd, other._account, other._packages
        self._notebook = other._notebook

    async def become(self, other: KernelContainer, spare_id: str) -> None:
        """Claim this spare for a kernel and start its process.

        Args:
            other: that kernel, resolved.
            spare_id: what the spare is called by.

        Raises:
            EngineError: somebody was faster.
            DockerKernelError: the spare cannot be used; it is removed.
        """
        try:
            await self._claim(spare_id)
        except BaseException:
            # Where the engine gave us the name all the same, the container ends without a link.
            self._let_go()
            raise
        try:
            self._take_over(other)
            naming = self._spawn(
                self.engine.containers.rename(self.container_id, f"{labels.KERNEL_NAME}{self.kernel_id}")
            )
            if self._link is None:
                await self._open_link()
                await self._make_account_files()
            self._connect()
            self._changed.clear()
            await self._send({"type": "start", "update": self._start_file()})
            try:
                await asyncio.wait_for(self._changed.wait(), CLAIM_SECONDS)
            except asyncio.TimeoutError:
                raise KernelStartError("A spare container does not answer.") from None
            await naming
            if self.exit_code is not None or self._link is None or self._link.closed:
                raise KernelStartError("A spare container's kernel ended at once.")
            claim = claims.Claim(
                notebook=self.env.get("JPY_SESSION_NAME", ""), connection_file=self.launch.connection_file
            )
            self._spawn(asyncio.to_thread(claims.record, self.container_id, claim))
        except BaseException:
            await self._discard()
            raise

    async def release(self, spare_id: str) -> None:
        """Remove this spare, unless somebody has claimed it."""
        self._let_go()
        try:
            await self._claim(spare_id)
        except EngineError:
            return
        await self._discard()

    def _let_go(self) -> None:
        """Be this spare's host side no longer."""
        self.when_lost = None
        self._detach()
        if self._link is not None:
            self._link.close()

    async def _claim(self, spare_id: str) -> None:
        await self.engine.containers.rename(labels.SPARE_NAME + spare_id, labels.CLAIMED_NAME + spare_id)
        self.when_lost = None

    async def _create(self, spec: ContainerSpec) -> None:
        """Create the container; also when this is cancelled, the one that the engine is making is known afterwards."""
        making = asyncio.ensure_future(self.engine.containers.create(spec))
        try:
            self.container_id = await asyncio.shield(making)
        except asyncio.CancelledError:
            with contextlib.suppress(DockerKernelError):
                self.container_id = await making
            raise

    def spec(self) -> ContainerSpec:
        """What the container is created from; `resolve` comes first."""
        launch, config, user, ipc = self.launch, self.config, self.account, self._ipc_prefix()
        ports: dict[int, tuple[str, int | None]] = {}
        if ipc is None:
            wanted = launch.host_ports or {}
            ports = {port: ("127.0.0.1", wanted.get(port)) for port in CONTAINER_PORTS.values()}
        if config.network != "none":
            ports |= {port: ("127.0.0.1", self.published.get(port)) for port in config.publish}
        mounts: list[BindMount | VolumeMount] = [*self.mounts]
        if ipc is not None:
            mounts.append(BindMount(str(Path(ipc).parent), str(Path(ipc).parent)))
        mounts.append(
            VolumeMount(
                None,
                guest_files.STATE,
                {labels.KIND: labels.KIND_VOLUME, labels.KERNEL_ID: self.kernel_id, labels.USER: str(os.getuid())},
            )
        )
        name = f"{labels.KERNEL_NAME}{self.kernel_id}"
        return ContainerSpec(
            image=self.image,
            command=[self.python, "-I", "-S", "-c", _FIRST],
            name=name if re.fullmatch(r"[\w.-]+", name) else None,
            user=user.spec,
            labels={
                labels.KIND: labels.KIND_KERNEL,
                labels.KERNEL_ID: self.kernel_id,
                labels.SPARE: "",
                labels.SPEC: launch.spec_name,
                labels.USER: str(os.getuid()),
                labels.NOTEBOOK: self.env.get("JPY_SESSION_NAME", ""),
                labels.CONNECTION_FILE: launch.connection_file,
                labels.PYTHON: self.python,
                labels.HOME: user.home,
                labels.MAKER: makers.this_process(),
            },
            mounts=mounts,
            tmpfs={GUEST_RUN: "mode=1777"},  # Podman 4.3 knows no owner of a tmpfs
            ports=ports,
            network=config.network,
            working_dir="/",
            memory=config.memory,
            cpus=config.cpus,
            pids=config.pids,
            shm_size=config.shm,
            gpus=config.gpus,
            cap_add=config.capabilities,
            group_add=user.groups,
            userns_mode=user.userns_mode,
            auto_remove=True,
            open_stdin=True,
        )

    @property
    def _over_sockets(self) -> bool:
        """Whether there are sockets in place of ports, which a client that dictates ports always has."""
        wanted = self.launch.ipc or self.config.transport == "ipc" or self.config.network == "none"
        return wanted and not self.launch.host_ports

    def _ipc_prefix(self) -> str | None:
        """Where the kernel's sockets go; None for TCP."""
        if not self._over_sockets:
            return None
        assert self._sockets is not None, "`resolve` comes first"
        return self._sockets.prefix

    @property
    def _grace(self) -> float:
        return self.config.grace if self.launch.grace is None else self.launch.grace

    def _start_file(self) -> dict[str, Any]:
        """What the supervisor reads and unlinks (guest/supervisor.py)."""
        launch, config = self.launch, self.config
        interpreter = [self.python, "-Xfrozen_modules=off"]
        boot = [*interpreter, f"{guest_files.LIB}/docker_kernel/guest/boot.py"]
        command = launch.command or [*boot, "-f", "{connection_file}"]
        return {
            "argv": [*command, *launch.arguments],
            "guest": launch.command is None,
            "interpreter": interpreter,
            "python": self.python,
            "cwd": self.cwd,
            "env": self.env,
            "user_base": guest_files.USER_BASE,
            "connection": container_info(launch.keys, self._ipc_prefix()),
            "grace": self._grace,
            "memory_text": format_size(config.memory) if config.memory else "",
            "settings_hint": f"the kernelspec {launch.spec_name}, or in [kernel] of the config file",
        }

    async def signal(self, number: int) -> None:
        """Send a signal to the kernel process; no-op when it has ended.

        Raises:
            LinkError: it could not be delivered to a kernel that may still run.
        """
        what = "interrupt" if number == signal.SIGINT else f"signal {number}"
        await self._deliver({"type": "signal", "number": number}, what)

    async def expect_exit(self) -> None:
        """Say that the kernel process is about to end because it was asked to; errors as of `signal`."""
        await self._deliver({"type": "expect"}, "announcement of its end")

    async def _deliver(self, message: dict[str, Any], what: str) -> None:
        """Send what the supervisor is to confirm; no-op when there is no kernel process any more."""
        if self.exit_code is not None:
            return
        number = next(self._numbers)
        confirmed = self._unconfirmed[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send({**message, "confirm": number})
            if not await asyncio.wait_for(confirmed, CONFIRM_SECONDS):
                raise LinkError("The link to the kernel's container broke.")
        except (LinkError, asyncio.TimeoutError) as error:
            if not await self._is_over():
                reason = str(error) or "The kernel's container does not answer."
                raise LinkError(
                    f"The {what} did not reach the kernel. {reason} Try it again, or restart the kernel."
                ) from None
        finally:
            del self._unconfirmed[number]

    async def _is_over(self) -> bool:
        """Whether there is no kernel process any more, as far as the engine knows."""
        if self.exit_code is not None or self._removed:
            return True
        try:
            return not (await self.engine.containers.inspect(self.container_id)).running
        except EngineError as error:
            return isinstance(error, NotFound)

    async def restart(self, launch_env: Mapping[str, str] | None = None) -> None:
        """Start the kernel process again: in place, or where the container has gone, in a new one on the same ports.

        Never raises: when it cannot be done the container is removed, and `exit_code` and `reason` tell.
        """
        try:
            if launch_env is not None and self._account is not None:
                self.launch.launch_env = launch_env
                settings = await asyncio.to_thread(host_settings)
                self.env = kernel_env(self.config, self._account, settings, launch_env, self.launch.spec_env)
            if not await self._restart_in_place():
                await self._replace()
        except (DockerKernelError, OSError) as error:
            log.error("kernel %s cannot be restarted: %s", self.kernel_id, error)
            await self._discard()
            self.exit_code = None  # of the life before; what counts now is why there is no next one
            self._ended(1, str(error))

    async def _restart_in_place(self) -> bool:
        ended = self.exit_code is not None if self._link is None else self._link.closed
        if self._removed or not self.container_id or ended:
            return False
        self.exit_code, self.reason = None, ""
        self._changed.clear()
        try:
            await self._send({"type": "start", "update": {"env": self.env}})
            await asyncio.wait_for(self._changed.wait(), LINK_SECONDS)
        except (LinkError, asyncio.TimeoutError):
            return False
        return self._link is not None and not self._link.closed

    async def _replace(self) -> None:
        if self.connection_info.get("transport") == "tcp":
            ports = self.connection_info
            self.launch.host_ports = {port: ports[name] for name, port in CONTAINER_PORTS.items()}
        await self._discard(keep_sockets=True)
        self._removed = False
        for event in (self._link_ready, self._link_wanted, self._started):
            event.clear()
        await self.resolve()
        await self._start()

    async def wait(self) -> int:
        """Wait for the kernel process's end; returns its exit code (negative for a signal)."""
        while self.exit_code is None:
            self._changed.clear()
            await self._changed.wait()
        return self.exit_code

    async def remove(self) -> None:
        """End everything and remove the container with its volume; no-op if done already."""
        if self._service is not None:
            await self._service.close()
            self._service = None
        await self._discard()
        if self.exit_code is None:
            self._ended(-9, "")

    async def _discard(self, keep_sockets: bool = False) -> None:
        self._removed = True
        if self._linking is not None:
            self._linking.cancel()
        self._detach()
        if self._link is not None:
            self._link.close()
            self._link = None
        self._link_ready.set()  # nobody waits for it any more
        try:
            if self.container_id:
                await self.engine.containers.remove(self.container_id)
        except EngineError as error:
            log.error("kernel %s: its container could not be removed: %s", self.kernel_id, error)
        await asyncio.to_thread(claims.forget, self.container_id)
        self.container_id = ""
        if self._sockets is not None and not keep_sockets:
            await asyncio.to_thread(self._sockets.remove)
            self._sockets = None

    # The link

    async def _open_first_link(self) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._link_wanted.wait(), LINK_DELAY)
        if self._attached is None:
            await self._look()
        elif not self._removed:
            await self._open_link()

    async def _open_link(self) -> None:
        command = [self.python, "-I", "-S", f"{guest_files.LIB}/docker_kernel/guest/link.py"]
        try:
            stream = await self.engine.containers.exec(self.container_id, command, user=self.user)
            self._link = HostLink(stream, self._on_message, self._on_request, self._on_closed)
            await self._link.send(greeting(attached=self._attached is not None))
            if self.published:
                ports = {str(port): host for port, host in self.published.items()}
                await self._link.send({"type": "ports", "ports": ports})
            self._link_ready.set()
            if self._service is not None:
                await self._service.resync()
        except DockerKernelError as error:
            log.debug("the link to kernel %s could not be opened: %s", self.kernel_id, error)
            await self._look()

    async def _send(self, message: dict[str, Any]) -> None:
        self._link_wanted.set()
        try:
            await asyncio.wait_for(self._link_ready.wait(), LINK_SECONDS)
        except asyncio.TimeoutError:
            raise LinkError("The kernel's container does not answer.") from None
        if self._link is None:
            raise LinkError("The kernel's container is gone.")
        await self._link.send(message)

    def _on_message(self, message: Event) -> None:
        self._links_lost = 0
        if isinstance(message, Confirmed):
            if message.number in self._unconfirmed:
                self._confirm(message.number, True)
            return
        if isinstance(message, Warm) or (isinstance(message, Hello) and message.warm):
            self._warm.set()
        if isinstance(message, Warm):
            return
        if isinstance(message, Started):
            self.exit_code = None
        elif isinstance(message, Exited):
            self._ended(message.code, "out of memory" if message.oom else "")
        elif isinstance(message, Hello) and not message.alive:
            self._ended(UNKNOWN_EXIT if message.code is None else message.code, "out of memory" if message.oom else "")
        self._changed.set()

    def _confirm(self, number: int, arrived: bool) -> None:
        if not self._unconfirmed[number].done():
            self._unconfirmed[number].set_result(arrived)

    def _on_closed(self) -> None:
        for number in self._unconfirmed:
            self._confirm(number, False)
        if self.when_lost is not None:
            self.when_lost()
        elif not self._removed:
            self._link_ready.clear()
            self._spawn(self._look())

    async def _look(self) -> None:
        """The link is gone: find out whether the container is, and if it is not, open the link again."""
        container = self.container_id
        end = await self._end(container)
        if end is None:
            # Where no process can be started in the container, trying again at once would only burden the engine.
            await asyncio.sleep(min(LINK_PAUSE * (2 ** min(self._links_lost, 9) - 1), LINK_SECONDS))
            self._links_lost += 1
        if self._removed or self.container_id != container:
            return  # a restart has replaced it meanwhile
        if end is None:
            self._linking = self._spawn(self._open_link())
        else:
            self._ended(*end)

    async def _end(self, container: str) -> tuple[int, str] | None:
        """A container's exit code and why it ended; None while it runs."""
        try:
            state = await self.engine.containers.inspect(container)
        except NotFound:
            code = await self._last_exit(container)
            return code or UNKNOWN_EXIT, self._why(code) or "its container is gone"
        except EngineError as error:
            return UNKNOWN_EXIT, str(error)
        if state.running:
            return None
        why = self._why(state.exit_code) or state.error or await self._last_words() or "its container ended"
        return state.exit_code or UNKNOWN_EXIT, why

    async def _last_exit(self, container: str) -> int | None:
        # That it has ended is known in any case.
        with contextlib.suppress(EngineError, KeyError, ValueError):
            return await self.engine.containers.last_exit(container)
        return None

    def _why(self, code: int | None) -> str:
        """What a container's exit code tells of its end."""
        if code is not None and code - 128 in set(signal.Signals):
            return f"its container ended by {signal.Signals(code - 128).name}"
        if code != LEASE_EXIT:
            return ""
        return (
            f"no server had been connected to its container for {self._grace:g} seconds, which is the longest that its "
            "setting `grace` allows"
        )

    async def _last_words(self) -> str:
        try:
            said = await self.engine.containers.logs(self.container_id, tail=5)
        except EngineError:
            said = b"".join(self._heard.splitlines(keepends=True)[-5:])
        for line in (STARTED_LINE, WANTED_LINE):
            said = said.replace(line, b"")
        return " ".join(said.decode(errors="replace").split())

    def _ended(self, code: int, reason: str) -> None:
        self._started.set()
        if self.exit_code is None:
            self.exit_code, self.reason = code, reason
            if reason:
                log.warning("kernel %s ended with exit code %s: %s", self.kernel_id, code, reason)
        self._changed.set()

    async def _on_request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if self._service is None:
            (entry,) = entry_points(group="docker_kernel.services")
            make: Callable[[KernelContainer], Service] = await asyncio.to_thread(entry.load)
            self._service = self._service or make(self)
        return await self._service.handle(method, params)

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def choose_keys(config: KernelConfig, curve: bool, hmac: str | None = None) -> Keys:
    """Keys for a new kernel.

    Args:
        curve: whether the kernel supports CurveZMQ.
        hmac: the client's own key, where it has one.

    Raises:
        ConfigError: encryption is required and the kernel has none.
    """
    if config.encryption == "required" and not curve:
        raise ConfigError(
            f'encryption = "required", but the kernel in {config.image} does not support CurveZMQ: '
            'use an image with ipykernel 7.1 or newer, or set encryption to "auto".'
        )
    keys = Keys.make(curve and config.encryption != "disabled")
    return keys if not hmac else Keys(hmac, keys.curve_public, keys.curve_secret)
