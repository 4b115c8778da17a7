"""Settings of a Swarm."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from docker_kernel.config import TargetConfig


class SwarmConfig(TargetConfig):
    """`kind = "swarm"`: the nodes of a Docker Swarm."""

    kind: str = Field("swarm", description="The nodes of a Docker Swarm.")
    engine: str = Field("default", min_length=1, description="A manager of the Swarm: as for `docker`.")
    tls: Path | None = Field(
        None, description="Folder with ca.pem, cert.pem and key.pem for a tcp:// address; a context has its own."
    )
    registry: str = Field(min_length=1, description="HOST[:PORT]/PREFIX where images go, as all nodes reach it.")
    result_url: str | None = Field(
        None,
        description="Where jobs put results that are too large for their log: oci+http://, oci+https:// (a registry "
        "and prefix, as the jobs reach it), or any fsspec URL whose store can sign uploads, such as s3://.",
    )
    constraints: list[str] = Field(
        default_factory=list, description="On which nodes jobs may run, such as node.labels.disk == ssd."
    )
