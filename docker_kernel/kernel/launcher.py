"""The argv face of a kernel container, for clients that ignore provisioners (VS Code raw kernels, old jupyter_client).

They spawn `python -m docker_kernel.kernel.launcher -f CONNECTION_FILE --spec FOLDER`, signal this process, and read its
exit code. It honours the ports and keys of the connection file it is given. When it is killed, its link breaks, and
the container ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

from docker_kernel import config
from docker_kernel.engine import Engine
from docker_kernel.errors import ConfigError, DockerKernelError
from docker_kernel.kernel import running
from docker_kernel.kernel.connection import CONTAINER_PORTS, Keys
from docker_kernel.kernel.container import KernelContainer, KernelLaunch

GRACE = 5.0
"""Seconds: nobody can take over a launcher's kernel, so there is no reason to wait longer."""


def read_launch(connection_file: Path, spec_folder: Path | None, arguments: list[str]) -> KernelLaunch:
    """What to start, from the client's connection file and our kernelspec.

    Raises:
        ConfigError: one of them cannot be read, or asks for what a local kernel cannot have.
    """
    info = _read_json(connection_file, "connection file")
    spec = _read_json(spec_folder / "kernel.json", "kernelspec") if spec_folder else {}
    stanza = (spec.get("metadata") or {}).get("kernel_provisioner") or {}
    user_config = config.load()
    settings = user_config.kernel_config(stanza.get("config") or {}, f"The kernelspec in {spec_folder}")
    if info.get("transport", "tcp") != "tcp":
        raise ConfigError(
            f"The connection file {connection_file} asks for transport {info['transport']!r}, which this way of "
            "starting a kernel does not have: use tcp."
        )
    if settings.network == "none":
        raise ConfigError(
            'network = "none" needs transport ipc, but this client\'s connection file asks for ports: start the kernel '
            'from Jupyter, or set `network` to "bridge".'
        )
    if info.get("ip") not in ("127.0.0.1", "localhost"):
        raise ConfigError(
            f"The connection file {connection_file} asks for the address {info.get('ip')!r}; a kernel's ports are "
            "published on 127.0.0.1 only."
        )
    if settings.encryption == "required" and not info.get("curve_secretkey"):
        raise ConfigError(
            'encryption = "required", but this client\'s connection file has no Curve keys: start the kernel from '
            'Jupyter, or set encryption to "auto".'
        )
    encrypted = settings.encryption != "disabled" and bool(info.get("curve_secretkey"))
    return KernelLaunch(
        kernel_id=str(uuid.uuid4()),
        config=settings,
        user_config=user_config,
        cwd=str(Path.cwd()),
        keys=Keys(
            info.get("key", ""),
            info.get("curve_publickey") if encrypted else None,
            info.get("curve_secretkey") if encrypted else None,
        ),
        command=settings.argv,
        arguments=arguments,
        spec_name=spec_folder.name if spec_folder else "",
        launch_env=dict(os.environ),
        spec_env=spec.get("env") or {},
        host_ports=_ports(connection_file, info),
        connection_file=str(connection_file),
        grace=min(settings.grace, GRACE),
    )


def _ports(connection_file: Path, info: dict[str, Any]) -> dict[int, int]:
    """The client's ports, by the container's. A client that leaves them to the kernel could not learn them."""
    ports = {port: info.get(name) for name, port in CONTAINER_PORTS.items()}
    if not all(isinstance(port, int) and 0 < port < 65536 for port in ports.values()):
        raise ConfigError(f"The connection file {connection_file} does not name the kernel's five ports.")
    return {port: int(host) for port, host in ports.items() if host}


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"The {what} {path} cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"The {what} {path} is no JSON object.")
    return data


async def run(launch: KernelLaunch) -> int:
    """Start the kernel, pass signals on, and return its exit code when it ends."""
    loop = asyncio.get_running_loop()
    container = KernelContainer(await Engine.connect(), launch)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    # The supervisor's kernel may not be up yet when the first interrupt comes: it is passed on, not obeyed here.
    loop.add_signal_handler(signal.SIGINT, lambda: _spawn(_interrupt(container)))
    parent = _watch_parent(loop, stop)
    try:
        await container.start()
        _spawn(running.sweep(container.engine))
        ended = asyncio.ensure_future(container.wait())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else 128 + signal.SIGTERM
    finally:
        await container.remove()
        if parent is not None:
            os.close(parent)


async def _interrupt(container: KernelContainer) -> None:
    try:
        await container.signal(signal.SIGINT)
    except DockerKernelError as error:
        print(f"docker-kernel: {error}", file=sys.stderr, flush=True)


_tasks: set[asyncio.Task[None]] = set()


def _spawn(coroutine: Any) -> None:
    task = asyncio.ensure_future(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> int | None:
    """End with the client that started us (its pid is in JPY_PARENT_PID), as native kernels do."""
    try:
        descriptor = os.pidfd_open(int(os.environ["JPY_PARENT_PID"]))
    except (KeyError, ValueError, AttributeError, OSError):
        return None
    loop.add_reader(descriptor, stop.set)
    return descriptor


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="docker_kernel.kernel.launcher", description=__doc__)
    parser.add_argument("-f", "--connection-file", type=Path, required=True)
    parser.add_argument("--spec", type=Path, help="the folder of the kernelspec")
    options, arguments = parser.parse_known_args(argv)
    try:
        code = asyncio.run(run(read_launch(options.connection_file, options.spec, arguments)))
    except DockerKernelError as error:
        print(f"docker-kernel: {error}", file=sys.stderr)
        return 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
