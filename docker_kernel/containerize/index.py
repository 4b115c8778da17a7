"""What a package index has: the hashes of wheels, and the wheels themselves, for the Python of an image.

It is this Python's pip that asks, so that the host's settings for it (indexes, CA bundle, proxies, credentials) hold,
and none of them comes near an image. What it said once is kept: a version's wheels never change.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import re
import sqlite3
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

log = logging.getLogger(__name__)

ABSENT_SECONDS = 24 * 3600
"""How long it is believed that an index has no such wheel."""

UNREACHABLE_SECONDS = 300
"""How long an index that did not answer is left alone."""

PATIENCE = 600
"""Seconds that pip may take for all it is asked at once."""

MOST_ABSENT = 50
"""Packages that no index has, of which each costs a run of pip, before the others are believed to be like them."""

Package = tuple[str, str]
"""A name, as indexes spell it (PEP 503), and a version."""

OLDEST_GLIBC, OLDEST_MUSL, NEWEST_MUSL = 5, 0, 2


@dataclass(frozen=True)
class Tags:
    """What wheels must be for.

    Args:
        libc: "glibc" or "musl"; `libc_version` is its version, "" if it is not known.
    """

    implementation: str
    version: str
    machine: str
    libc: str
    libc_version: str

    def options(self) -> list[str]:
        """As pip takes them (PEP 600 and 656 have the platforms)."""
        minor = int(self.libc_version.partition(".")[2] or 17) if re.fullmatch(r"2\.\d+", self.libc_version) else 17
        if self.libc == "musl":
            platforms = [f"musllinux_1_{number}" for number in range(NEWEST_MUSL, OLDEST_MUSL - 1, -1)]
        else:
            platforms = [f"manylinux_2_{number}" for number in range(minor, OLDEST_GLIBC - 1, -1)]
            platforms += ["manylinux2014", "manylinux2010", "manylinux1"]
        platforms.append("linux")
        short = {"cpython": "cp", "pypy": "pp"}.get(self.implementation, self.implementation)
        made = ["--only-binary", ":all:", "--implementation", short, "--python-version", self.version]
        return made + [part for name in platforms for part in ("--platform", f"{name}_{self.machine}")]

    @property
    def key(self) -> str:
        """What an index's answer depends on."""
        version = ".".join(self.version.split(".")[:2])
        return f"{self.implementation} {version} {self.machine} {self.libc} {self.libc_version}"


@dataclass(frozen=True)
class Wheel:
    """A file of an index and its sha256 ("sha256:…")."""

    name: str
    digest: str


@dataclass(frozen=True)
class Found:
    """What an index has of what was asked for.

    Args:
        complete: whether all was answered; else the index cannot be reached, or there is no pip to ask it.
    """

    wheels: Mapping[Package, Wheel]
    complete: bool


@dataclass(frozen=True)
class Ran:
    """How pip ended."""

    code: int
    output: str
    errors: str

    @property
    def unreachable(self) -> bool:
        """Whether it failed as no index answered."""
        return bool(
            self.code
            and re.search(r"Retrying \(Retry|Could not fetch URL|connection broken|ConnectionError|No module named pip",
                          self.errors)
        )  # fmt: skip

    @property
    def absent(self) -> re.Match[str] | None:
        """The package that no index has, if it failed for that."""
        return re.search(r"No matching distribution found for ([A-Za-z0-9._-]+)==(\S+)", self.errors)

    @property
    def mismatched(self) -> str | None:
        """The package whose file is not what its hash says, if it failed for that."""
        found = re.search(r"DO NOT MATCH THE HASHES.*?\n\s+([A-Za-z0-9._-]+)==\S+ from ", self.errors, re.DOTALL)
        return found[1] if found else None

    @property
    def last(self) -> str:
        """Its last error, without anybody's credentials."""
        lines = [line.removeprefix("ERROR: ") for line in self.errors.splitlines() if line.startswith("ERROR")]
        return re.sub(r"://[^/@\s]*@", "://", (lines or self.errors.splitlines() or ["it said nothing"])[-1])


