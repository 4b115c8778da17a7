"""The containers of an engine."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import io
import json
import re
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docker_kernel.engine.archives import File, archive
from docker_kernel.engine.connection import Connection, EnginePart
from docker_kernel.engine.events import ContainerEvents, while_it_starts
from docker_kernel.engine.filters import having_labels
from docker_kernel.engine.specs import ContainerSpec, engine_mount, gpu_request
from docker_kernel.engine.streams import ByteStream, ExecStream, LogStream, own_socket
from docker_kernel.errors import BeingRemoved, Conflict, EngineError, NotFound, RetryableError

NEVER_RAN = ("created", "configured", "initialized")
"""A container's states before its start; the last two are Podman's."""

EVENTS_SECONDS = 10
"""How long an engine may take to tell what happened."""

FULL_ID = re.compile("[0-9a-f]{64}")


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


class Containers(EnginePart):
    """An engine's containers, by id or name."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._events: ContainerEvents | None = None

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

    async def list(
        self, filters: Mapping[str, str], stopped: bool = True, status: str | None = None
    ) -> builtins.list[ContainerState]:
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

    def close(self) -> None:
        """Let nobody wait any longer."""
        if self._events is not None:
            self._events.close()

    def _container_events(self) -> ContainerEvents:
        """This loop's; a forked child has another one than its parent."""
        if self._events is None or self._events.loop is not asyncio.get_running_loop():
            self._events = ContainerEvents(self._connection)
        return self._events

    async def last_exit(self, container: str) -> int | None:
        """The exit code of a container that is gone; None where the engine does not remember (Docker remembers its last
        256 events)."""
        filters = json.dumps({"container": [container], "event": ["die"]})
        # An end that has passed: the engine tells what was, and waits for no more, unless its clock is behind ours.
        asked = {"since": "1", "until": f"{time.time():.6f}", "filters": filters}
        answer = await self._connection.stream("/events", params=asked, stream=False, timeout=EVENTS_SECONDS)
        ends = [json.loads(line) for line in answer.text.splitlines() if line]
        codes = [end["Actor"]["Attributes"].get("exitCode") for end in ends]
        return int(codes[-1]) if codes and codes[-1] else None

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

    async def get_stream(self, container: str, path: str) -> ByteStream:
        """A tar archive of a path in a container, in pieces (to be read in a thread).

        Close it where it is not read to its end: until then the engine lets nobody else read from that container.
        """
        # Else it is compressed, which takes the engine five times as long as to send it.
        plain = {"Accept-Encoding": "identity"}
        where = {"path": path}
        response = await self._connection.stream("/containers/{0}/archive", container, params=where, headers=plain)
        return ByteStream(response, self.url)

    async def read_file(self, container: str, path: str) -> bytes:
        """The content of one regular file in a container; raises NotFound when there is none."""
        with tarfile.open(fileobj=io.BytesIO(await self.get(container, path))) as tar:
            member = tar.next()
            data = tar.extractfile(member) if member is not None and member.isreg() else None
            if data is None:
                raise NotFound(f"{path} in the container is not a file.")
            return data.read()

    async def diff(self, container: str) -> builtins.list[tuple[str, int]]:
        """The paths that differ from the image: (path, kind), kind 0 changed, 1 added, 2 deleted."""
        changes = await self._lasting(self._client.diff, container) or []
        return [(change["Path"], int(change["Kind"])) for change in changes]

    async def commit(self, container: str, repository: str, tag: str, changes: Sequence[str] = ()) -> str:
        """Make an image of a container's filesystem and return its id."""
        made = await self._lasting(
            self._client.commit, container, repository=repository, tag=tag, changes=list(changes) or None
        )
        return str(made["Id"])

    async def exec(
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
        params = {"stdout": 1, "stderr": 1, "follow": 1}
        return LogStream(await self._connection.stream("/containers/{0}/logs", container, params=params))

    async def logs(self, container: str, tail: int | None = None) -> bytes:
        """What a container has printed so far."""
        output: bytes = await self._lasting(self._client.logs, container, tail=tail if tail is not None else "all")
        return output


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
