"""Where a notebook comes from: the commit and the remote of its git checkout."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """A commit's full hash, and the remote's URL; "" for what there is not."""

    revision: str = ""
    source: str = ""


async def of(folder: Path) -> Origin:
    """The origin of a folder; empty where it is no checkout, or git is not installed."""
    revision = await _git(folder, "rev-parse", "HEAD")
    if not revision:
        return Origin()
    remote = await _git(folder, "config", "--get", "remote.origin.url")
    # Credentials in a URL are nobody's business who reads a label.
    source = re.sub(r"^(\w+://)[^/@]*@", r"\1", remote)
    return Origin(revision, source)


async def _git(folder: Path, *arguments: str) -> str:
    # The notebook's code may have written the checkout's configuration: nothing that runs programs named there (such as
    # `git status`, with its filters) is asked for.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=env,
        )
    except OSError:
        return ""
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 10)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return output.decode(errors="replace").strip() if process.returncode == 0 else ""
