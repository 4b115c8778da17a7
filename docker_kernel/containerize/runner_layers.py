"""The two layers that make an image run notebooks: our code, and the packages that it needs, for the image's Python.

They depend on nothing but those and that Python, so each is made once, kept in the user's cache folder, and has the
same digest on every image: a registry gets it once. The packages come from the lock in `docker_kernel/runner/`, with
their hashes, and lie beside the environment's own, which are neither changed nor seen by them.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import platformdirs
from packaging.requirements import Requirement

import docker_kernel
from docker_kernel import background, images, labels
from docker_kernel.batch.layers import Layer, file_pieces
from docker_kernel.containerize import index
from docker_kernel.containerize.environment import Environment
from docker_kernel.containerize.request import Progress, Step
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import ContainerizeError
from docker_kernel.kernel import guest_files

PACKAGES = "opt/docker-kernel/runner"
FORMAT = "5"
"""Changes when the layer is made in another way."""

GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_27", "2_28", "2_31", "2_34")
MUSL = ("1_1", "1_2")


async def runner_layers(engine: Engine, environment: Environment, progress: Progress) -> list[Layer]:
    """The layers for an environment, from the cache or made now: packages, then code.

    Raises:
        ContainerizeError: the packages cannot be had.
    """
    return [await packages_layer(engine, environment, progress), await code_layer(engine, environment)]


async def packages_layer(engine: Engine, environment: Environment, progress: Progress) -> Layer:
    """The packages that our code needs.

    Raises:
        ContainerizeError: they cannot be had.
    """

    async def packages(root: Path) -> None:
        folder = root / PACKAGES
        folder.mkdir(parents=True)
        progress(Step("runner", "Fetches what runs notebooks (once for each version of Python)"))
        await _install(environment, folder)
        await asyncio.to_thread(_prune, folder)

    return await _layer(engine, environment, PACKAGES, _lock().read_bytes(), packages)


async def code_layer(engine: Engine, environment: Environment) -> Layer:
    """Our own code."""
    code = await asyncio.to_thread(_code)

    async def write(root: Path) -> None:
        await asyncio.to_thread(_write_code, code, root)

    return await _layer(engine, environment, f"{guest_files.BASE}/lib", b"".join(code.values()), write)


def _code() -> dict[str, bytes]:
    """Our own code, by its paths in the image."""
    package = Path(docker_kernel.__file__).parent
    files = {file.path: file.data for file in guest_files.library() if file.data is not None}
    for path in sorted((package / "runner").glob("*.py")):
        files[f"{guest_files.BASE}/lib/docker_kernel/runner/{path.name}"] = path.read_bytes()
    return {path: files[path] for path in sorted(files)}


def _write_code(code: Mapping[str, bytes], root: Path) -> None:
    for path, data in code.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def _lock() -> Path:
    return Path(docker_kernel.__file__).parent / "runner" / "requirements.txt"


async def _layer(
    engine: Engine, environment: Environment, folder: str, source: bytes, fill: Callable[[Path], Awaitable[None]]
) -> Layer:
    """A layer that holds a folder of Python code, compiled.

    Args:
        source: what its content depends on.
        fill: writes the content below an empty root.
    """
    cache = platformdirs.user_cache_path("docker-kernel") / "runner"
    # An image's own Python may write what it likes: what it compiles goes into that image only.
    here = environment.python_version[:2] == sys.version_info[:2] and sys.implementation.name == "cpython"
    parts = (FORMAT, folder, *map(str, environment.python_version[:2]), environment.libc, environment.machine)
    parts += () if here else (environment.image,)
    key = hashlib.sha256("\0".join(parts).encode() + b"\0" + source).hexdigest()[:32]
    kept = next(cache.glob(f"{key}-*.tar"), None)
    if kept is None:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="runner-", dir=cache) as work:
            root = Path(work) / "root"
            await fill(root)
            if here:
                await background.in_own_thread(_compile_here, root, folder)
            else:
                await _compile_there(engine, environment, root, folder)
            kept = await background.in_own_thread(_keep, root, cache, key)
    return Layer(f"sha256:{kept.stem.partition('-')[2]}", kept.stat().st_size, functools.partial(file_pieces, kept))


# Hashes that nobody checks at a start, in place of times: the same source makes the same bytes (PEP 552).
_COMPILE = """
import compileall, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
compileall.compile_dir(sys.argv[1], quiet=2, invalidation_mode=mode, stripdir=sys.argv[2] or None, prependdir="/")
"""


def _compile_here(root: Path, folder: str) -> None:
    command = [sys.executable, "-I", "-S", "-c", _COMPILE, str(root / folder), str(root)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


async def _compile_there(engine: Engine, environment: Environment, root: Path, folder: str) -> None:
    """Have the image's Python compile, where it is none of this version; nothing else of what it writes is taken."""
    spec = ContainerSpec(
        image=environment.image,
        command=[environment.python, "-I", "-S", "-c", _COMPILE, f"/{folder}", ""],
        user="0:0",
        labels={labels.KIND: labels.KIND_BUILD},
        network="none",
    )
    async with images.throwaway_container(engine, spec) as container:
        await engine.containers.put_stream(container, _tree(root))
        await engine.containers.start(container)
        await engine.containers.wait(container)
        compiled = await engine.containers.get_stream(container, f"/{folder}")
        await background.in_own_thread(_take_compiled, compiled, root / PurePosixPath(folder).parent)


