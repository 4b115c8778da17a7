"""The two layers that make an image run notebooks: our code, and the packages that it needs, for the image's Python.

They depend on nothing but those and that Python, so each is made once, kept in the user's cache folder, and has the
same digest on every image: a registry gets it once. The packages come from the lock in `docker_kernel/runner/`, with
their hashes, and lie beside the environment's own, which are neither changed nor seen by them.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import platformdirs
from packaging.requirements import Requirement

import docker_kernel
from docker_kernel import labels
from docker_kernel.batch.layers import CHUNK, Layer
from docker_kernel.containerize.environment import Environment
from docker_kernel.containerize.request import Progress, Step
from docker_kernel.engine import ContainerSpec, Engine, File, archive
from docker_kernel.errors import ContainerizeError
from docker_kernel.kernel import guest_files

PACKAGES = "opt/docker-kernel/runner"
FORMAT = "3"
"""Changes when the layer is made in another way."""

GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_27", "2_28", "2_31", "2_34")
MUSL = ("1_1", "1_2")


async def runner_layers(engine: Engine, environment: Environment, progress: Progress) -> list[Layer]:
    """The layers for an environment, from the cache or made now: packages, then code.

    Raises:
        ContainerizeError: the packages cannot be had.
    """

    def packages(work: Path) -> Iterator[bytes]:
        progress(Step("runner", "Fetches what runs notebooks (once for each version of Python)"))
        _install(environment, work)
        return _tree(work)

    code = await asyncio.to_thread(_code)
    return [
        await _layer(engine, environment, PACKAGES, _lock().read_bytes(), packages),
        await _layer(engine, environment, f"{guest_files.BASE}/lib", code, lambda work: iter([code])),
    ]


def _code() -> bytes:
    """Our own code as an archive, the same bytes for the same code."""
    package = Path(docker_kernel.__file__).parent
    files = {file.path: file for file in guest_files.library()}
    for path in sorted((package / "runner").glob("*.py")):
        name = f"{guest_files.BASE}/lib/docker_kernel/runner/{path.name}"
        files[name] = File(name, path.read_bytes())
    return archive(files.values())


def _lock() -> Path:
    return Path(docker_kernel.__file__).parent / "runner" / "requirements.txt"


async def _layer(
    engine: Engine, environment: Environment, folder: str, source: bytes, tree: Callable[[Path], Iterator[bytes]]
) -> Layer:
    """A layer that holds a folder of Python code, compiled.

    Args:
        source: what its content depends on.
        tree: gives the content as an archive, with the help of an empty folder.
    """
    cache = platformdirs.user_cache_path("docker-kernel") / "runner"
    parts = (FORMAT, folder, *map(str, environment.python_version[:2]), environment.libc, environment.machine)
    key = hashlib.sha256("\0".join(parts).encode() + source).hexdigest()[:32]
    kept = next(cache.glob(f"{key}-*.tar"), None)
    if kept is None:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="runner-", dir=cache) as work:
            given = await asyncio.to_thread(tree, Path(work))
            kept = await _compiled(engine, environment, folder, given, cache, key)
    return Layer(f"sha256:{kept.stem.partition('-')[2]}", kept.stat().st_size, functools.partial(_pieces, kept))


async def _compiled(
    engine: Engine, environment: Environment, folder: str, tree: Iterator[bytes], cache: Path, key: str
) -> Path:
    spec = ContainerSpec(
        image=environment.image,
        command=[environment.python, "-I", "-S", "-c", _COMPILE, f"/{folder}"],
        user="0:0",
        labels={labels.KIND: labels.KIND_BUILD},
        network="none",
    )
    container = await engine.create(spec)
    try:
        await engine.put_stream(container, tree)
        await engine.start(container)
        if await engine.wait(container):
            said = (await engine.logs(container)).decode(errors="replace").strip().splitlines()
            raise ContainerizeError(f"What runs notebooks cannot be compiled in {environment.reference}: {said[-1:]}.")
        compiled = await engine.get_stream(container, f"/{folder}")
        return await asyncio.to_thread(_write, compiled, str(PurePosixPath(folder).parent), cache, key)
    finally:
        await asyncio.shield(engine.remove(container))


# Hashes that nobody checks at a start, in place of times: the same source makes the same bytes (PEP 552).
_COMPILE = """
import compileall, py_compile, sys
compileall.compile_dir(sys.argv[1], quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


def _install(environment: Environment, folder: Path) -> None:
    """Install the locked packages into a folder, for the image's Python and platform, not this one's."""
    if importlib.util.find_spec("pip") is None:
        raise ContainerizeError(f"pip is missing in {sys.prefix}: install it there, it fetches what runs notebooks.")
    version = ".".join(map(str, environment.python_version[:2]))
    wanted = folder.parent / f"{folder.name}.txt"
    wanted.write_text(_requirements(_lock().read_text(), environment))
    machine = environment.machine
    tags = [f"manylinux_{v}_{machine}" for v in GLIBC] if environment.libc == "glibc" else []
    tags += [f"musllinux_{v}_{machine}" for v in MUSL] if environment.libc == "musl" else []
    tags += [f"manylinux2014_{machine}", f"manylinux1_{machine}"] if environment.libc == "glibc" else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--no-compile", "--target", str(folder)]
    command += ["--implementation", "cp", "--python-version", version]
    command += [part for tag in tags for part in ("--platform", tag)]
    try:
        ran = subprocess.run(
            [*command, "-r", str(wanted)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    finally:
        wanted.unlink()
    if ran.returncode:
        said = [line for line in ran.stdout.splitlines() if line.startswith("ERROR")] or ran.stdout.splitlines()[-1:]
        raise ContainerizeError(
            f"What runs notebooks cannot be fetched for Python {version} on {machine}: {' '.join(said[-1:])}"
        )


def _requirements(lock: str, environment: Environment) -> str:
    """The lines of a lock that hold for an environment, without their markers, which pip would read for this Python."""
    version = environment.python_version
    place = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": environment.machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": ".".join(map(str, version)),
        "python_version": ".".join(map(str, version[:2])),
        "sys_platform": "linux",
        "extra": "",
    }
    kept = []
    for line in lock.replace("\\\n", " ").splitlines():
        head, *hashes = line.split(" --hash=")
        if not head.strip() or head.lstrip().startswith("#"):
            continue
        requirement = Requirement(head.strip())
        if requirement.marker is None or requirement.marker.evaluate(place):
            requirement.marker = None
            kept.append(" ".join([str(requirement), *(f"--hash={one.strip()}" for one in hashes)]))
    return "\n".join(kept) + "\n"


def _tree(folder: Path) -> Iterator[bytes]:
    """The installed packages as an archive, without their own test suites and command-line programs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if inner.parts[0] == "bin" or {"tests", "__pycache__"} & set(inner.parts[1:]) or _of_no_use(inner):
                continue
            info = tar.gettarinfo(str(path), arcname=f"{PACKAGES}/{inner}")
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            elif info.isdir():
                tar.addfile(info)
    yield buffer.getvalue()


def _of_no_use(path: Path) -> bool:
    """Whether it describes one of the hundreds of AWS services that are not where results go: 90 % of the layer."""
    services = ("s3", "sts", "sso", "sso-oidc", "signin")
    return len(path.parts) > 3 and path.parts[:2] == ("botocore", "data") and path.parts[2] not in services


def _write(compiled: Iterator[bytes], above: str, folder: Path, key: str) -> Path:
    """Keep the folder that the engine gives, as a layer: sorted, without times and owners. It appears whole or not.

    Args:
        above: the folder's own folder in the image.
    """
    with tempfile.TemporaryFile(dir=folder) as spool, tempfile.TemporaryDirectory(dir=folder) as work:
        for chunk in compiled:
            spool.write(chunk)
        spool.seek(0)
        made = Path(work) / "layer.tar"
        with tarfile.open(fileobj=spool) as given, tarfile.open(made, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for member in sorted(given.getmembers(), key=lambda one: one.name):
                info = tarfile.TarInfo(f"{above}/{member.name}")
                info.type, info.mode = member.type, 0o755 if member.isdir() else 0o644
                if member.isreg():
                    info.size = member.size
                    tar.addfile(info, given.extractfile(member))
                elif member.isdir():
                    tar.addfile(info)
        found = hashlib.sha256()
        for piece in _pieces(made):
            found.update(piece)
        return made.replace(folder / f"{key}-{found.hexdigest()}.tar")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data
