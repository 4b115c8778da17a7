"""The environment of a kernel that another process started: all that must be known of it, the engine tells."""

from __future__ import annotations

from docker_kernel import labels
from docker_kernel.batch.package import Container, environment_of
from docker_kernel.engine import Engine
from docker_kernel.kernel.running import RunningKernel, find


async def running_kernel_image(kernel: str, engine: Engine | None = None) -> tuple[str, RunningKernel]:
    """The image of a running kernel's exact environment: that of its container, and what was installed in it since.

    Args:
        kernel: the start of its id, or a part of its notebook's name.
        engine: None for the one that `docker` reaches.

    Returns:
        The id of the image, and the kernel; its `spec` is the name of its kernelspec.

    Raises:
        NotFound: none or several fit.
        JobError: what was installed is too much, or cannot be copied.
    """
    made = engine or await Engine.connect()
    try:
        found = await find(made, kernel)
        marks, state = found.container.labels, found.container
        python, home = marks.get(labels.PYTHON) or "python3", marks.get(labels.HOME, "/root")
        return await environment_of(made, Container(state.id, state.image, python, home, state.binds)), found
    finally:
        if engine is None:
            made.close()
