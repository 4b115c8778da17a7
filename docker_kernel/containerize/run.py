"""Runs a notebook image as `docker run` would, here or on another engine, and brings the results home.

Parameters are checked by the image's labels before anything starts. The container goes with the run, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import signal
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pydantic import ValidationError

from docker_kernel import background, config, labels
from docker_kernel.batch import state_image
from docker_kernel.batch.job_log import JobLog
from docker_kernel.config import DockerTargetConfig
from docker_kernel.containerize.inspect import Described, describe, read_schema
from docker_kernel.engine import BindMount, ContainerSpec, Engine, EngineInfo, File, LogStream, VolumeMount
from docker_kernel.errors import ContainerizeError, EngineError, ImageMissing, NotFound
from docker_kernel.guest import parameters
from docker_kernel.guest.parameters import Parameter, ParameterError, Text
from docker_kernel.kernel import makers

OUTPUT = "/output"
"""Where the image puts results (docs/notebook-image.md)."""

PARAMETERS_FILE = "parameters"
PAUSE_SECONDS = 0.3
"""After which a line's end is passed on, which a marker may have been about to follow."""

STOP_SECONDS = 15
"""Between SIGTERM and SIGKILL: the image needs up to 8 s to write what it has."""

Marker = dict[str, Any]


@dataclass(frozen=True)
class RunRequest:
    """One run of a notebook image.

    Args:
        image: its name on the engine that `docker` reaches.
        values: parameters as they were typed.
        params_file: a JSON or YAML file of parameters, read in the container.
        output: the folder for results; it is made if it is not there.
        urls: where else results go: URLs that the image reaches.
        target: where it runs: one of the config's.
        timeout, cell_timeout: seconds; None for the image's own.
        cpus: fractions allowed; memory: bytes.
        env: variables for the container, such as credentials.
    """

    image: str
    output: Path
    values: Mapping[str, str] = field(default_factory=dict)
    params_file: Path | None = None
    urls: tuple[str, ...] = ()
    target: str = "local"
    no_input: bool = False
    timeout: float | None = None
    cell_timeout: float | None = None
    cpus: float | None = None
    memory: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Args:
        code: the container's exit code, as docs/notebook-image.md has them.
        raised: name and value of the exception that ended it; empty if there was none.
        seconds: that it took; None where it could not say so.
    """

    code: int
    output: Path
    raised: str = ""
    out_of_memory: bool = False
    seconds: float | None = None


class WrongParameters(ContainerizeError):
    """What was given are not the image's parameters; nothing was run."""


async def run(request: RunRequest, told: Callable[[bytes | Marker], None], progress: Callable[[str], None]) -> Ended:
    """Run an image to its end.

    When it is cancelled, the container is stopped, which lets it write what it has, and removed.

    Args:
        told: gets what the notebook prints, and the markers of its log (batch/job_log.py), as they come.
        progress: gets a few words on what happens before the container starts.

    Raises:
        WrongParameters, ContainerizeError, ImageMissing, EngineError: with a sentence for the user.
    """
    here = await Engine.connect()
    try:
        described = await describe(here, request.image)
        values = _checked(request, described)
        target = config.load().target(request.target)
        if target.kind == "local":
            return await _run_on(here, request, described.image_id, values, told)
        if not isinstance(target, DockerTargetConfig):
            raise ContainerizeError(
                f"The target {request.target} is of the kind {target.kind}, from which files do not come home: name "
                "one of the kind docker, or run the image there by that system's own means (`docker-kernel schedule`)."
            )
        there = await Engine.connect(target.engine, tls=target.tls)
        try:
            async with _image_on(here, there, described, request.target, progress) as image:
                return await _run_on(there, request, image, values, told, shared=False)
        finally:
            there.close()
    finally:
        here.close()


def _checked(request: RunRequest, described: Described) -> Mapping[str, str]:
    """The parameters that were typed; raises WrongParameters where the image would refuse them."""
    known = image_parameters(described.schema)
    # What is in a file is known only where it is read: in the container.
    wanted = known if request.params_file is None else [_optional(one) for one in known]
    try:
        parameters.check(wanted, {name: Text(value) for name, value in request.values.items()})
    except ParameterError as error:
        raise WrongParameters(str(error)) from None
    return request.values


