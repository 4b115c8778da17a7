"""Tells the user, in the cell's own output, how the kernel process died: run by the supervisor after the death.

It binds the dead kernel's iopub port with the same keys, waits for the frontends to subscribe again, and sends an
`error` and an `idle` with the header of the request that was running.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from docker_kernel.guest import listening

sys.path.pop(0)

WAIT_MS = 3000
SETTLE_MS = 300
"""A Jupyter server subscribes more than once (for its own watch, and for each frontend); ZeroMQ connects again after
100 to 200 ms, so that all are there when for this long no other has come."""


def main(connection_file: str, parent_file: str, notice: dict[str, str]) -> None:
    import zmq
    from jupyter_client.session import Session

    with open(connection_file) as file:
        info = json.load(file)
    try:
        with open(parent_file) as file:
            parent = json.load(file)
    except (OSError, ValueError):
        return
    session = Session(key=info["key"].encode(), signature_scheme=info["signature_scheme"])
    context: Any = zmq.Context.instance()  # type: ignore[attr-defined]
    socket = context.socket(zmq.XPUB)  # type: ignore[attr-defined]
    if info.get("curve_secretkey"):
        socket.curve_secretkey = info["curve_secretkey"].encode()
        socket.curve_publickey = info["curve_publickey"].encode()
        socket.curve_server = True
    listening.take_over(socket, info["iopub_port"], listening.inherited())
    separator = "-" if info["transport"] == "ipc" else ":"
    socket.bind("%s://%s%s%s" % (info["transport"], info["ip"], separator, info["iopub_port"]))
    socket.xpub_verbose = True
    wait = WAIT_MS
    while socket.poll(wait):
        socket.recv()
        wait = SETTLE_MS
    if wait == WAIT_MS:
        return
    content = {
        "ename": notice["name"],
        "evalue": notice["text"],
        "traceback": ["\x1b[31m%s\x1b[0m: %s" % (notice["name"], notice["text"])],
    }
    for kind, body in (("error", content), ("status", {"execution_state": "idle"})):
        session.send(socket, kind, body, parent={"header": parent}, ident=("kernel.%s" % kind).encode())
    socket.close(linger=500)
    context.term()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
