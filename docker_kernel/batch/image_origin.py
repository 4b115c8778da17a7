"""What targets see of a notebook image where they see a kernel otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from docker_kernel import config
from docker_kernel.config import KernelConfig, UserConfig
from docker_kernel.engine import BindMount, Engine, File
from docker_kernel.errors import JobError
from docker_kernel.kernel import accounts, guest_files
from docker_kernel.kernel.notebook import Sight
from docker_kernel.kernel.user import ContainerUser

OUTPUT = "/output"
"""Where an image puts its results (docs/notebook-image.md)."""

WORKING_DIRECTORY = "/notebook"


def entry_point(about: Mapping[str, Any]) -> list[str]:
    """What starts an image, by its configuration.

    Raises:
        JobError: it is not what containerize made it: an image that was derived from a notebook's may have another.
    """
    found = list(about.get("Entrypoint") or [])
    if not found or not PurePosixPath(found[0]).name.startswith("python"):
        raise JobError(
            f"The image is started by {' '.join(found) or 'nothing'}, and not as its notebook's image was: keep the "
            "ENTRYPOINT of the image that it was derived from."
        )
    return found


class ImageOrigin:
    """Which image, as whom, and with what: a KernelHandle (kernel/handle.py) of a kernel that does not run.

    Args:
        image: its id on the engine.
        python: what starts its main process, a path in it.
        user: "uid:gid".
        mounts: folders of this machine, for targets that see them.
    """

    kernel_id = ""
    container_id = ""
    volume = ""
    workspace: str | None = None
    cwd = WORKING_DIRECTORY

    def __init__(
        self,
        engine: Engine,
        image: str,
        python: str,
        user: str,
        settings: KernelConfig,
        mounts: Sequence[BindMount] = (),
        group_add: Sequence[int] = (),
        userns_mode: str | None = None,
    ) -> None:
        self.engine = engine
        self.image = image
        self.python = python
        self.user = user
        self.config = settings
        self.mounts = list(mounts)
        self.group_add = group_add
        self.userns_mode = userns_mode
        self.env: dict[str, str] = {}

    @classmethod
    async def of(
        cls,
        engine: Engine,
        image: str,
        settings: KernelConfig,
        mounts: Sequence[BindMount] = (),
        user: ContainerUser | None = None,
    ) -> ImageOrigin:
        """An image as it is on an engine; it runs as its own user where no other is given.

        Raises:
            ImageMissing: the engine does not have it.
            JobError: nobody knows how it is started, or as whom.
        """
        about = (await engine.images.inspect(image))["Config"]
        python = entry_point(about)[0]
        if user is not None:
            return cls(engine, image, python, user.spec, settings, mounts, user.groups, user.userns_mode)
        own = await accounts.own_user(engine, image, str(about.get("User") or "0:0"))
        return cls(engine, image, python, own, settings, mounts)

    def to_dict(self) -> dict[str, Any]:
        """What is kept of it, for a process that goes on with its jobs."""
        return {
            "image": self.image,
            "python": self.python,
            "user": self.user,
            # Variables have been given to the job already, and may be secrets.
            "settings": self.config.model_dump(mode="json", exclude_defaults=True, exclude={"env"}),
            "mounts": [dataclasses.astuple(mount) for mount in self.mounts],
            "group_add": list(self.group_add),
            "userns_mode": self.userns_mode,
        }

    @classmethod
    def from_dict(cls, engine: Engine, kept: Mapping[str, Any]) -> ImageOrigin:
        """What `to_dict` kept."""
        return cls(
            engine,
            kept["image"],
            kept["python"],
            kept["user"],
            KernelConfig.model_validate(kept["settings"]),
            [BindMount(*mount) for mount in kept["mounts"]],
            kept["group_add"],
            kept["userns_mode"],
        )

    @property
    def user_config(self) -> UserConfig:
        return config.load()

    async def notebook(self) -> Sight | None:
        return None

    def guest_files(self) -> list[File]:
        uid, _, gid = self.user.partition(":")
        state = f"{guest_files.BASE}/state"
        folders = {f"{guest_files.BASE}/run": 0o700, state: 0o700, OUTPUT.lstrip("/"): 0o755}
        folders |= {f"{state}/{name}": 0o755 for name in ("blobs", "manifests")}
        return [
            *guest_files.library(guest_files.JOB_LIB),
            *(File(path, mode=mode, uid=int(uid), gid=int(gid)) for path, mode in folders.items()),
        ]

    async def notify(self, event: dict[str, Any]) -> None:
        """There is no kernel to be told."""
