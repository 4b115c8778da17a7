"""Who a kernel runs as inside its container: the host's user, with a HOME of their own and a passwd entry."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from docker_kernel.config import KernelConfig
from docker_kernel.engine import EngineInfo, File

FALLBACK_HOME = "/opt/docker-kernel/home"
"""Where HOME is when the host's own home folder is mounted: what a kernel installs must not land there."""


@dataclass(frozen=True)
class ContainerUser:
    """The identity inside a container.

    Args:
        uid, gid: as seen inside; on a rootless engine 0, which there is the host's user.
        userns_mode: "host" on an engine that remaps uids, so that files keep their owner.
    """

    uid: int
    gid: int
    name: str
    home: str
    groups: tuple[int, ...] = ()
    userns_mode: str | None = None

    @property
    def spec(self) -> str:
        return f"{self.uid}:{self.gid}"

    def account_files(self, passwd: bytes, group: bytes) -> list[File]:
        """The image's /etc/passwd and /etc/group with this user in them."""
        users = [line for line in passwd.decode(errors="surrogateescape").splitlines() if line.count(":") == 6]
        users = [line for line in users if line.split(":")[0] != self.name and line.split(":")[2] != str(self.uid)]
        users.append(f"{self.name}:x:{self.uid}:{self.gid}::{self.home}:/bin/sh")
        groups = [line for line in group.decode(errors="surrogateescape").splitlines() if line.count(":") == 3]
        if not any(line.split(":")[2] == str(self.gid) for line in groups):
            groups.append(f"{self.name if not _names(groups, self.name) else f'gid{self.gid}'}:x:{self.gid}:")
        return [
            File("etc/passwd", ("\n".join(users) + "\n").encode(errors="surrogateescape")),
            File("etc/group", ("\n".join(groups) + "\n").encode(errors="surrogateescape")),
        ]


def _names(groups: Iterable[str], name: str) -> bool:
    return any(line.split(":")[0] == name for line in groups)


def container_user(config: KernelConfig, info: EngineInfo, mounted: Iterable[str]) -> ContainerUser:
    """The identity for a kernel on this engine.

    Args:
        mounted: paths in the container that are the host's folders; HOME is never one of them, nor below one.
    """
    uid, gid = os.getuid(), os.getgid()
    groups = tuple(group for group in os.getgroups() if group != gid) if uid else ()
    if config.user != "host":
        first, _, second = config.user.partition(":")
        uid, gid, groups = int(first), int(second or first), ()
    try:
        account = pwd.getpwuid(uid)
        name, home = account.pw_name, account.pw_dir
    except KeyError:
        name, home = f"uid{uid}", f"/home/uid{uid}"
    if home in ("", "/", "/nonexistent") or any(Path(home).is_relative_to(path) for path in mounted):
        home = FALLBACK_HOME
    if info.rootless and config.user == "host":
        uid, gid, groups = 0, 0, ()
    return ContainerUser(uid, gid, name, home, groups, "host" if info.userns_remap else None)
