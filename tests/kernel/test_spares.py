"""Warm containers: claimed once, by one, and not to be told from a cold start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.multikernelmanager import MultiKernelManager

from docker_kernel import background, config, labels
from docker_kernel.cli import main
from docker_kernel.engine import Containers, ContainerState, Engine
from docker_kernel.errors import KernelStartError
from docker_kernel.kernel import container, provisioner, running, spares
from docker_kernel.kernel.connection import Keys
from docker_kernel.kernel.container import SPARE_GRACE, KernelContainer, KernelLaunch
from docker_kernel.kernel.spares import Spares
from tests.conftest import ImageMaker, NotebookMaker, SpecMaker
from tests.engines import SecondEngine
from tests.notebook import KERNEL_IDS, Notebook
from tests.patience import patient, until

run = background.run_blocking


def of_spec(engine: Engine, spec: str) -> list[running.RunningKernel]:
    """The containers of a kernelspec."""
    found = run(engine.containers.list({labels.SPEC: spec}))
    return [running.RunningKernel.of(state) for state in found]


def warm(engine: Engine, spec: str) -> list[ContainerState]:
    """The spares of a kernelspec that can be claimed."""
    return [one.container for one in of_spec(engine, spec) if one.container.name.startswith(labels.SPARE_NAME)]


@pytest.fixture(scope="module", autouse=True)
def no_spare_is_left(engine: Engine) -> Iterator[None]:
    yield
    run(provisioner.shared_spares(run(provisioner.shared_engine())).close())
    specs = {path.name for path in (Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels").iterdir()}
    found = run(engine.containers.list({labels.SPARE: "", labels.USER: str(os.getuid())}))
    left = [state.name for state in found if state.labels[labels.SPARE] and state.labels[labels.SPEC] in specs]
    assert not left, left


@pytest.fixture
def warm_spec(make_spec: SpecMaker) -> str:
    return make_spec(warm_spares=1)


@pytest.fixture
def server(start: NotebookMaker, tmp_path: Path) -> Callable[..., Notebook]:
    """Starts kernels as a server does, which keeps spares."""
    manager = MultiKernelManager(connection_dir=str(tmp_path))

    def begin(spec: str, **options: Any) -> Notebook:
        return start(spec, tmp_path, server=manager, **options)

    return begin


LOOK = """
import getpass, os, random, re, socket, sys, threading, warnings
def link(fd):
    try:
        return re.sub('[0-9]+|-journal', '', os.readlink('/proc/self/fd/' + fd))
    except OSError:
        return ''