def image_parameters(schema: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that an image's label describes.

    Raises:
        ContainerizeError: it describes none that can be; labels are anybody's.
    """
    try:
        read = read_schema(json.dumps(schema))
        required, found = set(read["required"]), []
        for name, one in read["properties"].items():
            kind = str(one.get("x-type", "any"))
            # A Literal's choices are its type.
            choices = tuple(one.get("enum", ())) if "Literal" not in kind else ()
            described = {"name": name, "type": kind, "required": name in required, "choices": choices}
            found.append(Parameter.from_dict(described))
    except ParameterError as error:
        raise ContainerizeError(f"The image's label of parameters is damaged: {error}") from None
    except (ValidationError, RecursionError):
        raise ContainerizeError(
            "The image's label of parameters is damaged: containerize its notebook again."
        ) from None
    return found


def _optional(one: Parameter) -> Parameter:
    return Parameter(one.name, one.type, choices=one.choices)


@contextlib.asynccontextmanager
async def _image_on(
    here: Engine, there: Engine, described: Described, target: str, progress: Callable[[str], None]
) -> AsyncIterator[str]:
    """Have an image on another engine: it is sent what that lacks, and removed again if it was not there before."""
    with contextlib.suppress(ImageMissing):
        yield str((await there.images.inspect(described.image_id))["Id"])
        return
    await state_image.check_architecture(here, described.image_id, (await there.info()).architecture, target)
    tag = f"docker-kernel-run:{secrets.token_hex(8)}"
    loaded = await state_image.load(here, described.image_id, [], there, tag, progress, finish=lambda settings: None)
    try:
        yield loaded.image
    finally:
        with contextlib.suppress(EngineError):
            await asyncio.shield(there.images.remove(tag))


async def _run_on(
    engine: Engine,
    request: RunRequest,
    image: str,
    values: Mapping[str, str],
    told: Callable[[bytes | Marker], None],
    shared: bool = True,
) -> Ended:
    """Run an image on an engine.

    Args:
        shared: whether the engine sees this machine's folders.
    """
    info = await engine.info()
    mounted = shared and info.local
    settings = (await engine.images.inspect(image))["Config"]
    user = _user(info, mounted, str(settings.get("User") or ""))
    await asyncio.to_thread(_make_folder, request.output, user if mounted else "")
    nonce = secrets.token_hex(8)
    mount = BindMount(str(request.output.resolve()), OUTPUT) if mounted else VolumeMount(None, OUTPUT)
    spec = ContainerSpec(
        image=image,
        command=[*(settings.get("Entrypoint") or []), *_arguments(request, values)],
        name=f"docker-kernel-run-{secrets.token_hex(6)}",
        user=user or None,
        env={**request.env, "DOCKER_KERNEL_NONCE": nonce},
        labels={
            labels.KIND: labels.KIND_RUN,
            labels.USER: str(os.getuid()),
            labels.MAKER: makers.this_process(),
        },
        mounts=[mount],
        memory=request.memory,
        cpus=request.cpus,
        userns_mode="host" if info.userns_remap and mounted else None,
    )
    container = await engine.containers.create(spec)
    state: dict[str, Any] = {}

    def heard(part: bytes | Marker) -> None:
        if isinstance(part, dict):
            state[str(part.get("event"))] = part
        told(part)

    try:
        await _put_parameters(engine, container, request)
        try:
            code = await _follow(engine, container, nonce, heard)
        except asyncio.CancelledError:
            await asyncio.shield(_stop(engine, container))
            raise
        finally:
            if not mounted:
                await asyncio.shield(_bring(engine, container, request.output))
        found = await engine.containers.inspect(container)
    finally:
        await asyncio.shield(engine.containers.remove(container))
    end, raised = state.get("end", {}), state.get("raised")
    return Ended(
        code=code,
        output=request.output,
        raised=f"{raised['name']}: {raised['value']}" if raised else "",
        out_of_memory=bool(end.get("oom")) or found.oom_killed,
        seconds=(end.get("cost") or {}).get("seconds"),
    )


def _user(info: EngineInfo, mounted: bool, own: str) -> str:
    """Whom the container runs as: the caller, so that results are theirs; root's runs are the image's user's."""
    if not mounted:
        return own
    if info.rootless:
        return "0:0"  # which is the caller
    return own if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"


def _make_folder(folder: Path, user: str) -> None:
    """Make the output folder, before the engine would do so as root.

    What ran in the current folder may have put a link in its place, to have another folder of the user's mounted: no
    link there is followed. A path that leads elsewhere is the user's own.

    Raises:
        ContainerizeError: it cannot be made or written, or is a link.
    """
    here = Path.cwd()
    whole = here / folder
    ours = [one for one in (*reversed(whole.parents), whole) if one == whole or here in one.parents]
    try:
        for one in ours:
            if one.is_symlink():
                raise ContainerizeError(
                    f"The folder {one} is a link to {one.readlink()}: name the folder itself with --output."
                )
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            uid, _, gid = user.partition(":")
            if os.getuid() == 0 and uid.isdigit() and os.fstat(place).st_uid == 0:
                os.fchown(place, int(uid), int(gid) if gid.isdigit() else -1)
        finally:
            os.close(place)
    except OSError as error:
        raise ContainerizeError(f"The folder {folder} cannot be made: {error.strerror}.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ContainerizeError(f"You may not write to the folder {folder}: name another one with --output.")


def _arguments(request: RunRequest, values: Mapping[str, str]) -> list[str]:
    made = [part for name, value in values.items() for part in ("-p", f"{name}={value}")]
    made += [part for url in request.urls for part in ("--output", url)]
    if request.params_file is not None:
        made += ["--params", _parameters_path(request.params_file)]
    made += ["--no-input"] if request.no_input else []
    made += ["--timeout", str(request.timeout)] if request.timeout is not None else []
    return made + (["--cell-timeout", str(request.cell_timeout)] if request.cell_timeout is not None else [])


def _parameters_path(file: Path) -> str:
    return f"/{PARAMETERS_FILE}{file.suffix or '.yaml'}"


async def _put_parameters(engine: Engine, container: str, request: RunRequest) -> None:
    if request.params_file is None:
        return
    try:
        data = await asyncio.to_thread(request.params_file.read_bytes)
    except OSError as error:
        raise WrongParameters(f"The file {request.params_file} cannot be read: {error.strerror}.") from None
    await engine.containers.put(container, [File(_parameters_path(request.params_file).lstrip("/"), data)])


async def _follow(engine: Engine, container: str, nonce: str, told: Callable[[bytes | Marker], None]) -> int:
    """Start a container and pass its log on, to its end; returns its exit code."""
    log = JobLog(nonce)
    # From its very first byte: what is attached to before the start loses nothing, but needs a socket of this machine.
    attached = await engine.containers.attach(container) if (await engine.info()).local else None
    try:
        await engine.containers.start(container)
        pieces = _frames(attached) if attached is not None else _log(await engine.containers.follow_logs(container))
        async for data in _with_pauses(pieces):
            for part in log.feed(data) if data else [log.pause()]:
                if part:
                    told(part)
        if rest := log.rest():
            told(rest)
    finally:
        if attached is not None:
            attached.close()
    # The output ends with the engine, too, and its rest is lost then: that must not look like a whole run.
    await engine.containers.inspect(container)
    return await engine.containers.wait(container)


async def _with_pauses(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces as they come, and b"" each time that none has come for a moment."""
    following = asyncio.ensure_future(anext(pieces, None))
    quiet = False
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=None if quiet else PAUSE_SECONDS)
            quiet = not done
            if quiet:
                yield b""
                continue
            piece = following.result()
            if piece is None:
                return
            yield piece
            following = asyncio.ensure_future(anext(pieces, None))
    finally:
        following.cancel()


async def _frames(attached: Any) -> AsyncIterator[bytes]:
    async for _, data in attached.frames():
        yield data


async def _log(stream: LogStream) -> AsyncIterator[bytes]:
    try:
        while data := await stream.read():
            yield data
    finally:
        stream.close()


async def _stop(engine: Engine, container: str) -> None:
    """Stop a container; it may write what it has."""
    with contextlib.suppress(EngineError):
        await engine.containers.kill(container, signal.SIGTERM)
        try:
            await asyncio.wait_for(engine.containers.wait(container), STOP_SECONDS)
        except asyncio.TimeoutError:
            await engine.containers.kill(container, signal.SIGKILL)


async def _bring(engine: Engine, container: str, folder: Path) -> None:
    """Bring a container's output folder home.

    Raises:
        ContainerizeError: it could not all be brought.
    """
    try:
        chunks = await engine.containers.get_stream(container, OUTPUT)
    except NotFound:
        return
    with contextlib.closing(chunks):
        await background.in_own_thread(unpack, chunks, folder)


def unpack(chunks: Iterator[bytes], folder: Path) -> None:
    """Unpack the regular files of an archive of one folder, which was made by others, below a folder of ours.

    Raises:
        ContainerizeError: a file cannot be written, or the archive breaks off.
    """
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Pieces(chunks)), mode="r|") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts[1:]
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or not parts or ".." in parts or PurePosixPath(member.name).is_absolute():
                    continue
                _write(folder, parts, content)
    except tarfile.TarError as error:
        raise ContainerizeError(f"The results came in part only: {error}.") from None
    except OSError as error:
        raise ContainerizeError(f"A result cannot be written to {folder}: {error.strerror}.") from None


def _write(folder: Path, parts: tuple[str, ...], content: IO[bytes]) -> None:
    """Write one file; what is there, a link too, is replaced, and no link in its path is followed."""
    place = folder
    for part in parts[:-1]:
        place = place / part
        if place.is_symlink():
            place.unlink()
        place.mkdir(exist_ok=True)
    made = place / f".{secrets.token_hex(8)}"
    with made.open("xb") as file:
        while data := content.read(1 << 20):
            file.write(data)
    made.replace(place / parts[-1])


class _Pieces(io.RawIOBase):
    """Bytes that arrive in pieces, as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
