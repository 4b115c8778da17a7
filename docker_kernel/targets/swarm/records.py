"""What a Swarm target keeps of a dispatch and of a job, as JSON."""

from __future__ import annotations

from typing import TypedDict


class SwarmPrepared(TypedDict):
    """What a dispatch's jobs start from.

    Attributes:
        image: by digest.
        sent: bytes.
        constraints: by which it runs only where it can.
        pids, shm: the kernel's own limits.
    """

    image: str
    sent: int
    constraints: list[str]
    kernel_id: str
    python: str
    lib: str
    user: str
    pids: int | None
    shm: int | None
    capabilities: list[str]


class SwarmJob(TypedDict):
    """One attempt of a job.

    Attributes:
        name: of what was made for it.
        services, secrets: ids, by rank.
        network: the id of the one that several have.
    """

    job: str
    name: str
    nonce: str
    image: str
    services: list[str]
    secrets: list[str]
    network: str | None
