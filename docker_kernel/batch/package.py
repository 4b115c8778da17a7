"""What a job's container gets: the image with the packages of the running kernel in it, and a copy of the workspace."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import io
import json
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from docker_kernel import background, labels
from docker_kernel.batch import job_folder
from docker_kernel.config import format_size
from docker_kernel.engine import ContainerSpec, Engine, File, paths_not_ignored
from docker_kernel.errors import JobError, NotFound
from docker_kernel.guest.credentials import KEY_FILE, file_holds_credentials, is_private_key, names_credentials
from docker_kernel.guest.environment import NOT_ENVIRONMENT, NOT_ENVIRONMENT_IN_HOME
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle

WORKSPACE_BUDGET = 1 << 30
"""Bytes of a workspace that a job may be given as a copy."""

ENVIRONMENT_BUDGET = 20 << 30
"""Bytes of what was installed or changed in a kernel's container that its jobs may be given."""

NOT_COPIED = [".git", "**/.git", "**/__pycache__", "**/.ipynb_checkpoints", "**/.venv", "**/node_modules"]
"""Left out of the copy of a workspace, besides what its .dockerignore names."""

MAX_RULES = 64 << 10
MAX_WILDCARDS = 4

CHUNK = 1 << 20
ADDED, DELETED = 1, 2


@dataclass
class Changes:
    """What a user changed in a kernel's container.

    Attributes:
        copied: paths to copy whole; folders: new ones above them, which are not copied whole; deleted: paths gone.
    """

    copied: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    @property
    def none(self) -> bool:
        return not (self.copied or self.deleted)


def environment_changes(diff: Iterable[tuple[str, int]], excluded: Iterable[str], empty: Iterable[str]) -> Changes:
    """Reduce the engine's diff of a container to what belongs to the environment layer.

    A folder is copied whole only if it is new and nothing excluded lies in it: the engine's archive of a folder holds
    what is mounted there, too.

    Args:
        diff: (path, kind), kind 0 changed, 1 added, 2 deleted.
        excluded: paths that are left out with all below them: mounts, caches, our own files.
        empty: folders that we made ourselves and that matter only if something is in them.
    """
    left_out = {PurePosixPath(path) for path in excluded}
    above_left_out = left_out.union(*(path.parents for path in left_out))
    children: dict[PurePosixPath, list[PurePosixPath]] = {}
    kinds: dict[PurePosixPath, int] = {}
    for text, kind in diff:
        path = PurePosixPath(text)
        kinds[path] = kind
        children.setdefault(path.parent, []).append(path)
    ours = {PurePosixPath(path) for path in empty}
    found = Changes()

    def visit(path: PurePosixPath) -> None:
        if path.name == "__pycache__" or not left_out.isdisjoint((path, *path.parents)):
            return
        below = children.get(path, [])
        if kinds[path] == DELETED:
            found.deleted.append(str(path))
        elif not below:
            if path not in ours:
                found.copied.append(str(path))
        elif kinds[path] == ADDED and path not in ours and path not in above_left_out:
            found.copied.append(str(path))
        else:
            for child in below:
                visit(child)

    tops = [path for path in kinds if path.parent not in kinds]
    for path in sorted(tops):
        visit(path)
    above = {parent for path in found.copied for parent in PurePosixPath(path).parents}
    found.folders = sorted(str(path) for path in above if kinds.get(path) == ADDED)
    return found


@dataclass(frozen=True)
class Container:
    """A kernel's container, as far as its environment is concerned.

    Args:
        image: the id of the image that it was made from.
        python: the path of the image's Python.
        home: HOME in it.
        mounted: the paths in it where files of the host are.
    """

    id: str
    image: str
    python: str
    home: str
    mounted: Sequence[str]


@dataclass(frozen=True)
class Environment:
    """What a kernel's jobs run in: an image's id, and the files that it lacks, as they look like credentials."""

    image: str
    held_back: tuple[str, ...] = ()


async def environment_image(kernel: KernelHandle) -> Environment:
    """The image a kernel's jobs run in: the kernel's own, or one with what was installed since its start."""
    mounted = [mount.target for mount in kernel.mounts]
    home = kernel.env.get("HOME", "/root")
    return await _environment(kernel.engine, Container(kernel.container_id, kernel.image, kernel.python, home, mounted))


async def environment_of(engine: Engine, kernel: Container) -> str:
    """The image with what was installed in a kernel's container since its start; the kernel's own if nothing was."""
    return (await _environment(engine, kernel)).image


