"""A job's image: its environment's image and our layers on top, brought to where it runs with nothing sent twice.

No commit and no build: a registry gets the layers it lacks and a manifest that names all of them (OCI image spec); an
engine without a registry gets an archive for `docker load` that has only the layers it lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import os
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from weakref import WeakValueDictionary

import platformdirs

from docker_kernel import background, labels, whole_file
from docker_kernel.batch.compressed import SPOOL, Blob, compressed, known_blob
from docker_kernel.batch.layers import CHUNK, Layer, file_pieces
from docker_kernel.batch.registry import Pulled, Registry
from docker_kernel.config import format_size
from docker_kernel.engine import Engine
from docker_kernel.errors import ImageMissing, JobError, RetryableError

log = logging.getLogger(__name__)

LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
"""A compressed layer in a manifest of Docker's own kind, and in one of OCI's: registries refuse what is mixed."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""What engines call their machine, as images call it."""


class _Turn:
    """A lock that goes with the last who has it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_PUSHING: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
"""By the names of environment images that are pushed just now: others wait, and then need not."""

_UPLOADING: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
_UPLOADING_GUARD = threading.Lock()
"""By the blobs that are uploaded just now: who has one to upload, too, waits, and then need not."""

Progress = Callable[[str], None]

Finish = Callable[[dict[str, Any]], None]
"""Changes what containers of an image start with, a copy of its environment's `config` (OCI image spec)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Pushed:
    """An image in a registry: its reference, by digest, and how many bytes were sent for it."""

    reference: str
    sent: int


@dataclass(frozen=True)
class Loaded:
    """An image on an engine: its id, and how many bytes were sent for it."""

    image: str
    sent: int


async def check_architecture(engine: Engine, image: str, there: str, target: str) -> None:
    """Refuse an image that cannot run on a target.

    Args:
        there: the target's architecture, as its engine or image names call it; "" where nobody knows.

    Raises:
        JobError: it is for another one.
    """
    found = await engine.images.inspect(image)
    ours = str(found.get("Architecture", ""))
    wanted = ARCHITECTURES.get(there, there)
    if ours and wanted and ours != wanted:
        raise JobError(
            f"This kernel's image is for {ours}, and the target {target} runs {wanted}: choose a kernel whose image is "
            f"built for {wanted} (`docker-kernel install --image …` with such an image), or another target."
        )


async def push(
    engine: Engine, image: str, layers: Sequence[Layer], registry: Registry, name: str, progress: Progress
) -> Pushed:
    """Bring a job's image to a registry.

    Args:
        image: the environment's image on the engine, by id.
        name: of the repository below the registry's prefix; all jobs' images share it, and with it their layers.

    Raises:
        JobError, EngineError: with a sentence for the user.
    """
    base = await _base_in(engine, image, registry, name, progress)
    return await stoppable(
        lambda progress: background.in_own_thread(_push, base, layers, registry, name, progress), progress
    )


class _Stopped(Exception):
    """Ends what a thread does for a task that was cancelled."""


async def stoppable(work: Callable[[Progress], Coroutine[Any, Any, T]], progress: Progress) -> T:
    """Do what goes on in threads, which a cancelled task would leave alone: its next progress ends it, and its end is
    waited for."""
    stop = threading.Event()

    def report(text: str) -> None:
        if stop.is_set():
            raise _Stopped
        progress(text)

    working = asyncio.ensure_future(work(report))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([working])
        if not working.cancelled():
            working.exception()
        raise


async def bytes_to_push(engine: Engine, image: str, layers: Sequence[Layer], registry: Registry, name: str) -> int:
    """How many bytes `push` would send: of an environment's image that is not there, as many as it has here."""
    repository = registry.repository(name)
    there = await background.in_own_thread(registry.manifest, repository, _base_tag(image))
    size = 0 if there is not None else int((await engine.images.inspect(image))["Size"])

    def missing() -> int:
        return sum(_to_send(layer, registry, repository) for layer in _distinct(layers))

    return size + await background.in_own_thread(missing)


