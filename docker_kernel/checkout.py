"""A folder's git checkout: the commit that it is at, and its remote."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Origin:
    """A commit's full hash, and the remote's URL; "" for what there is not."""

    revision: str = ""
    source: str = ""


async def of(folder: Path) -> Origin:
    """The origin of a folder; empty where it is no checkout, or git is not installed."""
    revision = await commit(folder)
    if not revision:
        return Origin()
    return Origin(
        revision, public(await _git(folder, "config", "--local", "--no-includes", "--get", "remote.origin.url"))
    )


async def commit(folder: Path) -> str:
    """The full hash of the commit that a folder is at; "" where it is no checkout, or git is not installed."""
    said = await _git(folder, "rev-parse", "HEAD")
    return said if re.fullmatch(r"[0-9a-f]{40,64}", said) else ""


def public(remote: str) -> str:
    """A remote's URL as a label may have it: without user, password and query; "" where it may have more of those."""
    if re.fullmatch(r"git@[\w.-]+:[\w./~-]+", remote, re.ASCII):
        return remote
    try:
        parts = urlsplit(remote)
        place = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        return ""
    plain = (
        parts.scheme in ("http", "https", "ssh", "git") and place and re.fullmatch(r"[\w./~+-]*", parts.path, re.ASCII)
    )
    return f"{parts.scheme}://{place}{parts.path}" if plain else ""


async def _git(folder: Path, *arguments: str) -> str:
    # A notebook's code may have written the checkout's configuration: nothing that runs programs named there (such as
    # `git status`, with its filters) is asked for.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments]
    # Git's own variables are about the repository in which we were started, as by one of its hooks.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env = {**plain, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
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
        return ""
    finally:
        # It may wait for ever, for what a configuration includes.
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace").strip() if process.returncode == 0 else ""
