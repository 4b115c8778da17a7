"""Which of the host's folders a kernel sees, and at which paths."""

from __future__ import annotations

import os
from pathlib import Path

from docker_kernel.config import KernelConfig, UserConfig
from docker_kernel.engine import BindMount
from docker_kernel.errors import ConfigError

SYSTEM_FOLDERS = frozenset(
    Path(path)
    for path in (
        "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/opt/docker-kernel", "/proc",
        "/run", "/sbin", "/sys", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/local/bin", "/usr/local/lib",
        "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/run",
    )
)  # fmt: skip
"""Mounting the host's folder over one of these would break the container."""


def kernel_mounts(config: KernelConfig, user_config: UserConfig, root: str | None, cwd: str) -> list[BindMount]:
    """The bind mounts of a kernel: the workspace at its own path, and the configured extra mounts.

    Args:
        root: the Jupyter server's root folder, where known.
        cwd: the notebook's folder.

    Raises:
        ConfigError: a source is missing, is `/`, lies outside what the config file allows, or would hide the
            container's own system.
    """
    mounts: list[BindMount] = []
    if config.workspace:
        mounts += _workspace(root, cwd)
    for mount in config.parsed_mounts():
        source = mount.source.resolve()
        if source == Path("/") or mount.target == Path("/"):
            raise ConfigError(f"The mount {mount.source}:{mount.target} is refused: / is never mounted; name a folder.")
        if not source.exists():
            raise ConfigError(
                f"The mount {mount.source}:{mount.target} cannot be made: {mount.source} does not exist here."
            )
        allowed = user_config.allowed_mounts
        if allowed is not None and not any(source.is_relative_to(path.expanduser().resolve()) for path in allowed):
            places = ", ".join(map(str, allowed)) or "nothing"
            raise ConfigError(f"The mount of {mount.source} is refused: the config file's allowed_mounts is {places}.")
        if source.is_socket():
            raise ConfigError(f"The mount of {mount.source} is refused: sockets are never mounted into a kernel.")
        if mount.target in SYSTEM_FOLDERS:
            raise ConfigError(
                f"The mount {mount.source}:{mount.target} is refused: it would hide the container's own {mount.target}."
            )
        _add(mounts, BindMount(str(source), str(mount.target), mount.read_only))
    return mounts


def _add(mounts: list[BindMount], mount: BindMount) -> None:
    """Add a mount; one that names a folder again, at the same place, decides whether it can be written."""
    for index, other in enumerate(mounts):
        if other.target == mount.target:
            if other.source != mount.source:
                raise ConfigError(
                    f"The mount {mount.source}:{mount.target} is refused: {other.source} is mounted there already."
                )
            mounts[index] = mount
            return
    mounts.append(mount)


def _workspace(root: str | None, cwd: str) -> list[BindMount]:
    folder = Path(cwd).resolve()
    if not folder.is_dir():
        raise ConfigError(f"The notebook's folder {cwd} does not exist on this machine.")
    paths = [folder]
    if root is not None and Path(root).resolve() != Path("/"):
        top = Path(root).resolve()
        if folder.is_relative_to(top):
            paths = [top]
        elif top not in SYSTEM_FOLDERS and top.is_dir():
            paths = [top, folder]
    for path in paths:
        if path == Path("/") or path in SYSTEM_FOLDERS:
            raise ConfigError(
                f"A kernel cannot have {path} as its workspace: start Jupyter in a folder of your own, "
                "or set `workspace = false`."
            )
    mounts = [BindMount(str(path), str(path)) for path in paths]
    # Where a way to the folder leads through a symbolic link, paths that are written that way work, too.
    for given in (os.path.normpath(path) for path in (root, cwd) if path is not None):
        if given != "/" and Path(given) not in SYSTEM_FOLDERS and Path(given).resolve() in (*paths, folder):
            mounted = any(Path(given).is_relative_to(mount.target) for mount in mounts)
            if not mounted:
                mounts.append(BindMount(str(Path(given).resolve()), given))
    return mounts
