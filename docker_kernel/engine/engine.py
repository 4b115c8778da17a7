"""One engine (Docker or Podman), and what is asked of it.

Every method is a coroutine: docker-py blocks, so its calls run in threads. Those that take milliseconds share a few
of the engine's, each of the others has its own. Failures of the engine become errors of ours that say what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import tarfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import requests

from docker_kernel import labels
from docker_kernel.engine.archives import File, archive
from docker_kernel.engine.connection import Connection
from docker_kernel.engine.errors import is_absence, refusal
from docker_kernel.engine.events import ContainerEvents, while_it_starts
from docker_kernel.engine.filters import having_labels
from docker_kernel.engine.specs import ContainerSpec, engine_mount, gpu_request
from docker_kernel.engine.streams import ByteStream, ChunkReader, ExecStream, LogStream, own_socket
from docker_kernel.engine.swarm import Swarm
from docker_kernel.errors import (
    BeingRemoved,
    BuildFailed,
    Conflict,
    EngineError,
    EngineUnavailable,
    ImageMissing,
    NotFound,
    RetryableError,
)

T = TypeVar("T")

EVENTS_SECONDS = 10
"""How long an engine may take to tell what happened."""

FULL_ID = re.compile("[0-9a-f]{64}")

NEVER_RAN = ("created", "configured", "initialized")
"""A container's states before its start; the last two are Podman's."""


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


class Engine:
    """One engine. Make it with `await Engine.connect()`; it is safe to use from several tasks at once, and in a process
    that was forked from the one that made it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._events: ContainerEvents | None = None
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

    async def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self.connection.call(function, *args, **kwargs)

    async def _lasting(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self.connection.lasting(function, *args, **kwargs)

    @property
    def _client(self) -> Any:
        return self.connection.client

    def swarm(self) -> Swarm:
        """The Swarm that this engine manages."""
        return Swarm(self)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        self.connection.close()

    async def info(self) -> EngineInfo:
        """What kind of engine this is; asked once, also by those who want to know it at the same time."""
        # In a forked child, who asked may be on the parent's loop.
        if self._info is None or self._info.get_loop() is not asyncio.get_running_loop():
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
        bindings: dict[int | str, Any] = {
            f"{port}/tcp": (address, host) for port, (address, host) in spec.ports.items()
        }
        host_config = client.create_host_config(
            mounts=[engine_mount(mount) for mount in spec.mounts] or None,
            tmpfs=spec.tmpfs or None,
            port_bindings=bindings or None,
            network_mode=spec.network,
            mem_limit=spec.memory,
            memswap_limit=spec.memory,
            nano_cpus=int(spec.cpus * 1e9) if spec.cpus else None,
            pids_limit=spec.pids,
            shm_size=spec.shm_size,
            device_requests=[gpu_request(spec.gpus)] if spec.gpus else None,
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
        wanted = having_labels(filters)
        if status is not None:
            wanted["status"] = status
        found = await self._call(self._client.containers, all=stopped, filters=wanted)
        states = await asyncio.gather(*(self.inspect(item["Id"]) for item in found), return_exceptions=True)
        return [state for state in states if isinstance(state, ContainerState)]

    async def wait(self, container: str) -> int:
        """Wait for a container's end and return its exit code; may take as long as the container lives.

        Raises:
            NotFound: it is gone, and nobody knows how it ended.
            EngineUnavailable: the engine has gone, and does not come back.
        """
        events = self._container_events()
        identity = container if FULL_ID.fullmatch(container) else (await self.inspect(container)).id
        with events.watch(identity) as watch:
            await events.listening()
            seen = False
            while True:
                try:
                    state = await while_it_starts(lambda: self.inspect(identity))
                except NotFound:
                    code = watch.exit_code
                    if code is None and seen:
                        code = await self.last_exit(identity)
                    if code is None:
                        raise
                    return code
                if not (state.running or state.status == "stopping"):
                    return state.exit_code
                seen = True
                await watch.change()

    def _container_events(self) -> ContainerEvents:
        """This loop's; a forked child has another one than its parent."""
        if self._events is None or self._events.loop is not asyncio.get_running_loop():
            self._events = ContainerEvents(self.connection)
        return self._events

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
        except (NotFound, Conflict):
            pass

    async def remove(self, container: str) -> None:
        """Kill and remove a container with its anonymous volumes; afterwards it is gone, and its name free."""
        for last in (False, True):
            try:
                await self._lasting(self._client.remove_container, container, v=True, force=True)
            except NotFound:
                return
            except BeingRemoved:
                with contextlib.suppress(EngineError):  # it has gone meanwhile
                    await self._lasting(self._client.wait, container, condition="removed")
                return
            except RetryableError:
                if last:
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
        except BeingRemoved:
            await self.remove(container)
            return True
        except EngineError as error:
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
        return await ExecStream.over(own_socket(sock))

    async def attach(self, container: str, stdin: bool = False) -> ExecStream:
        """The streams of a container's main process; attach before `start`, and nothing of its output is lost."""
        params = {"stdin": int(stdin), "stdout": 1, "stderr": 1, "stream": 1}
        sock = await self._call(self._client.attach_socket, container, params)
        return await ExecStream.over(own_socket(sock))

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
                if said := event.get("error"):
                    raise refusal(said, message=f"The image {repository}:{tag} could not be pushed: {said.strip()}.")
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
                if said := event.get("error"):
                    raise refusal(said, message=said.strip())
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

        return io.BufferedReader(ChunkReader(ByteStream(await self._lasting(ask), self.url)), 1 << 20)

    async def load(self, archive: Iterable[bytes]) -> None:
        """Load a `docker save` archive that arrives in pieces, which are made in a thread.

        Raises:
            EngineError: the engine refuses it.
        """

        def run() -> None:
            client: Any = self._client
            for event in client.load_image(archive):
                if said := event.get("error"):
                    raise refusal(said, message=f"The engine at {self.url} did not take the image: {said.strip()}.")

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
            return "" if is_absence(error) else str(error)
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
                if said := event.get("error"):
                    raise refusal(said, message=f"The image {reference} could not be pulled: {said}.")
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
        except Conflict:
            return False
        return True

    async def create_network(self, name: str, marks: Mapping[str, str]) -> str:
        """Make a bridge network of ours with some labels, and return its id."""
        made = await self._call(
            self._client.create_network, name, driver="bridge", labels={labels.KIND: labels.KIND_NETWORK, **marks}
        )
        return str(made["Id"])

    async def networks(self, having: Mapping[str, str]) -> dict[str, str]:
        """The networks whose labels have the given values: id to name."""
        found = await self._call(self._client.networks, filters=having_labels(having))
        return {str(raw["Id"]): str(raw["Name"]) for raw in found}

    async def remove_network(self, network: str) -> None:
        """Remove a network; no-op if it is gone."""
        try:
            await self._call(self._client.remove_network, network)
        except NotFound:
            return


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
