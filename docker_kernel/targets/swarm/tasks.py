"""What a Swarm's manager says of the tasks of a target's jobs, and of its nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator

from docker_kernel import labels
from docker_kernel.engine import Swarm, SwarmNode, SwarmTask
from docker_kernel.errors import EngineError

log = logging.getLogger(__name__)

INTERVAL = 0.3
NODES_INTERVAL = 2.0


class TaskPoller:
    """Knows all tasks of the target's jobs, and the nodes: one request for all jobs, while any runs.

    The Engine API has no events for tasks (1.41; nor has 1.50), so they have to be asked for.
    """

    def __init__(self, swarm: Callable[[], Awaitable[Swarm]]) -> None:
        self._swarm = swarm
        self._labels = {labels.KIND: labels.KIND_JOB, labels.USER: str(os.getuid())}
        self._watchers = 0
        self._loop: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._started = self._finished = 0
        self.tasks: dict[str, SwarmTask] = {}
        """By their services."""
        self.nodes: dict[str, SwarmNode] = {}
        self._nodes_at = float("-inf")
        self._down: dict[str, float] = {}
        self._silent_since: float | None = None
        self.error = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Poll inside of this context."""
        self._watchers += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._watchers -= 1

    async def tick(self, fresh: bool = False) -> None:
        """Wait for the next poll, or for the first that has not begun yet."""
        first = self._started + 1
        while True:
            if self._next is None or self._next.done():
                self._next = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._next)
            if not fresh or self._finished >= first:
                return

    def down(self, node: str) -> float:
        """For how many seconds a node has been down; 0 if it is not."""
        since = self._down.get(node)
        return 0.0 if since is None else time.monotonic() - since

    @property
    def silent(self) -> float:
        """For how many seconds the manager has not answered."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    def node_of(self, task: SwarmTask) -> str:
        """What the node of a task is called."""
        node = self.nodes.get(task.node)
        return f"the node {node.name if node else task.node or 'it had'}"

    async def usable_nodes(self, at_most_old: float) -> list[SwarmNode]:
        """The nodes that take jobs, as they were so many seconds ago at most."""
        if time.monotonic() - self._nodes_at > at_most_old:
            await self._read_nodes()
        return [node for node in self.nodes.values() if node.usable]

    async def _read_nodes(self) -> None:
        nodes = await (await self._swarm()).nodes()
        self.nodes = {node.id: node for node in nodes}
        self._nodes_at = time.monotonic()
        down = {node.id for node in nodes if node.state == "down"}
        self._down = {node: self._down.get(node, time.monotonic()) for node in down}

    async def _run(self) -> None:
        while self._watchers:
            begun = time.monotonic()
            self._started = number = self._started + 1
            try:
                swarm = await self._swarm()
                found = await swarm.tasks(self._labels)
                if begun - self._nodes_at >= NODES_INTERVAL:
                    await self._read_nodes()
                # A service has one task; but a node that was lost and comes back may report an old one.
                self.tasks = {task.service: task for task in sorted(found, key=lambda task: task.created)}
                self._silent_since, self.error = None, ""
            except Exception as error:
                if not isinstance(error, EngineError):
                    log.exception("the tasks of a Swarm could not be read")
                self._silent_since, self.error = self._silent_since or begun, str(error)
            self._finished = number
            if self._next is not None and not self._next.done():
                self._next.set_result(None)
            await asyncio.sleep(max(0.05, INTERVAL - (time.monotonic() - begun)))
