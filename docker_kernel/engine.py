"""The engine (Docker or Podman): the only module that imports docker.

Every method is a coroutine: docker-py blocks, so its calls run in threads. Those that take milliseconds share a few
of the engine's, each of the others has its own. Failures of the engine become errors of ours that say what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import socket
import struct
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import docker
import docker.auth
import docker.constants
import docker.errors
import requests
import requests.exceptions
from docker.context import ContextAPI
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter
from docker.types import ContainerSpec as ServiceContainer
from docker.types import (
    DeviceRequest,
    DriverConfig,
    EndpointSpec,
    Healthcheck,
    Mount,
    NetworkAttachmentConfig,
    Placement,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    TaskTemplate,
)
from docker.utils.build import exclude_paths

from docker_kernel import background, labels
from docker_kernel.errors import (
    BuildFailed,
    ConfigError,
    EngineError,
    EngineUnavailable,
    ImageMissing,
    NotFound,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

POOL = 64
"""How many connections to an engine are kept."""

EVENTS_SECONDS = 10
"""How long an engine may take to tell what happened."""

NEVER_RAN = ("created", "configured", "initialized")
"""A container's states before its start; the last two are Podman's."""

STREAM_STDOUT = 1
STREAM_STDERR = 2


@dataclass(frozen=True)
class File:
    """One entry of an archive that is put into a container.

    Args:
        path: where it goes, relative to the folder the archive is unpacked in.
        data: its bytes; None makes a folder.
        mode: permission bits.
        uid, gid: its owner inside the container.
    """

    path: str
    data: bytes | None = None
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


def archive(files: Iterable[File]) -> bytes:
    """A tar archive of the given files, as the engine's put_archive takes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            info = tarfile.TarInfo(file.path)
            info.mode, info.uid, info.gid = file.mode, file.uid, file.gid
            if file.data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(file.data)
                tar.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


