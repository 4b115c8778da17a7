"""Where a run may write: scratch space, a home, the notebook's working directory; and what the notebook wrote there.

A container may run as any user, with a root that is read-only, so nothing of this can be taken for granted.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH = 60
"""Characters that the path of the scratch folder may have: a Unix socket's path has at most 107 (unix(7))."""

LINKED = 16 << 20
"""Bytes from which a file of the workspace is not copied but linked into a private working directory."""

COPIED = 256 << 20
"""Bytes that are copied in all."""

MAX_FILES = 10_000
MAX_BYTES = 4 << 30
"""What a notebook wrote is brought out up to these bounds."""

CACHES = frozenset(("__pycache__", ".ipynb_checkpoints", ".ipython", ".cache"))

FOLDERS = {
    "IPYTHONDIR": "ipython",
    "JUPYTER_CONFIG_DIR": "jupyter",
    "JUPYTER_DATA_DIR": "jupyter-data",
    "JUPYTER_RUNTIME_DIR": "jupyter-runtime",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "share",
}
"""Variables that name folders of a program's own: where the image sets one that cannot be written, it gets another."""


class NoPlace(Exception):
    """Nothing here can be written: one sentence."""


@dataclass(frozen=True)
class Scratch:
    """A private folder for what the run needs and nobody keeps.

    Args:
        sockets: whether Unix sockets can be made there.
    """

    path: Path
    sockets: bool

    def folder(self, name: str) -> str:
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return str(path)


def scratch(outputs: Sequence[Path]) -> Scratch:
    """A scratch folder: in /tmp, else in shared memory, else in an output folder.

    Raises:
        NoPlace: none of them can be written.
    """
    own = [Path(place) for place in (os.environ.get("TMPDIR"), "/tmp", "/dev/shm") if place]
    for place in [*own, *outputs]:
        with contextlib.suppress(OSError):
            path = tempfile.mkdtemp(prefix="docker-kernel-" if place in own else ".docker-kernel-", dir=place)
            # An output folder may be of a kind that has no sockets: a share, or an object store.
            return Scratch(Path(path), place in own and len(path) <= SOCKET_PATH)
    raise NoPlace("Nothing here can be written, not even /tmp: start the container with `--tmpfs /tmp`.")


def environment(given: Mapping[str, str], room: Scratch) -> dict[str, str]:
    """The environment for the kernel: HOME and its like are folders that can be written."""
    made = dict(given)
    home = made.get("HOME", "")
    if not _writable_folder(home):
        if os.path.isdir(os.path.join(home or "/", ".local")):
            # What the image's user installed there stays importable.
            made.setdefault("PYTHONUSERBASE", os.path.join(home or "/", ".local"))
        made["HOME"] = room.folder("home")
    for name, folder in FOLDERS.items():
        if made.get(name) and not _writable_folder(made[name]):
            made[name] = room.folder(folder)
    if not _writable_folder(made.get("TMPDIR") or "/tmp"):
        made["TMPDIR"] = room.folder("tmp")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        # getpass.getuser, and what asks it for a cache's name, fails for a user without a name.
        made.setdefault("USER", f"uid{os.getuid()}")
        made.setdefault("LOGNAME", made["USER"])
    return made


def _writable_folder(path: str) -> bool:
    """Whether a folder can be written, or made."""
    if not path or not os.path.isabs(path) or path == "/":
        return False
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def working_directory(workspace: Path, room: Scratch, missed: Callable[[str], None]) -> Path:
    """The workspace itself where it can be written, else a private copy of it.

    In a copy, files from 16 MiB on (and all beyond 256 MiB) are links: they can be read and replaced, not changed.

    Args:
        missed: gets a sentence on what this user may not read, if there is something.
    """
    if os.access(workspace, os.W_OK | os.X_OK):
        return workspace
    return _private_copy(workspace, room, missed)


def _private_copy(workspace: Path, room: Scratch, missed: Callable[[str], None]) -> Path:
    copy = Path(room.folder("notebook"))
    left = COPIED
    failed: list[OSError] = []
    for folder, folders, files in os.walk(workspace, onerror=failed.append):
        target = copy / Path(folder).relative_to(workspace)
        for name in list(folders):
            if os.path.islink(os.path.join(folder, name)):
                folders.remove(name)
                files.append(name)
            else:
                (target / name).mkdir(exist_ok=True)
        for name in files:
            source = os.path.join(folder, name)
            try:
                size = os.lstat(source).st_size
                if os.path.islink(source) or size >= LINKED or size > left:
                    os.symlink(os.path.realpath(source), target / name)
                else:
                    left -= size
                    shutil.copyfile(source, target / name)
                    shutil.copymode(source, target / name)
                    os.chmod(target / name, stat.S_IMODE(os.stat(target / name).st_mode) | stat.S_IWUSR)
            except OSError as error:
                error.filename = error.filename or source
                failed.append(error)
    if failed:
        name = os.path.relpath(failed[0].filename or workspace, workspace)
        missed(
            f"{len(failed)} of the notebook's files cannot be used, {name!r} is one of them: "
            f"{failed[0].strerror or failed[0]} (user {os.getuid()}, group {os.getgid()})."
        )
    return copy


State = dict[str, "tuple[int, int, int]"]


def inventory(folder: Path, excluded: Sequence[Path] = ()) -> State:
    """What regular files are below a folder: size, time of change (ns) and inode, by relative path."""
    return {
        str(Path(entry.path).relative_to(folder)): (status.st_size, status.st_mtime_ns, status.st_ino)
        for entry, status in _files(str(folder), {str(path) for path in excluded})
    }


def _files(folder: str, excluded: set[str]) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name in CACHES or entry.path in excluded:
            continue
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, excluded)
            elif entry.is_file(follow_symlinks=False):
                yield entry, entry.stat(follow_symlinks=False)


@dataclass(frozen=True)
class Written:
    """What a notebook wrote.

    Args:
        files: relative paths of what is brought out.
        skipped: of what is not, as it is too much.
    """

    files: tuple[str, ...]
    skipped: tuple[str, ...]


def written(before: State, after: State) -> Written:
    """The files that are new or changed, within bounds: small ones first, so that few large ones do not cost them."""
    changed = sorted((name for name, state in after.items() if before.get(name) != state), key=lambda n: after[n][0])
    taken: list[str] = []
    left = MAX_BYTES
    for name in changed:
        left -= after[name][0]
        if left < 0 or len(taken) == MAX_FILES:
            break
        taken.append(name)
    return Written(tuple(sorted(taken)), tuple(sorted(changed[len(taken) :])))