def _base_tag(image: str) -> str:
    return f"base-{image.removeprefix('sha256:')[:20]}"


async def _base_in(engine: Engine, image: str, registry: Registry, name: str, progress: Progress) -> Pulled:
    """The environment's image in the registry: pushed by the engine, once."""
    repository, tag = registry.repository(name), _base_tag(image)

    def complete() -> Pulled | None:
        found = registry.manifest(repository, tag)
        if found is None or image not in (found.content["config"]["digest"], found.digest):
            return None
        parts = [found.content["config"], *found.content["layers"]]
        return found if all(registry.has_blob(repository, part["digest"]) for part in parts) else None

    remote = f"{registry.host}/{repository}"
    async with _PUSHING.setdefault(f"{remote}:{tag}", asyncio.Lock()):
        for last in (False, False, True):
            found = await background.in_own_thread(complete)
            if found is not None:
                return found
            progress("sends the environment's image")
            await engine.images.tag(image, remote, tag)
            try:
                await stoppable(lambda progress: engine.images.push(remote, tag, progress), progress)
            except RetryableError:
                # Another process pushes the same image: it has taken the name away, or the registry is between the two.
                if last:
                    raise
            finally:
                await engine.images.untag(image, remote, tag)
    found = await background.in_own_thread(complete)
    if found is None:
        raise JobError(f"The registry {registry.host} lost the image {repository}:{tag} right after it was pushed.")
    return found


def _push(base: Pulled, layers: Sequence[Layer], registry: Registry, name: str, progress: Progress) -> Pushed:
    repository = registry.repository(name)
    blobs, sent = _push_layers(layers, registry, repository, progress)
    config = _config(json.loads(registry.blob(repository, base.content["config"]["digest"])), layers)
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    if not registry.has_blob(repository, digest):
        registry.upload(repository, digest, len(config), lambda: iter([config]))
        sent += len(config)
    oci = "oci" in base.media_type
    media_type = OCI_LAYER if oci else LAYER
    found = [blobs[layer.digest] for layer in layers]
    ours = [{"mediaType": media_type, "size": blob.size, "digest": blob.digest} for blob in found]
    content = {
        **base.content,
        "config": {**base.content["config"], "size": len(config), "digest": digest},
        "layers": [*base.content["layers"], *ours],
    }
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    manifest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    registry.put_manifest(repository, f"state-{manifest[7:27]}", content, base.media_type)
    return Pushed(f"{registry.host}/{repository}@{manifest}", sent + len(data))


