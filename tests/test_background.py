"""The background loop, and the threads for what would block it."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import multiprocessing.process
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, labels
from docker_kernel.engine import ContainerSpec, Engine
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import Notebook
from tests.patience import patient

ROOT = Path(__file__).parent.parent


def all_are_free(call: Callable[..., Awaitable[Any]]) -> bool:
    """Whether as many calls as there are shared threads can be under way at once: each waits for all others."""
    meeting = threading.Barrier(background.WORKERS)

    async def meet() -> None:
        await asyncio.gather(*(call(meeting.wait, 20) for _ in range(background.WORKERS)))

    try:
        background.run_blocking(meet())
    except threading.BrokenBarrierError:
        return False
    return True


def dispatch_replicas(notebook: Notebook) -> None:
    """Have two jobs of eight replicas run."""
    for name in ("first", "second"):
        cell = f"%%dispatch --name {name} --replicas 8\nimport time\nprint('is up', flush=True)\ntime.sleep(600)"
        assert notebook.run(cell).status == "ok"
    notebook.run("from docker_kernel import jobs\nsent = [jobs['first'], jobs['second']]")
    end = time.monotonic() + 240
    while (up := notebook.value("[job.logs().count('is up') for job in sent]")) != [8, 8]:
        assert time.monotonic() < end, (up, notebook.run("print(sent)").text)
        time.sleep(0.5)


def test_jobs_of_many_replicas_leave_the_threads_to_others(start: NotebookMaker) -> None:
    one = start()
    try:
        dispatch_replicas(one)
        assert all_are_free(asyncio.to_thread)
        assert all_are_free(one.container.engine.connection.call)

        other = start()
        request = other.client.execute("print('sleeps', flush=True); import time; time.sleep(600)")
        while other.client.get_iopub_msg(timeout=patient(30))["msg_type"] != "stream":
            pass
        other.manager.interrupt_kernel()
        assert other.reply(request, timeout=30)["ename"] == "KeyboardInterrupt"
    finally:
        cancelled = one.run("print([job.cancel() for job in sent], all([job.wait(60) for job in sent]))", timeout=150)
    assert cancelled.text == "[True, True] True\n", cancelled.traceback
    assert one.value("[job.state for job in sent]") == ["cancelled", "cancelled"]


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_nothing_blocks_the_loop(
    make_spec: SpecMaker, engine: Engine, own_folders: Path, tmp_path: Path, transport: str
) -> None:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "data.csv").write_text("a,b\n")
    settings = (
        own_folders / "config.toml"
    ).read_text() + f'[targets.other]\nkind = "docker"\nengine = "{engine.url}"\n'
    (tmp_path / "config.toml").write_text(settings)
    # Nothing is remembered, so that all that is remembered is written, too.
    env = {
        **os.environ,
        "DOCKER_KERNEL_CONFIG": str(tmp_path / "config.toml"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "tests.loop_audit", make_spec(transport=transport), str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found, "\n".join(f"{what} {argument}" for what, argument in sorted(found.items()))


def forked(target: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    """A forked child that runs a function, as jupyter_client's users start kernels from processes of theirs."""
    child = multiprocessing.get_context("fork").Process(target=target)
    child.start()
    return child


def test_an_engine_answers_in_a_forked_process_and_its_parent_at_the_same_time(engine: Engine) -> None:
    """Each has connections of its own: on one that both used, they would get each other's answers."""
    background.run_blocking(engine.containers.list({}))
    answers = multiprocessing.get_context("fork").SimpleQueue()

    async def ask() -> int:
        images = [len(await engine.images.ids()) for _ in range(100)]
        for _ in range(100):
            assert isinstance(await engine.containers.list({}), list)
        return min(images)

    child = forked(lambda: answers.put(background.run_blocking(ask())))
    try:
        assert background.run_blocking(ask()) > 0
        child.join(patient(20))
        assert child.exitcode == 0 and answers.get() > 0
    finally:
        child.kill()


def test_what_a_forked_process_asks_first_has_a_thread(engine: Engine, python_image: str) -> None:
    """Also where the call itself, in its thread, is what takes the connections."""
    spec = ContainerSpec(image=python_image, command=["true"], labels={labels.KIND: labels.KIND_BUILD}, network="none")

    async def start_all_threads() -> None:
        await asyncio.gather(*(engine.containers.list({}) for _ in range(2 * background.WORKERS)))

    async def create_and_remove() -> None:
        await engine.containers.remove(await engine.containers.create(spec))

    background.run_blocking(start_all_threads())
    child = forked(lambda: background.run_blocking(create_and_remove()))
    try:
        child.join(patient(20))
        assert child.exitcode == 0
    finally:
        child.kill()


def test_a_stream_is_read_on_when_a_forked_child_has_dropped_its_copy() -> None:
    near, far = socket.socketpair()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(sock=near)

    streams = [background.run_blocking(connect())]
    waits = background.submit(streams[0][0].readline())

    def drop() -> None:
        streams.clear()
        gc.collect()

    child = forked(drop)
    child.join(patient(20))
    assert child.exitcode == 0
    far.sendall(b"still here\n")
    assert waits.result(patient(5)) == b"still here\n"
    _, writer = streams.pop()
    background.loop().call_soon_threadsafe(writer.close)
    far.close()


def test_a_process_that_is_forked_while_a_thread_asks_for_the_loop_has_one() -> None:
    with background._lock:
        child = forked(lambda: background.run_blocking(asyncio.sleep(0)))
        child.join(patient(20))
    try:
        assert child.exitcode == 0
    finally:
        child.kill()
