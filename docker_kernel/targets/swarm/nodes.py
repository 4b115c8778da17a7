"""What the nodes of a Swarm can run."""

from __future__ import annotations

from collections.abc import Sequence

from docker_kernel.batch.state_image import ARCHITECTURES
from docker_kernel.config import format_size
from docker_kernel.engine import SwarmNode
from docker_kernel.errors import JobError
from docker_kernel.targets.base import Check, JobTask


def check(nodes: Sequence[SwarmNode]) -> Check:
    """Whether there is a node for jobs."""
    found = ", ".join(
        f"{node.name} ({node.cpus:g} CPUs, {format_size(node.memory)})"
        if node.usable
        else f"{node.name} ({node.state}, {node.availability})"
        for node in nodes
    )
    if any(node.usable for node in nodes):
        return Check("nodes", found, True)
    return Check("nodes", found, False, "No node takes jobs: see `docker node ls`, and start their engines.")


def architecture(own: str, nodes: Sequence[SwarmNode]) -> tuple[str, list[str]]:
    """The architecture of nodes that is like an image's where there is one, and the constraints that keep to it."""
    kinds = sorted({node.architecture for node in nodes})
    fitting = [kind for kind in kinds if ARCHITECTURES.get(kind, kind) == own]
    constraints = [f"node.platform.arch == {fitting[0]}"] if fitting and len(kinds) > 1 else []
    return (fitting or kinds)[0], constraints


def generic_resources(task: JobTask, nodes: Sequence[SwarmNode], target: str) -> dict[str, int]:
    """The generic resources that stand for a job's GPUs.

    Raises:
        JobError: no node could ever run the job.
    """
    kind, gpus = _gpus(task.gpus, nodes, target)
    for node in nodes:
        if node.memory >= (task.memory or 0) and node.cpus >= (task.cpus or 0) and node.generic.get(kind, 0) >= gpus:
            return {kind: gpus} if gpus else {}
    asked = [f"{format_size(task.memory)} of memory"] if task.memory else []
    asked += [f"{task.cpus:g} CPUs"] if task.cpus else []
    asked += [f"{gpus} of {kind}"] if gpus else []
    largest = max(nodes, key=lambda node: (node.memory, node.cpus))
    raise JobError(
        f"No node of {target} has {', '.join(asked)}: the largest that is ready, {largest.name}, has "
        f"{format_size(largest.memory)} and {largest.cpus:g} CPUs."
    )


def _gpus(asked: str | None, nodes: Sequence[SwarmNode], target: str) -> tuple[str, int]:
    """Which generic resource stands for GPUs, and how many of it a job needs."""
    if asked is None:
        return "", 0
    kinds = sorted({kind for node in nodes for kind in node.generic if "gpu" in kind.lower()})
    if not kinds:
        raise JobError(
            f"No node of {target} offers GPUs: let their engines name them, with "
            '"node-generic-resources": ["NVIDIA-GPU=UUID"] in /etc/docker/daemon.json.'
        )
    if asked != "all" and not asked.isdigit():
        raise JobError("A Swarm itself chooses which GPUs a job gets: ask for a number of them, or 'all'.")
    most = max(node.generic.get(kinds[0], 0) for node in nodes)
    return kinds[0], most if asked == "all" else int(asked)