print(__import__('json').dumps({
    'env': dict(os.environ), 'cwd': os.getcwd(), 'argv': sys.argv, 'orig_argv': sys.orig_argv, 'path': sys.path,
    'modules': sorted(sys.modules), 'names': sorted(globals()), 'home': sorted(os.listdir(os.path.expanduser('~'))),
    'threads': sorted(thread.name for thread in threading.enumerate()), 'user': getpass.getuser(),
    'parent': os.getppid(), 'group': os.getpgrp() == os.getpid(), 'flags': str(sys.flags),
    'filters': len(warnings.filters),
    'run': sorted(os.listdir('/run/docker-kernel')), 'tmp': os.listdir('/tmp'), 'umask': os.umask(0o22),
    'files': sorted({link(fd) for fd in os.listdir('/proc/self/fd')} - {''}),
    'oom': open('/proc/self/oom_score_adj').read(),
    'supervisor_oom': open('/proc/1/oom_score_adj').read(),
}))
"""


def looks(one: Notebook) -> dict[str, Any]:
    reply = one.run(LOOK)
    assert reply.status == "ok", reply.traceback
    seen: dict[str, Any] = json.loads(reply.text)
    return seen


def test_a_claimed_spare_cannot_be_told_from_a_cold_start(
    server: Callable[..., Notebook], engine: Engine, warm_spec: str
) -> None:
    cold = server(warm_spec, env={**os.environ, "JPY_SESSION_NAME": "first.ipynb", "A_SECRET": "of the first"})
    (spare,) = until(lambda: warm(engine, warm_spec))
    asked = datetime.now(timezone.utc)
    claimed = server(warm_spec, env={**os.environ, "JPY_SESSION_NAME": "second.ipynb", "OF_THE": "second"})
    assert claimed.container.container_id == spare.id
    assert spare.created < f"{asked:%Y-%m-%dT%H:%M:%S.%f}"

    before, now = looks(cold), looks(claimed)
    assert before["env"].pop("JPY_SESSION_NAME") == "first.ipynb" and before["env"].pop("A_SECRET")
    assert now["env"].pop("JPY_SESSION_NAME") == "second.ipynb" and now["env"].pop("OF_THE") == "second"
    for name in before["env"]:
        if name == "HOSTNAME":
            assert now["env"][name] == claimed.container.container_id[:12]
            now["env"][name] = before["env"][name]
    assert now == before
    assert claimed.value("__import__('socket').gethostname()") == claimed.container.container_id[:12]
    everything = claimed.run("!cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /run/docker-kernel/* 2>/dev/null").text
    assert "of the first" not in everything and "first.ipynb" not in everything
    draw = "(__import__('random').random(), __import__('uuid').uuid4().hex, __import__('os').urandom(4).hex())"
    assert claimed.value(draw) != cold.value(draw)


def test_a_claimed_spare_lives_like_any_kernel(
    server: Callable[..., Notebook], engine: Engine, warm_spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server(warm_spec)
    assert until(lambda: warm(engine, warm_spec))
    one = server(warm_spec, env={**os.environ, "JPY_SESSION_NAME": "sales.ipynb"})
    found = run(running.find(engine, one.manager.kernel_id[:8]))
    assert found.container.id == one.container.container_id and found.container.labels[labels.SPARE]
    assert found.notebook == "sales.ipynb" and found.connection_file == str(
        Path(one.manager.connection_file).absolute()
    )
    ports = one.manager.ports
    one.run("x = 1")
    one.restart()
    assert one.run("x").name == "NameError" and one.manager.ports == ports
    one.run("%%local\ny = 2")
    assert one.value("y") == 2
    until(lambda: warm(engine, warm_spec))
    assert main(["kernels", "list"]) == 0
    rows = [line.replace("│", " ").replace("┃", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert [one.manager.kernel_id[:8], warm_spec, "sales.ipynb", "running"] in [row[:4] for row in rows]
    assert any("spare" in row and warm_spec in row for row in rows)
    one.close()
    assert one.container is None and not any(
        state.id == found.container.id for state in run(engine.containers.list({}))
    )


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "OMP_NUM_THREADS", "LD_BIND_NOW", "OPENSSL_CONF"])
def test_a_start_with_other_variables_that_act_at_once_takes_no_spare(
    server: Callable[..., Notebook], engine: Engine, make_spec: SpecMaker, name: str
) -> None:
    spec = make_spec(warm_spares=1)
    server(spec)
    (spare,) = until(lambda: warm(engine, spec))
    one = server(spec, env={**os.environ, name: "1"})
    assert one.container.container_id != spare.id
    assert one.value(f"__import__('os').environ['{name}']") == "1"


def test_a_changed_kernelspec_replaces_the_spare(
    server: Callable[..., Notebook], engine: Engine, make_spec: SpecMaker
) -> None:
    spec = make_spec(warm_spares=1)
    server(spec)
    (old,) = until(lambda: warm(engine, spec))
    path = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / spec / "kernel.json"
    kernelspec = json.loads(path.read_text())
    kernelspec["metadata"]["kernel_provisioner"]["config"]["memory"] = "700m"
    path.write_text(json.dumps(kernelspec))
    one = server(spec)
    assert one.container.container_id != old.id
    (new,) = until(lambda: [state for state in warm(engine, spec) if state.id != old.id])
    assert [state.id for state in warm(engine, spec)] == [new.id], "the old one is still there"
    assert server(spec).container.container_id == new.id


def test_a_kernel_is_no_spare_because_its_image_says_so(
    start: NotebookMaker, engine: Engine, make_spec: SpecMaker, make_image: ImageMaker
) -> None:
    image = make_image(f"FROM docker-kernel/python\nLABEL {labels.SPARE}=made-up {labels.KERNEL_ID}=other")
    one = start(make_spec(image=image))
    assert not run(running.find(engine, one.manager.kernel_id)).spare


def test_a_folder_that_was_made_again_or_has_more_mounts_takes_no_spare(
    engine: Engine, make_spec: SpecMaker, tmp_path: Path
) -> None:
    spec, folder = make_spec(warm_spares=1), tmp_path / "a folder"
    folder.mkdir()
    kept = Spares(engine)
    kernels = [run(kept.start(pattern(spec, str(folder)), keep=True))]
    try:
        (stale,) = until(lambda: warm(engine, spec))
        folder.rename(tmp_path / "moved")
        (folder / "below").mkdir(parents=True)
        (folder / "fresh.txt").write_text("fresh")
        kernels.append(run(kept.start(pattern(spec, str(folder)), keep=True)))
        assert kernels[1].container_id != stale.id
        assert run(engine.containers.read_file(kernels[1].container_id, f"{folder}/fresh.txt")) == b"fresh"

        (plain,) = until(lambda: [one for one in warm(engine, spec) if one.id != stale.id])
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "below"], check=False).returncode:
            return  # only root may mount
        try:
            kernels.append(run(kept.start(pattern(spec, str(folder)), keep=True)))
            assert kernels[2].container_id != plain.id
        finally:
            subprocess.run(["umount", "-l", folder / "below"], check=True)
    finally:
        run(kept.close())
        for one in kernels:
            run(one.remove())


def test_no_spares_where_they_are_turned_off_and_none_outside_a_server(
    server: Callable[..., Notebook], start: NotebookMaker, engine: Engine, make_spec: SpecMaker, warm_spec: str
) -> None:
    spec, alone = make_spec(warm_spares=0), make_spec(warm_spares=1)
    server(spec)
    start(alone)
    server(warm_spec)
    assert until(lambda: warm(engine, warm_spec)), "the one that has spares is the measure of time"
    assert len(of_spec(engine, spec)) == len(of_spec(engine, alone)) == 1


def test_short_of_memory_there_are_no_spares(
    server: Callable[..., Notebook], engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(warm_spares=1)
    monkeypatch.setattr(spares, "UPKEEP_SECONDS", 0.5)
    kept = Spares(engine)
    launch = pattern(spec)
    first = run(kept.start(launch, keep=True))
    try:
        assert until(lambda: warm(engine, spec))
        monkeypatch.setattr(spares, "FREE_MEMORY", 1.1)
        assert until(lambda: not of_spec(engine, spec)[1:])
        monkeypatch.setattr(spares, "FREE_MEMORY", 0.0)
        assert until(lambda: warm(engine, spec))
    finally:
        run(kept.close())
        run(first.remove())


def pattern(spec: str, cwd: str = "/tmp", **changes: Any) -> KernelLaunch:
    """What a server would start of a kernelspec, with changed settings."""
    user_config = config.load()
    path = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / spec / "kernel.json"
    stanza = json.loads(path.read_text())["metadata"]["kernel_provisioner"]["config"]
    kernel_id = str(uuid.uuid4())
    KERNEL_IDS.add(kernel_id)
    return KernelLaunch(
        kernel_id,
        user_config.kernel_config({**stanza, **changes}, spec),
        user_config,
        cwd,
        Keys.make(True),
        spec_name=spec,
    )


def test_twenty_starters_never_share_a_container(engine: Engine, make_spec: SpecMaker) -> None:
    spec = make_spec(warm_spares=3, workspace=False)
    owner = Spares(engine)
    first = run(owner.start(pattern(spec), keep=True))
    started: list[KernelContainer] = [first]

    async def race() -> None:
        starters = [Spares(await Engine.connect()) for _ in range(20)]
        started.extend(await asyncio.gather(*(one.start(pattern(spec), keep=False) for one in starters)))

    try:
        assert until(lambda: len(warm(engine, spec)) == 3, 60)
        offered = {state.id for state in warm(engine, spec)}
        run(race())
        ids = [one.container_id for one in started]
        assert len(set(ids)) == 21
        assert offered <= set(ids), "a spare that fitted was not used"
        names = {one.container.name for one in of_spec(engine, spec)}
        assert {f"{labels.KERNEL_NAME}{one.kernel_id}" for one in started} <= names
    finally:
        run(owner.close())
        for one in started:
            run(one.remove())


SERVER = """
import asyncio, os, signal, sys
sys.path.insert(0, os.getcwd())
from docker_kernel import background
from docker_kernel.engine import Containers, Engine
from docker_kernel.kernel.container import KernelContainer
from docker_kernel.kernel.spares import Spares
from tests.kernel.test_spares import pattern

