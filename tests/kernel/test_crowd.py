"""Many kernels of one server, asked for at once, on the real engine."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.multikernelmanager import AsyncMultiKernelManager

from docker_kernel import background, labels
from docker_kernel.engine import Engine
from docker_kernel.kernel.provisioner import shared_engine, shared_spares
from tests.conftest import SpecMaker
from tests.notebook import KERNEL_IDS
from tests.patience import patient

KERNELS = 20
CALLS = 12
"""Engine calls that a start may make: its own, and those that look for a spare."""


@pytest.fixture
def calls() -> Iterator[Counter[str]]:
    """Counts the calls of this process's engine, by their method and path."""
    engine = background.run_blocking(shared_engine())
    found: Counter[str] = Counter()

    def called(response: Any, *_: Any, **__: Any) -> None:
        path = re.sub(r"^/v[\d.]+", "", response.request.path_url.partition("?")[0])
        found[f"{response.request.method} {path}"] += 1

    hooks = engine.connection.client.hooks["response"]
    hooks.append(called)
    yield found
    hooks.remove(called)


async def answer(manager: AsyncMultiKernelManager, kernel_id: str) -> str:
    client: AsyncKernelClient = manager.get_kernel(kernel_id).client()
    client.start_channels()
    try:
        request = client.execute("", user_expressions={"id": f"{kernel_id!r}"}, store_history=False)
        while True:
            reply = await client.get_shell_msg(timeout=patient(60))
            if reply["parent_header"].get("msg_id") == request:
                return str(reply["content"]["user_expressions"]["id"]["data"]["text/plain"])
    finally:
        client.stop_channels()


def threads() -> int:
    """How many threads this process has, but for those that wait for the engine's answers."""
    waiting = ("docker-kernel-engine", "docker-kernel-lasting")
    return sum(not one.name.startswith(waiting) for one in threading.enumerate())


def left(engine: Engine, kernels: set[str]) -> list[str]:
    """The names of what kernels have on the engine."""
    containers = background.run_blocking(engine.containers.list({labels.KIND: labels.KIND_KERNEL}))
    volumes = background.run_blocking(engine.volumes.list(f"{labels.KIND}={labels.KIND_VOLUME}"))
    found = [one.name for one in containers if one.name.removeprefix(labels.KERNEL_NAME) in kernels]
    return found + [one["Name"] for one in volumes if one["Labels"].get(labels.KERNEL_ID) in kernels]


def test_kernels_that_start_together_answer_and_leave_nothing(
    engine: Engine, make_spec: SpecMaker, own_folders: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    runtime = own_folders / "runtime"
    files = set(runtime.glob("*"))
    spec = make_spec(warm_spares=1, grace=0)  # which runs for none of them, however late its link is

    before = threads()

    async def crowd() -> set[str]:
        manager = AsyncMultiKernelManager(connection_dir=str(tmp_path))
        try:
            ids = await asyncio.gather(
                *(manager.start_kernel(kernel_name=spec, cwd=str(tmp_path)) for _ in range(KERNELS))
            )
            KERNEL_IDS.update(ids)
            assert threads() <= before
            made = sum(calls.values())
            answers = await asyncio.gather(*(answer(manager, kernel_id) for kernel_id in ids))
            assert answers == [repr(kernel_id) for kernel_id in ids]
            assert len(left(engine, set(ids))) == 2 * KERNELS
            assert made <= CALLS * KERNELS, calls.most_common()
            # What is the same for all is asked once.
            assert calls["GET /info"] <= 1
            return set(ids)
        finally:
            await manager.shutdown_all(now=True)

    ids = asyncio.run(crowd())
    try:
        assert left(engine, ids) == []
        assert set(runtime.glob("*")) == files
    finally:
        background.run_blocking(shared_spares(background.run_blocking(shared_engine())).close())