async def _environment(engine: Engine, kernel: Container) -> Environment:
    """An environment's image, and what is not in it.

    The kernel's container is never committed: the changed files are copied into a clean container of the same image,
    with no mounts and no environment, and that is committed, once for each content.
    """
    home = kernel.home
    diff = await engine.containers.diff(kernel.id)
    credentials = _credentials(diff, home)
    held_back = tuple(sorted("~" + path[len(home) :] for path in credentials if not _in_caches(path, home)))
    changes = environment_changes(
        diff,
        [
            *credentials,
            *NOT_ENVIRONMENT,
            *kernel.mounted,
            *(f"{home}/{name}" for name in NOT_ENVIRONMENT_IN_HOME),
        ],
        _made_by_us(home),
    )
    if changes.none:
        return Environment(kernel.image, held_back)
    with contextlib.ExitStack() as stack:
        copies: list[tuple[str, IO[bytes]]] = []
        digest = hashlib.sha256(kernel.image.encode())
        budget = _Budget(ENVIRONMENT_BUDGET)
        folders = []
        for path in changes.folders:
            with contextlib.suppress(NotFound):
                folders.append(await _folder(engine, kernel.id, path))
        digest.update(repr([(folder.path, folder.mode, folder.uid, folder.gid) for folder in folders]).encode())
        for path in sorted(changes.copied):
            try:
                # Not in /tmp, which may be memory.
                job_folder.root().mkdir(parents=True, exist_ok=True, mode=0o700)
                copy = stack.enter_context(tempfile.TemporaryFile(dir=job_folder.root()))
                await _fetch(engine, kernel.id, path, copy, digest, budget)
            except NotFound:
                continue  # gone since the diff
            except OSError as error:
                text = f"The copy of this kernel's packages cannot be written to {job_folder.root()}"
                raise JobError(f"{text}: {error.strerror or error}.") from None
            copies.append((path, copy))
        digest.update(json.dumps(sorted(changes.deleted)).encode())
        recipe = digest.hexdigest()
        for known in await engine.images.list(f"{labels.RECIPE}={recipe}"):
            return Environment(str(known["Id"]), held_back)
        image = await _commit(engine, kernel, folders, copies, changes.deleted, recipe)
        return Environment(image, held_back)


def _made_by_us(home: str) -> list[str]:
    """Folders that every kernel container has, and the empty user site of any Python."""
    user = guest_files.USER_BASE
    sites = [f"{user}/lib/python3.{minor}" for minor in range(9, 20)]
    return [home, "/opt/docker-kernel", user, f"{user}/lib", *sites, *(f"{site}/site-packages" for site in sites)]


@dataclass
class _Budget:
    """How much of a container's files may be copied."""

    limit: int
    taken: int = 0
    largest: tuple[int, str] = (0, "")

    def take(self, name: str, size: int) -> None:
        """Count a file; raises JobError where it is too much."""
        self.taken += size + tarfile.BLOCKSIZE
        self.largest = max(self.largest, (size, name))
        if self.taken > self.limit:
            raise JobError(
                f"What was installed or changed in this kernel's container is more than the {format_size(self.limit)} "
                f"that its jobs may get; its largest file so far is {self.largest[1]} "
                f"({format_size(self.largest[0])}): keep data in /tmp, which stays here, or in the workspace."
            )


class _Copied:
    """An archive that arrives in pieces, as a file for tarfile; what is read is kept, and goes into a digest."""

    def __init__(self, chunks: Iterator[bytes], copy: IO[bytes], digest: Any) -> None:
        self._chunks = chunks
        self._copy = copy
        self._digest = digest

    def read(self, size: int) -> bytes:
        """The next piece, whatever size it has: tarfile asks again until it has enough."""
        chunk = next(self._chunks, b"")
        self._digest.update(chunk)
        self._copy.write(chunk)
        return chunk


async def _fetch(engine: Engine, container: str, path: str, copy: IO[bytes], digest: Any, budget: _Budget) -> None:
    chunks = await engine.containers.get_stream(container, path)

    def store() -> None:
        digest.update(path.encode() + b"\0")
        archive = _Copied(iter(chunks), copy, digest)
        with contextlib.closing(chunks):
            try:
                # A sparse file arrives with all its zeros: its size is in its header, before them.
                with tarfile.open(fileobj=archive, mode="r|", bufsize=CHUNK) as tar:  # type: ignore[call-overload]
                    for member in tar:
                        budget.take(str(PurePosixPath(path).parent / member.name), member.size)
                        tar.members = []  # none is asked for again
            except tarfile.TarError as error:
                raise JobError(f"The engine broke off while it gave {path} of this kernel ({error}).") from None
            while archive.read(CHUNK):
                pass
        copy.seek(0)

    await background.in_own_thread(store)


