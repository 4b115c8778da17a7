"""Warm containers for a server's first kernels, where a kernelspec asks for them at once."""

from __future__ import annotations

import asyncio
import logging

from jupyter_client.kernelspec import KernelSpec

from docker_kernel import kernelspec
from docker_kernel.errors import DockerKernelError
from docker_kernel.kernel import provisioner

log = logging.getLogger(__name__)


async def warm_up(root: str) -> None:
    """Prepare what the kernelspecs ask for; what cannot be is said in the log, as a start would say it to the user.

    Args:
        root: the server's root folder.
    """
    for name, found in (await asyncio.to_thread(kernelspec.ours)).items():
        try:
            await provisioner.warm_up(name, KernelSpec(**found["spec"]), root)
        except DockerKernelError as error:
            log.warning("no warm container for %s: %s", name, error)
