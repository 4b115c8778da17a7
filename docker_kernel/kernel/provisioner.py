"""jupyter_client's face of a kernel container (entry point `docker-kernel`).

A server imports this module on its own loop, at its first kernel's start: all that is slow to import comes later, on
the background loop's thread.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import textwrap
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.multikernelmanager import MultiKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from jupyter_core.paths import jupyter_runtime_dir

from docker_kernel import background
from docker_kernel.errors import DockerKernelError

if TYPE_CHECKING:
    from docker_kernel.engine import Engine
    from docker_kernel.kernel.container import KernelContainer, KernelLaunch
    from docker_kernel.kernel.spares import Spares

DIALOG_WIDTH = 88


class DockerKernelProvisioner(KernelProvisionerBase):  # type: ignore[misc]
    """Runs a kernel in a container.

    All that can fail at a first start happens in `pre_launch`: an exception there reaches the user's dialog as one
    sentence, while one out of `launch_kernel` leaves a phantom kernel (jupyter_client 8.10). A restart never raises:
    when it cannot be done, `poll` reports the end.
    """

    def __init__(self, **kwargs: Any) -> None:
        known = {name: kwargs[name] for name in ("kernel_id", "kernel_spec", "parent") if name in kwargs}
        super().__init__(**known)
        self.connection_info: dict[str, Any] = {}
        self._container: KernelContainer | None = None
        self._active = False
        self._fresh = False

    @property
    def has_process(self) -> bool:
        return self._active

    async def poll(self) -> int | None:
        if self._container is None or not self._active:
            return 0
        return self._container.exit_code

    async def wait(self) -> int | None:
        code = 0
        if self._container is not None and self._active:
            code = await background.run(self._container.wait())
            self._active = False
        return code

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel process; no-op when it has ended.

        Raises:
            LinkError, HTTPError: it could not be delivered. The latter in a server, whose frontends are told its
                message. While the kernel is being ended nothing is raised: its end must go on.
        """
        if self._container is None or not signum:
            return
        try:
            await background.run(self._container.signal(signum))
        except DockerKernelError as error:
            self.log.error("kernel %s: %s", self.kernel_id, error)
            if not getattr(self.parent, "shutting_down", False):
                raise self._for_frontends(error) from None

    async def kill(self, restart: bool = False) -> None:
        """Kill the kernel process; the container stays until `cleanup`, as kill is also a part of restarts."""
        if self._container is not None:
            await self._try(self._container.signal(signal.SIGKILL))

    async def terminate(self, restart: bool = False) -> None:
        if self._container is not None:
            await self._try(self._container.signal(signal.SIGTERM))

    async def shutdown_requested(self, restart: bool = False) -> None:
        if self._container is not None:
            control = getattr(self.parent, "_control_socket", None)
            if control is not None:
                # The manager closes it when the kernel is dead. What that did not get would reach the next one, which
                # is there before jupyter_client's linger of 0.1 s is over, and end it.
                control.linger = 0
            await self._try(self._container.expect_exit())

    async def cleanup(self, restart: bool = False) -> None:
        if self._container is not None and not restart:
            container, self._container = self._container, None
            await background.run(container.remove())

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs.pop("transport_encryption", None)
        arguments = list(kwargs.pop("extra_arguments", []))
        kwargs = await super().pre_launch(**kwargs)
        kwargs["cmd"] = []
        if self._container is None:
            try:
                self._container = await background.run(
                    _started(
                        self.kernel_spec,
                        self._foreign_command(),
                        _session_key(self.parent),
                        self._facts(arguments, kwargs),
                        self._in_server(),
                    )
                )
            except DockerKernelError as error:
                raise type(error)(_for_dialog(str(error))) from None
            self._fresh = True
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        assert self._container is not None, "pre_launch comes first"
        if not self._fresh:
            await background.run(self._container.restart(kwargs.get("env")))
        self._fresh = False
        self._active = True
        info = dict(self._container.connection_info)
        info["key"] = info["key"].encode()
        self.connection_info = info
        return info

    def _facts(self, arguments: list[str], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a KernelLaunch takes from the client as it is."""
        manager, spec = self.parent, self.kernel_spec
        root = getattr(getattr(manager, "parent", None), "root_dir", None)
        return {
            "kernel_id": self.kernel_id,
            "cwd": str(Path(kwargs.get("cwd") or Path.cwd()).absolute()),
            "arguments": arguments,
            "spec_name": getattr(manager, "kernel_name", "") or "",
            "root": str(root) if root else None,
            "launch_env": kwargs["env"],
            "spec_env": spec.env or {},
            "ipc": getattr(manager, "transport", "tcp") == "ipc",
            "connection_file": _connection_file(manager),
        }

    def _in_server(self) -> bool:
        """Whether our manager is one of many, as in a Jupyter server: then more kernels are to be expected."""
        return isinstance(getattr(self.parent, "parent", None), MultiKernelManager)

    def _foreign_command(self) -> list[str]:
        """The command of a kernelspec that is not ours, as when we are the default provisioner."""
        manager = self.parent
        if manager is None:
            return list(self.kernel_spec.argv)
        connection_file = os.path.realpath(manager.connection_file)
        return [part.replace(connection_file, "{connection_file}") for part in manager.format_kernel_cmd()]

    async def _try(self, action: Coroutine[Any, Any, None]) -> None:
        """Do a part of ending the kernel, which goes on where that fails: at last the container is removed."""
        try:
            await background.run(action)
        except DockerKernelError as error:
            self.log.warning("kernel %s: %s", self.kernel_id, error)

    def _for_frontends(self, error: DockerKernelError) -> Exception:
        """An error whose message reaches the user: a server tells its frontends no other one's than an HTTPError's."""
        if not self._in_server():
            return error
        from tornado.web import HTTPError

        return HTTPError(503, str(error))

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        return recommended

    def resolve_path(self, path: str) -> str | None:
        """A path as the kernel sees it, where the host sees the same."""
        if self._container is None:
            return None
        full = Path(path).expanduser()
        if not full.is_absolute():
            full = (Path(self._container.cwd) / full).resolve()
        mounted = any(
            full.is_relative_to(mount.target) for mount in self._container.mounts if mount.source == mount.target
        )
        return full.as_posix() if mounted and full.exists() else None

    async def get_provisioner_info(self) -> dict[str, Any]:
        info: dict[str, Any] = await super().get_provisioner_info()
        info["container"] = self._container.container_id if self._container is not None else ""
        return info


async def _started(
    spec: Any, foreign: list[str], hmac: str | None, facts: dict[str, Any], keep_spares: bool
) -> KernelContainer:
    """Start a kernel, and where more are to be expected, have warm containers for them; arguments as of `_launch`."""
    launch = await asyncio.to_thread(_launch, spec, foreign, hmac, facts)
    return await shared_spares(await shared_engine()).start(launch, keep_spares)


async def warm_up(name: str, spec: Any, root: str) -> None:
    """Have warm containers for a server's first kernels of a kernelspec, if its settings ask for them at once.

    Args:
        root: the server's root folder.

    Raises:
        DockerKernelError: such a kernel could not be started either.
    """
    facts = {
        "kernel_id": str(uuid.uuid4()),
        "cwd": root,
        "root": root,
        "spec_name": name,
        "launch_env": dict(os.environ),
        "spec_env": spec.env or {},
    }
    launch = await asyncio.to_thread(_launch, spec, list(spec.argv), None, facts)
    if launch.config.warm_at_once and launch.config.warm_spares:
        await shared_spares(await shared_engine()).warm_up(launch)


def _launch(spec: Any, foreign: list[str], hmac: str | None, facts: dict[str, Any]) -> KernelLaunch:
    """What a kernel is started from.

    Args:
        spec: its kernelspec.
        foreign: the command of that spec, for the case that it is not ours.
        hmac: the client's own key, where it has one.
        facts: what is taken as it is.
    """
    from docker_kernel import config
    from docker_kernel.kernel.container import KernelLaunch, choose_keys

    stanza = spec.metadata.get("kernel_provisioner") or {}
    ours = stanza.get("provisioner_name") == config.PROVISIONER
    user_config = config.load()
    settings = user_config.kernel_config(
        (stanza.get("config") or {}) if ours else {}, f"The kernelspec {spec.display_name!r}"
    )
    supported = spec.metadata.get("supported_encryption") or []
    curve = "curve" in ([supported] if isinstance(supported, str) else supported)
    command = settings.argv
    if not ours and command is None and "ipykernel_launcher" not in spec.argv:
        command = foreign
    return KernelLaunch(
        config=settings, user_config=user_config, keys=choose_keys(settings, curve, hmac), command=command, **facts
    )


_engines: dict[str, asyncio.Future[Engine]] = {}
_spares: dict[Engine, Spares] = {}


def shared_spares(engine: Engine) -> Spares:
    """The warm containers of this process on an engine."""
    from docker_kernel.kernel.spares import Spares

    if engine not in _spares:
        _spares[engine] = Spares(engine)
    return _spares[engine]


async def shared_engine() -> Engine:
    """The engine for this process's kernels, connected once for each address it may be told to use."""
    from docker_kernel.engine import Engine

    key = "|".join(os.environ.get(name, "") for name in ("DOCKER_HOST", "DOCKER_CONTEXT"))
    if key not in _engines:
        _engines[key] = asyncio.ensure_future(Engine.connect())
    try:
        return await asyncio.shield(_engines[key])
    except DockerKernelError:
        _engines.pop(key, None)
        raise


def _for_dialog(message: str) -> str:
    """A message in lines that Jupyter's dialog shows whole: it cuts off those that are longer than it is wide.

    What stands in backquotes is to be copied, and stays on one line.
    """
    kept = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", "\0"), message)
    wrap = textwrap.TextWrapper(DIALOG_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.fill(line) for line in kept.splitlines()).replace("\0", " ")


def _connection_file(manager: Any) -> str:
    """Where the client will write its connection file; chosen here where it leaves that to the last moment, since the
    container's label names it."""
    if manager is None:
        return ""
    if not manager.connection_file:
        folder = Path(jupyter_runtime_dir())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        manager.connection_file = str(folder / f"kernel-{manager.kernel_id}.json")
    return str(Path(manager.connection_file).absolute())


def _session_key(manager: Any) -> str | None:
    session = getattr(manager, "session", None)
    return session.key.decode() if session is not None and session.key else None