async def _folder(engine: Engine, container: str, path: str) -> File:
    """A folder as it is in a container, without what is in it."""
    chunks = await engine.containers.get_stream(container, path)

    def head() -> tarfile.TarInfo:
        begin = _Copied(iter(chunks), io.BytesIO(), hashlib.sha256())
        with contextlib.closing(chunks), tarfile.open(fileobj=begin, mode="r|") as tar:  # type: ignore[call-overload]
            member: tarfile.TarInfo | None = tar.next()
        if member is None:
            raise JobError(f"The engine did not give the folder {path} of this kernel.")
        return member

    info = await background.in_own_thread(head)
    return File(path.lstrip("/"), mode=info.mode, uid=info.uid, gid=info.gid)


async def _commit(
    engine: Engine,
    kernel: Container,
    folders: list[File],
    copies: list[tuple[str, IO[bytes]]],
    deleted: list[str],
    recipe: str,
) -> str:
    script = (
        "import json, os, shutil\n"
        f"for path in json.loads({json.dumps(json.dumps(deleted))}):\n"
        "    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else "
        "os.path.lexists(path) and os.unlink(path)\n"
    )
    clean = await engine.containers.create(
        ContainerSpec(
            image=kernel.image,
            command=[kernel.python, "-I", "-S", "-c", script] if deleted else ["true"],
            user="0:0",
            network="none",
            cap_add=["DAC_OVERRIDE", "FOWNER"],
            labels={labels.KIND: labels.KIND_ENVIRONMENT, labels.RECIPE: recipe, labels.USER: str(os.getuid())},
        )
    )
    try:
        if folders:
            await engine.containers.put(clean, folders)
        for path, copy in copies:
            await engine.containers.put_stream(clean, _chunks(copy), str(PurePosixPath(path).parent))
        if deleted:
            await engine.containers.start(clean)
            if await engine.containers.wait(clean):
                raise JobError("The packages removed in this kernel could not be removed from its jobs' image.")
        return await engine.containers.commit(clean, "docker-kernel/environment", recipe[:12], ['CMD ["true"]'])
    finally:
        await engine.containers.remove(clean)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _credentials(diff: Iterable[tuple[str, int]], home: str) -> list[str]:
    """The changed paths of a home folder that look like credentials."""
    below = [path for path, _ in diff if path.startswith(f"{home}/") and "/site-packages/" not in path]
    found = {path for path in below if names_credentials(path[len(home) + 1 :])}
    return [path for path in found if found.isdisjoint(map(str, PurePosixPath(path).parents))]


def _in_caches(path: str, home: str) -> bool:
    """Whether a path is below what jobs never get of a home folder, which nobody wants to hear of."""
    return any(PurePosixPath(path).is_relative_to(f"{home}/{name}") for name in NOT_ENVIRONMENT_IN_HOME)


@dataclass(frozen=True)
class Workspace:
    """A workspace's files as a job gets them: how many, how many bytes, and what is held back as it looks secret."""

    names: list[str]
    size: int
    held_back: list[str]


def workspace_files(folder: str, budget: int = WORKSPACE_BUDGET) -> Workspace:
    """What of a workspace is copied for a job.

    What its .dockerignore names is left out, as are version control, caches, virtual environments, and credentials: by
    their names, and keys by their content, too; a line such as `!.env` there sends one of those knowingly.

    Raises:
        JobError: it is larger than the budget (bytes); the message names the largest file.
    """
    root = Path(folder)
    rules = ignore_rules(root / ".dockerignore")
    ours = job_folder.root()
    if ours.is_relative_to(root):
        rules.append(str(ours.relative_to(root)))  # what jobs left here grows with each of them
    wanted = paths_not_ignored(root, [*NOT_COPIED, *rules])
    held_back = {path for path in wanted if file_holds_credentials(folder, path)}
    held_back |= {
        str(path.relative_to(root))
        for _, path, status in _entries(root, wanted - held_back, None)
        if stat.S_ISREG(status.st_mode) and status.st_size <= KEY_FILE and _is_private_key(path)
    }
    named = [
        rule.strip().rstrip("/").rpartition("/")[2].lstrip("!").lower() for rule in rules if rule.strip()[:1] == "!"
    ]
    if held_back and named:
        # The rules have the last word: of what is left out at first, those go that a rule brings back by their names.
        brought = paths_not_ignored(root, ["**", *rules])
        held_back -= {path for path in brought if _is_named(path, named)}
    copied = sorted(wanted - held_back)
    size = sum(status.st_size for _, _, status in _entries(root, copied, budget))
    return Workspace(copied, size, sorted(held_back))


