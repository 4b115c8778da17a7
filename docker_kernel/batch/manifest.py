"""What the host demands of a snapshot's manifest (guest/snapshot.py writes it); it reads nothing below it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from docker_kernel.errors import JobError

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Pack(_Part):
    """One blob with a pickle for each of its groups of variables that share objects, and their large buffers."""

    groups: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    sizes: list[Size]
    blob: Digest
    buffers: list[Annotated[list[Digest | Size], Field(min_length=2, max_length=2)]]


class LeftOut(_Part):
    """A variable that does not travel."""

    name: str
    type: str
    reason: str
    hint: str


class Manifest(_Part):
    """A snapshot of version 1."""

    version: Literal[1]
    python: str
    cloudpickle: str
    packs: list[Pack]
    modules: dict[str, str]
    left_out: list[LeftOut]
    env: dict[str, str | None]
    cwd: str
    sys_path: list[str]


def checked_digest(manifest: str) -> str:
    """The digest of a manifest that is as it must be.

    Raises:
        JobError: it is not; the message names the first thing that is wrong.
    """
    try:
        Manifest.model_validate_json(manifest)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"]) or "it"
        raise JobError(f"The snapshot's manifest is refused: {where}: {detail['msg']}.") from None
    return "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()