spec, step = sys.argv[1:]
spares = Spares(background.run_blocking(Engine.connect()))
first = background.run_blocking(spares.start(pattern(spec), keep=True))
while not any(pool.waiting for pool in spares._pools.values()):
    pass
print("warm", flush=True)
if step == "wait":
    signal.pause()
begin, _, step = step.rpartition(" ")
owner = Containers if hasattr(Containers, step) else KernelContainer
real = getattr(owner, step)

async def last(*args, **kwargs):
    await real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, step, last)
if begin == "restart":
    background.run_blocking(first.signal(9))
    background.run_blocking(first.wait())
background.run_blocking(first.restart() if begin == "restart" else spares.start(pattern(spec), keep=True))
"""


@pytest.mark.parametrize(
    "step",
    ["wait", "resolve", "rename", "_send", "become", "restart _send", "restart _restart_in_place"],
)
def test_a_server_killed_at_any_step_of_a_claim_or_restart_leaves_nothing(
    engine: Engine, make_spec: SpecMaker, step: str
) -> None:
    spec = make_spec(warm_spares=1, grace=1, workspace=False)
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SERVER, spec, step], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None and process.stdout.readline() == b"warm\n"
        if step == "wait":
            process.send_signal(signal.SIGKILL)
        process.wait(patient(30))
    assert process.returncode == -signal.SIGKILL
    until(lambda: not of_spec(engine, spec), what="the end of all containers")


def test_a_spare_that_somebody_has_paused_is_replaced(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(warm_spares=1, workspace=False)
    monkeypatch.setattr(container, "CLAIM_SECONDS", 1)
    kept = Spares(engine)
    kernels = [run(kept.start(pattern(spec), keep=True))]
    try:
        (spare,) = until(lambda: warm(engine, spec))
        run(engine.connection.call(engine.connection.client.pause, spare.id))
        kernels.append(run(Spares(engine).start(pattern(spec), keep=False)))
        kernels.append(run(kept.start(pattern(spec), keep=False)))
        assert spare.id not in {one.container_id for one in kernels}
        assert spare.id not in {one.container.id for one in of_spec(engine, spec)}
    finally:
        run(kept.close())
        for one in kernels:
            run(one.remove())


def test_a_start_that_is_cut_off_in_a_crowd_leaves_nothing(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(warm_spares=1, workspace=False)

    async def cut_off(self: KernelContainer) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(KernelContainer, "_read_state", cut_off)
    kept = Spares(engine)
    kept._slots = asyncio.Semaphore(1)
    for _ in range(2):
        with pytest.raises(CancelledError):
            run(kept.start(pattern(spec), keep=True))
    assert not of_spec(engine, spec)


@pytest.mark.parametrize("step", ["before", "resolve", "rename", "_send"])
def test_a_spare_killed_at_any_step_of_its_claim_costs_only_time(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    spec = make_spec(warm_spares=1, workspace=False)
    kept = Spares(engine)
    first = run(kept.start(pattern(spec), keep=True))
    second: KernelContainer | None = None
    try:
        (spare,) = until(lambda: warm(engine, spec))
        if step == "before":
            run(engine.containers.kill(spare.id))
        else:
            owner: Any = Containers if hasattr(Containers, step) else KernelContainer
            real = getattr(owner, step)

            async def then_killed(self: Any, *arguments: Any, **options: Any) -> Any:
                result = await real(self, *arguments, **options)
                if step != "_send" or self.container_id == spare.id:
                    await engine.containers.kill(spare.id)
                return result

            monkeypatch.setattr(owner, step, then_killed)
        second = run(kept.start(pattern(spec), keep=False))
        assert second.container_id != spare.id and second.exit_code is None
        assert run(engine.containers.inspect(second.container_id)).running
    finally:
        monkeypatch.undo()
        run(kept.close())
        for one in (first, second):
            if one is not None:
                run(one.remove())
    assert until(lambda: not of_spec(engine, spec))


def test_changed_settings_leave_no_spare_of_the_old_ones(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(warm_spares=1, workspace=False)
    real, preparing, ended = KernelContainer.prepare, threading.Event(), list[int | None]()

    async def slow(self: KernelContainer, fit: str) -> None:
        preparing.set()
        await asyncio.sleep(2)
        try:
            await real(self, fit)
        finally:
            ended.append(self.config.memory)

    monkeypatch.setattr(KernelContainer, "prepare", slow)
    kept, kernels = Spares(engine), []
    try:
        kernels.append(run(kept.start(pattern(spec), keep=True)))
        assert preparing.wait(patient(20)), "no spare was asked for"
        kernels.append(run(kept.start(pattern(spec, memory=700 << 20), keep=True)))
        until(lambda: len(ended) > 1 and 700 << 20 in ended, what="the end of both preparations")
        assert until(lambda: len(warm(engine, spec)) == 1)
        kernels.append(run(kept.start(pattern(spec, memory=700 << 20, warm_spares=0), keep=True)))
        assert until(lambda: len(of_spec(engine, spec)) == len(kernels)), "spares were turned off"
    finally:
        run(kept.close())
        for one in kernels:
            run(one.remove())


def test_what_cannot_be_prepared_is_said_once_and_keeps_no_other_waiting(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make_spec(warm_spares=1, workspace=False), make_spec(warm_spares=1, workspace=False)
    real, tries = KernelContainer.prepare, []

    async def prepare(self: KernelContainer, fit: str) -> None:
        if self.launch.spec_name == bad:
            tries.append(fit)
            raise KernelStartError("not today")
        await real(self, fit)

    monkeypatch.setattr(KernelContainer, "prepare", prepare)
    monkeypatch.setattr(spares, "UPKEEP_SECONDS", 0.5)
    kept = Spares(engine)
    kernels = [run(kept.start(pattern(spec), keep=True)) for spec in (bad, good)]
    try:
        assert until(lambda: warm(engine, good))
        assert until(lambda: len(tries) > 2)
        assert [record.getMessage().count("not today") for record in caplog.records].count(1) == 1
    finally:
        run(kept.close())
        for one in kernels:
            run(one.remove())


def test_a_claim_that_is_cut_off_holds_no_container(
    engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(warm_spares=1, workspace=False)
    kept = Spares(engine)
    first = run(kept.start(pattern(spec), keep=True))
    real = Containers.rename
    try:
        assert until(lambda: warm(engine, spec))

        async def cut_off(self: Containers, container: str, name: str) -> None:
            await real(self, container, name)
            raise asyncio.CancelledError

        monkeypatch.setattr(Containers, "rename", cut_off)
        with pytest.raises(CancelledError):
            run(kept.start(pattern(spec), keep=False))
        assert until(lambda: [one.container.id for one in of_spec(engine, spec)] == [first.container_id], 10)
    finally:
        monkeypatch.undo()
        run(kept.close())
        run(first.remove())


def test_another_server_may_claim_and_the_owner_makes_a_new_one(engine: Engine, make_spec: SpecMaker) -> None:
    spec = make_spec(warm_spares=1, workspace=False)
    owner, other = Spares(engine), Spares(engine)
    kernels = [run(owner.start(pattern(spec), keep=True))]
    try:
        (spare,) = until(lambda: warm(engine, spec))
        time.sleep(spares.QUIET_SECONDS)
        kernels.append(run(other.start(pattern(spec), keep=False)))
        assert kernels[1].container_id == spare.id
        assert kernels[1].guest_files() == kernels[0].guest_files(), "its jobs would know another user"
        (new,) = until(lambda: warm(engine, spec))
        assert new.id != spare.id
        run(owner.close())
        assert run(engine.containers.inspect(spare.id)).running, (
            "the owner's end took a kernel that is no longer its own"
        )
    finally:
        run(owner.close())
        for one in kernels:
            run(one.remove())


@pytest.mark.parametrize("live_restore", [False, True], ids=["ends-its-containers", "keeps-its-containers"])
def test_after_the_engines_restart_there_is_a_spare_again(
    second_engine: SecondEngine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, live_restore: bool
) -> None:
    monkeypatch.setattr(spares, "UPKEEP_SECONDS", 1)
    if "docker-kernel/python" not in second_engine.docker("images"):
        there = f"docker save docker-kernel/python:latest | docker -H {second_engine.url} load"
        subprocess.run(there, shell=True, check=True, capture_output=True)
    spec = make_spec(warm_spares=1, workspace=False)
    second_engine.kill()
    second_engine.start(live_restore)
    engine = run(Engine.connect(second_engine.url))
    kept = Spares(engine)
    kernels = [run(kept.start(pattern(spec), keep=True))]
    try:
        (spare,) = until(lambda: warm(engine, spec))
        second_engine.kill()
        second_engine.start(live_restore)

        def usable() -> list[ContainerState]:
            """A spare that is still there when a lost one would have ended."""
            time.sleep(SPARE_GRACE + 1)
            return [state for state in warm(engine, spec) if state.id != spare.id]

        (new,) = until(usable, 90)
        kernels.append(run(kept.start(pattern(spec), keep=False)))
        assert kernels[1].container_id == new.id and kernels[1].exit_code is None
    finally:
        run(kept.close())
        for one in kernels:
            run(one.remove())
    until(lambda: not of_spec(engine, spec), what="the end of all containers")
    engine.close()


def test_an_old_spare_is_replaced(engine: Engine, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(warm_spares=1, workspace=False)
    monkeypatch.setattr(spares, "UPKEEP_SECONDS", 0.5)
    kept = Spares(engine)
    first = run(kept.start(pattern(spec), keep=True))
    try:
        (old,) = until(lambda: warm(engine, spec))
        monkeypatch.setattr(spares, "MAX_AGE", 0.0)
        assert until(lambda: old.id not in [one.container.id for one in of_spec(engine, spec)])
        monkeypatch.setattr(spares, "MAX_AGE", 3600.0)
        assert until(lambda: warm(engine, spec))
    finally:
        run(kept.close())
        run(first.remove())
