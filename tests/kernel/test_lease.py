"""The lease: what keeps a kernel's container, what ends it, and what a host leaves that is killed at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, labels
from docker_kernel.engine import Containers, ContainerSpec, ContainerState, Engine
from docker_kernel.guest.link import LEASE_EXIT
from docker_kernel.kernel import makers, running
from docker_kernel.kernel.container import KernelContainer
from tests.conftest import SpecMaker
from tests.inside import run_inside
from tests.kernel.test_life import gone
from tests.kernel.test_spares import of_spec, pattern, until, warm

run = background.run_blocking
ROOT = Path(__file__).parents[2]

BREAK_THE_LINK = """
import os, signal
for process in filter(str.isdigit, os.listdir('/proc')):
    if b'guest/link.py\\0' in open(f'/proc/{process}/cmdline', 'rb').read():
        os.kill(int(process), signal.SIGKILL)
        print('broken')
"""

INPUTS = """
import os
for process in filter(str.isdigit, os.listdir('/proc')):
    if b'guest/link.py' not in open(f'/proc/{process}/cmdline', 'rb').read():
        found = os.readlink(f'/proc/{process}/fd/0')
        if process == '1':
            print(found)
        else:
            assert found == '/dev/null', (process, found)
"""


@pytest.fixture
def slow_links(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Event]:
    """Makes links wait, as under load, until the event is set."""
    ready = asyncio.Event()
    real = Containers.exec

    async def late(*args: Any, **options: Any) -> Any:
        await ready.wait()
        return await real(*args, **options)

    monkeypatch.setattr(Containers, "exec", late)
    yield ready
    background.loop().call_soon_threadsafe(ready.set)


def answers(kernel: KernelContainer) -> bool:
    """Whether the supervisor answers on a link."""
    kernel._changed.clear()
    run(kernel.signal(signal.SIGCONT))
    return bool(until(kernel._changed.is_set)) and kernel.exit_code is None


def break_link(kernel: KernelContainer) -> None:
    command = [kernel.python, "-c", BREAK_THE_LINK]
    assert run_inside(kernel.container_id, command, kernel.user) == (0, "broken\n")


def test_a_link_that_comes_late_costs_no_kernel(
    engine: Engine, make_spec: SpecMaker, slow_links: asyncio.Event
) -> None:
    kernel = KernelContainer(engine, pattern(make_spec(grace=0)))
    run(kernel.start())
    try:
        time.sleep(12)  # more than any lease that would have run from the start
        assert run(engine.containers.inspect(kernel.container_id)).running
        background.loop().call_soon_threadsafe(slow_links.set)
        assert answers(kernel)
    finally:
        run(kernel.remove())


def test_a_broken_link_costs_no_kernel_of_a_server_that_lives(
    engine: Engine, make_spec: SpecMaker, slow_links: asyncio.Event
) -> None:
    kernel = KernelContainer(engine, pattern(make_spec(grace=0)))
    background.loop().call_soon_threadsafe(slow_links.set)
    run(kernel.start())
    try:
        assert answers(kernel)
        background.loop().call_soon_threadsafe(slow_links.clear)
        break_link(kernel)
        time.sleep(2)
        assert run(engine.containers.inspect(kernel.container_id)).running
        background.loop().call_soon_threadsafe(slow_links.set)
        assert answers(kernel)
    finally:
        run(kernel.remove())


def test_an_end_by_lease_says_so(
    engine: Engine, make_spec: SpecMaker, slow_links: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = KernelContainer(engine, pattern(make_spec(grace=1)))
    background.loop().call_soon_threadsafe(slow_links.set)
    run(kernel.start())
    try:
        assert answers(kernel)
        background.loop().call_soon_threadsafe(slow_links.clear)

        async def leave() -> None:
            kernel._detach()

        run(leave())
        break_link(kernel)
        assert gone(engine, kernel.container_id)
        background.loop().call_soon_threadsafe(slow_links.set)
        assert run(kernel.wait()) == LEASE_EXIT
    finally:
        run(kernel.remove())
    assert kernel.reason.startswith("no server had been connected to its container for 1 seconds")
    assert "`grace`" in kernel.reason and kernel.reason in caplog.text


def test_a_late_look_at_a_container_that_has_gone_ends_no_restarted_kernel(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = KernelContainer(engine, pattern(make_spec()))
    run(kernel.start())
    try:
        first = kernel.container_id
        run(engine.containers.remove(first))
        run(kernel.wait())

        async def replaced() -> None:
            restarted = asyncio.Event()
            real = Containers.inspect

            async def late(self: Containers, container: str) -> ContainerState:
                if container == first:
                    await restarted.wait()
                return await real(self, container)

            monkeypatch.setattr(Containers, "inspect", late)
            look = asyncio.ensure_future(kernel._look())  # as each of the two ends of its link tells of the end
            await asyncio.sleep(0)
            await kernel.restart()
            restarted.set()
            await look

        run(replaced())
        assert kernel.container_id not in ("", first)
        assert (kernel.exit_code, kernel.reason) == (None, "") and answers(kernel)
    finally:
        run(kernel.remove())


def test_a_kernels_processes_have_an_empty_standard_input(engine: Engine, make_spec: SpecMaker) -> None:
    kernel = KernelContainer(engine, pattern(make_spec()))
    run(kernel.start())
    try:
        assert answers(kernel)
        code, said = run_inside(kernel.container_id, [kernel.python, "-c", INPUTS], kernel.user)
        assert (code, said.split()) == (0, ["/dev/null"])
    finally:
        run(kernel.remove())


HOST = """
import os, signal, sys, threading, time
sys.path.insert(0, os.getcwd())
from docker_kernel import background
from docker_kernel.engine import Containers, Engine
from docker_kernel.kernel import container
from tests.kernel.test_spares import pattern