def _push_layers(
    layers: Sequence[Layer], registry: Registry, repository: str, progress: Progress
) -> tuple[dict[str, Blob], int]:
    """Bring to a registry what it lacks of layers: the blobs that they are there, by their digests; and bytes sent."""
    blobs: dict[str, Blob] = {}
    missing: list[Layer] = []
    for layer in _distinct(layers):
        blob = known_blob(layer)
        if blob is not None and registry.has_blob(repository, blob.digest):
            blobs[layer.digest] = blob
        else:
            missing.append(layer)
    total, done, sent = sum(layer.size for layer in missing), 0, 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(f"sends {format_size(min(done, total))} of {format_size(total)}")

    def pieces(open: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        nonlocal sent
        for piece in open():
            sent += len(piece)
            on_bytes(0)
            yield piece

    for layer in missing:
        with compressed(layer, on_bytes) as (blob, open), _turn(f"{registry.host}/{repository}@{blob.digest}"):
            if not registry.has_blob(repository, blob.digest):
                registry.upload(repository, blob.digest, blob.size, lambda open=open: pieces(open))  # type: ignore[misc]
            blobs[layer.digest] = blob
    return blobs, sent


def _to_send(layer: Layer, registry: Registry, repository: str) -> int:
    """How many bytes of a layer would be sent: as many as it has, where nobody knows what compressing leaves."""
    blob = known_blob(layer)
    if blob is None:
        return layer.size
    return 0 if registry.has_blob(repository, blob.digest) else blob.size


@contextlib.contextmanager
def _turn(blob: str) -> Iterator[None]:
    """Wait until nobody else in this process uploads a blob."""
    with _UPLOADING_GUARD:
        turn = _UPLOADING.setdefault(blob, _Turn())
    with turn.lock:
        yield


def _distinct(layers: Sequence[Layer]) -> list[Layer]:
    return list({layer.digest: layer for layer in layers}.values())


def _as_job(settings: dict[str, Any]) -> None:
    """What a job's image is started with: what its environment is, and none of its labels but what we need."""
    kept = {key: value for key, value in (settings.get("Labels") or {}).items() if key == labels.PYTHON}
    settings["Labels"] = {**kept, labels.KIND: labels.KIND_JOB_IMAGE}


def _config(base: dict[str, Any], layers: Sequence[Layer], finish: Finish = _as_job) -> bytes:
    """The environment image's config with our layers in it (OCI image spec, "Image Configuration")."""
    made = {key: value for key, value in base.items() if key not in ("container", "container_config")}
    made["rootfs"] = {**base["rootfs"], "diff_ids": [*base["rootfs"]["diff_ids"], *(one.digest for one in layers)]}
    created = base.get("created", "1970-01-01T00:00:00Z")
    made["history"] = [*base.get("history", []), *({"created": created, "created_by": "docker-kernel"} for _ in layers)]
    made["config"] = dict(base.get("config") or {})
    finish(made["config"])
    return json.dumps(made, sort_keys=True, separators=(",", ":")).encode()


async def load(
    source: Engine,
    image: str,
    layers: Sequence[Layer],
    destination: Engine,
    name: str,
    progress: Progress,
    finish: Finish = _as_job,
) -> Loaded:
    """Bring an environment's image with layers on top from one engine to another (or the same), without a registry.

    An archive for `docker load` need not have the layers that the engine has: it looks them up by their chain id, and
    opens the file of no layer that it finds (moby, image/tarexport/load.go; seen so with 20.10).

    Args:
        name: REPOSITORY:TAG that the image gets there.
    """
    base = await _base_config(source, image)
    config = _config(base, layers, finish)
    diff_ids: list[str] = json.loads(config)["rootfs"]["diff_ids"]
    base_count = len(base["rootfs"]["diff_ids"])
    sent = 0
    for last in (False, True):
        there = await _layers_there(destination, diff_ids)
        async with _spool() as folder:
            files: dict[int, Path] = {}
            if there < base_count:
                progress("reads the environment's image")
                files = await _saved_layers(source, image, there, base_count, folder)
            load = functools.partial(_load, destination, config, layers, base_count, there, files, name)
            try:
                sent = await stoppable(load, progress)
                break
            except asyncio.CancelledError:
                await destination.images.remove(name)  # it had all of it already
                raise
            except RetryableError:
                # The last image that had one of the layers went in between.
                if last:
                    raise
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    try:
        await destination.images.inspect(digest)
    except ImageMissing:
        raise JobError(f"The engine at {destination.url} did not take the job's image.") from None
    return Loaded(digest, sent)


@contextlib.asynccontextmanager
async def _spool() -> AsyncIterator[Path]:
    """A folder for what is sent on; removed at the end."""

    def make() -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="docker-kernel-", dir=SPOOL if os.access(SPOOL, os.W_OK) else None)

    folder = await asyncio.to_thread(make)
    try:
        yield Path(folder.name)
    finally:
        await background.in_own_thread(folder.cleanup)


async def bytes_to_load(source: Engine, image: str, layers: Sequence[Layer], destination: Engine) -> int:
    """How many bytes `load` would send: of an environment's image that is not there, as many as it has here."""
    found = await source.images.inspect(image)
    base: list[str] = found["RootFS"]["Layers"]
    there = await _layers_there(destination, [*base, *(layer.digest for layer in layers)])
    size = int(found["Size"]) if there < len(base) else 0
    return size + sum(layer.size for layer in layers[max(0, there - len(base)) :])


