"""Makes an environment anew from its lock: the base by its digest, and on it packages by their hashes; or says why not.

Wheels are fetched by this Python's pip and installed in a container without network, so that nothing of the host's
settings is in the image. What came out is compared with the lock, file by file, before anybody gets it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from docker_kernel import images, labels
from docker_kernel.batch.compressed import SPOOL
from docker_kernel.containerize import index
from docker_kernel.containerize.lock import SOURCES, Base, Lock, Package, differences, look, tags_of
from docker_kernel.containerize.request import Progress, Step
from docker_kernel.engine import ContainerSpec, Engine, File, VolumeMount, archive
from docker_kernel.errors import ContainerizeError, EngineError
from docker_kernel.kernel.guest_files import USER_BASE

log = logging.getLogger(__name__)

REPOSITORY = "docker-kernel/locked"
WHEELS = "docker-kernel-wheels"
"""The folder below /tmp where wheels and pip are while they are used."""


async def rebuild_environment(engine: Engine, lock: Lock, progress: Progress) -> str:
    """The id of an image with what a lock names, made if there is none.

    Raises:
        ContainerizeError: the base or a package is not to be had any more, or is not what it was.
    """
    python = lock.python.executable
    recipe = f"lock-{lock.digest.removeprefix('sha256:')}"
    for image in await engine.images.list(f"{labels.RECIPE}={recipe}"):
        if not differences(await look(engine, str(image["Id"]), python), lock):
            return str(image["Id"])
    progress(Step("environment", f"Looks for the base {lock.base.reference}"))
    base = await _base(engine, lock, progress)
    found = await look(engine, base, python)
    have = {one.key: one for one in found.packages}
    wanted = {one.key: one for one in lock.packages}
    new = [one for key, one in wanted.items() if not _same(have.get(key), one)]
    old = [one for key, one in have.items() if key not in wanted or _replaced(one, wanted[key])]
    _refuse(new, old, lock)
    if not new and not old:
        _check(found, lock, base)
        return base
    progress(Step("environment", f"Fetches {len(new)} packages by their hashes"))
    spool = SPOOL if os.access(SPOOL, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="docker-kernel-", dir=spool) as folder:
        await _fetch(new, lock, Path(folder))
        progress(Step("environment", f"Installs {len(new)} packages"))
        made = await _install(engine, base, lock, new, old, Path(folder), recipe)
    try:
        _check(await look(engine, made, python), lock, base)
    except ContainerizeError:
        await asyncio.shield(engine.images.remove(made))
        raise
    return made


def _same(there: Package | None, wanted: Package) -> bool:
    return (
        there is not None
        and (there.version, there.files, there.changed) == (wanted.version, wanted.files, wanted.changed)
        and (there.folder == wanted.folder or not wanted.folder.startswith(USER_BASE))
    )


def _replaced(there: Package, wanted: Package) -> bool:
    """Whether a package makes room for one in the same folder; one in another folder comes before it, or behind."""
    return there.folder == wanted.folder and not _same(there, wanted)


def _refuse(new: Sequence[Package], old: Sequence[Package], lock: Lock) -> None:
    """Raise ContainerizeError for a package that no index can give again, or that pip does not look after."""
    for one in new:
        what = f"The package {one.name} {one.version} of the lock cannot be installed anew: "
        if one.changed:
            raise ContainerizeError(
                f"{what}its file {one.changed[0]} was changed after it was installed. Use the image that the lock is "
                "of itself."
            )
        if not one.hashes:
            came = f" ({one.url})" if one.url else ""
            offline = "the lock was made where no package index could be reached, and has no hash of it"
            raise ContainerizeError(
                f"{what}{SOURCES.get(one.source, offline)}{came}. Use the image that the lock is of itself, or publish "
                "the package in an index and lock anew."
            )
    for one in old:
        if one.source in ("system", "conda"):
            raise ContainerizeError(
                f"The lock's {one.name} is not as in the base {lock.base.reference}, and only the image's package "
                "manager could change that: use the image that the lock is of itself."
            )


def _check(found: Lock, wanted: Lock, base: str) -> None:
    said = differences(found, wanted)
    if said:
        more = f" (and {len(said) - 3} more)" if len(said) > 3 else ""
        raise ContainerizeError(
            f"The environment cannot be made as its lock says, on the base {base[:19]}: {' '.join(said[:3])}{more}"
        )


async def _base(engine: Engine, lock: Lock, progress: Progress) -> str:
    """The lock's base on the engine: it is there, or lies below another image that is, or a registry has it."""
    base = lock.base
    there = []
    for one in await asyncio.gather(*map(engine.images.inspect, await engine.images.ids()), return_exceptions=True):
        if isinstance(one, dict) and tuple(one["RootFS"].get("Layers") or ())[: len(base.layers)] == base.layers:
            there.append(one)
    there.sort(key=lambda one: (one["Id"] != base.id, len(one["RootFS"]["Layers"]), one["Id"]))
    if there:
        exact = there[0]["Id"] == base.id or len(there[0]["RootFS"]["Layers"]) == len(base.layers)
        return str(there[0]["Id"]) if exact else await _cut(engine, there[0], base)
    tried = []
    for candidate in filter(None, (base, lock.below)):
        for reference in candidate.digests:
            progress(Step("environment", f"Pulls {reference}"))
            try:
                pulled = await engine.images.pull_digest(reference)
            except EngineError as error:
                tried.append(f"{reference}: {str(error).rstrip('.')}")
                continue
            if tuple((await engine.images.inspect(pulled))["RootFS"]["Layers"]) != candidate.layers:
                raise ContainerizeError(
                    f"The image {reference} has other layers than the lock says: is its tag forged?"
                )
            return pulled
    if tried:
        raise ContainerizeError(f"The base of the lock cannot be pulled ({'; '.join(tried)}).")
    raise ContainerizeError(
        f"The base of the lock, {base.reference} ({base.id[:19]}), is not on the engine, and it came from no registry: "
        "pull an image that was made with this lock (the base is in its lower layers), or load a copy of the base "
        f"(`docker save {base.reference}` where it still is, `docker load` here)."
    )


