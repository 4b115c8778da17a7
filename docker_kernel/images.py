"""Kernel images: find, pull, build and derive them, and look into them.

Images of ours are tagged by what they are made of (`docker-kernel/python:3f2a…`), so the same is never built twice.
Nothing of the host's build settings (CA bundle, proxies, indexes) stays in an image: Dockerfiles install in a stage
that is thrown away, and a derived image is committed from a container whose settings lived in one exec only.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from docker_kernel import labels
from docker_kernel.build_settings import BuildSettings, host_settings
from docker_kernel.config import format_size
from docker_kernel.data import data_folder
from docker_kernel.engine import ContainerSpec, Engine, File, archive
from docker_kernel.errors import BuildFailed, ConfigError, EngineError, ImageMissing, NotFound, ProgramMissing

NAMES = ("python", "scipy")
"""The images that `images/` has Dockerfiles for."""

REGISTRY_BASE = "python:3.12-slim"
REPOSITORY = "docker-kernel"
OLDEST_PYTHON = (3, 9)
"""What the guest code runs on."""
OLDEST_LOCKED_PYTHON = (3, 10)
"""What the lock files hold versions for."""
PULL_PATIENCE = 30.0
"""Seconds for a registry's first answer before the base image is bootstrapped instead."""

PYTHON_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/conda/bin", "/opt/venv/bin", "/opt/python/bin")


@dataclass(frozen=True)
class Event:
    """One step of a pull, build or derivation.

    Args:
        text: what happens, ready for a reader.
        detail: whether it is a line of the tool's own output, to be shown only in passing.
        done, total: how far it is, in bytes, where that is known.
    """

    text: str
    detail: bool = False
    done: int | None = None
    total: int | None = None


Progress = Callable[[Event], None]


def silent(event: Event) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class FoundSpec:
    """A kernelspec found inside an image; `resource_dir` is its folder there."""

    name: str
    resource_dir: str
    argv: tuple[str, ...]
    display_name: str
    language: str
    interrupt_mode: str
    metadata: Mapping[str, Any]
    env: Mapping[str, str]


@dataclass(frozen=True)
class ImageFacts:
    """What a kernel image holds.

    Args:
        reference: the name by which a kernelspec asks for it.
        python: path of the Python that runs supervisor and kernel, None if there is none.
        ipykernel: its version in that Python, None if it does not import.
        curve: whether that ipykernel can encrypt its ports.
        pip: whether that Python has pip.
        installer: the image's package manager: apt-get, apk, dnf, microdnf or yum.
        libc: what that Python's wheels are made for: "glibc" or "musl".
    """

    reference: str
    id: str
    size: int
    python: str | None
    python_version: tuple[int, ...] | None
    ipykernel: str | None
    curve: bool
    pip: bool
    installer: str | None
    kernelspecs: tuple[FoundSpec, ...]
    libc: str = "glibc"

    @property
    def python_text(self) -> str:
        return ".".join(map(str, self.python_version or ()))


async def build(
    engine: Engine,
    name: str,
    base: str | None = None,
    bootstrap: bool = False,
    packages: Sequence[str] = (),
    progress: Progress = silent,
    tag: str | None = None,
) -> str:
    """Build one of our images and return its tag.

    Args:
        name: `python` or `scipy`.
        base: the image to build on; by default python:3.12-slim, or a bootstrapped Debian where only that is there or
            the other cannot be pulled.
        bootstrap: bootstrap the base in any case.
        packages: pip requirements to add.
        tag: what to call it, `docker-kernel/NAME:latest` by default.

    Raises:
        ConfigError: no such image, or a base that cannot carry it.
        BuildFailed: the build ended with an error.
    """
    if name not in NAMES:
        raise ConfigError(f"There is no image {name!r}: the images are {', '.join(NAMES)}.")
    if base is not None and bootstrap:
        raise ConfigError("Give --base or --bootstrap, not both.")
    _check_packages(packages)
    repository, version = _split(tag or f"{REPOSITORY}/{name}:latest")
    settings = await asyncio.to_thread(host_settings)
    facts = await _usable_base(engine, await ensure_base(engine, base, bootstrap, progress), settings, progress)
    built = facts.reference
    for layer in NAMES[: NAMES.index(name) + 1]:
        built = await _build_locked(engine, layer, built, facts, settings, progress)
    if packages:
        built = await _derive(engine, await probe(engine, built), settings, packages, progress)
    await engine.images.tag(built, repository, version)
    tag = f"{repository}:{version}"
    size = int((await engine.images.inspect(tag))["Size"])
    progress(Event(f"{tag} is ready ({format_size(size)})."))
    return tag


