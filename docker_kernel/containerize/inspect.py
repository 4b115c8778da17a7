"""What a notebook image says of itself: its labels, read without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from docker_kernel import images, labels
from docker_kernel.containerize.contents import LOCK
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import ContainerizeError, ImageMissing, NotFound

OCI = "org.opencontainers.image."


class _Schema(BaseModel):
    """What a JSON Schema of parameters must be for those who read it: labels are anybody's."""

    model_config = ConfigDict(extra="allow")

    properties: dict[str, dict[str, Any]] = {}
    required: list[str] = []

    @field_validator("properties")
    @classmethod
    def _lists(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for one in value.values():
            if not isinstance(one.get("enum", []), list) or not isinstance(one.get("description", ""), str):
                raise ValueError("a parameter is described wrongly")
        return value


class _Kernel(BaseModel):
    name: str = ""
    language: str = ""


def read_schema(label: str) -> dict[str, Any]:
    """The schema of parameters in a label.

    Raises:
        ValidationError: it is none.
    """
    return _Schema.model_validate_json(label).model_dump()


@dataclass(frozen=True)
class Described:
    """A notebook image's description.

    Args:
        schema: its parameters as a JSON Schema.
        origin: commit and remote of the notebook's checkout, "" where there was none.
    """

    reference: str
    image_id: str
    digest: str
    size: int
    created: str
    architecture: str
    user: str
    contract: str
    notebook: str
    notebook_digest: str
    kernel: dict[str, str]
    schema: dict[str, Any]
    base: str
    base_digest: str
    revision: str
    source: str
    built_by: str
    lock: str


async def describe(engine: Engine, reference: str) -> Described:
    """Read an image's labels.

    Raises:
        ImageMissing: the engine has no such image.
        ContainerizeError: it is not one of a notebook.
    """
    try:
        found = await engine.images.inspect(reference)
    except ImageMissing:
        raise ImageMissing(
            f"The image {reference} is not on the engine: pull it first (`docker pull {reference}`)."
        ) from None
    known: dict[str, str] = (found.get("Config") or {}).get("Labels") or {}
    ours = labels.NOTEBOOK_IMAGE
    if ours + "contract" not in known:
        raise ContainerizeError(f"{reference} is not an image of a notebook: `docker-kernel containerize` makes those.")
    try:
        schema = read_schema(known[ours + "parameters"])
        kernel = _Kernel.model_validate_json(known.get(ours + "kernel", "{}"))
    except (KeyError, ValidationError, RecursionError):
        raise ContainerizeError(
            f"The labels of {reference} are damaged: its notebook has to be containerized again."
        ) from None
    digests = found.get("RepoDigests") or []
    return Described(
        reference=reference,
        image_id=str(found["Id"]),
        digest=str(digests[0]) if digests else "",
        size=int(found["Size"]),
        created=known.get(OCI + "created", str(found.get("Created", ""))),
        architecture=str(found.get("Architecture", "")),
        user=str(found["Config"].get("User", "")),
        contract=known[ours + "contract"],
        notebook=known.get(ours + "path", ""),
        notebook_digest=known.get(ours + "digest", ""),
        kernel={"name": kernel.name, "language": kernel.language},
        schema=schema,
        base=known.get(OCI + "base.name", ""),
        base_digest=known.get(OCI + "base.digest", ""),
        revision=known.get(OCI + "revision", ""),
        source=known.get(OCI + "source", ""),
        built_by=known.get(ours + "built-by", ""),
        lock=known.get(ours + "lock", ""),
    )


async def lock_of(engine: Engine, reference: str) -> str:
    """The text of the lock that an image keeps.

    Raises:
        ImageMissing: the engine has no such image.
        ContainerizeError: it has no lock.
    """
    await describe(engine, reference)
    spec = ContainerSpec(image=reference, command=["true"], labels={labels.KIND: labels.KIND_BUILD})
    async with images.throwaway_container(engine, spec) as container:
        try:
            return (await engine.containers.read_file(container, f"/{LOCK}")).decode()
        except NotFound:
            raise ContainerizeError(f"{reference} has no lock of its environment: it was made otherwise.") from None
