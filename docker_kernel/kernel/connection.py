"""A kernel's connection: ports, keys, and the two connection files (the host's and the container's)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import zmq

PORT_NAMES = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
CONTAINER_PORTS = dict(zip(PORT_NAMES, range(52001, 52006), strict=True))
"""Fixed inside every container; outside the engine chooses."""

IPC_PORTS = dict(zip(PORT_NAMES, range(1, 6), strict=True))


@dataclass(frozen=True)
class Keys:
    """What protects a kernel's messages: an HMAC key, and a Curve key pair where its ports are encrypted."""

    hmac: str
    curve_public: str | None = None
    curve_secret: str | None = None

    @classmethod
    def make(cls, encrypted: bool) -> Keys:
        if not encrypted:
            return cls(secrets.token_hex(32))
        public, secret = zmq.curve_keypair()
        return cls(secrets.token_hex(32), public.decode(), secret.decode())

    def info(self) -> dict[str, Any]:
        """The keys as a connection file has them."""
        info: dict[str, Any] = {"key": self.hmac, "signature_scheme": "hmac-sha256"}
        if self.curve_public:
            info |= {"curve_publickey": self.curve_public, "curve_secretkey": self.curve_secret}
        return info


def container_info(keys: Keys, ipc_path: str | None) -> dict[str, Any]:
    """The connection file inside the container.

    Args:
        ipc_path: the prefix of the kernel's sockets; None for TCP.
    """
    if ipc_path is not None:
        return {"transport": "ipc", "ip": ipc_path, **IPC_PORTS, **keys.info()}
    return {"transport": "tcp", "ip": "0.0.0.0", **CONTAINER_PORTS, **keys.info()}


def host_info(keys: Keys, ipc_path: str | None, published: dict[int, int]) -> dict[str, Any]:
    """The connection file on the host.

    Args:
        published: container port to host port, as read back from the engine.
    """
    if ipc_path is not None:
        return container_info(keys, ipc_path)
    ports = {name: published[port] for name, port in CONTAINER_PORTS.items()}
    return {"transport": "tcp", "ip": "127.0.0.1", **ports, **keys.info()}
