"""gateway_provisioners' DockerProvisioner on the same image, set up as its documentation says.

Its kernels need its launchers inside the image: they are put into a derived image, which is removed afterwards. It runs
in a process of its own (`python -m benchmarks.gateway` starts a kernel for each line of input, and prints the seconds),
as it blocks its event loop 10 ms in every 20 from its first kernel on, which would slow all others down.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import string
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.contenders import IMAGE, Contender, first_reply
from benchmarks.table import Measure
from docker_kernel import background, labels
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import DockerKernelError

SPEC = "gateway"
TAG = "docker-kernel-benchmark/gateway:latest"
LAUNCHERS = "/usr/local/bin/kernel-launchers"
# The entry point stands in for the init process that its own images have: a kernel whose parent is process 1 exits.
DOCKERFILE = f"""\
FROM {IMAGE}
USER root
COPY launchers {LAUNCHERS}
COPY Cryptodome /opt/gateway/Cryptodome
RUN ln -sf "$(command -v python3)" /usr/local/bin/python && \\
    python -m compileall -q /opt/gateway {LAUNCHERS}
ENV PYTHONPATH=/opt/gateway KERNEL_LANGUAGE=python KERNEL_LAUNCHERS_DIR={LAUNCHERS}
ENTRYPOINT ["bash", "-c", "bash {LAUNCHERS}/bootstrap-kernel.sh; exit $?"]
"""


class Unavailable(Exception):
    """It cannot be measured; the message says why."""


@contextlib.asynccontextmanager
async def first_replies(engine: Engine) -> AsyncIterator[Measure]:
    """Gives a measurement of a kernel's start to its first reply.

    Raises:
        Unavailable: it is not installed, or its kernels do not start here.
    """
    found = importlib.util.find_spec("gateway_provisioners")
    if found is None or found.origin is None:
        raise Unavailable("it is not installed")
    package = Path(found.origin).parent
    try:
        await background.run(
            engine.images.build(
                archive(_context(package)), TAG, {}, {labels.KIND: labels.KIND_BUILD}, lambda event: None
            )
        )
    except DockerKernelError as error:
        raise Unavailable(str(error).splitlines()[0]) from None
    _write_spec(package)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def measure() -> float:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"\n")
        line = await process.stdout.readline()
        if not line:
            raise Unavailable("its kernel did not start")
        return float(line)

    try:
        await measure()
        yield measure
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await background.run(engine.images.remove(TAG))


async def _serve() -> None:
    while await asyncio.to_thread(sys.stdin.readline):
        print(await first_reply(Contender(SPEC)), flush=True)


def _context(package: Path) -> list[File]:
    launchers = package / "kernel-launchers"
    files = [File("Dockerfile", DOCKERFILE.encode())]
    for path in (*launchers.glob("python/scripts/*.py"), *launchers.glob("shared/scripts/*.py")):
        files.append(File(f"launchers/python/scripts/{path.name}", path.read_bytes()))
    bootstrap = (launchers / "bootstrap" / "bootstrap-kernel.sh").read_bytes()
    files.append(File("launchers/bootstrap-kernel.sh", bootstrap, mode=0o755))
    cipher = importlib.util.find_spec("Cryptodome")
    assert cipher is not None and cipher.origin is not None, "gateway_provisioners depends on it"
    folder = Path(cipher.origin).parent
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".so") and "SelfTest" not in path.parts:
            files.append(File(f"Cryptodome/{path.relative_to(folder)}", path.read_bytes()))
    return files


def _write_spec(package: Path) -> None:
    folder = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / SPEC
    folder.mkdir(parents=True, exist_ok=True)
    template = string.Template((package / "kernel-specs" / "container_python" / "kernel.json").read_text())
    text = template.substitute(
        language="python",
        display_name="Gateway",
        provisioner_name="docker-provisioner",
        image_name=TAG,
        install_dir=str(package / "kernel-launchers" / "docker"),
        launcher_name="launch_docker.py",
        ipykernel_subclass_name="ipykernel.ipkernel.IPythonKernel",
    )
    spec = json.loads(text)
    spec["argv"][0] = sys.executable
    spec["env"] = {"HOME": "/tmp", "KERNEL_USERNAME": "benchmark"}
    (folder / "kernel.json").write_text(json.dumps(spec))


if __name__ == "__main__":
    asyncio.run(_serve())
