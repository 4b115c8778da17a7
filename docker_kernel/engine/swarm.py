"""A Swarm: its nodes, services, secrets and overlay networks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker.types import ContainerSpec as ServiceContainer
from docker.types import (
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

from docker_kernel.engine.connection import EnginePart
from docker_kernel.engine.filters import having_labels
from docker_kernel.engine.networks import Networks
from docker_kernel.engine.specs import TaskSpec, engine_mount
from docker_kernel.engine.streams import LogStream
from docker_kernel.errors import Conflict, EngineError, NotFound, RetryableError


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


class Swarm(EnginePart):
    """A Swarm, through the engine that is one of its managers: services of one task each, and what they need."""

    async def manager(self) -> str:
        """The id of this engine's node.

        Raises:
            EngineError: it is no manager of a Swarm.
        """
        swarm = (await self._call(self._client.info)).get("Swarm") or {}
        state = swarm.get("LocalNodeState", "inactive")
        if state != "active":
            raise EngineError(
                f"The engine at {self.url} is not in a Swarm (it is {state}): run `docker swarm init` there, "
                "or name one of a Swarm's managers as the target's `engine`."
            )
        if not swarm.get("ControlAvailable"):
            raise EngineError(
                f"The engine at {self.url} is a worker of its Swarm: name one of the managers as the target's `engine`."
            )
        return str(swarm["NodeID"])

    async def nodes(self) -> list[SwarmNode]:
        return [_node(raw) for raw in await self._call(self._client.nodes)]

    async def tasks(self, having: Mapping[str, str]) -> list[SwarmTask]:
        """The tasks of all services whose labels have the given values."""
        return [_task(raw) for raw in await self._call(self._client.tasks, filters=having_labels(having))]

    async def services(self, having: Mapping[str, str]) -> dict[str, str]:
        """The services whose labels have the given values: id to name."""
        found = await self._call(self._client.services, filters=having_labels(having))
        return {str(raw["ID"]): str(raw["Spec"]["Name"]) for raw in found}

    async def has_service(self, service: str) -> bool:
        try:
            await self._call(self._client.inspect_service, service)
        except NotFound:
            return False
        return True

    async def create(self, spec: TaskSpec) -> str:
        """Create a service of one task, which is never started again, and return its id."""
        mounts = [engine_mount(mount) for mount in spec.mounts]
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
            except RetryableError:
                if attempt == 9:
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
        return LogStream(
            await self._connection.stream("/services/{0}/logs", service, params=params, timeout=(60, None))
        )

    async def create_secret(self, name: str, data: bytes, marks: dict[str, str]) -> str:
        made = await self._call(self._client.create_secret, name, data, marks)
        return str(made["ID"])

    async def secrets(self, having: Mapping[str, str]) -> dict[str, str]:
        """The secrets whose labels have the given values: id to name."""
        found = await self._call(self._client.secrets, filters=having_labels(having))
        return {str(raw["ID"]): str(raw["Spec"]["Name"]) for raw in found}

    async def remove_secret(self, secret: str) -> None:
        """Remove a secret that no service uses; no-op if it is gone."""
        try:
            await self._call(self._client.remove_secret, secret)
        except NotFound:
            return

    async def networks(self, having: Mapping[str, str]) -> dict[str, str]:
        """The networks whose labels have the given values: id to name."""
        return await Networks(self._connection).list(having)

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
        except Conflict:
            return False
        return True


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
