"""What the layers below see of a running kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from docker_kernel.config import KernelConfig, UserConfig
from docker_kernel.engine import BindMount, Engine, File
from docker_kernel.kernel.notebook import Sight


class KernelHandle(Protocol):
    """One running kernel: where it runs, as whom, with what, and a way to tell it things.

    Attributes:
        image: the id (digest) of the image that its container was made from.
        user: "uid:gid" inside its container.
        cwd: the kernel's folder, the same path inside and outside.
        workspace: the workspace's path, None where it is not mounted.
        volume: the name of the kernel volume.
        python: the path of the image's Python.
        env: what the kernel process was started with, over its image's own environment.
    """

    engine: Engine
    kernel_id: str
    container_id: str
    image: str
    config: KernelConfig
    mounts: list[BindMount]
    workspace: str | None
    cwd: str
    volume: str
    python: str
    env: dict[str, str]

    @property
    def user_config(self) -> UserConfig: ...

    @property
    def user(self) -> str: ...

    @property
    def group_add(self) -> Sequence[int]: ...

    @property
    def userns_mode(self) -> str | None: ...

    async def notebook(self) -> Sight | None:
        """Its notebook as it was before the kernel ran anything; None where it has none."""
        ...

    def guest_files(self) -> list[File]:
        """What every container of this kernel gets before its start: guest package, account files, folders."""
        ...

    async def notify(self, event: dict[str, Any]) -> None:
        """Send an event to the kernel process."""
        ...
