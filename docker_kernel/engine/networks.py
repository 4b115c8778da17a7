"""The networks of an engine."""

from __future__ import annotations

from collections.abc import Mapping

from docker_kernel import labels
from docker_kernel.engine.connection import EnginePart
from docker_kernel.engine.filters import having_labels
from docker_kernel.errors import NotFound


class Networks(EnginePart):
    """An engine's networks, by id or name."""

    async def create(self, name: str, marks: Mapping[str, str]) -> str:
        """Make a bridge network of ours with some labels, and return its id."""
        made = await self._call(
            self._client.create_network, name, driver="bridge", labels={labels.KIND: labels.KIND_NETWORK, **marks}
        )
        return str(made["Id"])

    async def list(self, having: Mapping[str, str]) -> dict[str, str]:
        """The networks whose labels have the given values: id to name."""
        found = await self._call(self._client.networks, filters=having_labels(having))
        return {str(raw["Id"]): str(raw["Name"]) for raw in found}

    async def remove(self, network: str) -> None:
        """Remove a network; no-op if it is gone."""
        try:
            await self._call(self._client.remove_network, network)
        except NotFound:
            return