container.LINK_DELAY = 0.5
spec, moment, step = sys.argv[1:]
kernel = container.KernelContainer(background.run_blocking(Engine.connect()), pattern(spec))
print(kernel.kernel_id, flush=True)
real = getattr(Containers, step)

def end():
    os.kill(os.getpid(), signal.SIGKILL)

async def last(*args, **options):
    if moment == "before":
        end()
    if moment == "during":
        threading.Timer(0.02, end).start()
    await real(*args, **options)
    end()

setattr(Containers, step, last)
background.run_blocking(kernel.start())
time.sleep(60)
"""


@pytest.mark.parametrize(
    "moment",
    ["during create", "after create", "before start", "during start", "after start", "during put", "after put",
     "before exec", "after exec"],
)  # fmt: skip
def test_a_host_killed_at_any_moment_of_a_start_leaves_nothing(
    engine: Engine, make_spec: SpecMaker, moment: str
) -> None:
    spec = make_spec(grace=1)
    command = [sys.executable, "-c", HOST, spec, *moment.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as host:
        assert host.stdout is not None
        kernel_id = host.stdout.readline().strip()
    assert host.returncode == -signal.SIGKILL

    def nothing() -> bool:
        run(running.sweep(engine))
        volumes = run(engine.volumes.list(f"{labels.KIND}={labels.KIND_VOLUME}"))
        return not of_spec(engine, spec) and kernel_id not in [one["Labels"].get(labels.KERNEL_ID) for one in volumes]

    def nothing_any_more() -> bool:
        """Also when the engine was still at what it had been asked for."""
        if not nothing():
            return False
        time.sleep(1)
        return nothing()

    assert until(nothing_any_more, 20), [one.container for one in of_spec(engine, spec)]


@pytest.mark.parametrize("kind", [labels.KIND_KERNEL, labels.KIND_BUILD])
def test_what_never_started_is_removed_when_its_maker_has_gone(engine: Engine, python_image: str, kind: str) -> None:
    own = makers.this_process()
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE) as other:
        here, _, start = own.rpartition(" ")
        gone_maker = f"{here.rpartition(' ')[0]} {other.pid} {start}"
        assert makers.lives(gone_maker) is False, "another process has that id now"
        other.kill()
    made = {}
    try:
        elsewhere = f"another-machine {own.partition(' ')[2]}"
        for maker in (own, gone_maker, elsewhere, ""):
            marks = {labels.KIND: kind, labels.USER: str(os.getuid()), labels.MAKER: maker}
            name = f"docker-kernel-test-{uuid.uuid4().hex[:8]}"
            made[maker] = run(engine.containers.create(ContainerSpec(python_image, ["true"], name=name, labels=marks)))
        over = {state.id for state in run(running.leftovers(engine)).containers}
        left = {state.id for state in run(engine.containers.list({labels.KIND: kind}))}
        # A server of another test may have been first.
        assert [maker for maker, container in made.items() if container in left - over] == [own, elsewhere, ""]
        run(running.sweep(engine))
        left = {state.id for state in run(engine.containers.list({labels.KIND: kind}))}
        assert [maker for maker, container in made.items() if container in left] == [own, elsewhere, ""]
    finally:
        for container in made.values():
            run(engine.containers.remove(container))


SERVER = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from docker_kernel import background
from docker_kernel.engine import Engine
from docker_kernel.kernel.spares import Spares
from tests.kernel.test_spares import pattern

spares = Spares(background.run_blocking(Engine.connect()))
for line in sys.stdin:
    kernel = background.run_blocking(spares.start(pattern(sys.argv[1]), keep=line == "keep\\n"))
    print(kernel.container_id, flush=True)
"""


def test_a_claimed_spare_is_held_by_its_new_server_alone(engine: Engine, make_spec: SpecMaker) -> None:
    spec = make_spec(warm_spares=1, grace=1, workspace=False)
    command = [sys.executable, "-c", SERVER, spec]
    servers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]

    def start(server: subprocess.Popen[str], how: str) -> str:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(how + "\n")
        server.stdin.flush()
        return server.stdout.readline().strip()

    try:
        start(servers[0], "keep")
        (spare,) = until(lambda: warm(engine, spec))
        servers[0].send_signal(signal.SIGSTOP)  # it cannot let go
        assert start(servers[1], "once") == spare.id
        servers[1].kill()
        assert gone(engine, spare.id)
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    assert until(lambda: not of_spec(engine, spec))
