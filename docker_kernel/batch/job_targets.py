"""The targets of this process's jobs: one instance for all jobs that were sent with the same settings."""

from __future__ import annotations

import asyncio
from typing import Any

from docker_kernel import config, targets
from docker_kernel.config import TargetTable, read_target
from docker_kernel.targets.base import AnyTarget


class JobTargets:
    """Keeps targets, and how many jobs each may run at once."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[TargetTable, AnyTarget]]] = {}
        self._slots: dict[AnyTarget, asyncio.Semaphore] = {}

    def get(self, name: str, table: TargetTable) -> AnyTarget:
        """The target of a name with these settings."""
        known = self._known.setdefault(name, [])
        for given, target in known:
            if given == table:
                return target
        made = targets.load(name, table)
        known.append((table, made))
        self._slots[made] = asyncio.Semaphore(table.max_jobs or made.default_max_jobs)
        return made

    def of_dispatch(self, name: str, sent: dict[str, Any] | None) -> AnyTarget:
        """The target of a dispatch: as it was when its jobs were sent, if that is still known. Blocks.

        Args:
            sent: what the dispatch's folder keeps.

        Raises:
            ConfigError: it is not, and the user's config names it no more.
        """
        kept = (sent or {}).get("config")
        return self.get(name, config.load().target(name) if kept is None else read_target(name, kept))

    def settings(self, target: AnyTarget) -> dict[str, Any]:
        """A target's settings as JSON, from which `of_dispatch` makes it again."""
        table = next(table for table, known in self._known[target.name] if known is target)
        return {**table.model_dump(mode="json", exclude_defaults=True), "kind": table.kind}

    def slot(self, target: AnyTarget) -> asyncio.Semaphore:
        """What a job holds as long as it runs: there are as many as jobs may run at once."""
        return self._slots[target]

    async def forget_kernel(self, kernel_id: str) -> None:
        """Let go of what targets keep ready for a kernel that ends."""
        for target in [target for known in self._known.values() for _, target in known]:
            await target.forget_kernel(kernel_id)