def how_to_bring(image: str) -> str:
    """What a user does to get a missing kernel image onto the engine."""
    for name in NAMES:
        if image in (f"{REPOSITORY}/{name}", f"{REPOSITORY}/{name}:latest"):
            return f"run `docker-kernel build {name}`"
    if image.startswith(f"{REPOSITORY}/"):
        return "run `docker-kernel install --image IMAGE` again, with the image it was made from"
    return f"run `docker-kernel install --image {image}`"


def _split(tag: str) -> tuple[str, str]:
    """Repository and version of a tag, which must be a name an engine takes."""
    match = re.fullmatch(r"((?:[\w.-]+(?::\d+)?/)?[a-z0-9._/-]+?)(?::([\w.-]+))?", tag)
    if match is None:
        raise ConfigError(f"{tag!r} is no name for an image: write NAME or NAME:VERSION, in small letters.")
    return match[1], match[2] or "latest"


async def kernel_image(engine: Engine, reference: str, progress: Progress = silent) -> ImageFacts:
    """The image a kernelspec can name for a reference of the user's, with its facts.

    An image of ours is built if it is missing, any other is pulled. Where ipykernel is missing, an image with it is
    derived, once for the same content.

    Raises:
        ImageMissing: it is not on the engine and cannot be pulled.
        ConfigError: it cannot run a kernel, and why.
        BuildFailed: ipykernel could not be added.
    """
    await _bring(engine, reference, progress)
    progress(Event(f"Looking into {reference}"))
    facts = await probe(engine, reference)
    if not facts.ipykernel:
        settings = await asyncio.to_thread(host_settings)
        facts = await probe(engine, await _derive(engine, facts, settings, ("ipykernel",), progress))
    if facts.python_version is None or facts.python_version < OLDEST_PYTHON:
        raise ConfigError(
            f"The image {reference} has Python {facts.python_text or '(none)'}: a kernel image needs "
            f"{'.'.join(map(str, OLDEST_PYTHON))} or newer."
        )
    if not facts.ipykernel:
        raise BuildFailed(f"ipykernel was added to {reference}, but {facts.python} cannot import it.")
    return facts


async def ensure_base(
    engine: Engine, base: str | None = None, bootstrap: bool = False, progress: Progress = silent
) -> str:
    """The base image to build on, brought to the engine if it is not there: a reference."""
    if base is not None:
        await _bring(engine, base, progress)
        return base
    if not bootstrap:
        # What is there is used: a registry that cannot be reached is waited for once, not at every build.
        for there in (REGISTRY_BASE, await _bootstrapped()):
            if await _has(engine, there):
                return there
        try:
            await _pull(engine, REGISTRY_BASE, progress)
            return REGISTRY_BASE
        except EngineError:
            progress(Event(f"{REGISTRY_BASE} cannot be pulled here: the base is made of Debian's packages"))
    return await _bootstrap(engine, progress)


