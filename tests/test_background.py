"""The threads for blocking calls, while much is under way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from docker_kernel import background
from tests.conftest import NotebookMaker
from tests.notebook import Notebook


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
        assert all_are_free(one.container.engine._call)

        other = start()
        request = other.client.execute("print('sleeps', flush=True); import time; time.sleep(600)")
        while other.client.get_iopub_msg(timeout=30)["msg_type"] != "stream":
            pass
        other.manager.interrupt_kernel()
        reply = other.client.get_shell_msg(timeout=30)
        assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (request, "KeyboardInterrupt")
    finally:
        cancelled = one.run("print([job.cancel() for job in sent], all([job.wait(60) for job in sent]))", timeout=150)
    assert cancelled.text == "[True, True] True\n", cancelled.traceback
    assert one.value("[job.state for job in sent]") == ["cancelled", "cancelled"]
