"""What jupyter_server loads: the handlers, the builds that end with the server, and its first warm containers."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from docker_kernel import background
from docker_kernel.server.builds import Builds
from docker_kernel.server.handlers import BUILDS, HANDLERS
from docker_kernel.server.warming import warm_up


class ContainerizeApp(ExtensionApp):
    """Answers the browser's requests below `/docker-kernel/`."""

    name = "docker_kernel"
    extension_url = "/docker-kernel"

    def initialize_settings(self) -> None:
        self._builds = Builds()
        self.settings[BUILDS] = self._builds
        if self.serverapp is not None:
            background.submit(warm_up(str(self.serverapp.root_dir)))

    def initialize_handlers(self) -> None:
        self.handlers.extend(HANDLERS)

    def current_activity(self) -> bool:
        """Whether an image is being made: a server that stops when idle waits for it."""
        return self._builds.running > 0

    async def stop_extension(self) -> None:
        """Cancel what is being made, so that it takes down what it started."""
        await self._builds.stop()