async def _cut(engine: Engine, image: dict[str, Any], base: Base) -> str:
    """An image of the lowest layers of another: what remains of a base when only images built on it are there.

    The archive for `docker load` has none of the layers, as the engine has them (moby, image/tarexport/load.go).
    """
    config = {
        "architecture": image.get("Architecture", ""),
        "os": image.get("Os") or "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": list(base.env), "Labels": {labels.KIND: labels.KIND_BUILD}},
        "rootfs": {"type": "layers", "diff_ids": list(base.layers)},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "docker-kernel"} for _ in base.layers],
    }
    name = f"{REPOSITORY}-base:{base.id.removeprefix('sha256:')[:12]}"
    listing = [
        {
            "Config": "config.json",
            "RepoTags": [name],
            "Layers": [f"{number:03}/layer.tar" for number in range(len(base.layers))],
        }
    ]
    files = [File("config.json", json.dumps(config).encode()), File("manifest.json", json.dumps(listing).encode())]
    await engine.images.load(iter([archive(files)]))
    return str((await engine.images.inspect(name))["Id"])


async def _fetch(packages: Sequence[Package], lock: Lock, folder: Path) -> None:
    wheels = folder / "wheels"
    wheels.mkdir()
    wanted = folder / "requirements.txt"
    lines = [
        " ".join([f"{one.name}=={one.version}", *(f"--hash={digest}" for digest in one.hashes)]) for one in packages
    ]
    await asyncio.to_thread(wanted.write_text, "\n".join(lines) + "\n")
    ran = await index.download(wanted, wheels, tags_of(lock.python))
    if ran.code == 0:
        return
    if ran.unreachable:
        raise ContainerizeError(
            f"The packages of the lock cannot be fetched, as no package index answers ({ran.last})."
        )
    if ran.absent:
        raise ContainerizeError(
            f"The package {ran.absent[1]} {ran.absent[2]} of the lock is in no package index any more, or not for "
            f"Python {lock.python.version} on {lock.python.machine}: use the image that the lock is of itself, or a "
            "mirror that still has it."
        )
    other = ran.mismatched
    if other is not None:
        raise ContainerizeError(
            f"The package {other} of the lock is not what it was: its file in the package index has another hash, and "
            "so it is not installed. Somebody replaced it there, or the lock was changed."
        )
    raise ContainerizeError(f"The packages of the lock cannot be fetched: {ran.last}")