async def pip(*arguments: str) -> Ran:
    """Run this Python's pip to its end; when the caller is cancelled, it is ended."""
    if importlib.util.find_spec("pip") is None:
        return Ran(1, "", f"No module named pip in {sys.prefix}")
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "--retries", "1", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    except asyncio.TimeoutError:
        return Ran(1, "", f"ConnectionError: pip did not end within {PATIENCE} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ran(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


async def hashes(packages: Collection[Package], tags: Tags) -> Found:
    """The wheels of packages, each a name (as indexes spell it) and version."""
    known = await asyncio.to_thread(_CACHE.get, tags.key, packages)
    wheels = {package: wheel for package, wheel in known.items() if wheel is not None}
    asked = [package for package in packages if package not in known]
    silent = await asyncio.to_thread(_CACHE.get, "unreachable", (_NONE,)) if asked else {}
    if silent:
        return Found(wheels, False)
    absent = 0
    while asked:
        ran = await pip(
            "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-",
            "--target", "/nowhere", *tags.options(), *(f"{name}=={version}" for name, version in asked),
        )  # fmt: skip
        if ran.code == 0:
            found = _reported(ran.output)
            wheels |= found
            await asyncio.to_thread(_CACHE.put, tags.key, {package: found.get(package) for package in asked})
            break
        lacks = ran.absent
        gone = (re.sub(r"[-_.]+", "-", lacks[1]).lower(), lacks[2]) if lacks else None
        if ran.unreachable or gone not in asked or absent == MOST_ABSENT:
            log.info("the hashes of packages are not known: %s", ran.last)
            await asyncio.to_thread(_CACHE.put, "unreachable", {_NONE: None}, UNREACHABLE_SECONDS)
            return Found(wheels, False)
        await asyncio.to_thread(_CACHE.put, tags.key, {gone: None})
        asked.remove(gone)
        absent += 1
    return Found(wheels, True)


def _reported(text: str) -> dict[Package, Wheel]:
    """The wheels in pip's installation report (pip's documentation, "Installation Report")."""
    found = {}
    for one in json.loads(text)["install"]:
        name = re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()
        about = one["download_info"]
        digest = (about.get("archive_info", {}).get("hashes") or {}).get("sha256", "")
        if digest:
            file = about["url"].partition("#")[0].rpartition("/")[2]
            found[name, one["metadata"]["version"]] = Wheel(file, f"sha256:{digest}")
    return found


_NONE: Package = ("", "")


class _Cache:
    """What indexes said, in the user's cache folder: losing it costs only time."""

    def __init__(self) -> None:
        self._path = platformdirs.user_cache_path("docker-kernel") / "wheels.sqlite"

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._path, timeout=5)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS wheels (tags TEXT, name TEXT, version TEXT, file TEXT, digest TEXT,"
                " until REAL, PRIMARY KEY (tags, name, version))"
            )
            yield connection

    def get(self, tags: str, packages: Collection[Package]) -> dict[Package, Wheel | None]:
        """What is known; None for a wheel that no index has."""
        try:
            with self._open() as connection:
                rows = connection.execute(
                    "SELECT name, version, file, digest FROM wheels WHERE tags = ? AND until > ?", (tags, time.time())
                ).fetchall()
        except (OSError, sqlite3.Error) as error:
            log.warning("the cache %s cannot be read: %s", self._path, error)
            return {}
        known = {(row[0], row[1]): Wheel(row[2], row[3]) if row[3] else None for row in rows}
        return {package: known[package] for package in packages if package in known}

    def put(self, tags: str, wheels: Mapping[Package, Wheel | None], seconds: float = ABSENT_SECONDS) -> None:
        until = time.time() + seconds
        rows = [
            (tags, *package, wheel.name if wheel else "", wheel.digest if wheel else "", 1e15 if wheel else until)
            for package, wheel in wheels.items()
        ]
        try:
            with self._open() as connection:
                connection.executemany("INSERT OR REPLACE INTO wheels VALUES (?, ?, ?, ?, ?, ?)", rows)
        except (OSError, sqlite3.Error) as error:
            log.warning("the cache %s cannot be written: %s", self._path, error)


_CACHE = _Cache()


async def download(requirements: Path, folder: Path, tags: Tags) -> Ran:
    """Fetch wheels by a requirements file with hashes into a folder."""
    return await pip(
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--dest",
        str(folder),
        *tags.options(),
        "-r",
        str(requirements),
    )
