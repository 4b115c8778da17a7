"""For whom spares were claimed: an engine's labels cannot change, and say nothing of it.

The engine remains the source of truth of what runs, and a container's name of the kernel's id; these records only add
the notebook and the connection file to what `docker-kernel kernels list` and `console` know.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ValidationError

from docker_kernel import whole_file

KEPT_DAYS = 90
"""After so many days a record that nobody removed goes: its server was killed."""


class Claim(BaseModel):
    """What a spare was claimed for."""

    notebook: str = ""
    connection_file: str = ""


def _file(container: str) -> Path:
    return platformdirs.user_data_path("docker-kernel") / "claims" / f"{container}.json"


def record(container: str, claim: Claim) -> None:
    """Keep a container's claim; one that cannot be kept is only a name less in a list."""
    path = _file(container)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in path.parent.glob("*.json"):
            if old.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
                old.unlink()
        whole_file.keep(path, claim.model_dump_json())


def read(container: str) -> Claim:
    """A container's claim; an empty one where nothing is known of it."""
    try:
        return Claim.model_validate_json(_file(container).read_bytes())
    except (OSError, ValidationError):
        return Claim()


def forget(container: str) -> None:
    """Remove the record of a container that has gone."""
    with contextlib.suppress(OSError):
        _file(container).unlink()
