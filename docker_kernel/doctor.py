"""Checks what kernels need, and says for each failure what to do."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from docker_kernel import config, images, kernelspec, labels, targets
from docker_kernel.config import UserConfig, format_size
from docker_kernel.engine import ContainerSpec, Engine
from docker_kernel.errors import DockerKernelError, EngineError, ImageMissing
from docker_kernel.kernel import makers
from docker_kernel.kernel.locality import check_local
from docker_kernel.kernel.workspace import kernel_mounts
from docker_kernel.prune import leftovers

LOW_DISK = 2 << 30
PORT = 52001
ANSWER_SECONDS = 10
PATIENCE = 60
"""Seconds that a container waits to be reached, as who started it may have been killed."""


@dataclass(frozen=True)
class Check:
    """One finding: `fix` is what to do, empty when all is well; `warning` is for what only limits."""

    name: str
    found: str
    fix: str = ""
    warning: bool = False

    @property
    def ok(self) -> bool:
        return not self.fix


async def diagnose() -> list[Check]:
    """All checks, in the order in which a start would meet them."""
    checks = [_check_entry_point(), _check_curve()]
    user_config, finding = _check_config()
    checks.append(finding)
    checks.append(_check_targets(user_config))
    specs = await asyncio.to_thread(kernelspec.ours)
    try:
        engine = await Engine.connect(timeout=15)
        checks.append(await _check_engine(engine))
        info = await check_local(engine)
    except DockerKernelError as error:
        checks.append(Check("engine", "not usable", str(error)))
        return checks
    checks.append(Check("files and ports", "the engine shares this machine's"))
    checks.append(await _check_disk(engine))
    limits = f"cgroup v{info.cgroup_version}"
    if info.memory_limits:
        checks.append(Check("limits", f"{limits}: memory, cpus and pids can be limited"))
    else:
        checks.append(
            Check("limits", limits, "The engine cannot limit memory: enable the memory cgroup.", warning=True)
        )
    if not specs:
        checks.append(Check("kernelspec", "none is installed", "Run `docker-kernel install`."))
    images = set()
    for name, found_spec in specs.items():
        finding, image = await _check_spec(engine, name, found_spec, user_config)
        checks.append(finding)
        if image is not None:
            images.add(image)
    for image in sorted(images)[:1]:
        checks.append(await _check_start(engine, image))
    found = await leftovers(engine)
    count = len(found.containers) + len(found.volumes)
    fix = "Remove them with `docker-kernel kernels reap`." if count else ""
    checks.append(Check("leftovers", f"{count} containers and volumes", fix, warning=True))
    return checks


def _check_entry_point() -> Check:
    found = entry_points(group="jupyter_client.kernel_provisioners", name=config.PROVISIONER)
    if found:
        return Check("docker-kernel", f"version {version('docker-kernel')}, known to Jupyter")
    return Check("docker-kernel", "Jupyter does not know its provisioner", "Install it where Jupyter is installed.")


def _check_curve() -> Check:
    import zmq

    client = version("jupyter_client")
    if not zmq.has("curve"):
        fix = "Install a pyzmq that has CurveZMQ (its wheels do)."
        return Check("encryption", "this pyzmq has no CurveZMQ", fix, warning=True)
    if tuple(int(part) for part in client.split(".")[:2]) < (8, 10):
        fix = "Kernels' ports are signed, not encrypted: upgrade jupyter_client to 8.10."
        return Check("encryption", f"jupyter_client {client}", fix, warning=True)
    return Check("encryption", f"CurveZMQ, jupyter_client {client}")


def _check_config() -> tuple[UserConfig, Check]:
    path = config.config_path()
    try:
        user_config = config.load()
    except DockerKernelError as error:
        return UserConfig(), Check("config file", str(path), str(error))
    return user_config, Check("config file", str(path) if path.exists() else "none, the defaults hold")


def _check_targets(user_config: UserConfig) -> Check:
    """Whether something installed knows each target's kind; `docker-kernel targets check` asks the targets."""
    named, problems = [], []
    for name, target in user_config.all_targets().items():
        named.append(name if name == target.kind else f"{name} ({target.kind})")
        try:
            targets.load(name, target)
        except DockerKernelError as error:
            problems.append(str(error))
    return Check("targets", ", ".join(named), " ".join(problems), warning=True)