@dataclass
class BindMount:
    """A folder or file of the host, at a path in the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass
class VolumeMount:
    """An engine volume, made if it does not exist, with the given labels.

    Args:
        name: None makes an anonymous one, which the engine removes together with its container.
    """

    name: str | None
    target: str
    labels: dict[str, str] = field(default_factory=dict)
    read_only: bool = False


@dataclass
class ContainerSpec:
    """What a container is created from; the defaults are the safe ones.

    Args:
        ports: container port to (host address, host port); host port None lets the engine choose.
        memory, shm_size: bytes.
        cpus: number of CPUs, fractions allowed.
        gpus: "all", or a number, or comma-separated device ids.
        tmpfs: path to mount options.
    """

    image: str
    command: Sequence[str]
    name: str | None = None
    user: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    mounts: Sequence[BindMount | VolumeMount] = ()
    tmpfs: dict[str, str] = field(default_factory=dict)
    ports: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    network: str | None = None
    working_dir: str | None = None
    hostname: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    shm_size: int | None = None
    gpus: str | None = None
    cap_add: Sequence[str] = ()
    cap_drop: Sequence[str] = ("ALL",)
    no_new_privileges: bool = True
    group_add: Sequence[int] = ()
    userns_mode: str | None = None
    read_only: bool = False
    auto_remove: bool = False
    open_stdin: bool = False


@dataclass(frozen=True)
class ContainerState:
    """What the engine says of a container: id, name, image id, labels, whether it runs, how it ended.

    Args:
        ports: container port to host port.
        volumes: path in the container to the name of the volume mounted there.
        binds: the paths in the container where files of the host are mounted.
        finished: when it ended, as ISO 8601 text that sorts.
    """

    id: str
    name: str
    image: str
    labels: Mapping[str, str]
    status: str
    exit_code: int
    oom_killed: bool
    error: str
    created: str
    ports: Mapping[int, int]
    volumes: Mapping[str, str]
    finished: str = ""
    binds: Sequence[str] = ()

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused", "restarting")


@dataclass(frozen=True)
class EngineInfo:
    """What kind of engine answers; `kernel` is the release of the Linux kernel that its containers run on."""

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

    @property
    def local(self) -> bool:
        return self.url.startswith(("unix://", "http+unix://", "npipe://"))


def default_url() -> tuple[str, TLSConfig | bool]:
    """The engine that the `docker` command would reach, or Podman's socket where there is no Docker.

    Order: DOCKER_HOST, DOCKER_CONTEXT or the current context, the default socket, Podman's sockets.
    """
    if url := os.environ.get("DOCKER_HOST"):
        tls: TLSConfig | bool = False
        if os.environ.get("DOCKER_TLS_VERIFY"):
            folder = Path(os.environ.get("DOCKER_CERT_PATH", Path.home() / ".docker"))
            tls = TLSConfig(
                client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
                ca_cert=str(folder / "ca.pem"),
                verify=True,
            )
        return url, tls
    try:
        name = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except docker.errors.DockerException:
        context = None
    if context is not None and context.name != "default" and context.Host:
        return context.Host, context.TLSConfig or False
    if not Path("/var/run/docker.sock").exists():
        for candidate in (
            f"{os.environ.get('XDG_RUNTIME_DIR', '/nonexistent')}/podman/podman.sock",
            "/run/podman/podman.sock",
        ):
            if Path(candidate).exists():
                return f"unix://{candidate}", False
    return "unix:///var/run/docker.sock", False


def tls_config(folder: Path) -> TLSConfig:
    """Both sides' certificates, as the docker command keeps them in one folder.

    Raises:
        ConfigError: a file is missing.
    """
    folder = folder.expanduser()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        if not (folder / name).is_file():
            raise ConfigError(f"tls = {str(folder)!r}: there is no {name} in it.")
    return TLSConfig(
        client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")), ca_cert=str(folder / "ca.pem"), verify=True
    )


def context_url(name: str) -> tuple[str, TLSConfig | bool]:
    """The engine of a docker context.

    It is read here, as docker-py finds none where there is no config.json beside them.

    Raises:
        ConfigError: there is no such context.
    """
    if name == "default":
        return default_url()
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "contexts"
    digest = hashlib.sha256(name.encode()).hexdigest()
    try:
        endpoint = json.loads((folder / "meta" / digest / "meta.json").read_text())["Endpoints"]["docker"]
        host, verify = str(endpoint["Host"]), not endpoint.get("SkipTLSVerify", False)
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"There is no docker context {name!r}: `docker context ls` lists them; or write an address, such as "
            "ssh://user@host."
        ) from None
    ca, cert, key = (folder / "tls" / digest / "docker" / f"{part}.pem" for part in ("ca", "cert", "key"))
    if not any(path.is_file() for path in (ca, cert, key)):
        return host, False
    pair = (str(cert), str(key)) if cert.is_file() and key.is_file() else None
    return host, TLSConfig(client_cert=pair, ca_cert=str(ca) if ca.is_file() else None, verify=verify)


def registry_credentials(host: str) -> tuple[str, str] | None:
    """The name and password that `docker login` keeps for a registry; None if there are none.

    Raises:
        ConfigError: the credential helper that docker's config names fails.
    """
    try:
        found = docker.auth.load_config().resolve_authconfig(host) or {}
    except docker.errors.DockerException as error:
        raise ConfigError(f"Docker's credentials for {host} cannot be read: {error}.") from None
    # docker-py spells those of config.json in lower case, those of a credential helper not.
    kept = {key.lower(): value for key, value in found.items()}
    return (str(kept["username"]), str(kept.get("password") or "")) if kept.get("username") else None


def explain(error: Exception, url: str) -> EngineError:
    """An engine's or transport's error as one of ours."""
    text = str(getattr(error, "explanation", None) or error)
    if isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(f"The engine has no such image: {text}.")
    if isinstance(error, docker.errors.NotFound):
        if "No such image" in text:
            return ImageMissing(f"The engine has no such image: {text}.")
        return NotFound(text)
    if isinstance(error, docker.errors.APIError) and "marked for removal" in text:
        return NotFound(text)
    if isinstance(error, docker.errors.APIError):
        if "no space left on device" in text:
            return EngineError(
                "The engine's disk is full: free space with `docker-kernel prune` or `docker system prune`."
            )
        if "port is already allocated" in text or "address already in use" in text:
            return EngineError(f"The engine could not publish a port, as another program has it: {text}.")
        return EngineError(f"The engine refused: {text.strip().rstrip('.')}.")
    if "Permission denied" in text or "PermissionError" in text:
        return EngineUnavailable(
            f"You may not talk to the engine at {url}: add yourself to its group with "
            "`sudo usermod -aG docker $USER` and log in again."
        )
    if isinstance(error, (docker.errors.DockerException, requests.exceptions.ConnectionError)):
        if url.startswith(("tcp://", "ssh://", "https://", "http://")):
            return EngineUnavailable(
                f"No engine answers at {url}: is its machine up, and are address, keys and certificates right? ({text})"
            )
        return EngineUnavailable(
            f"No engine answers at {url}: start Docker (`sudo systemctl start docker`, or `scripts/engine up` in a "
            "checkout), or point DOCKER_HOST at one."
        )
    if isinstance(error, requests.exceptions.Timeout):
        return EngineUnavailable(f"The engine at {url} did not answer in time: is it overloaded, or hung?")
    return EngineError(f"The engine at {url} failed: {text}")


class ExecStream:
    """A process running in a container, with its standard input, output and error as async streams.

    Args:
        sock: the hijacked connection (docker-py's exec or attach socket).
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> ExecStream:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        else:
            reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Pieces of output, each with its stream (1 output, 2 error), until the process ends.

        The framing is the engine API's: an 8-byte header (stream, 3 zero bytes, big-endian length), then the payload
        (Docker Engine API, "Attach to a container: stream format").
        """
        try:
            while True:
                stream, size = struct.unpack(">BxxxL", await self._reader.readexactly(8))
                while size:
                    data = await self._reader.read(min(size, 1 << 16))
                    if not data:
                        return
                    size -= len(data)
                    yield stream, data
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def write(self, data: bytes) -> None:
        """Send bytes to the process's standard input; raises ConnectionError when it is gone."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close the streams when all that was written is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Close the streams now."""
        self._writer.transport.abort()


class _SocketAdapter(UnixHTTPAdapter):
    """One pool of connections to an engine's socket: docker-py has one for each address that it asks for, and so hardly
    ever uses a connection again."""

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        return super().get_connection("http+docker://localhost", proxies)


def _client(url: str, timeout: int, tls: TLSConfig | bool, version: str | None = None) -> docker.APIClient:
    """Connections to an engine, which is asked for the version of its API unless that is given."""
    client: Any = docker.APIClient(
        base_url=url,
        version=docker.constants.MINIMUM_DOCKER_API_VERSION,
        timeout=timeout,
        tls=tls,
        max_pool_size=POOL,
        use_ssh_client=url.startswith("ssh://"),
    )
    adapter = client.get_adapter(client.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        client.mount("http+docker://", _SocketAdapter(adapter.socket_path, timeout, max_pool_size=POOL))
    # requests lets REQUESTS_CA_BUNDLE win over the CA that an engine's own certificates name (requests issue 3829).
    client.trust_env = False
    client._version = version or client._retrieve_server_version()
    made: docker.APIClient = client
    return made


def _workers() -> background.Workers:
    """Threads of one engine's own: one that does not answer keeps nobody from another."""
    return background.Workers(background.WORKERS, thread_name_prefix="docker-kernel-engine")


class Engine:
    """One engine. Make it with `await Engine.connect()`; it is safe to use from several tasks at once, and in a process
    that was forked from the one that made it."""

    def __init__(self, client: docker.APIClient, url: str, again: Callable[..., docker.APIClient]) -> None:
        self.url = url
        self._made, self._again = client, again
        self._workers, self._pid = _workers(), os.getpid()
        self._inherited: list[docker.APIClient] = []
        self._info: asyncio.Future[EngineInfo] | None = None

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

        def reach() -> tuple[docker.APIClient, str, Callable[..., docker.APIClient]]:
            target = url or "the default address"
            secured: TLSConfig | bool = False
            try:
                if url is None:
                    target, secured = default_url()
                elif "://" not in url:
                    target, secured = context_url(url)
                elif tls is not None:
                    secured = tls_config(tls)
                again = functools.partial(_client, target, timeout, secured)
                return again(), target, again
            except ConfigError:
                raise
            except Exception as error:
                log.debug("the engine cannot be reached", exc_info=error)
                raise explain(error, target) from None

        return cls(*await background.in_own_thread(reach))

    @property
    def _client(self) -> docker.APIClient:
        """This process's connections."""
        self._begin_again_if_forked()
        return self._made

    def _begin_again_if_forked(self) -> None:
        """Give a forked child connections and threads of its own: on its parent's it would take the parent's answers,
        and of its parent's threads it has none.

        The connections that it has inherited are kept, as their end would end an `ssh` that the parent uses.
        """
        if self._pid == os.getpid():
            return
        self._inherited.append(self._made)
        self._made = self._again(version=self._made.api_version)
        self._workers, self._pid = _workers(), os.getpid()
        self._info = None  # who asked may be on the parent's loop

    async def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what takes an engine milliseconds, in one of the threads for it."""
        self._begin_again_if_forked()
        call = functools.partial(function, *args, **kwargs)
        return await self._answer(asyncio.get_running_loop().run_in_executor(self._workers, call))

    async def _lasting(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what may last as long as a container, a transfer or a build does, which must not keep others waiting."""
        self._begin_again_if_forked()
        return await self._answer(background.in_own_thread(function, *args, **kwargs))

    async def _answer(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            # The engine's own error is for our log; what a user is shown must not drag its traceback along.
            log.debug("the engine refused a call", exc_info=error)
            raise explain(error, self.url) from None

    def swarm(self) -> Swarm:
        """The Swarm that this engine manages."""
        return Swarm(self)

    def close(self) -> None:
        self._begin_again_if_forked()
        self._workers.shutdown(wait=False)
        self._made.close()

    async def info(self) -> EngineInfo:
        """What kind of engine this is; asked once, also by those who want to know it at the same time."""
        if self._info is None:
            self._info = asyncio.ensure_future(self._ask())
        try:
            return await asyncio.shield(self._info)
        except EngineError:
            self._info = None
            raise

    async def _ask(self) -> EngineInfo:
        raw = await self._call(self._client.info)
        version = await self._call(self._client.version)
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
        )

    async def create(self, spec: ContainerSpec) -> str:
        """Create a container, not yet running, and return its id.

        Raises:
            ImageMissing: the image is not on the engine (it is never pulled here).
        """
        return await self._call(self._create, spec)

    def _create(self, spec: ContainerSpec) -> str:
        client = self._client
        mounts = []
        for mount in spec.mounts:
            if isinstance(mount, BindMount):
                mounts.append(Mount(mount.target, mount.source, type="bind", read_only=mount.read_only))
            else:
                mounts.append(
                    Mount(
                        mount.target,
                        mount.name,
                        type="volume",
                        labels=mount.labels or None,
                        read_only=mount.read_only,
                    )
                )
        bindings: dict[int | str, Any] = {
            f"{port}/tcp": (address, host) for port, (address, host) in spec.ports.items()
        }
        host_config = client.create_host_config(
            mounts=mounts or None,
            tmpfs=spec.tmpfs or None,
            port_bindings=bindings or None,
            network_mode=spec.network,
            mem_limit=spec.memory,
            memswap_limit=spec.memory,
            nano_cpus=int(spec.cpus * 1e9) if spec.cpus else None,
            pids_limit=spec.pids,
            shm_size=spec.shm_size,
            device_requests=[_gpu_request(spec.gpus)] if spec.gpus else None,
            cap_add=list(spec.cap_add) or None,
            cap_drop=list(spec.cap_drop) or None,
            security_opt=["no-new-privileges"] if spec.no_new_privileges else None,
            group_add=[str(group) for group in spec.group_add] or None,
            userns_mode=spec.userns_mode,
            read_only=spec.read_only,
            auto_remove=spec.auto_remove,
        )
        made = client.create_container(
            spec.image,
            command=list(spec.command),
            entrypoint=[],
            name=spec.name,
            user=spec.user,
            environment=spec.env or None,
            labels=spec.labels,
            ports=list(spec.ports) or None,
            host_config=host_config,
            working_dir=spec.working_dir,
            hostname=spec.hostname,
            stdin_open=spec.open_stdin,
            healthcheck={"test": ["NONE"]},
        )
        return str(made["Id"])

    async def start(self, container: str) -> None:
        """Start a created container."""
        await self._call(self._client.start, container)

    async def inspect(self, container: str) -> ContainerState:
        """What the engine says of a container; raises NotFound when it is gone."""
        return _state(await self._call(self._client.inspect_container, container))

    async def containers(
        self, filters: Mapping[str, str], stopped: bool = True, status: str | None = None
    ) -> list[ContainerState]:
        """The containers whose labels have all the given values; an empty value asks for the label alone.

        Args:
            status: the only one that they may have, as "created".
        """
        wanted: dict[str, Any] = {"label": [f"{key}={value}" if value else key for key, value in filters.items()]}
        if status is not None:
            wanted["status"] = status
        found = await self._call(self._client.containers, all=stopped, filters=wanted)
        states = await asyncio.gather(*(self.inspect(item["Id"]) for item in found), return_exceptions=True)
        return [state for state in states if isinstance(state, ContainerState)]

    async def wait(self, container: str) -> int:
        """Wait for a container's end and return its exit code; may take as long as the container lives."""
        result = await self._lasting(self._client.wait, container, timeout=None)
        return int(result["StatusCode"])

    async def last_exit(self, container: str) -> int | None:
        """The exit code of a container that is gone; None where the engine does not remember (Docker remembers its last
        256 events)."""
        client: Any = self._client
        filters = json.dumps({"container": [container], "event": ["die"]})

        def ask() -> int | None:
            # An end that has passed: the engine tells what was, and waits for no more, unless its clock is behind ours.
            asked = {"since": "1", "until": f"{time.time():.6f}", "filters": filters}
            response: requests.Response = client._get(client._url("/events"), params=asked, timeout=EVENTS_SECONDS)
            client._raise_for_status(response)
            ends = [json.loads(line) for line in response.text.splitlines() if line]
            codes = [end["Actor"]["Attributes"].get("exitCode") for end in ends]
            return int(codes[-1]) if codes and codes[-1] else None

        return await self._lasting(ask)

    async def kill(self, container: str, signal: int = 9) -> None:
        """Send a signal to a container's main process; no-op if it has ended."""
        try:
            await self._call(self._client.kill, container, signal=signal)
        except NotFound:
            pass
        except EngineError as error:
            if "is not running" not in str(error):
                raise

    async def remove(self, container: str) -> None:
        """Kill and remove a container with its anonymous volumes; afterwards it is gone, and its name free."""
        for last in (False, True):
            try:
                await self._lasting(self._client.remove_container, container, v=True, force=True)
            except NotFound:
                return
            except EngineError as error:
                if "already in progress" in str(error):
                    with contextlib.suppress(EngineError):  # it has gone meanwhile
                        await self._lasting(self._client.wait, container, condition="removed")
                    return
                # Podman 4.3 cannot stop a container that ends at that moment; asked again, it removes it.
                if last or "could not be stopped" not in str(error):
                    raise
            else:
                return

    async def remove_unstarted(self, container: str) -> bool:
        """Remove a container and its anonymous volumes, unless it runs or ever ran: then False. No-op if it is gone."""
        try:
            if (await self.inspect(container)).status not in NEVER_RAN:
                return False
            await self._call(self._client.remove_container, container, v=True)
        except NotFound:
            return True
        except EngineError as error:
            if "already in progress" in str(error):
                await self.remove(container)
                return True
            # Its start may have been under way. Engines have words of their own for that.
            try:
                if (await self.inspect(container)).status in NEVER_RAN:
                    raise error
            except NotFound:
                return True
            return False
        return True

    async def rename(self, container: str, name: str) -> None:
        """Give a container another name; atomic, and it fails if the name is taken."""
        await self._call(self._client.rename, container, name)

    async def put(self, container: str, files: Iterable[File], root: str = "/") -> None:
        """Write files into a container, created or running. Never below a bind mount: that is the user's folder."""
        await self._call(self._client.put_archive, container, root, archive(files))

    async def put_tar(self, container: str, tar: bytes, root: str = "/") -> None:
        """Unpack a tar archive in a container, created or running."""
        await self._call(self._client.put_archive, container, root, tar)

    async def put_stream(self, container: str, chunks: Iterable[bytes], root: str = "/") -> None:
        """Unpack a tar archive that arrives in pieces."""
        await self._lasting(self._client.put_archive, container, root, chunks)

    async def get(self, container: str, path: str) -> bytes:
        """A tar archive of a path in a container; raises NotFound when there is none."""
        return b"".join(await self._lasting(lambda: list(self._client.get_archive(container, path)[0])))

    async def read_file(self, container: str, path: str) -> bytes:
        """The content of one regular file in a container; raises NotFound when there is none."""
        with tarfile.open(fileobj=io.BytesIO(await self.get(container, path))) as tar:
            member = tar.next()
            data = tar.extractfile(member) if member is not None and member.isreg() else None
            if data is None:
                raise NotFound(f"{path} in the container is not a file.")
            return data.read()

    async def get_stream(self, container: str, path: str) -> ByteStream:
        """A tar archive of a path in a container, in pieces (to be read in a thread).

        Close it where it is not read to its end: until then the engine lets nobody else read from that container.
        """
        client: Any = self._client
        url = client._url("/containers/{0}/archive", container)

        def ask() -> requests.Response:
            # Else it is compressed, which takes the engine five times as long as to send it.
            plain = {"Accept-Encoding": "identity"}
            response: requests.Response = client._get(url, params={"path": path}, headers=plain, stream=True)
            client._raise_for_status(response)
            return response

        return ByteStream(await self._lasting(ask), self.url)

    async def diff(self, container: str) -> list[tuple[str, int]]:
        """The paths that differ from the image: (path, kind), kind 0 changed, 1 added, 2 deleted."""
        changes = await self._lasting(self._client.diff, container) or []
        return [(change["Path"], int(change["Kind"])) for change in changes]

    async def commit(self, container: str, repository: str, tag: str, changes: Sequence[str] = ()) -> str:
        """Make an image of a container's filesystem and return its id."""
        made = await self._lasting(
            self._client.commit, container, repository=repository, tag=tag, changes=list(changes) or None
        )
        return str(made["Id"])

    async def open_exec(
        self, container: str, command: Sequence[str], user: str | None = None, env: Mapping[str, str] | None = None
    ) -> ExecStream:
        """Run a command in a running container and return its streams. The command must wait for input before it
        prints (docker-py reads the reply's headers through a buffer, which would swallow what comes at once)."""
        made = await self._call(
            self._client.exec_create, container, list(command), stdin=True, user=user or "", environment=dict(env or {})
        )
        sock = await self._call(self._client.exec_start, made["Id"], socket=True)
        return await ExecStream.over(_own_socket(sock))

    async def exec_output(
        self, container: str, command: Sequence[str], user: str | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command in a running container to its end: (exit code, output and errors together)."""

        def run() -> tuple[int, str]:
            made = self._client.exec_create(container, list(command), user=user or "", environment=dict(env or {}))
            output = self._client.exec_start(made["Id"])
            return int(self._client.exec_inspect(made["Id"])["ExitCode"]), output.decode(errors="replace")

        return await self._lasting(run)

    async def attach(self, container: str, stdin: bool = False) -> ExecStream:
        """The streams of a container's main process; attach before `start`, and nothing of its output is lost."""
        params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
        sock = await self._call(self._client.attach_socket, container, params)
        return await ExecStream.over(_own_socket(sock))

    async def follow_logs(self, container: str) -> LogStream:
        """What a container prints, from its very first byte (as far as the engine's log has it) to its end."""
        client: Any = self._client
        url = f"{client.base_url}/v{client._version}/containers/{container}/logs?stdout=1&stderr=1&follow=1"

        def ask() -> requests.Response:
            response: requests.Response = client._get(url, stream=True)
            client._raise_for_status(response)
            return response

        return LogStream(await self._lasting(ask))

    async def logs(self, container: str, tail: int | None = None) -> bytes:
        """What a container has printed so far."""
        output: bytes = await self._lasting(self._client.logs, container, tail=tail if tail is not None else "all")
        return output

    async def image(self, reference: str) -> dict[str, Any]:
        """The engine's description of an image.

        Raises:
            ImageMissing: there is none; the message names the reference.
        """
        try:
            found: dict[str, Any] = await self._call(self._client.inspect_image, reference)
            return found
        except NotFound as error:
            raise ImageMissing(f"The image {reference} is not on the engine.") from error

    async def image_history(self, reference: str) -> list[dict[str, Any]]:
        """The layers of an image, newest first, with the commands that made them."""
        found: list[dict[str, Any]] = await self._call(self._client.history, reference)
        return found

    async def images(self, label: str) -> list[dict[str, Any]]:
        """The images that carry a label (KEY or KEY=VALUE)."""
        found: list[dict[str, Any]] = await self._call(self._client.images, filters={"label": label})
        return found

    async def used_images(self, but_by: Collection[str] = ()) -> set[str]:
        """The ids of the images that any container has, running or not.

        Args:
            but_by: ids of containers that do not count.
        """
        containers = await self._call(self._client.containers, all=True)
        return {str(container["ImageID"]) for container in containers if container["Id"] not in but_by}

    async def data_folder(self) -> str:
        """Where the engine keeps its data, on its own machine."""
        return str((await self._call(self._client.info)).get("DockerRootDir", ""))

    async def all_images(self) -> list[str]:
        """The ids of all images."""
        return [str(one["Id"]) for one in await self._call(self._client.images)]

    async def architecture(self) -> str:
        """What the engine calls its machine, such as x86_64."""
        return str((await self._call(self._client.info)).get("Architecture", ""))

    async def push(self, repository: str, tag: str, progress: Callable[[str], None]) -> None:
        """Push an image; the registry asks for what it lacks.

        Args:
            progress: gets a few words on how it goes.

        Raises:
            EngineError: the registry refuses it, or breaks off.
        """

        def run() -> None:
            sizes: dict[str, tuple[int, int]] = {}
            for event in self._client.push(repository, tag=tag, stream=True, decode=True):
                if "error" in event:
                    raise EngineError(f"The image {repository}:{tag} could not be pushed: {event['error'].strip()}.")
                detail = event.get("progressDetail") or {}
                if "total" in detail:
                    sizes[event.get("id", "")] = (int(detail.get("current", 0)), int(detail["total"]))
                    sent, whole = (sum(part) for part in zip(*sizes.values(), strict=True))
                    progress(f"sends {min(sent, whole) >> 20} of {whole >> 20} MiB of the image")

        await self._lasting(run)

    async def pull_digest(self, reference: str, progress: Callable[[str], None] = lambda text: None) -> str:
        """Pull an image by its digest, NAME@sha256:…; returns its id here.

        Args:
            progress: gets a few words on how it goes; what it raises ends the pull.

        Raises:
            EngineError: the registry cannot be reached from that engine, or has it no more.
        """
        name, _, digest = reference.partition("@")

        def run() -> None:
            for event in self._client.pull(name, tag=digest, stream=True, decode=True):
                if "error" in event:
                    raise EngineError(event["error"].strip())
                progress("the engine pulls the image")

        try:
            await self._lasting(run)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(
                f"The engine at {self.url} could not pull {reference} ({str(error).rstrip('.')}): does it reach the "
                f"registry {reference.partition('/')[0]}, and has that still got the image?"
            ) from None
        return str((await self.image(reference))["Id"])

    async def save(self, image: str) -> IO[bytes]:
        """An image as a `docker save` archive, to be read in a thread, and closed."""
        client: Any = self._client

        def ask() -> requests.Response:
            response: requests.Response = client._get(client._url("/images/{0}/get", image), stream=True)
            client._raise_for_status(response)
            return response

        return io.BufferedReader(_ChunkReader(ByteStream(await self._lasting(ask), self.url)), 1 << 20)

    async def load(self, archive: Iterable[bytes]) -> None:
        """Load a `docker save` archive that arrives in pieces, which are made in a thread.

        Raises:
            EngineError: the engine refuses it.
        """

        def run() -> None:
            client: Any = self._client
            for event in client.load_image(archive):
                if "error" in event:
                    raise EngineError(f"The engine at {self.url} did not take the image: {event['error'].strip()}.")

        await self._lasting(run)

    async def tag(self, image: str, repository: str, tag: str) -> None:
        await self._call(self._client.tag, image, repository, tag)

    async def why_not_pullable(self, repository: str) -> str:
        """Why this engine can pull nothing from a repository, which need not exist; empty if it could.

        It asks the registry for a manifest, with the user's credentials for it, and pulls nothing.
        """
        try:
            await self._lasting(self._client.inspect_distribution, f"{repository}:none")
        except NotFound:
            return ""
        except EngineError as error:
            text = str(error)
            return "" if "manifest unknown" in text or "not found" in text else text
        return ""

    async def untag(self, image: str, repository: str, tag: str) -> None:
        """Take a name from an image; the image stays where it has another name, or a running container has it."""
        names = (await self.image(image)).get("RepoTags") or []
        with contextlib.suppress(NotFound, ImageMissing):
            await self._lasting(self._client.remove_image, f"{repository}:{tag}", force=len(names) == 1, noprune=True)

    async def remove_image(self, reference: str) -> None:
        """Remove an image that no container uses; raises EngineError if one does."""
        try:
            await self._lasting(self._client.remove_image, reference)
        except (NotFound, ImageMissing):
            return

    async def import_tar(self, path: Path, repository: str, tag: str, changes: Sequence[str] = ()) -> None:
        """Make an image of a tar archive of a root filesystem."""
        answer = await self._lasting(
            self._client.import_image_from_file,
            str(path),
            repository=repository,
            tag=tag,
            changes=list(changes) or None,
        )
        if "error" in answer:
            raise BuildFailed(f"The engine could not import {path.name}: {answer}")

    async def pull(self, reference: str, progress: Callable[[Mapping[str, Any]], None]) -> None:
        """Pull an image; every event of the engine goes to `progress`."""
        repository, _, tag = (
            reference.rpartition(":") if ":" in reference.rsplit("/", 1)[-1] else (reference, "", "latest")
        )

        def run() -> None:
            for event in self._client.pull(repository, tag=tag, stream=True, decode=True):
                if "error" in event:
                    raise EngineError(f"The image {reference} could not be pulled: {event['error']}.")
                progress(event)

        await self._lasting(run)

    async def build(
        self,
        context: bytes,
        tag: str,
        build_args: Mapping[str, str],
        image_labels: Mapping[str, str],
        progress: Callable[[Mapping[str, Any]], None],
        network: str | None = None,
        target: str | None = None,
        no_cache: bool = False,
    ) -> None:
        """Build an image from a context archive with a Dockerfile at its root; every event goes to `progress`.

        Raises:
            BuildFailed: with the last lines of the build's output.
        """

        def run() -> None:
            tail: list[str] = []
            events = self._client.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=tag,
                buildargs=dict(build_args),
                labels=dict(image_labels),
                network_mode=network,
                target=target or "",
                nocache=no_cache,
                rm=True,
                forcerm=True,
                decode=True,
            )
            for event in events:
                tail = [*tail[-24:], *str(event.get("stream", "")).splitlines()]
                if "error" in event:
                    lines = "\n".join(line for line in tail if line.strip())
                    raise BuildFailed(f"The build of {tag} failed: {event['error'].strip()}\n{lines}")
                progress(event)

        await self._lasting(run)

    async def volumes(self, label: str) -> list[dict[str, Any]]:
        """The volumes that carry a label (KEY or KEY=VALUE)."""
        found = await self._call(self._client.volumes, filters={"label": label})
        return found.get("Volumes") or []

    async def remove_volume(self, name: str) -> bool:
        """Remove a volume; False if a container still uses it. No-op if it is gone."""
        try:
            await self._lasting(self._client.remove_volume, name)
        except NotFound:
            return True
        except EngineError as error:
            if "in use" in str(error) or "being used" in str(error):
                return False
            raise
        return True

    async def create_network(self, name: str, marks: Mapping[str, str]) -> str:
        """Make a bridge network of ours with some labels, and return its id."""
        made = await self._call(
            self._client.create_network, name, driver="bridge", labels={labels.KIND: labels.KIND_NETWORK, **marks}
        )
        return str(made["Id"])

    async def networks(self, having: Mapping[str, str]) -> dict[str, str]:
        """The networks whose labels have the given values: id to name."""
        found = await self._call(self._client.networks, filters=_having(having))
        return {str(raw["Id"]): str(raw["Name"]) for raw in found}

    async def remove_network(self, network: str) -> None:
        """Remove a network; no-op if it is gone."""
        try:
            await self._call(self._client.remove_network, network)
        except NotFound:
            return


class ByteStream:
    """What an engine sends, in pieces, to be read in a thread.

    Raises:
        EngineUnavailable: it breaks off.
    """

    def __init__(self, response: requests.Response, url: str) -> None:
        self._response = response
        self._chunks = response.iter_content(1 << 20)
        self._url = url

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = next(self._chunks)
            return chunk
        except requests.exceptions.RequestException as error:
            log.debug("the engine broke off", exc_info=error)
            raise EngineUnavailable(f"The engine at {self._url} broke off while it was read: is it still up?") from None

    def close(self) -> None:
        self._response.close()


class _ChunkReader(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, chunks: ByteStream) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._chunks.close()
        super().close()


def paths_not_ignored(root: Path, patterns: Sequence[str]) -> set[str]:
    """The paths below a folder that are left when those that .dockerignore patterns name are taken away."""
    found: set[str] = exclude_paths(str(root), list(patterns))
    return {path for path in found if path}


def _gpu_request(gpus: str) -> DeviceRequest:
    capabilities = [["gpu"]]
    if gpus == "all":
        return DeviceRequest(count=-1, capabilities=capabilities)
    if gpus.isdigit():
        return DeviceRequest(count=int(gpus), capabilities=capabilities)
    return DeviceRequest(device_ids=gpus.split(","), capabilities=capabilities)


def _own_socket(wrapper: Any) -> socket.socket:
    """The plain socket below docker-py's wrapper, taken out of it so that closing the HTTP response leaves it open.

    The wrapper is left to the response: Python 3.13 prints a traceback when a response finds its file closed.
    """
    raw = getattr(wrapper, "_sock", wrapper)
    return socket.socket(raw.family, raw.type, raw.proto, fileno=raw.detach())


def _state(raw: Mapping[str, Any]) -> ContainerState:
    state = raw["State"]
    published = (raw.get("NetworkSettings") or {}).get("Ports") or {}
    ports = {}
    for key, bindings in published.items():
        if bindings and key.endswith("/tcp"):
            ports[int(key.split("/")[0])] = int(bindings[0]["HostPort"])
    return ContainerState(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        image=raw["Image"],
        labels=raw["Config"].get("Labels") or {},
        status=state["Status"],
        exit_code=int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error", ""),
        created=raw["Created"],
        ports=ports,
        finished=state.get("FinishedAt", ""),
        volumes={mount["Destination"]: mount["Name"] for mount in raw.get("Mounts", []) if mount["Type"] == "volume"},
        binds=tuple(mount["Destination"] for mount in raw.get("Mounts", []) if mount["Type"] == "bind"),
    )


@dataclass(frozen=True)
class SwarmNode:
    """A node as the manager sees it.

    Args:
        state: ready, down, disconnected or unknown; availability: active, pause or drain.
        generic: what it offers besides, by kind: how many.
    """

    id: str
    name: str
    state: str
    availability: str
    manager: bool
    cpus: float
    memory: int
    generic: Mapping[str, int]
    architecture: str

    @property
    def usable(self) -> bool:
        return self.state == "ready" and self.availability == "active"


@dataclass(frozen=True)
class SwarmTask:
    """A service's task: what it does, what it should do, where, and why not.

    Args:
        state: as the API has it: new, pending, assigned, …, running, complete, failed, rejected, shutdown, orphaned.
        desired: the state that the manager wants it to have.
        exit_code: None while it runs.
    """

    service: str
    node: str
    state: str
    desired: str
    error: str
    exit_code: int | None
    created: str

    @property
    def over(self) -> bool:
        return self.state in ("complete", "failed", "rejected", "shutdown", "orphaned", "remove")


@dataclass(frozen=True)
class SwarmFile:
    """A Swarm secret, mounted as a file that its task's user alone can read."""

    id: str
    name: str
    path: str
    uid: int
    gid: int


@dataclass
class TaskSpec:
    """What a service of one task is created from.

    Args:
        image: by digest: the manager is not to resolve it.
        memory, cpus, generic: limits, and reserved, too.
        network: the id of an overlay network; None for the nodes' own bridge.
        stop_seconds: between SIGTERM and SIGKILL.
        log_options: of its json-file log.
    """

    name: str
    image: str
    command: Sequence[str]
    labels: dict[str, str]
    user: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    files: Sequence[SwarmFile] = ()
    mounts: Sequence[BindMount | VolumeMount] = ()
    tmpfs: dict[str, int] = field(default_factory=dict)
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    generic: dict[str, int] = field(default_factory=dict)
    constraints: Sequence[str] = ()
    network: str | None = None
    hostname: str | None = None
    cap_add: Sequence[str] = ()
    stop_seconds: int = 10
    log_options: dict[str, str] = field(default_factory=dict)


class LogStream:
    """A log, read by a thread of its own: followed logs come from a connection that stays open."""

    AHEAD = 4 << 20
    """Bytes that wait to be taken; then the thread waits, and with it the engine."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._change = threading.Condition()
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._closed = threading.Event()
        self.error = ""
        """What the manager says where it could not read all."""

        threading.Thread(target=self._run, name="docker-kernel-log", daemon=True).start()

    async def read(self) -> bytes:
        """All that has arrived, or what arrives next; b"" at the stream's end, which a followed log may never have."""
        while True:
            with self._change:
                if self._pieces:
                    data = b"".join(self._pieces)
                    self._pieces.clear()
                    self._size = 0
                    self._change.notify()
                    return data
                if self._ended:
                    return b""
                self._arrived.clear()
            await self._arrived.wait()

    def close(self) -> None:
        self._closed.set()
        # A thread that waits in recv is woken by this alone; close() would wait for it.
        with contextlib.suppress(OSError, AttributeError):
            raw: Any = self._response.raw
            raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            self._parse()
        except Exception as error:  # of urllib3, http.client or the socket, which close() shuts
            if not self._closed.is_set():
                self.error = self.error or str(error)
        finally:
            self._give(b"")
            with contextlib.suppress(Exception):
                self._response.close()

    def _parse(self) -> None:
        """Split the stream into its frames, as in ExecStream.frames; stream 3 is the manager itself."""
        held = bytearray()
        chunks = self._response.raw.stream(1 << 18, decode_content=False)
        for chunk in chunks:
            held += chunk
            out: list[bytes] = []
            at = 0
            while len(held) - at >= 8:
                stream, size = struct.unpack_from(">BxxxL", held, at)
                if len(held) - at - 8 < size:
                    break
                payload = bytes(held[at + 8 : at + 8 + size])
                at += 8 + size
                if stream == 3:
                    self.error = payload.decode(errors="replace").strip()
                else:
                    out.append(payload)
            del held[:at]
            if out and not self._give(b"".join(out)):
                return

    def _give(self, piece: bytes) -> bool:
        """Let a piece be read; b"" is the end. False when the stream was closed."""
        with self._change:
            while self._size > self.AHEAD and not self._closed.is_set():
                self._change.wait(1)
            if piece:
                self._pieces.append(piece)
                self._size += len(piece)
            else:
                self._ended = True
            wake = not piece or len(self._pieces) == 1
        if wake:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and so will this process
                self._loop.call_soon_threadsafe(self._arrived.set)
        return not self._closed.is_set()


class Swarm:
    """A Swarm, through the engine that is one of its managers: services of one task each, and what they need."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._call = engine._call
        self._lasting = engine._lasting

    @property
    def _client(self) -> Any:
        return self._engine._client

    async def manager(self) -> str:
        """The id of this engine's node.

        Raises:
            EngineError: it is no manager of a Swarm.
        """
        swarm = (await self._call(self._client.info)).get("Swarm") or {}
        state = swarm.get("LocalNodeState", "inactive")
        if state != "active":
            raise EngineError(
                f"The engine at {self._engine.url} is not in a Swarm (it is {state}): run `docker swarm init` there, "
                "or name one of a Swarm's managers as the target's `engine`."
            )
        if not swarm.get("ControlAvailable"):
            raise EngineError(
                f"The engine at {self._engine.url} is a worker of its Swarm: name one of the managers as the target's "
                "`engine`."
            )
        return str(swarm["NodeID"])

    async def nodes(self) -> list[SwarmNode]:
        return [_node(raw) for raw in await self._call(self._client.nodes)]

    async def tasks(self, having: Mapping[str, str]) -> list[SwarmTask]:
        """The tasks of all services whose labels have the given values."""
        return [_task(raw) for raw in await self._call(self._client.tasks, filters=_having(having))]

    async def services(self, having: Mapping[str, str]) -> dict[str, str]:
        """The services whose labels have the given values: id to name."""
        found = await self._call(self._client.services, filters=_having(having))
        return {str(raw["ID"]): str(raw["Spec"]["Name"]) for raw in found}

    async def has_service(self, service: str) -> bool:
        try:
            await self._call(self._client.inspect_service, service)
        except NotFound:
            return False
        return True

    async def create(self, spec: TaskSpec) -> str:
        """Create a service of one task, which is never started again, and return its id."""
        mounts = [_mount(mount) for mount in spec.mounts]
        mounts += [
            Mount(target=target, source=None, type="tmpfs", tmpfs_size=size) for target, size in spec.tmpfs.items()
        ]
        secrets = [SecretReference(one.id, one.name, one.path, str(one.uid), str(one.gid), 0o400) for one in spec.files]
        container = ServiceContainer(
            spec.image,
            command=list(spec.command),
            env=[f"{key}={value}" for key, value in spec.env.items()] or None,
            user=spec.user,
            workdir="/",
            hostname=spec.hostname,
            labels=spec.labels,
            mounts=mounts or None,
            secrets=secrets or None,
            stop_grace_period=spec.stop_seconds * 10**9,
            healthcheck=Healthcheck(test=["NONE"]),
            cap_add=list(spec.cap_add) or None,
            cap_drop=["ALL"],
        )
        cpus = None if spec.cpus is None else int(spec.cpus * 10**9)
        resources = Resources(
            cpu_limit=cpus,
            mem_limit=spec.memory,
            cpu_reservation=cpus,
            mem_reservation=spec.memory,
            generic_resources=dict(spec.generic) or None,
        )
        if spec.pids is not None:
            resources.setdefault("Limits", {})["Pids"] = spec.pids
        task = TaskTemplate(
            container,
            resources=resources,
            restart_policy=RestartPolicy("none"),
            placement=Placement(constraints=list(spec.constraints)) if spec.constraints else None,
            networks=[NetworkAttachmentConfig(spec.network)] if spec.network else None,
            log_driver=DriverConfig("json-file", spec.log_options),
        )
        made = await self._call(
            self._client.create_service,
            task,
            name=spec.name,
            labels=spec.labels,
            mode=ServiceMode("replicated", 1),
            endpoint_spec=EndpointSpec("dnsrr") if spec.network else None,
        )
        return str(made["ID"])

    async def stop(self, service: str) -> None:
        """Stop a service's task: SIGTERM, its time to end, SIGKILL; the service stays. No-op if it is gone."""

        def scale() -> None:
            found = self._client.inspect_service(service)
            spec = found["Spec"]
            self._client.update_service(
                service,
                version=found["Version"]["Index"],
                task_template=spec["TaskTemplate"],
                name=spec["Name"],
                labels=spec["Labels"],
                mode=ServiceMode("replicated", 0),
                endpoint_spec=spec.get("EndpointSpec"),
            )

        for attempt in range(10):
            try:
                await self._call(scale)
                return
            except NotFound:
                return
            except EngineError as error:
                # Another update came between reading and writing.
                if "out of sequence" not in str(error) or attempt == 9:
                    raise
                await asyncio.sleep(0.05 * 2**attempt)

    async def remove(self, service: str) -> None:
        """Remove a service, and on its node the container; no-op if it is gone."""
        try:
            await self._call(self._client.remove_service, service)
        except NotFound:
            return

    async def logs(self, service: str, follow: bool, tail: int | None = None) -> LogStream:
        """What a service's task prints, from the beginning or so many of the last lines."""
        params = {"stdout": 1, "stderr": 1, "follow": int(follow), "tail": "all" if tail is None else str(tail)}

        def ask() -> requests.Response:
            url = self._client._url("/services/{0}/logs", service)
            response: requests.Response = self._client._get(url, params=params, stream=True, timeout=(60, None))
            self._client._raise_for_status(response)
            return response

        return LogStream(await self._lasting(ask))

    async def create_secret(self, name: str, data: bytes, marks: dict[str, str]) -> str:
        made = await self._call(self._client.create_secret, name, data, marks)
        return str(made["ID"])

    async def secrets(self, having: Mapping[str, str]) -> dict[str, str]:
        """The secrets whose labels have the given values: id to name."""
        found = await self._call(self._client.secrets, filters=_having(having))
        return {str(raw["ID"]): str(raw["Spec"]["Name"]) for raw in found}

    async def remove_secret(self, secret: str) -> None:
        """Remove a secret that no service uses; no-op if it is gone."""
        try:
            await self._call(self._client.remove_secret, secret)
        except NotFound:
            return

    async def networks(self, having: Mapping[str, str]) -> dict[str, str]:
        """The networks whose labels have the given values: id to name."""
        return await self._engine.networks(having)

    async def create_network(self, name: str, marks: dict[str, str]) -> str:
        """Make an overlay network of ours and return its id."""
        made = await self._call(
            self._client.create_network, name, driver="overlay", attachable=True, labels=marks, scope="swarm"
        )
        return str(made["Id"])

    async def remove_network(self, network: str) -> bool:
        """Remove an overlay network; False while tasks are still attached to it. No-op if it is gone."""
        try:
            await self._call(self._client.remove_network, network)
        except NotFound:
            return True
        except EngineError as error:
            if "in use" in str(error) or "active endpoints" in str(error):
                return False
            # A manager answers 404 for a name, and for the id of a network that is gone something else.
            if "not found" not in str(error):
                raise
        return True


def _having(values: Mapping[str, str]) -> dict[str, Any]:
    return {"label": [f"{key}={value}" for key, value in values.items()]}


def _mount(mount: BindMount | VolumeMount) -> Mount:
    if isinstance(mount, BindMount):
        return Mount(mount.target, mount.source, type="bind", read_only=mount.read_only)
    return Mount(mount.target, mount.name, type="volume", read_only=mount.read_only, labels=mount.labels or None)


def _node(raw: Mapping[str, Any]) -> SwarmNode:
    description = raw.get("Description") or {}
    resources = description.get("Resources") or {}
    generic: dict[str, int] = {}
    for one in resources.get("GenericResources") or []:
        if "NamedResourceSpec" in one:
            kind = one["NamedResourceSpec"]["Kind"]
            generic[kind] = generic.get(kind, 0) + 1
        elif "DiscreteResourceSpec" in one:
            generic[one["DiscreteResourceSpec"]["Kind"]] = int(one["DiscreteResourceSpec"]["Value"])
    return SwarmNode(
        id=raw["ID"],
        name=description.get("Hostname", raw["ID"][:12]),
        state=raw["Status"]["State"],
        availability=raw["Spec"]["Availability"],
        manager=raw["Spec"]["Role"] == "manager",
        cpus=resources.get("NanoCPUs", 0) / 10**9,
        memory=int(resources.get("MemoryBytes", 0)),
        generic=generic,
        architecture=(description.get("Platform") or {}).get("Architecture", ""),
    )


def _task(raw: Mapping[str, Any]) -> SwarmTask:
    status = raw["Status"]
    state = status["State"]
    container = status.get("ContainerStatus") or {}
    ended = state in ("complete", "failed", "shutdown") and "ExitCode" in container
    return SwarmTask(
        service=raw["ServiceID"],
        node=raw.get("NodeID") or "",
        state=state,
        desired=raw["DesiredState"],
        error=status.get("Err") or "",
        exit_code=int(container["ExitCode"]) if ended else None,
        created=raw["CreatedAt"],
    )
