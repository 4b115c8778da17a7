"""One job as the host knows it: what the ledger keeps, the notebook is told, and the command line lists."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

State = Literal["queued", "starting", "running", "succeeded", "failed", "cancelled", "lost"]
Kind = Literal["cell", "expression", "notebook", "image"]
FINAL = frozenset({"succeeded", "failed", "cancelled", "lost"})

PRIVATE = {"source_digest", "nonce", "placed", "volume", "owner", "versions"}
"""What of a record is for the host and the target alone."""


def digest_of(source: str) -> str:
    """What a record calls its code."""
    return hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()


class Cost(BaseModel):
    """What a job used, as its runner read it from its cgroup: CPU seconds, bytes of memory at the peak, seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cpu_seconds: float = 0
    peak_memory: int = 0
    seconds: float = 0


class JobRecord(BaseModel):
    """One job.

    Args:
        group: of all jobs of one dispatch, which start from one snapshot: a sweep has several.
        owner: whose job it is: kernels of one notebook share theirs (notebooks.py).
        live: whether it works on the kernel's own workspace, and so ends with its kernel.
        swept: whether it is of a sweep; stream: its number, where that has several, which tells the stream of
            random numbers that is its own.
        source_digest: of the code it runs, which the ledger has once for all jobs that run it.
        snapshot, result: digests of manifests; "" for none. partial: that of what a job without a result has left, of
            which only the files are used.
        image: what it ran in, by id or digest.
        output: the folder that its files are brought to, "" where they stay with the result.
        error: the type of the exception its code raised.
        metrics: the last value of each.
        progress: from 0 to 1.
        inputs: what was mounted or fetched, by name: its URI, without credentials.
        versions: of inputs, as the attempt found them: what their stores call it (a version or ETag).
        volume: the kernel volume that has its result, where its target wrote it there; "" elsewhere.
        started: when its runner began, None before.
        settled: whether nothing of it is left on its target.
        nonce: of its markers; placed: what its target finds it by, None before it has been started.
    """

    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings")

    id: str = Field(default_factory=lambda: secrets.token_hex(6))
    group: str
    owner: str
    kernel_id: str
    notebook: str = ""
    name: str = ""
    target: str
    kind: Kind = "cell"
    source_digest: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    state: State = "queued"
    reason: str = ""
    created: float = Field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    attempt: int = 1
    retries: int = 0
    live: bool = False
    swept: bool = False
    stream: int | None = None
    replicas: int = 1
    timeout: float | None = None
    memory: int | None = None
    cpus: float | None = None
    gpus: str | None = None
    snapshot: str = ""
    result: str = ""
    partial: str = ""
    image: str = ""
    output: str = ""
    commit: str = ""
    exit_code: int | None = None
    error: str = ""
    progress: float | None = None
    remaining: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    cost: Cost | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    nonce: str = Field(default_factory=lambda: secrets.token_hex(16))
    volume: str = ""
    settled: bool = False
    placed: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        return self.state in FINAL

    @property
    def kept(self) -> str:
        """The digest of what there is to bring home, "" for nothing."""
        return self.result or self.partial

    @property
    def code(self) -> str:
        """The digest of the code it ran, for people."""
        return self.source_digest[:12]

    def public(self) -> dict[str, Any]:
        """What its owner may know."""
        return {**self.model_dump(exclude=PRIVATE), "code": self.code, "inputs": self.versioned_inputs()}

    def versioned_inputs(self) -> dict[str, str]:
        """Inputs by name: URI and version."""
        return {name: f"{uri} {self.versions.get(name, '')}".strip() for name, uri in self.inputs.items()}

    def begin_again(self) -> None:
        """Set back what the last attempt left, under a new nonce."""
        self.state, self.reason, self.started, self.ended, self.exit_code = "queued", "", None, None, None
        self.partial = ""
        self.result, self.error, self.progress, self.remaining, self.cost, self.placed = "", "", None, None, None, None
        self.metrics, self.versions, self.settled = {}, {}, False
        self.attempt += 1
        self.nonce = secrets.token_hex(16)
