"""Run as a script: a kernel's life and its jobs, and what the background loop's thread did meanwhile that may block.

It prints JSON: for each such call, its audit event and where of ours it was made, and the file or command. It is a
process of its own, as an audit hook stays for good.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import docker_kernel
from docker_kernel import background
from tests.notebook import Notebook

PACKAGE = str(Path(docker_kernel.__file__).parent)
LOOP_THREAD = "docker-kernel"

BLOCKING = (
    "open",
    "os.",
    "shutil.",
    "tempfile.",
    "glob.",
    "pathlib.",
    "sqlite3.",
    "subprocess.",
    "time.sleep",
)
HARMLESS = ("os.fork", "os.putenv", "os.unsetenv", "os.add_dll_directory")

found: dict[str, str] = {}


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith(BLOCKING) or event in HARMLESS or threading.current_thread().name != LOOP_THREAD:
        return
    stack = list(frames())
    if any(is_harmless(frame) for frame in stack):
        return
    ours = [frame for frame in stack if frame.f_code.co_filename.startswith(PACKAGE)]
    where = [f"{frame.f_code.co_filename.removeprefix(PACKAGE + '/')}:{frame.f_lineno}" for frame in ours]
    if str(arguments[0] if arguments else "").startswith("/proc/"):
        return  # memory
    found.setdefault(f"{event} {where[:3]}", str(arguments[:1])[:200])


def frames() -> Any:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def is_harmless(frame: FrameType) -> bool:
    """Imports, which come once; what asyncio starts a process with; the log; and a traceback's source lines."""
    name = frame.f_code.co_filename
    return (
        name.startswith("<frozen importlib")
        or name.endswith(("asyncio/unix_events.py", "/linecache.py"))
        or "/logging/" in name
        or "/importlib/metadata/" in name
    )


def main(spec: str, folder: str) -> None:
    loop = background.loop()
    assert any(thread.name == LOOP_THREAD for thread in threading.enumerate()) and loop.is_running()
    sys.addaudithook(hook)
    one = Notebook(spec, Path(folder))
    try:
        run(one, "import os, signal; value = list(range(1000))")
        run(one, "%%local\nhere = sum(value)")
        run(one, "%dispatch value[7]\nsent = _")
        for target in ("local", "other"):
            run(
                one,
                f"%%dispatch --on {target} --replicas 2\nprint('seen', flush=True)\nfrom docker_kernel import job",
            )
            run(one, "sent = _")
            run(one, "sent.result(200); print(sent.logs()); list(sent.files)")
        run(one, "%jobs")
        run(one, "%%dispatch\nimport time; time.sleep(600)")
        run(one, "sent = _; sent.cancel(); sent.wait(60)")
        one.restart()
        run(one, "1")
    finally:
        one.close()
    print(json.dumps(found))


def run(one: Notebook, code: str) -> None:
    reply = one.run(code, timeout=240)
    assert reply.status == "ok", (code, reply)


if __name__ == "__main__":
    main(*sys.argv[1:])
