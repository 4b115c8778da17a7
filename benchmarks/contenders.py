"""The kernels that are compared, each with a kernelspec in a folder of the benchmark's own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import write_kernel_spec
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from docker_kernel import background, kernelspec
from docker_kernel.config import DEFAULT_IMAGE
from docker_kernel.engine import Engine

IMAGE = os.environ.get("DOCKER_KERNEL_BENCHMARK_IMAGE", DEFAULT_IMAGE)
PATIENCE = 120
"""Seconds that an answer may take before the benchmark gives up."""


@dataclass(frozen=True)
class Contender:
    """A kernelspec, and how its kernels are started."""

    spec: str
    options: dict[str, Any] = field(default_factory=dict)

    async def start(self) -> tuple[AsyncKernelManager, AsyncKernelClient]:
        manager = AsyncKernelManager(kernel_name=self.spec, **self.options)
        await manager.start_kernel()
        return manager, connect(manager)


NATIVE = Contender("native")
NATIVE_CURVE = Contender("native", {"transport_encryption": "required"})
NATIVE_IPC = Contender("native", {"transport": "ipc"})
NATIVE_IPC_CURVE = Contender("native", {"transport": "ipc", "transport_encryption": "required"})
OURS = Contender("docker-curve")
OURS_PLAIN = Contender("docker-plain")
OURS_IPC = Contender("docker-ipc-plain")
OURS_IPC_CURVE = Contender("docker-ipc-curve")


def prepare(engine: Engine, folder: Path) -> None:
    """Write the kernelspecs below a folder, and point Jupyter (here and in what we start) at it alone."""
    kernels = folder / "data" / "kernels"
    for name, path in (("JUPYTER_DATA_DIR", "data"), ("JUPYTER_RUNTIME_DIR", "runtime"), ("IPYTHONDIR", "ipython")):
        os.environ[name] = str(folder / path)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "0"
    os.environ["XDG_DATA_HOME"] = str(folder / "share")
    (folder / "config.toml").write_text("")
    os.environ["DOCKER_KERNEL_CONFIG"] = str(folder / "config.toml")
    kernels.mkdir(parents=True)
    (folder / "runtime").mkdir()  # as a server does
    write_kernel_spec(kernels / NATIVE.spec)
    for contender, encryption, transport in (
        (OURS, "auto", "tcp"),
        (OURS_PLAIN, "disabled", "tcp"),
        (OURS_IPC_CURVE, "auto", "ipc"),
        (OURS_IPC, "disabled", "ipc"),
    ):
        settings = kernelspec.stanza(image=IMAGE, encryption=encryption, transport=transport)
        background.run_blocking(kernelspec.install(engine, kernels, settings, name=contender.spec))


def connect(manager: AsyncKernelManager) -> AsyncKernelClient:
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    return client


async def execute(client: AsyncKernelClient, code: str) -> float:
    """Run a cell and return the seconds until its reply."""
    begin = time.perf_counter()
    request = client.execute(code, store_history=False)
    while True:
        answer = await client.get_shell_msg(timeout=PATIENCE)
        if answer["parent_header"].get("msg_id") == request:
            seconds = time.perf_counter() - begin
            assert answer["content"]["status"] == "ok", answer["content"]
            return seconds


async def end(manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


async def first_reply(contender: Contender) -> float:
    """Seconds from the start to the first execute_reply, without wait_for_ready's drain."""
    begin = time.perf_counter()
    manager, client = await contender.start()
    try:
        await execute(client, "1")
        return time.perf_counter() - begin
    finally:
        await end(manager, client)