async def _install(
    engine: Engine, base: str, lock: Lock, new: Sequence[Package], old: Sequence[Package], folder: Path, recipe: str
) -> str:
    """Install wheels on a base in a container without network, and make an image of it; returns the image's id."""
    user = [f"{one.name}=={one.version}" for one in new if one.folder.startswith(USER_BASE)]
    rest = [f"{one.name}=={one.version}" for one in new if not one.folder.startswith(USER_BASE)]
    steps = [["uninstall", "--yes", *(one.name for one in old)]] if old else []
    # By name, as packages that are installed by their path keep a note of it.
    common = ["install", "--no-index", "--find-links", ".", "--no-deps", "--no-cache-dir", "--ignore-installed"]
    common.append("--no-warn-script-location")
    steps += [[*common, *rest]] if rest else []
    steps += [[*common, "--user", *user]] if user else []
    code = _INSTALL.format(steps=steps, user=USER_BASE, folder=f"/tmp/{WHEELS}")
    about = (await engine.images.inspect(base))["Config"]
    spec = ContainerSpec(
        image=base,
        command=[lock.python.executable, "-I", "-S", "-c", code],
        user="0:0",
        network="none",
        cap_add=["CHOWN", "DAC_OVERRIDE", "FOWNER"],
        mounts=[VolumeMount(None, "/tmp")],
        labels={labels.KIND: labels.KIND_ENVIRONMENT, labels.RECIPE: recipe},
    )
    async with images.throwaway_container(engine, spec) as container:
        await engine.containers.put_stream(container, _tools(folder / "wheels"), "/tmp")
        await engine.containers.start(container)
        if await engine.containers.wait(container):
            said = (await engine.containers.logs(container)).decode(errors="replace").strip().splitlines()
            error = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "it said nothing")
            raise ContainerizeError(f"The packages of the lock cannot be installed: {error.removeprefix('ERROR: ')}")
        changes = [
            f"USER {about.get('User') or '0:0'}",
            f"WORKDIR {about.get('WorkingDir') or '/'}",
            f"ENTRYPOINT {json.dumps(about.get('Entrypoint') or [])}",
            f"CMD {json.dumps(about.get('Cmd') or [])}",
        ]
        return await engine.containers.commit(container, REPOSITORY, recipe[5:17], changes)


# pip is the host's own, as images have old ones or none. Its settings live in these processes only.
_INSTALL = """
import os, subprocess, sys
os.environ.update(
    PYTHONPATH="{folder}/pip", PYTHONUSERBASE="{user}", PIP_BREAK_SYSTEM_PACKAGES="1", PIP_ROOT_USER_ACTION="ignore",
    PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_CONFIG_FILE=os.devnull, HOME="/tmp", TMPDIR="/tmp",
)
os.makedirs("{folder}/wheels", exist_ok=True)
os.chdir("{folder}/wheels")
for step in {steps}:
    code = subprocess.call([sys.executable, "-m", "pip", "--no-input", *step])
    if code:
        sys.exit(code)
"""


def _tools(wheels: Path) -> Iterator[bytes]:
    """The wheels, and this Python's pip, as an archive for the container."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise ContainerizeError("pip is missing: install it beside docker-kernel.")
    source = Path(found.origin).parent
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source.parent)
            if path.is_file() and "__pycache__" not in PurePosixPath(inner).parts:
                tar.add(path, f"{WHEELS}/pip/{inner}", filter=_plain)
        for path in sorted(wheels.iterdir()):
            tar.add(path, f"{WHEELS}/wheels/{path.name}", filter=_plain)
    yield buffer.getvalue()


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.mode = 0o644
    return info
