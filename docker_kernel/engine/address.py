"""Where an engine is: DOCKER_HOST, docker contexts, Podman's sockets, and the certificates for TLS."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import docker.errors
from docker.context import ContextAPI
from docker.tls import TLSConfig

from docker_kernel.errors import ConfigError


def default_url() -> tuple[str, TLSConfig | bool]:
    """The engine that the `docker` command would reach, or Podman's socket where there is no Docker.

    Order: DOCKER_HOST, DOCKER_CONTEXT or the current context, the default socket, Podman's sockets.
    """
    if url := os.environ.get("DOCKER_HOST"):
        tls: TLSConfig | bool = False
        if os.environ.get("DOCKER_TLS_VERIFY"):
            folder = Path(os.environ.get("DOCKER_CERT_PATH", Path.home() / ".docker"))
            tls = TLSConfig(
                client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
                ca_cert=str(folder / "ca.pem"),
                verify=True,
            )
        return url, tls
    try:
        name = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except docker.errors.DockerException:
        context = None
    if context is not None and context.name != "default" and context.Host:
        return context.Host, context.TLSConfig or False
    if not Path("/var/run/docker.sock").exists():
        for candidate in (
            f"{os.environ.get('XDG_RUNTIME_DIR', '/nonexistent')}/podman/podman.sock",
            "/run/podman/podman.sock",
        ):
            if Path(candidate).exists():
                return f"unix://{candidate}", False
    return "unix:///var/run/docker.sock", False


def tls_config(folder: Path) -> TLSConfig:
    """Both sides' certificates, as the docker command keeps them in one folder.

    Raises:
        ConfigError: a file is missing.
    """
    folder = folder.expanduser()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        if not (folder / name).is_file():
            raise ConfigError(f"tls = {str(folder)!r}: there is no {name} in it.")
    return TLSConfig(
        client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")), ca_cert=str(folder / "ca.pem"), verify=True
    )


def context_url(name: str) -> tuple[str, TLSConfig | bool]:
    """The engine of a docker context.

    It is read here, as docker-py finds none where there is no config.json beside them.

    Raises:
        ConfigError: there is no such context.
    """
    if name == "default":
        return default_url()
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "contexts"
    digest = hashlib.sha256(name.encode()).hexdigest()
    try:
        endpoint = json.loads((folder / "meta" / digest / "meta.json").read_text())["Endpoints"]["docker"]
        host, verify = str(endpoint["Host"]), not endpoint.get("SkipTLSVerify", False)
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"There is no docker context {name!r}: `docker context ls` lists them; or write an address, such as "
            "ssh://user@host."
        ) from None
    ca, cert, key = (folder / "tls" / digest / "docker" / f"{part}.pem" for part in ("ca", "cert", "key"))
    if not any(path.is_file() for path in (ca, cert, key)):
        return host, False
    pair = (str(cert), str(key)) if cert.is_file() and key.is_file() else None
    return host, TLSConfig(client_cert=pair, ca_cert=str(ca) if ca.is_file() else None, verify=verify)
