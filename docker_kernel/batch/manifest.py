"""What the host demands of the manifests that guests write (guest/snapshot.py); it reads nothing below them."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from docker_kernel.errors import JobError

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0)]

MAX_MANIFEST = 8 << 20
"""Bytes a manifest may have."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Pack(_Part):
    """One blob with a pickle for each of its groups of variables that share objects, and their large buffers."""

    groups: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    sizes: list[Size]
    blob: Digest
    buffers: list[Annotated[list[Digest | Size], Field(min_length=2, max_length=2)]]

    def blobs(self) -> list[str]:
        return [self.blob, *(str(digest) for digest, _ in self.buffers)]


class LeftOut(_Part):
    """A variable that does not travel."""

    name: str
    type: str
    reason: str
    hint: str


class SpareGroup(_Part):
    """Values that did not travel, as the other side has the same."""

    names: Annotated[list[str], Field(min_length=1)]
    data: Digest


class _Manifest(_Part):
    version: Literal[1]
    python: str
    cloudpickle: str
    packs: list[Pack]
    modules: dict[str, str]
    left_out: list[LeftOut]
    spare: list[SpareGroup] = []

    def blobs(self) -> list[str]:
        """The digests of all blobs, each once, in order."""
        return list(dict.fromkeys(blob for pack in self.packs for blob in pack.blobs()))


class Manifest(_Manifest):
    """A kernel's state, from which jobs start."""

    env: dict[str, str | None]
    cwd: str
    sys_path: list[str]


class OutputFile(_Part):
    """A file that a job wrote to its output folder."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    size: Size
    blob: Digest

    @field_validator("path")
    @classmethod
    def _stays_in_its_folder(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in value:
            raise ValueError("a file's path leads out of its folder")
        return value


class JobException(_Part):
    """The exception that a job's code raised, in words."""

    name: str
    value: str
    traceback: list[str]


class ResultManifest(_Manifest):
    """What a job brings back."""

    deleted: list[str] = []
    changed: list[int] = []
    error: JobException | None = None
    files: list[OutputFile] = []

    def blobs(self) -> list[str]:
        return list(dict.fromkeys([*super().blobs(), *(file.blob for file in self.files)]))

    @property
    def size(self) -> int:
        """Bytes that it says its variables and files have."""
        variables = sum(sum(pack.sizes) + sum(int(size) for _, size in pack.buffers) for pack in self.packs)
        return variables + sum(file.size for file in self.files)


M = TypeVar("M", bound=_Manifest)


def parse(model: type[M], text: str | bytes) -> M:
    """A manifest that is as it must be; raises JobError, naming the first thing that is wrong."""
    try:
        if len(text) > MAX_MANIFEST:
            raise JobError(f"The manifest is larger than the {MAX_MANIFEST >> 20} MiB it may have.")
        return model.model_validate_json(text)
    except ValidationError as error:
        detail: Any = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"]) or "it"
        raise JobError(f"The snapshot's manifest is refused: {where}: {detail['msg']}.") from None


def checked_digest(manifest: str) -> str:
    """The digest of a snapshot's manifest that is as it must be; raises JobError."""
    parse(Manifest, manifest)
    return "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()
