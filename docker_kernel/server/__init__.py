"""The Jupyter server extension behind the Containerize button: the only part of us that needs jupyter_server."""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """What jupyter_server asks for (its docs, "Distributing an extension"); only it calls this, so it is there."""
    from docker_kernel.server.app import ContainerizeApp

    return [{"module": "docker_kernel.server.app", "app": ContainerizeApp}]
