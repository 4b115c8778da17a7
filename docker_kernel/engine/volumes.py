"""The volumes of an engine."""

from __future__ import annotations

import builtins
from typing import Any

from docker_kernel.engine.connection import EnginePart
from docker_kernel.errors import Conflict, NotFound


class Volumes(EnginePart):
    """An engine's volumes, by name."""

    async def list(self, label: str) -> builtins.list[dict[str, Any]]:
        """The volumes that carry a label (KEY or KEY=VALUE)."""
        found = await self._call(self._client.volumes, filters={"label": label})
        return found.get("Volumes") or []

    async def remove(self, name: str) -> bool:
        """Remove a volume; False if a container still uses it. No-op if it is gone."""
        try:
            await self._lasting(self._client.remove_volume, name)
        except NotFound:
            return True
        except Conflict:
            return False
        return True
