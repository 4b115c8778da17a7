"""Settings of the kinds that run jobs on one engine."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from docker_kernel.config import TargetConfig


class LocalConfig(TargetConfig):
    """`kind = "local"`: the kernel's own engine."""

    kind: str = Field("local", description="The kernel's own engine.")


class DockerConfig(TargetConfig):
    """`kind = "docker"`: another engine."""

    kind: str = Field("docker", description="Another engine.")
    engine: str = Field(
        min_length=1, description="A docker context's name, or ssh://, tcp:// (with TLS) or unix:// and its address."
    )
    tls: Path | None = Field(
        None, description="Folder with ca.pem, cert.pem and key.pem for a tcp:// address; a context has its own."
    )
    registry: str | None = Field(
        None, description="HOST[:PORT]/PREFIX through which images go; without it, straight to the engine."
    )
