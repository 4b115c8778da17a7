"""What the kinds that run jobs on one engine keep of a dispatch and of a job, as JSON."""

from __future__ import annotations

from typing import TypedDict


class EnginePrepared(TypedDict):
    """What every kind that runs jobs on one engine keeps of a dispatch: the user and Python of the kernel's image.

    Attributes:
        lib: where the guest package goes in a job's container.
    """

    kernel_id: str
    user: str
    python: str
    lib: str


class _Containers(TypedDict):
    containers: list[str]
    network: str


class EngineJob(_Containers, total=False):
    """A job on an engine.

    Attributes:
        containers: ids, by rank.
        network: the id of the one that several have; "" for none.
        state_is_result: whether its state folder has nothing but its result.
        stop_seconds: how long it may take to end, where that is not what jobs have otherwise.
    """

    state_is_result: bool
    stop_seconds: int


class DockerPrepared(EnginePrepared):
    """What a dispatch's jobs on another engine start from.

    Attributes:
        image: by id, or by digest where it came through a registry.
        package: the dispatch, after which an image is named that came straight to the engine.
        sent: bytes.
        memory, cpus, pids, shm: the kernel's own limits.
    """

    image: str
    package: str
    sent: int
    network: str
    memory: int | None
    cpus: float | None
    pids: int | None
    shm: int | None
    capabilities: list[str]


class LocalPrepared(EnginePrepared):
    """What a dispatch's jobs on the kernel's own engine start from.

    Attributes:
        mounts: source, target and whether it is read-only, of each of the kernel's mounts that jobs have, too.
        workspace: the archive of the workspace's copy, "" where jobs have the workspace itself, or none.
        files: the kernel's own of those that the guest needs: path, content in base64 (None for a folder), mode, uid
            and gid.
        spares: how many containers may be kept ready for the next jobs.
        env: what a spare's worker is started with.
        container: the kernel's.
    """

    image: str
    volume: str
    mounts: list[tuple[str, str, bool]]
    workspace: str
    files: list[tuple[str, str | None, int, int, int]]
    network: str
    memory: int | None
    cpus: float | None
    pids: int | None
    shm: int | None
    gpus: str | None
    capabilities: list[str]
    groups: list[int]
    userns_mode: str | None
    spares: int
    env: dict[str, str]
    container: str