async def _check_engine(engine: Engine) -> Check:
    info = await engine.info()
    kind = "rootless" if info.rootless else "uids remapped" if info.userns_remap else "rootful"
    size = f"{info.cpus} CPUs, {format_size(info.memory)}"
    return Check("engine", f"{info.product} {info.version}, {kind}, {size}, at {engine.url}")


async def _check_disk(engine: Engine) -> Check:
    folder = (await engine.info()).data_folder
    try:
        status = await asyncio.to_thread(os.statvfs, folder)
    except OSError:
        return Check("disk", f"{folder} cannot be looked at from here")
    free = status.f_bavail * status.f_frsize
    fix = ""
    if free < LOW_DISK:
        fix = f"The engine's disk at {folder} is nearly full: run `docker-kernel prune` or `docker system prune`."
    return Check("disk", f"{format_size(free)} free at {folder}", fix)


async def _check_spec(
    engine: Engine, name: str, found: dict[str, Any], user_config: UserConfig
) -> tuple[Check, str | None]:
    title, folder = f"kernelspec {name}", found["resource_dir"]
    stanza = found["spec"]["metadata"]["kernel_provisioner"].get("config") or {}
    try:
        settings = user_config.kernel_config(stanza, f"The kernelspec {folder}/kernel.json")
        kernel_mounts(settings.model_copy(update={"workspace": False}), user_config, None, str(Path.cwd()))
        await engine.images.inspect(settings.image)
    except ImageMissing as error:
        fix = f"{error} To bring it, {images.how_to_bring(settings.image)}."
        return Check(title, "its image is missing", fix), None
    except DockerKernelError as error:
        return Check(title, folder, str(error)), None
    return Check(title, settings.image), settings.image


async def _check_start(engine: Engine, image: str) -> Check:
    """Whether containers start, publish a port on 127.0.0.1 and can be reached there."""
    raw = await engine.images.inspect(image)
    python = ((raw.get("Config") or {}).get("Labels") or {}).get(labels.PYTHON) or "python3"
    script = f"import socket; s = socket.create_server(('', {PORT})); print(flush=True); s.settimeout({PATIENCE}); "
    script += "s.accept()[0].sendall(b'ok')"
    spec = ContainerSpec(
        image=image,
        command=[python, "-I", "-S", "-c", script],
        labels={
            labels.KIND: labels.KIND_BUILD,
            labels.USER: str(os.getuid()),
            labels.MAKER: makers.this_process(),
        },
        ports={PORT: ("127.0.0.1", None)},
        auto_remove=True,
    )
    fix = "A port on 127.0.0.1 must be reachable: look at the firewall and at the engine's network."
    container = ""
    try:
        container = await engine.containers.create(spec)
        output = await engine.containers.attach(container)
        await engine.containers.start(container)
        await asyncio.wait_for(anext(output.frames()), ANSWER_SECONDS)
        port = (await engine.containers.inspect(container)).ports[PORT]
        answer = await asyncio.to_thread(_ask, port)
        found = "published on 127.0.0.1 and reachable" if answer else "published, but silent"
        return Check("ports", found, "" if answer else fix)
    except (EngineError, OSError, KeyError, StopAsyncIteration, asyncio.TimeoutError) as error:
        return Check("ports", str(error) or "a container's program did not start in time", fix)
    finally:
        if container:
            await engine.containers.remove(container)


def _ask(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        return connection.recv(2) == b"ok"


def failed(checks: Iterable[Check]) -> bool:
    """Whether something keeps kernels from working."""
    return any(not check.ok and not check.warning for check in checks)