async def probe(engine: Engine, image: str) -> ImageFacts:
    """Look into an image with a throwaway container that has no network.

    Raises:
        ImageMissing: there is no such image on the engine.
    """
    about = await engine.images.inspect(image)
    script = data_folder("images") / "probe.py"
    code = await asyncio.to_thread(script.read_text)
    found: list[dict[str, Any]] = []
    installer = None
    output = await _run(engine, about["Id"], ["/bin/sh", "-c", _LOOK, "sh", code])
    if output is not None:
        for line in output.splitlines():
            kind, _, rest = line.partition("docker-kernel-probe:")[2].partition(" ")
            if kind == "installer":
                installer = installer or rest
            elif kind == "python":
                found.append(json.loads(rest))
    else:
        for python in ("python3", "python", *(f"{place}/python3" for place in PYTHON_PLACES)):
            answer = await _run(engine, about["Id"], [python, "-s", "-c", code])
            if answer and "docker-kernel-probe:python " in answer:
                found = [json.loads(answer.partition("docker-kernel-probe:python ")[2].splitlines()[0])]
                break
    best = max(found, key=_merit, default=None)
    specs = {spec["name"]: spec for entry in reversed(found) for spec in entry["kernelspecs"]}
    return ImageFacts(
        reference=image,
        id=str(about["Id"]),
        size=int(about["Size"]),
        python=best["python"] if best else None,
        python_version=tuple(best["version"]) if best else None,
        ipykernel=best["ipykernel"] if best else None,
        curve=bool(best and best["curve"]),
        pip=bool(best and best["pip"]),
        installer=installer,
        libc=best["libc"] if best else "glibc",
        kernelspecs=tuple(
            FoundSpec(**{**spec, "argv": tuple(spec["argv"])}) for _, spec in sorted(specs.items()) if spec["argv"]
        ),
    )


# Every Python of the image says what it has; the best one is chosen afterwards. Shells print nothing else here.
_LOOK = f"""
for tool in apt-get apk dnf microdnf yum; do
    command -v $tool > /dev/null && echo "docker-kernel-probe:installer $tool"
done
for python in "$(command -v python3)" "$(command -v python)" {" ".join(f"{place}/python3" for place in PYTHON_PLACES)}
do
    [ -n "$python" ] && [ -x "$python" ] && "$python" -s -c "$1" 2> /dev/null
done
true
"""