def _is_named(path: str, patterns: Sequence[str]) -> bool:
    """Whether a credential's file, or the folder that makes it one, matches a pattern that says more than `**`."""
    *folders, name = path.lower().split("/")
    above = ["/".join(folders[: depth + 1]) for depth in range(len(folders))]
    parts = [name, *(folder for folder, place in zip(folders, above, strict=True) if names_credentials(f"{place}/x"))]
    return any(fnmatch.fnmatchcase(part, one) for one in patterns if one.strip("*") for part in parts)


def _is_private_key(path: Path) -> bool:
    try:
        with _opened(path) as file:
            return is_private_key(file.read(KEY_FILE))
    except OSError:
        return False  # what cannot be read is not copied, either


def _opened(path: Path) -> IO[bytes]:
    """A file of the workspace, that was one when it was looked at: no link is followed, and no pipe waited for."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def ignore_rules(path: Path) -> list[str]:
    """The lines of a .dockerignore, which the kernel may have written: nothing in it may hold up its host.

    Raises:
        JobError: it is larger, or a rule has more wildcards, than can be matched in reasonable time.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = file.read(MAX_RULES + 1)
    rules = [rule for rule in text.decode(errors="replace").splitlines() if rule.strip() and not rule.startswith("#")]
    if len(text) > MAX_RULES or any(len(re.findall(r"\*+", rule)) > MAX_WILDCARDS for rule in rules):
        raise JobError(
            f"{path} cannot be used: it may have {MAX_RULES >> 10} KiB, and a rule {MAX_WILDCARDS} wildcards at most."
        )
    return rules


def write_workspace(folder: str, names: Iterable[str], uid: int, gid: int, archive: Path) -> None:
    """Write files of a workspace as a tar archive, to be unpacked at `/`, owned by the given user.

    Raises:
        JobError: it cannot be written.
    """
    root = Path(folder)
    real = root.resolve()
    base = str(root).lstrip("/")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tarfile.open(archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, path, _ in [(base, root, None), *_entries(root, names, None)]:
                try:
                    member = tar.gettarinfo(str(path), arcname=name)
                    if member is None:
                        continue
                    if not member.isreg():
                        member.uid, member.gid = uid, gid
                        tar.addfile(member)
                        continue
                    with _opened(path) as file:
                        # A folder above may be a link by now: only where the file really is counts.
                        if not Path(f"/proc/self/fd/{file.fileno()}").readlink().is_relative_to(real):
                            continue
                        member = tar.gettarinfo(arcname=name, fileobj=file)
                        member.uid, member.gid = uid, gid
                        if member.isreg():
                            tar.addfile(member, file)
                except (PermissionError, FileNotFoundError):
                    continue  # what the user cannot read, the job cannot, either
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENXIO):
                        raise
    except OSError as error:
        archive.unlink(missing_ok=True)
        raise JobError(
            f"The copy of the workspace {root} cannot be written to {archive.parent}: {error.strerror or error}."
        ) from None


def _entries(root: Path, names: Iterable[str], budget: int | None) -> Iterator[tuple[str, Path, os.stat_result]]:
    total, largest = 0, (0, "")
    base = str(root).lstrip("/")
    for name in names:
        path = root / name
        try:
            status = path.lstat()
        except OSError:
            continue
        if not (stat.S_ISLNK(status.st_mode) or stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            continue
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        total += size
        largest = max(largest, (size, name))
        if budget is not None and total > budget:
            raise JobError(
                f"The workspace {root} is larger than the {format_size(budget)} that a job may get as a copy; its "
                f"largest file so far is {largest[1]} ({format_size(largest[0])}): name what jobs do not need in "
                f"{root}/.dockerignore, or use %%local, which works on the workspace itself."
            )
        yield f"{base}/{name}", path, status


def installed_packages(diff: Iterable[tuple[str, int]]) -> list[str]:
    """What was installed, as far as a diff of the container shows: "NAME VERSION", and "-NAME VERSION" if removed."""
    found = set()
    for path, kind in diff:
        match = re.search(r"/([^/]+?)-([^/-]+)\.dist-info$", path)
        if match and kind in (ADDED, DELETED):
            found.add(f"{'-' if kind == DELETED else ''}{match[1]} {match[2]}")
    return sorted(found)
