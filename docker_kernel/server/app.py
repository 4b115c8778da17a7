"""What jupyter_server loads: the handlers, and the builds that end with the server."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from docker_kernel.server.builds import Builds
from docker_kernel.server.handlers import BUILDS, HANDLERS


class ContainerizeApp(ExtensionApp):
    """Answers the browser's requests below `/docker-kernel/`."""

    name = "docker_kernel"
    extension_url = "/docker-kernel"

    def initialize_settings(self) -> None:
        self._builds = Builds()
        self.settings[BUILDS] = self._builds

    def initialize_handlers(self) -> None:
        self.handlers.extend(HANDLERS)

    def current_activity(self) -> bool:
        """Whether an image is being made: a server that stops when idle waits for it."""
        return self._builds.running > 0

    async def stop_extension(self) -> None:
        """Cancel what is being made, so that it takes down what it started."""
        await self._builds.stop()