def _take_compiled(archive: Iterator[bytes], above: Path) -> None:
    with tempfile.TemporaryFile() as spool:
        spool.writelines(archive)
        spool.seek(0)
        with tarfile.open(fileobj=spool) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                source = path.parent.parent / f"{path.name.partition('.')[0]}.py"
                ours = path.parent.name == "__pycache__" and path.suffix == ".pyc" and ".." not in path.parts
                file = tar.extractfile(member) if ours and member.isreg() else None
                if file is not None and not path.is_absolute() and (above / source).is_file():
                    (above / path).parent.mkdir(exist_ok=True)
                    (above / path).write_bytes(file.read())


async def _install(environment: Environment, folder: Path) -> None:
    """Install the locked packages into a folder, for the image's Python and platform, not this one's."""
    version = ".".join(map(str, environment.python_version[:2]))
    wanted = folder.with_suffix(".txt")
    wanted.write_text(_requirements(_lock().read_text(), environment))
    machine = environment.machine
    # The oldest first, as pip prefers what comes first: an image's own version of its libc is not known.
    tags = [f"manylinux_{v}_{machine}" for v in GLIBC] if environment.libc == "glibc" else []
    tags += [f"musllinux_{v}_{machine}" for v in MUSL] if environment.libc == "musl" else []
    tags += [f"manylinux2014_{machine}", f"manylinux1_{machine}"] if environment.libc == "glibc" else []
    try:
        ran = await index.pip(
            "install", "--quiet", "--retries", "5", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--no-compile", "--target", str(folder), "--implementation", "cp", "--python-version", version,
            *(part for tag in tags for part in ("--platform", tag)), "-r", str(wanted),
        )  # fmt: skip
    finally:
        wanted.unlink()
    if ran.code:
        raise ContainerizeError(f"What runs notebooks cannot be fetched for Python {version} on {machine}: {ran.last}")


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


def _tree(root: Path) -> Iterator[bytes]:
    """What is below a folder as an archive: sorted, without times and owners, the same bytes for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            info = tarfile.TarInfo(str(path.relative_to(root)))
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            else:
                info.size, info.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)
    yield buffer.getvalue()


def _prune(folder: Path) -> None:
    """Remove what no run needs: command-line programs, test suites, and descriptions of AWS services that are not where
    results go, which are 90 % of it."""
    services = ("s3", "sts", "sso", "sso-oidc", "signin")
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for path in [*folder.glob("*/**/tests"), *(folder / "botocore" / "data").glob("*/")]:
        if path.is_dir() and path.name not in services:
            shutil.rmtree(path, ignore_errors=True)
    # The hashes of the programs would differ with where this Python is: its path is their first line.
    for record in folder.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not line.startswith("../../bin/")), encoding="utf-8")


def _keep(root: Path, cache: Path, key: str) -> Path:
    """Keep a layer of what is below a folder; it appears whole or not."""
    made = root.parent / "layer.tar"
    found = hashlib.sha256()
    with made.open("wb") as file:
        for piece in _tree(root):
            found.update(piece)
            file.write(piece)
    return made.replace(cache / f"{key}-{found.hexdigest()}.tar")
