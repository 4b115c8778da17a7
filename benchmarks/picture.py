"""`python -m benchmarks.picture`: where the time goes in a native, a cold and a warm start, as an image for the docs.

Nothing is added to a start but one line that the kernel runs at its end, which notes the time; and its first cell tells
that time and the process's id, whose birth /proc knows to 10 ms.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.multikernelmanager import AsyncMultiKernelManager

from benchmarks.contenders import NATIVE, PATIENCE, Contender, connect
from benchmarks.processes import born, in_containers, inner_id
from benchmarks.start import COLD, WARM, Starts, install, server
from benchmarks.table import median
from docker_kernel import background
from docker_kernel.engine import Engine
from docker_kernel.kernel.container import KernelContainer
from docker_kernel.kernel.provisioner import shared_engine

FILE = Path(__file__).parent.parent / "docs" / "images" / "start-timeline.svg"

NOTE = "import time; _initialised = time.time()"
TELL = "(_initialised, __import__('os').getpid())"

CLIENT = "client, kernelspec"
CREATE = "engine: create the container"
START = "engine: start it"
PUT = "engine: put our files into it"
CLAIM = "claim the spare"
IMPORTS = "interpreter, imports"
KERNEL = "the kernel's own start"
REPLY = "connections, first reply"

COLOURS = {
    CLIENT: "#6e7681",
    CREATE: "#0b4f9c",
    START: "#1f6feb",
    PUT: "#0e7490",
    CLAIM: "#5b4bc4",
    IMPORTS: "#a15c00",
    KERNEL: "#1a7f37",
    REPLY: "#a02c86",
}
"""White text can be read on each of them."""

TITLES = {"native": "native kernel", "cold": "Docker Python, cold", "warm": "Docker Python, from a spare"}

Phases = dict[str, float]
"""Seconds of each phase, in their order."""


class Marks(dict[str, tuple[float, float]]):
    """When the last call of each watched coroutine began and ended, by its name."""

    def watch(self, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            begin = time.time()
            try:
                return await original(*args, **kwargs)
            finally:
                self[name] = (begin, time.time())

        setattr(owner, name, watched)


async def first_cell(client: AsyncKernelClient) -> tuple[float, int]:
    """When the kernel had started, and the id of its process."""
    request = client.execute("", user_expressions={"it": TELL}, store_history=False)
    while True:
        answer = await client.get_shell_msg(timeout=PATIENCE)
        if answer["parent_header"].get("msg_id") == request:
            initialised, process = ast.literal_eval(answer["content"]["user_expressions"]["it"]["data"]["text/plain"])
            return initialised, process


async def phases(manager: AsyncMultiKernelManager, contender: Contender, marks: Marks) -> Phases:
    marks.clear()
    begin = time.time()
    kernel_id = await manager.start_kernel(
        kernel_name=contender.spec, extra_arguments=[f"--IPKernelApp.exec_lines={NOTE}"]
    )
    kernel = manager.get_kernel(kernel_id)
    client = connect(kernel)
    try:
        initialised, process = await first_cell(client)
        end = time.time()
        if contender is NATIVE:
            # Its second thread serves its first socket.
            birth, second, *_ = born(kernel.provisioner.pid)
            ends = {CLIENT: birth, IMPORTS: second}
        else:
            info = await kernel.provisioner.get_provisioner_info()
            (inside,) = [one for one in in_containers([info["container"]]) if inner_id(one) == process]
            fork = born(inside)[0]
            if contender is WARM:
                ends = {CLIENT: marks["become"][0], CLAIM: fork}
            else:
                ends = {CLIENT: marks["create"][0], CREATE: marks["create"][1], START: marks["start"][1]}
                ends |= {PUT: marks["put"][1], IMPORTS: fork}
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(kernel_id, now=True)
    found: Phases = {}
    for name, until in {**ends, KERNEL: initialised, REPLY: end}.items():
        found[name] = max(0.0, until - begin)
        begin = max(begin, until)
    return found


async def measure(engine: Engine, count: int) -> dict[str, Phases]:
    """The medians of all phases of each start."""
    await install(engine)
    marks = Marks()
    own = await background.run(shared_engine())
    for name in ("create", "start", "put"):
        marks.watch(own, name)
    marks.watch(KernelContainer, "become")
    found: dict[str, list[Phases]] = {name: [] for name in TITLES}
    async with server() as manager:
        starts = Starts(engine, manager)
        await starts.prime()
        for number in range(count + 1):
            for name, contender in (("native", NATIVE), ("cold", COLD), ("warm", WARM)):
                await starts.spare()
                one = await phases(manager, contender, marks)
                if number:
                    found[name].append(one)
    return {name: {phase: median(one[phase] for one in all_) for phase in all_[0]} for name, all_ in found.items()}


WIDTH, LEFT, BAR, ROW, TOP = 860, 10, 34, 74, 26
LEGEND = 22


def draw(measured: Mapping[str, Phases]) -> str:
    """The picture, in colours that can be seen on light and dark pages."""
    scale = (WIDTH - 2 * LEFT - 70) / max(sum(one.values()) for one in measured.values())
    parts: list[str] = []
    text = partial(_text, parts)
    y = TOP
    for name, one in measured.items():
        text(LEFT, y - 8, TITLES[name], weight=600)
        x = float(LEFT)
        for phase, seconds in one.items():
            width = seconds * scale
            label = f"{seconds * 1000:.0f}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(width - 1, 0.5):.1f}" height="{BAR}" fill="{COLOURS[phase]}">'
                f"<title>{phase}: {label} ms</title></rect>"
            )
            if width > 9 * len(label) + 4:
                text(x + width / 2, y + BAR / 2 + 5, label, fill="#fff", anchor="middle")
            x += width
        text(x + 8, y + BAR / 2 + 5, f"{sum(one.values()) * 1000:.0f} ms", weight=600)
        y += ROW
    shown = [phase for phase in COLOURS if any(phase in one for one in measured.values())]
    y -= ROW - BAR - 28
    for number, phase in enumerate(shown):
        x, row = LEFT + (number % 3) * (WIDTH // 3), y + number // 3 * LEGEND
        parts.append(f'<rect x="{x}" y="{row - 11}" width="13" height="13" fill="{COLOURS[phase]}"/>')
        text(x + 20, row, phase)
    height = y + (len(shown) - 1) // 3 * LEGEND + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img">\n'
        "<title>Where the time goes from the request of a kernel to the first reply, in milliseconds</title>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(
    parts: list[str], x: float, y: float, content: str, weight: int = 400, fill: str = "#7d848c", anchor: str = "start"
) -> None:
    parts.append(
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}">{content}</text>'
    )


async def save(engine: Engine, count: int) -> None:
    FILE.write_text(draw(await measure(engine, count)), encoding="utf-8")


if __name__ == "__main__":
    from benchmarks.__main__ import main

    main("picture")
