"""What `docker login` keeps for registries."""

from __future__ import annotations

import docker.auth
import docker.errors

from docker_kernel.errors import ConfigError


def registry_credentials(host: str) -> tuple[str, str] | None:
    """The name and password that `docker login` keeps for a registry; None if there are none.

    Raises:
        ConfigError: the credential helper that docker's config names fails.
    """
    try:
        found = docker.auth.load_config().resolve_authconfig(host) or {}
    except docker.errors.DockerException as error:
        raise ConfigError(f"Docker's credentials for {host} cannot be read: {error}.") from None
    # docker-py spells those of config.json in lower case, those of a credential helper not.
    kept = {key.lower(): value for key, value in found.items()}
    return (str(kept["username"]), str(kept.get("password") or "")) if kept.get("username") else None
