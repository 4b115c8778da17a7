"""The lock of an environment: its base by digest, its packages by exact version and hash. It stays in the image.

What is installed is seen by the image's own Python, without network (images/packages.py), once for each image; the
hashes of the wheels come from the package index (index.py). `rebuild.py` makes the environment anew from a lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from docker_kernel import images, labels, whole_file
from docker_kernel.containerize import index
from docker_kernel.data import data_folder
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import ContainerizeError, ImageMissing
from docker_kernel.kernel.guest_files import USER_BASE

KEPT = "1"
"""Changes when something else is kept of an image."""

MOST_OUTPUT = 32 << 20
"""Bytes that an image's Python may say of its packages."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Text = Annotated[str, StringConstraints(max_length=1000)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,200}[A-Za-z0-9])?$")]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,100}$")]
Source = Literal["index", "url", "vcs", "editable", "local", "conda", "system"]

SOURCES: Mapping[Source, str] = {
    "url": "it was installed from a URL",
    "vcs": "it was installed from a repository",
    "editable": "it was installed as editable, from a folder",
    "local": "it was installed from a file or folder, or is in no package index",
    "conda": "conda installed it",
    "system": "the image's system brought it",
}
"""Why a package cannot be had from a package index."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Python(_Model):
    """The Python that the packages are for."""

    implementation: Text
    version: Version
    executable: Text
    machine: Text
    libc: Text
    libc_version: Text = ""


class Package(_Model):
    """One installed distribution.

    Args:
        source: where its installer had it from.
        folder: where it is in the image.
        wheel: its file in the package index, and `hashes` that file's; empty where there is none.
        url: what it was installed from, if not from an index, without credentials.
        files: digest of what was installed, path by path, that is the same for the same wheel.
        changed: files that are no longer as they were installed.
    """

    name: Name
    version: Version
    source: Source
    installer: Text = ""
    folder: Text
    wheel: Text = ""
    hashes: tuple[Digest, ...] = ()
    url: Text = ""
    files: Digest
    changed: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name as indexes spell it (PEP 503)."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


class Base(_Model):
    """An image that others are built on.

    Args:
        digests: what registries know it by, "NAME@sha256:…"; empty if it was made on an engine and is in no registry.
        id: on that engine.
        layers: digests of its layers, unpacked: wherever they are, that is it.
    """

    reference: Text
    digests: tuple[Text, ...] = ()
    id: Digest
    layers: tuple[Digest, ...]
    env: tuple[Annotated[str, StringConstraints(max_length=32_000)], ...] = ()


class Lock(_Model):
    """What an environment is made of.

    Args:
        base: the image of the kernel.
        below: the nearest image that `base` itself is built on and a registry has, if `base` is in none.
        environment: digests of the layers on the base: what was installed in a running kernel.
        system: the packages of the image's package managers, for the record.
        hashes: what the hashes in it are of: wheels of an index, or (as none could be reached) installed files alone.
    """

    format: Literal[1] = 1
    base: Base
    below: Base | None = None
    environment: tuple[Digest, ...] = ()
    python: Python
    packages: tuple[Package, ...] = Field(max_length=10_000)
    system: tuple[Text, ...] = Field(default=(), max_length=100_000)
    hashes: Literal["index", "files"] = "index"

    @property
    def digest(self) -> str:
        """One digest for all of it."""
        return f"sha256:{hashlib.sha256(self.model_dump_json().encode()).hexdigest()}"

    def requirements(self) -> str:
        """The packages as pip reads them (requirements.txt with hashes); what no index has is a comment."""
        lines = []
        for one in self.packages:
            pinned = f"{one.name}=={one.version}"
            if one.hashes:
                lines.append(" ".join([pinned, *(f"--hash={digest}" for digest in one.hashes)]))
            else:
                why = SOURCES.get(one.source, "the package index could not be asked for its hash")
                lines.append(f"# {pinned}: {why}")
        return "\n".join(lines) + "\n"


def load(text: str | bytes) -> Lock:
    """A lock that was kept.

    Raises:
        ContainerizeError: it is none, or it was damaged.
    """
    try:
        return Lock.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its JSON"
        raise ContainerizeError(
            f"This is no lock of a notebook image, or it was damaged: {where}: {first['msg']}. "
            "A notebook image has its own at /opt/docker-kernel/notebook/lock.json."
        ) from None


async def make(engine: Engine, image: str, python: str = "") -> Lock:
    """The lock of an image. For one that was seen before, nothing is started and nothing asked on the net.

    Args:
        python: the path of the Python in it whose packages count; "" for the one that kernels run in.

    Raises:
        ImageMissing: the engine has no such image.
        ContainerizeError: it has no Python, or that does not answer.
    """
    seen = await look(engine, image, python)
    wanted = [one for one in seen.packages if one.source == "index"]
    found = await index.hashes([(one.key, one.version) for one in wanted], tags_of(seen.python))
    packages = []
    for one in seen.packages:
        wheel = found.wheels.get((one.key, one.version)) if one.source == "index" else None
        if wheel is not None:
            one = one.model_copy(update={"wheel": wheel.name, "hashes": (wheel.digest,)})
        elif one.source == "index" and found.complete:
            one = one.model_copy(update={"source": "local"})
        packages.append(one)
    return seen.model_copy(update={"packages": tuple(packages), "hashes": "index" if found.complete else "files"})


def tags_of(python: Python) -> index.Tags:
    """What wheels for a Python must be for."""
    return index.Tags(python.implementation, python.version, python.machine, python.libc, python.libc_version)


async def look(engine: Engine, image: str, python: str = "") -> Lock:
    """As `make`, without the hashes that an index gives."""
    about = await engine.images.inspect(image)
    python = python or ((about.get("Config") or {}).get("Labels") or {}).get(labels.PYTHON, "")
    key = hashlib.sha256(f"{KEPT}\0{about['Id']}\0{python}".encode()).hexdigest()
    kept = platformdirs.user_cache_path("docker-kernel") / "locks" / f"{key}.json"
    try:
        return Lock.model_validate_json(await asyncio.to_thread(kept.read_bytes))
    except (OSError, ValidationError):
        pass
    facts, (base, below) = await asyncio.gather(_facts(engine, about, python), _bases(engine, about))
    try:
        made = Lock(
            base=base,
            below=below,
            environment=tuple(about["RootFS"]["Layers"][len(base.layers) :]),
            python=Python(**facts["python"]),
            packages=tuple(_packages(facts["packages"])),
            system=tuple(facts["system"]),
        )
    except (ValidationError, KeyError, TypeError) as error:
        reason = f"{error.errors()[0]['loc']}" if isinstance(error, ValidationError) else f"{error}"
        raise ContainerizeError(
            f"The Python of {image} says of its packages what cannot be understood ({reason}): is one damaged?"
        ) from None
    await asyncio.to_thread(whole_file.keep, kept, made.model_dump_json())
    return made


def _packages(found: Any) -> Iterator[Package]:
    for one in found:
        direct = one["direct"] if isinstance(one["direct"], dict) else {}
        url = str(direct.get("url", ""))
        plain = re.sub(r"^([\w+]+://)[^/@]*@", r"\1", url)  # nobody's credentials
        if url.startswith("file:"):
            plain = url.rstrip("/").rpartition("/")[2]  # where it was on somebody's machine tells nobody anything
        vcs = direct.get("vcs_info") if isinstance(direct.get("vcs_info"), dict) else {}
        if vcs:
            plain = f"{plain}@{vcs.get('commit_id', '')}"
        yield Package(
            name=one["name"],
            version=one["version"],
            source=_source(str(one["installer"]), direct, url),
            installer=one["installer"],
            folder=one["folder"],
            url=plain[:1000],
            files=one["files"],
            changed=tuple(map(str, one["changed"])),
        )


def _source(installer: str, direct: Mapping[str, Any], url: str) -> Source:
    if installer == "conda":
        return "conda"
    if (direct.get("dir_info") or {}).get("editable"):
        return "editable"
    if direct.get("vcs_info"):
        return "vcs"
    if url:
        return "local" if url.startswith("file:") else "url"
    return "index" if installer else "system"


async def _facts(engine: Engine, about: Mapping[str, Any], given: str) -> dict[str, Any]:
    """What an image's own Python says of what it can import."""
    image = str(about["Id"])
    python = given or (await images.probe(engine, image)).python
    if not python:
        raise ContainerizeError(f"The image {image[:19]} has no Python, and so no packages that a lock could name.")
    code = await asyncio.to_thread((data_folder("images") / "packages.py").read_text)
    spec = ContainerSpec(
        image=image,
        # The current folder is no place to import from, but the user's packages of a kernel are.
        command=[python, "-c", f"import sys; del sys.path[0]\n{code}"],
        user="0:0",
        env={"PYTHONUSERBASE": USER_BASE, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": ""},
        labels={labels.KIND: labels.KIND_BUILD},
        network="none",
        cap_add=["DAC_READ_SEARCH"],
        working_dir="/",
    )
    async with images.throwaway_container(engine, spec) as container:
        await engine.containers.start(container)
        ended = await engine.containers.wait(container)
        output = await engine.containers.logs(container)
    said = output[-MOST_OUTPUT:].decode(errors="replace").rpartition("docker-kernel-packages:")[2]
    try:
        facts: dict[str, Any] = json.loads(said.splitlines()[0])
        if isinstance(facts, dict):
            return facts
    except (IndexError, ValueError):
        pass
    last = output[-2000:].decode(errors="replace").strip().splitlines()[-1:]
    raise ContainerizeError(
        f"The Python of the image {image[:19]} cannot say what is installed ({ended}: {' '.join(last)})."
    )


async def _bases(engine: Engine, about: Mapping[str, Any]) -> tuple[Base, Base | None]:
    """The image that an environment was installed on, and the nearest one below it that a registry has."""
    ours = ((about.get("Config") or {}).get("Labels") or {}).get(labels.KIND)
    itself = _base(about)
    environment = ours in (labels.KIND_ENVIRONMENT, labels.KIND_JOB_IMAGE, labels.KIND_NOTEBOOK_IMAGE)
    if not environment and itself.digests:
        return itself, None
    layers = itself.layers
    below = []
    for one in await asyncio.gather(*map(engine.images.inspect, await engine.images.ids()), return_exceptions=True):
        if isinstance(one, ImageMissing):
            continue  # gone since it was listed
        if isinstance(one, BaseException):
            raise one
        found: list[str] = one["RootFS"].get("Layers") or []
        kind = ((one.get("Config") or {}).get("Labels") or {}).get(labels.KIND)
        lower = 0 < len(found) < len(layers) and tuple(found) == layers[: len(found)]
        if lower and kind in (None, labels.KIND_IMAGE, labels.KIND_BUILD):
            below.append(one)
    # Of several names for the same layers, take one that a registry has, then one that people call it by.
    below.sort(
        key=lambda one: (
            len(one["RootFS"]["Layers"]),
            bool(_digests(one)),
            ":latest" in " ".join(one.get("RepoTags") or []),
            one["Id"],
        )
    )
    base = itself
    if environment and below:
        base = _base(below[-1])
    if base.digests:
        return base, None
    pulled = [_base(one) for one in below if _digests(one) and len(one["RootFS"]["Layers"]) < len(base.layers)]
    return base, pulled[-1] if pulled else None


def _base(about: Mapping[str, Any]) -> Base:
    config = about.get("Config") or {}
    tags = sorted(about.get("RepoTags") or [], key=lambda tag: (not tag.endswith(":latest"), tag))
    digests = _digests(about)
    return Base(
        reference=tags[0] if tags else (digests[0] if digests else str(about["Id"])),
        digests=digests,
        id=about["Id"],
        layers=tuple(about["RootFS"]["Layers"]),
        env=tuple(config.get("Env") or ()),
    )


def _digests(about: Mapping[str, Any]) -> tuple[str, ...]:
    """What registries know an image by, where its name is still theirs: jobs push images under names of their own."""
    tagged = {tag.rpartition(":")[0] for tag in about.get("RepoTags") or []}
    ours = ((about.get("Config") or {}).get("Labels") or {}).get(labels.KIND)
    found = sorted(map(str, about.get("RepoDigests") or []))
    return tuple(one for one in found if one.partition("@")[0] in tagged or (not tagged and not ours))


async def verify(engine: Engine, image: str, lock: Lock) -> list[str]:
    """How an image's packages differ from a lock's, a sentence each; none if they do not.

    Raises:
        ImageMissing: the engine has no such image.
    """
    return differences(await look(engine, image, lock.python.executable), lock)


def differences(found: Lock, wanted: Lock) -> list[str]:
    """As `verify`, for what was found in an image."""
    said = []
    for what in ("implementation", "version", "machine", "libc"):
        has, locked = getattr(found.python, what), getattr(wanted.python, what)
        if has != locked:
            said.append(f"Python's {what} is {has or 'unknown'}, the lock says {locked}.")
    there = {one.key: one for one in found.packages}
    for one in wanted.packages:
        has = there.pop(one.key, None)
        if has is None:
            said.append(f"{one.name} {one.version} is missing.")
        elif has.version != one.version:
            said.append(f"{one.name} is {has.version}, the lock says {one.version}.")
        elif has.files != one.files:
            said.append(f"{one.name} {one.version} has other files than the lock says.")
        elif has.changed != one.changed:
            names = ", ".join((*has.changed, *one.changed)[:3])
            said.append(f"{one.name} {one.version} was changed after it was installed ({names}).")
    said += [f"{one.name} {one.version} is installed, but not in the lock." for one in there.values()]
    missing, more = set(wanted.system) - set(found.system), set(found.system) - set(wanted.system)
    said += [f"The system's package {one.replace('=', ' ', 1)} is missing." for one in sorted(missing)]
    said += [
        f"The system's package {one.replace('=', ' ', 1)} is installed, but not in the lock." for one in sorted(more)
    ]
    return said
