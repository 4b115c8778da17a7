"""What the markers in a job's log say (guest/job_log.py reads them), as the host demands it of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from docker_kernel.batch.record import Cost


class _Marker(BaseModel):
    model_config = ConfigDict(strict=True)


class Display(_Marker):
    """A rich output, or a new version of one."""

    event: Literal["display"]
    data: dict[str, Any]
    metadata: dict[str, Any]
    transient: dict[str, Any]
    update: bool


class ResultDisplay(_Marker):
    """The value of a cell's last expression."""

    event: Literal["result_display"]
    data: dict[str, Any]
    metadata: dict[str, Any]


class Clear(_Marker):
    """What was shown so far goes."""

    event: Literal["clear"]
    wait: bool


class Progress(_Marker):
    """How far the job is: from 0 to 1, None where it cannot tell; `remaining` in seconds, as far as known."""

    event: Literal["progress"]
    value: Annotated[float, Field(ge=0, le=1)] | None
    remaining: Annotated[float, Field(ge=0)] | None = None
    text: Annotated[str, Field(max_length=200)] = ""


class Metrics(_Marker):
    """What the job measured, at one step of its own."""

    event: Literal["metrics"]
    step: float | None
    values: Annotated[dict[Annotated[str, Field(max_length=200)], float], Field(max_length=1000)]
    time: float


class Input(_Marker):
    """Data that the job fetched, with what its store calls this version of it."""

    event: Literal["input"]
    name: Annotated[str, Field(max_length=200)]
    version: Annotated[str, Field(max_length=1000)]


class Cell(_Marker):
    """The job's cell begins, or has ended."""

    event: Literal["cell"]
    running: bool


class Raised(_Marker):
    """The exception that ends the job."""

    event: Literal["raised"]
    name: Annotated[str, Field(max_length=200)]
    value: Annotated[str, Field(max_length=500)]


class Begin(_Marker):
    """The runner has begun, at this time of its machine's clock: what waited before was no part of the job."""

    event: Literal["begin"]
    time: float


class Taken(_Marker):
    """A container that waited for a job has this one."""

    event: Literal["taken"]


class Blob(_Marker):
    """A piece of a small result: part `index` of `count`, in base64 (guest/deliver.py)."""

    event: Literal["blob"]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(gt=0)]
    data: str


class End(_Marker):
    """The runner's last word.

    Attributes:
        oom: whether its worker was killed for memory; None where nobody tells.
        result: the digest of the result's manifest, "" if there is none.
        partial: that of what a job which was stopped, or died, had written until then.
        unheeded: whether it was stopped as its cell did not end when it was interrupted.
    """

    event: Literal["end"]
    code: int
    oom: bool | None
    result: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
    partial: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    timeout: bool = False
    unheeded: bool = False
    cost: Cost | None = None


Marker = Display | ResultDisplay | Clear | Progress | Metrics | Input | Cell | Raised | Begin | Taken | Blob | End
MARKERS: TypeAdapter[Marker] = TypeAdapter(Annotated[Marker, Field(discriminator="event")])
