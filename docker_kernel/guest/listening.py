"""The sockets that a kernel's clients connect to: opened once in a container, and inherited by each kernel process.

A client that connects while a kernel process still starts, or starts again, waits in a socket's queue. Where nothing
listens, ZeroMQ waits 0.1 to 0.2 s before each next try (ZMQ_RECONNECT_IVL), which is longer than a fork takes.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from docker_kernel.guest.link import LISTENING_FILE

PORT_NAMES = ("shell_port", "iopub_port", "stdin_port", "control_port")
"""ipykernel's heartbeat has a thread that opens its own."""

BACKLOG = 128


def open_all(connection: dict[str, object]) -> list[socket.socket]:
    """Listen where a connection file says, for whatever this process starts, and note what listens where.

    Raises:
        OSError: one of the addresses cannot be listened at; none is.
    """
    opened: list[socket.socket] = []
    numbers = {}
    ipc = connection["transport"] == "ipc"
    try:
        for port in _ports(connection):
            sock = socket.socket(socket.AF_UNIX if ipc else socket.AF_INET, socket.SOCK_STREAM)
            opened.append(sock)
            sock.setblocking(False)
            if ipc:
                name = _lasting(connection, port)
                if os.path.lexists(name):
                    os.unlink(name)  # of the container that this one replaces
                sock.bind(name)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((str(connection["ip"]), port))
            sock.listen(BACKLOG)
            sock.set_inheritable(True)
            numbers[port] = sock.fileno()
        with open(LISTENING_FILE, "w") as file:
            json.dump(numbers, file)
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _ports(connection: dict[str, object]) -> list[int]:
    return [int(str(connection[name])) for name in PORT_NAMES]


def _lasting(connection: dict[str, object], port: int) -> str:
    """The name that a socket in a file always has."""
    return os.path.join(os.path.dirname(str(connection["ip"])), str(port))


def show(connection: dict[str, object]) -> None:
    """Give sockets in files the names that clients know, which ipykernel and jupyter_client remove with each kernel
    process.

    Raises:
        OSError: that is not possible.
    """
    if connection["transport"] == "ipc":
        for port in _ports(connection):
            name = "%s-%d" % (connection["ip"], port)
            if not os.path.lexists(name):
                os.symlink(os.path.basename(_lasting(connection, port)), name)


def inherited() -> dict[int, int]:
    """The descriptors of the sockets that listen already, by port; what this process starts does not inherit them."""
    try:
        with open(LISTENING_FILE) as file:
            found = {int(port): int(descriptor) for port, descriptor in json.load(file).items()}
        for descriptor in found.values():
            os.set_inheritable(descriptor, False)
    except OSError:
        return {}  # in a notebook image
    return found


def take_over(sock: Any, port: int, descriptors: dict[int, int]) -> None:
    """Have a ZeroMQ socket's bind take the one of these descriptors that listens on its port, where one does.

    ZMQ_USE_FD: "use it instead of allocating a new file descriptor" (zmq_setsockopt).
    """
    import zmq

    if port in descriptors:
        sock.setsockopt(zmq.USE_FD, descriptors[port])  # type: ignore[attr-defined]