async def _layers_there(engine: Engine, diff_ids: list[str]) -> int:
    """How many of an image's layers, from the bottom up, an engine has already."""
    most = 0
    images = await engine.images.ids()
    for one in await asyncio.gather(*map(engine.images.inspect, images), return_exceptions=True):
        if isinstance(one, ImageMissing):
            continue  # gone since it was listed
        if isinstance(one, BaseException):
            raise one
        found: list[str] = one["RootFS"].get("Layers") or []
        same = next((at for at, pair in enumerate(zip(found, diff_ids, strict=False)) if pair[0] != pair[1]), None)
        most = max(most, min(len(found), len(diff_ids)) if same is None else same)
    return most


async def _base_config(engine: Engine, image: str) -> dict[str, Any]:
    """An image's config, whole: an engine gives it only with the image, so that it is kept once it was seen."""
    digest = str((await engine.images.inspect(image))["Id"])
    kept = platformdirs.user_cache_path("docker-kernel") / "configs" / digest.removeprefix("sha256:")
    try:
        data = await asyncio.to_thread(kept.read_bytes)
    except OSError:
        data = b""
    if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):
        data = await background.in_own_thread(_config_in, await engine.images.save(digest), digest)
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            await asyncio.to_thread(whole_file.write, kept, [data])
    found: dict[str, Any] = json.loads(data)
    return found


def _config_in(archive: IO[bytes], digest: str) -> bytes:
    with archive, tarfile.open(fileobj=archive, mode="r|") as tar:
        for member in tar:
            if member.isreg() and member.size < CHUNK and (file := tar.extractfile(member)) is not None:
                data = file.read()
                if hashlib.sha256(data).hexdigest() == digest.removeprefix("sha256:"):
                    return data
    raise JobError(f"The engine gives no config for its image {digest[:19]}.")


async def _saved_layers(engine: Engine, image: str, first: int, count: int, folder: Path) -> dict[int, Path]:
    """The layers of an image from one up, as files."""

    def spool(archive: IO[bytes]) -> dict[int, Path]:
        names: dict[str, Path] = {}
        listed: list[str] = []
        with archive, tarfile.open(fileobj=archive, mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if member.issym():
                    names[member.name] = folder / member.linkname.replace("../", "").replace("/", "_")
                elif file is not None and member.name == "manifest.json":
                    listed = json.loads(file.read())[0]["Layers"]
                elif file is not None and member.size > 0:
                    path = names[member.name] = folder / member.name.replace("/", "_")
                    with path.open("wb") as copy:
                        while data := file.read(CHUNK):
                            copy.write(data)
        return {number: names[listed[number]] for number in range(first, count)}

    try:
        return await background.in_own_thread(spool, await engine.images.save(image))
    except OSError as error:
        raise JobError(f"The environment's image cannot be copied to {folder}: {error.strerror or error}.") from None


async def _load(
    engine: Engine,
    config: bytes,
    layers: Sequence[Layer],
    base_count: int,
    there: int,
    files: dict[int, Path],
    name: str,
    progress: Progress,
) -> int:
    total = base_count + len(layers)
    names = [f"{number:03}/layer.tar" for number in range(total)]
    listing = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
    sizes = await asyncio.to_thread(lambda: {number: path.stat().st_size for number, path in files.items()})
    sizes |= {base_count + number: layer.size for number, layer in enumerate(layers) if base_count + number >= there}
    whole, sent = sum(sizes.values()), 0

    def archive() -> Iterator[bytes]:
        nonlocal sent
        for path, data in (("config.json", config), ("manifest.json", json.dumps(listing).encode())):
            yield _header(path, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        for number in sorted(sizes):
            yield _header(names[number], sizes[number])
            for piece in file_pieces(files[number]) if number < base_count else layers[number - base_count].open():
                sent += len(piece)
                progress(f"sends {format_size(sent)} of {format_size(whole)}")
                yield piece
            yield bytes(-sizes[number] % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    await engine.images.load(archive())
    return sent


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
