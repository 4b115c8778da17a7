"""What containers and services are created from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from docker.types import DeviceRequest, Mount


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


def engine_mount(mount: BindMount | VolumeMount) -> Mount:
    if isinstance(mount, BindMount):
        return Mount(mount.target, mount.source, type="bind", read_only=mount.read_only)
    return Mount(mount.target, mount.name, type="volume", read_only=mount.read_only, labels=mount.labels or None)


def gpu_request(gpus: str) -> DeviceRequest:
    capabilities = [["gpu"]]
    if gpus == "all":
        return DeviceRequest(count=-1, capabilities=capabilities)
    if gpus.isdigit():
        return DeviceRequest(count=int(gpus), capabilities=capabilities)
    return DeviceRequest(device_ids=gpus.split(","), capabilities=capabilities)
