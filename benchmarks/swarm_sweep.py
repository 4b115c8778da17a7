"""`python -m benchmarks.swarm_sweep 40`: a sweep of so many jobs on two Swarm nodes, against the engine's own time.

The engine's own: as many services of one task each, created, awaited and removed through docker-py alone, as many at
once. They run the very same job (its image, its spec as a secret), or the least that a job has to do, `python3 -c
"import IPython"`, or `true`.
Also measured: a job by itself, and again with one small variable changed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path

import docker
from docker.types import ContainerSpec, RestartPolicy, SecretReference, ServiceMode, TaskTemplate

from benchmarks import contenders
from benchmarks.contenders import IMAGE, OURS, end, execute
from benchmarks.table import Row, at_most, compared, markdown
from docker_kernel import background
from docker_kernel.batch.manager import manager as manager_of_jobs
from docker_kernel.engine import Engine
from docker_kernel.kernel import guest_files
from docker_kernel.targets.swarm.target import SPEC
from tests.swarm import TwoNodes, running_swarm

LABEL = "io.docker-kernel.benchmark"
POLL = 0.2
OVER = ("complete", "failed", "rejected", "shutdown")
FIRST = "%%dispatch --on cluster --wait\nanswer = small + 1"


async def own_services(image: str, command: list[str], count: int, at_once: int, secret: bytes = b"") -> float:
    """Seconds that the engine itself takes for so many services of one task."""
    client = docker.APIClient(version="auto", max_pool_size=64)
    slots = asyncio.Semaphore(at_once)
    ends: dict[str, asyncio.Future[str]] = {}

    async def poll() -> None:
        while True:
            for task in await asyncio.to_thread(client.tasks, filters={"label": LABEL}):
                state, end = task["Status"]["State"], ends.get(task["ServiceID"])
                if state in OVER and end is not None and not end.done():
                    end.set_result(state)
            await asyncio.sleep(POLL)

    async def one() -> None:
        async with slots:
            name = f"benchmark-{secrets.token_hex(6)}"
            kept = await asyncio.to_thread(client.create_secret, name, secret) if secret else {"ID": ""}
            files = [SecretReference(kept["ID"], name, SPEC)] if secret else None
            container = ContainerSpec(image, command=command, secrets=files)
            task = TaskTemplate(container, restart_policy=RestartPolicy("none"))
            made = await asyncio.to_thread(
                client.create_service, task, name=name, mode=ServiceMode("replicated", 1), labels={LABEL: "1"}
            )
            ends[made["ID"]] = asyncio.get_running_loop().create_future()
            assert await ends[made["ID"]] == "complete"
            await asyncio.to_thread(client.remove_service, made["ID"])
            if secret:
                await asyncio.to_thread(client.remove_secret, kept["ID"])

    polling = asyncio.create_task(poll())
    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    seconds = time.perf_counter() - begin
    polling.cancel()
    return seconds


async def measure(nodes: TwoNodes, reference: str, count: int, at_once: int) -> list[Row]:
    Path(os.environ["DOCKER_KERNEL_CONFIG"]).write_text(
        f'[targets.cluster]\nkind = "swarm"\nregistry = "{nodes.registry}/team"\nmax_jobs = {at_once}\n'
    )
    manager, client = await OURS.start()
    try:
        await execute(client, "from docker_kernel import dispatch\nsmall = 1\nblock = b'x' * 20_000_000")
        first = await execute(client, FIRST)
        await execute(client, "small = 2")
        second = await execute(client, FIRST)
        await execute(client, "assert answer == 3")
        alone = await own_services(reference, ["python3", "-c", "import IPython"], 1, 1)
        await execute(client, "del block")
        sweep = f"found = dispatch('small + i', on='cluster', sweep={{'i': range({count})}}).result(3600)"
        ours = await execute(client, sweep)
        await execute(client, f"assert found == [2 + i for i in range({count})], found")
    finally:
        await end(manager, client)
    job = next(one for one in manager_of_jobs().jobs() if one.params)
    kept = await manager_of_jobs()._kept(job, {})
    spec = {**kept.task.spec, "secrets": {}, "result": {"inline": 48_000, "store": None}}
    runner = f"{guest_files.LIB}/docker_kernel/guest/run_job.py"
    command = [spec["python"], "-I", "-S", runner, f"/run/secrets/{SPEC}"]
    assert job.placed is not None
    same = await own_services(job.placed["image"], command, count, at_once, json.dumps(spec).encode())
    least = await own_services(reference, ["python3", "-c", "import IPython"], count, at_once)
    empty = await own_services(reference, ["true"], count, at_once)
    what = f"a sweep of {count} jobs, {at_once} at once"
    return [
        Row("a first `%%dispatch --wait` (20 MB state)", f"{first:.2f} s", ""),
        compared("a second, one small variable changed", second, alone, "one service with `import IPython`"),
        compared(what, ours, same, f"{count} services that run the same job", at_most(1.3)),
        compared(what, ours, least, f"{count} services with `import IPython`"),
        compared(what, ours, empty, f"{count} services with `true`"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swarm_sweep", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    engine = background.run_blocking(Engine.connect())
    print(markdown(sweep(engine, options.count, options.at_once)))


def sweep(engine: Engine, count: int, at_once: int) -> list[Row]:
    """The rows of a sweep of so many jobs, so many of them at once."""
    contenders.PATIENCE = 3600
    with tempfile.TemporaryDirectory() as folder, running_swarm() as nodes:
        contenders.prepare(engine, Path(folder))
        reference = f"{nodes.registry}/team/benchmark:latest"
        for command in (["tag", IMAGE, reference], ["push", "-q", reference]):
            subprocess.run(["docker", *command], check=True, capture_output=True)
        nodes.on_worker("pull", "-q", reference)
        return asyncio.run(measure(nodes, reference, count, at_once))


if __name__ == "__main__":
    main()