def _merit(entry: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    new_enough = tuple(entry["version"]) >= OLDEST_PYTHON
    return bool(entry["ipykernel"]) and new_enough, new_enough, bool(entry["pip"])


async def _run(engine: Engine, image: str, command: Sequence[str]) -> str | None:
    """The output of a command in a throwaway container; None if the image has no such program."""
    spec = ContainerSpec(image=image, command=command, labels={labels.KIND: labels.KIND_BUILD}, network="none")
    async with throwaway_container(engine, spec) as container:
        try:
            await engine.containers.start(container)
        except (ProgramMissing, NotFound):
            return None
        await engine.containers.wait(container)
        return (await engine.containers.logs(container)).decode(errors="replace")


@contextlib.asynccontextmanager
async def throwaway_container(engine: Engine, spec: ContainerSpec) -> AsyncIterator[str]:
    """A container that is removed at the end, also when the caller is cancelled; by `prune`, when it was killed."""
    named = dataclasses.replace(spec, name=labels.BUILD_NAME + uuid.uuid4().hex[:12])
    made = asyncio.ensure_future(engine.containers.create(named))
    try:
        yield await asyncio.shield(made)
    finally:
        await asyncio.shield(_remove(engine, made))


async def _remove(engine: Engine, made: asyncio.Future[str]) -> None:
    await asyncio.wait([made])
    if made.exception() is None:
        await engine.containers.remove(made.result())


async def _has(engine: Engine, reference: str) -> bool:
    try:
        await engine.images.inspect(reference)
    except ImageMissing:
        return False
    return True


async def _bring(engine: Engine, reference: str, progress: Progress) -> None:
    """Have an image on the engine: it is there, it is ours and built, or it is pulled."""
    if await _has(engine, reference):
        return
    for name in NAMES:
        if reference in (f"{REPOSITORY}/{name}", f"{REPOSITORY}/{name}:latest"):
            await build(engine, name, progress=progress)
            return
    try:
        await _pull(engine, reference, progress)
    except EngineError as error:
        raise ImageMissing(
            f"The image {reference} is not on the engine and cannot be pulled ({error.reason or error}): check its "
            "name and your access to its registry, or build or load it there first."
        ) from error


async def _pull(engine: Engine, reference: str, progress: Progress) -> None:
    progress(Event(f"Pulling {reference}"))
    layers: dict[str, tuple[int, int]] = {}
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def step(event: Mapping[str, Any]) -> None:
        loop.call_soon_threadsafe(answered.set)
        detail = event.get("progressDetail") or {}
        if detail.get("total"):
            layers[str(event.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
        done, total = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (None, None)
        progress(Event(str(event.get("status", "")), detail=True, done=done, total=total))

    pulled = asyncio.ensure_future(engine.images.pull(reference, step))
    first = asyncio.ensure_future(answered.wait())
    await asyncio.wait([pulled, first], timeout=PULL_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    first.cancel()
    if not pulled.done() and not answered.is_set():
        pulled.cancel()
        raise EngineError(f"its registry did not answer within {PULL_PATIENCE:.0f} s")
    await pulled


async def _usable_base(engine: Engine, base: str, settings: BuildSettings, progress: Progress) -> ImageFacts:
    """A base with a Python and pip that our lock files fit: the given one, or one derived from it."""
    facts = await probe(engine, base)
    if facts.python_version is None or not facts.pip:
        facts = await probe(engine, await _derive(engine, facts, settings, (), progress))
    if facts.python_version is None or facts.python_version < OLDEST_LOCKED_PYTHON:
        raise ConfigError(
            f"The base {base} has Python {facts.python_text or '(none)'}, but our images need "
            f"{'.'.join(map(str, OLDEST_LOCKED_PYTHON))} or newer: give another --base."
        )
    return facts


def _recipe(*parts: str | bytes) -> str:
    """A digest of everything an image is made from."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


async def _build_locked(
    engine: Engine, name: str, base: str, facts: ImageFacts, settings: BuildSettings, progress: Progress
) -> str:
    """Build an image of `images/` on a base, unless the same is there; returns its tag by content."""
    files = await asyncio.to_thread(_context, name)
    base_id = str((await engine.images.inspect(base))["Id"])
    recipe = _recipe(base_id, *(part for file in files for part in (file.path, file.data or b"")))
    tag = f"{REPOSITORY}/{name}:{recipe[:12]}"
    if await _has(engine, tag):
        return tag
    progress(Event(f"Building {REPOSITORY}/{name} on {base}"))
    host = [File("host/env", settings.script("/build/host/ca.pem").encode())]
    if settings.ca:
        host.append(File("host/ca.pem", settings.ca))
    build_id = uuid.uuid4().hex
    try:
        await engine.images.build(
            archive([*files, *host]),
            tag,
            {"BASE": base, "BUILD": build_id, "PYTHON": facts.python or ""},
            {
                labels.KIND: labels.KIND_IMAGE,
                labels.PYTHON: facts.python or "",
                labels.RECIPE: recipe,
                "org.opencontainers.image.version": importlib.metadata.version("docker-kernel"),
            },
            _build_steps(progress),
            network=await _build_network(engine),
        )
    finally:
        await asyncio.shield(_remove_stages(engine, build_id))
    return tag


def _context(name: str) -> list[File]:
    """The files a Dockerfile of `images/` sees: the scripts, its folder, and the Dockerfile itself at the root."""
    root = data_folder("images")
    paths = ["install.sh", "precompile.py", f"{name}/requirements.txt"]
    return [File("Dockerfile", (root / name / "Dockerfile").read_bytes())] + [
        File(path, (root / path).read_bytes()) for path in paths
    ]


def _build_steps(progress: Progress) -> Callable[[Mapping[str, Any]], None]:
    def step(event: Mapping[str, Any]) -> None:
        for line in str(event.get("stream", "")).splitlines():
            if line.strip() and not line.startswith(" --->"):
                progress(Event(line.strip(), detail=True))

    return step


async def _build_network(engine: Engine) -> str | None:
    """Builds use the host's network where the engine is local: proxies and mirrors may listen on its loopback."""
    return "host" if (await engine.info()).local else None


async def _remove_stages(engine: Engine, build_id: str) -> None:
    """Remove the images that a build's thrown-away stages left."""
    for image in await engine.images.list(f"{labels.BUILD}={build_id}"):
        with contextlib.suppress(EngineError):
            await engine.images.remove(image["Id"])


def _check_packages(packages: Sequence[str]) -> None:
    for package in packages:
        if not re.match(r"[A-Za-z0-9]", package):
            raise ConfigError(f"{package!r} is no package: write a requirement such as xgboost or 'xgboost>=2'.")


async def _derive(
    engine: Engine, facts: ImageFacts, settings: BuildSettings, packages: Sequence[str], progress: Progress
) -> str:
    """An image like the given one with pip packages added (and Python and pip, where they are missing).

    Returns its tag, which is made from the content of both: the same is derived once.
    """
    system = _system_packages(facts)
    recipe = _recipe("1", facts.id, system or "", facts.python or "", *sorted(packages))
    repository, short = f"{REPOSITORY}/derived", recipe[:12]
    tag = f"{repository}:{short}"
    if await _has(engine, tag):
        return tag
    progress(Event(f"Adding {', '.join([*(['Python'] if system else []), *packages])} to {facts.reference}"))
    spec = ContainerSpec(
        image=facts.id,
        command=["/bin/sh", "-c", "while sleep 3600; do :; done"],
        user="0:0",
        labels={labels.KIND: labels.KIND_BUILD},
        network=await _build_network(engine),
        cap_drop=(),
        no_new_privileges=False,
    )
    async with throwaway_container(engine, spec) as container:
        await engine.containers.start(container)
        script = _DERIVE.format(
            variables=settings.script(_CA_PATH),
            size=len(settings.ca or b""),
            ca=_CA_PATH,
            system=system or ":",
            python=facts.python if not system else "$(command -v python3)",
            packages=" ".join(map(shlex.quote, packages)),
        )
        await _exec(engine, container, script, settings.ca or b"", facts.reference, progress)
        config = (await engine.images.inspect(facts.id))["Config"]
        changes = [
            f"USER {config.get('User') or '0:0'}",
            f"WORKDIR {config.get('WorkingDir') or '/'}",
            f"ENTRYPOINT {json.dumps(config.get('Entrypoint') or [])}",
            f"CMD {json.dumps(config.get('Cmd') or [])}",
            f"LABEL {labels.KIND}={labels.KIND_IMAGE} {labels.RECIPE}={recipe}",
        ]
        await engine.containers.commit(container, repository, short, changes)
    return tag


_CA_PATH = "/dev/shm/docker-kernel-ca.pem"

# The CA bundle comes by standard input into /dev/shm, the settings live in this shell only: nothing stays in a layer.
_DERIVE = """
set -e
head -c {size} > {ca}
{variables}
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
export DEBIAN_FRONTEND=noninteractive HOME=/root
{system}
set -- {packages}
[ $# -eq 0 ] || "{python}" -m pip install --prefer-binary "$@"
"""


def _system_packages(facts: ImageFacts) -> str | None:
    """The command that gives an image a Python with pip; None if it has them.

    Raises:
        ConfigError: the image has neither them nor a package manager that could bring them.
    """
    if facts.python_version and facts.python_version >= OLDEST_PYTHON and facts.pip:
        return None
    commands = {
        "apt-get": "apt-get -o Acquire::https::CAInfo=$SSL_CERT_FILE update && apt-get -o "
        "Acquire::https::CAInfo=$SSL_CERT_FILE install -y --no-install-recommends python3 python3-pip && "
        "rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log",
        "apk": "apk add --no-cache python3 py3-pip",
        "dnf": "dnf install -y python3 python3-pip && dnf clean all",
        "microdnf": "microdnf install -y python3 python3-pip && microdnf clean all",
        "yum": "yum install -y python3 python3-pip && yum clean all",
    }
    if facts.installer is None:
        lacks = "no Python" if facts.python is None else f"Python {facts.python_text} without pip"
        raise ConfigError(
            f"The image {facts.reference} has {lacks} and no package manager (apt, apk, dnf or yum) to install one "
            "with: add Python 3.9 or newer and ipykernel to it."
        )
    return commands[facts.installer]


async def _exec(engine: Engine, container: str, script: str, sent: bytes, reference: str, progress: Progress) -> None:
    """Run a shell script in a container, its output shown as details; raises BuildFailed with its last lines."""
    ended = f"docker-kernel-{uuid.uuid4().hex}:"
    wrapper = f'read -r go; /bin/sh -c "$1"; code=$?; echo; echo "{ended}$code"'
    stream = await engine.containers.exec(container, ["/bin/sh", "-c", wrapper, "sh", script], user="0:0")
    tail: list[str] = []
    rest = ""
    try:
        await stream.write(b"\n" + sent)
        async for _, data in stream.frames():
            *lines, rest = (rest + data.decode(errors="replace")).split("\n")
            for line in filter(None, map(str.strip, lines)):
                if line.startswith(ended):
                    if line == f"{ended}0":
                        return
                    break
                tail = [*tail[-24:], line]
                progress(Event(line, detail=True))
    finally:
        stream.close()
    raise BuildFailed(
        f"The image {reference} could not be given what a kernel needs; its build ended with:\n" + "\n".join(tail)
    )


def _bootstrap_script() -> Path:
    return data_folder("images") / "base" / "bootstrap.sh"


async def _bootstrapped() -> str:
    """The tag of the base image made from Debian's packages, by the script that makes it."""
    script = await asyncio.to_thread(_bootstrap_script().read_bytes)
    return f"{REPOSITORY}/base:{_recipe(script, platform.machine())[:12]}"


async def _bootstrap(engine: Engine, progress: Progress) -> str:
    """A base image made from Debian's packages; its archive is kept, so that it is bootstrapped once."""
    tag = await _bootstrapped()
    if await _has(engine, tag):
        return tag
    recipe = tag.rpartition(":")[2]
    kept = platformdirs.user_cache_path("docker-kernel") / f"base-{recipe}.tar"
    if not kept.exists():
        await _debootstrap(_bootstrap_script(), kept, progress)
    progress(Event("Importing the base image"))
    await engine.images.import_tar(
        kept,
        f"{REPOSITORY}/base",
        recipe,
        ["ENV LANG=C.UTF-8", 'CMD ["python3"]', f"LABEL {labels.KIND}={labels.KIND_BUILD} {labels.RECIPE}={recipe}"],
    )
    return tag


async def _debootstrap(script: Path, kept: Path, progress: Progress) -> None:
    """Make the archive of a base image at `kept`; it appears there only when it is whole."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise ConfigError(
            f"No base image: {REGISTRY_BASE} cannot be pulled, and bootstrapping one needs root and debootstrap "
            "(`apt-get install debootstrap`): name another one with --base, or run `docker-kernel build` as root once."
        )
    progress(Event("Bootstrapping a base image from Debian's packages (once, about a minute)"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bootstrap-", dir=kept.parent) as work:
        made = Path(work) / kept.name
        command = ["unshare", "--mount", "/bin/sh", str(script), str(made), work]
        command += await asyncio.to_thread(_debian_mirror)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        tail: list[str] = []
        try:
            assert process.stdout is not None
            async for raw in process.stdout:
                line = raw.decode(errors="replace").strip()
                tail = [*tail[-24:], line]
                progress(Event(line, detail=True))
            code = await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code:
            raise BuildFailed("Debian's packages could not be bootstrapped:\n" + "\n".join(tail))
        made.replace(kept)


def _debian_mirror() -> list[str]:
    """The mirror that this machine's apt uses for Debian 12, or nothing: debootstrap knows Debian's own."""
    apt = shutil.which("apt-get")
    if apt is None or sys.platform != "linux":
        return []
    with contextlib.suppress(OSError):
        listed = subprocess.run(
            [apt, "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages", "Component: main"],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in listed.stdout.splitlines():
            site, _, release = line.partition(" ")
            if release == "bookworm" and site.startswith(("http://", "https://")):
                return [site.rstrip("/")]
    return []
