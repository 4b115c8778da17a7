"""Sets up this checkout, as far as it is not: setup.py [dev|demo]

dev: .venv with everything in it, debootstrap where it can be had, and an engine. demo: only what scripts/demo needs of
that, and the image and the kernelspec that its notebooks run with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from steps import Display, run, step, together

EXTRAS = {"dev": {"dev", "docs"}, "demo": {"demo"}}
OLDEST_PYTHON = (3, 10)
VENV = Path(".venv")
STAMP = VENV / ".docker-kernel"
"""What is installed: the digest of the pyproject.toml it is from, and names of extras."""
IMAGE = "docker-kernel/scipy:latest"


async def main(kind: str) -> int:
    async with Display() as display:
        here, there = Environment(display, EXTRAS[kind]), engine(display)
        if kind == "dev":
            await together(here.install(), there)
        else:
            await together(here.core(), there)
            await together(here.extras(), image(display))
    return 0


async def engine(display: Display) -> None:
    """An engine that answers, and debootstrap: only needed where no registry has the base image."""
    if shutil.which("debootstrap") is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        await step(display, "Debian's debootstrap", "scripts/apt-install", "debootstrap")
    await step(display, "Engine", "scripts/engine", "up")


async def image(display: Display) -> None:
    """The kernel image with its kernelspec."""
    command = f"{VENV}/bin/docker-kernel"
    await step(display, f"Image {IMAGE}", command, "build", "scipy")
    await step(display, "Kernelspec Docker Python", command, "install", "--sys-prefix", "--image", IMAGE)


class Environment:
    """The virtual environment, extended by what is not in it yet."""

    def __init__(self, display: Display, extras: set[str]) -> None:
        self._display = display
        self._wanted = hashlib.sha256(Path("pyproject.toml").read_bytes()).hexdigest()
        digest, *had = STAMP.read_text().split() if STAMP.exists() else [""]
        self._current = digest == self._wanted
        self._extras = extras | set(had)
        self._missing = self._extras - set(had) if self._current else self._extras

    async def install(self) -> None:
        """Everything."""
        await self.core()
        await self.extras()

    async def core(self) -> None:
        """The package itself, whose command works from then on."""
        if self._current:
            return
        if not (VENV / "bin/pip").exists():
            await step(self._display, f"Python environment {VENV}", sys.executable, "-m", "venv", str(VENV))
        await self._pip("docker-kernel", "--editable", ".")
        STAMP.write_text(self._wanted)

    async def extras(self) -> None:
        """What belongs to the extras; the package is left alone, as it may be in use."""
        if not self._missing:
            return
        names = ",".join(sorted(self._missing))
        await self._pip(f"Packages for {names}", f"docker-kernel[{names}]")
        STAMP.write_text(" ".join([self._wanted, *sorted(self._extras)]))

    async def _pip(self, title: str, *what: str) -> None:
        options = ["--disable-pip-version-check"]
        if not sys.dont_write_bytecode:
            options.append("--no-compile")  # Python writes the bytecode of what is used when it is
        await step(self._display, f"{title} into {VENV}", f"{VENV}/bin/python", "-m", "pip", "install", *options, *what)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    kind = sys.argv[1] if sys.argv[1:] else "dev"
    if kind not in EXTRAS or len(sys.argv) > 2:
        sys.exit("usage: scripts/setup [dev|demo]")
    if sys.version_info < OLDEST_PYTHON:
        found, needed = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST_PYTHON))
        sys.exit(f"docker-kernel needs Python {needed} or newer, and python3 is {found}: put a newer one on PATH.")
    sys.exit(run(main(kind)))
