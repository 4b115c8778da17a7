"""The warm containers that `%%local` takes: made before they are asked for, used once, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import labels
from docker_kernel.background import run_blocking as run
from docker_kernel.engine import Containers, ContainerState, Engine
from docker_kernel.kernel import spares as spares_of_kernels
from docker_kernel.targets.engine import spare_jobs
from tests.conftest import NotebookMaker, SpecMaker
from tests.environment import environments
from tests.kernel.test_life import Launched, launched_container
from tests.notebook import Notebook
from tests.patience import patient, until

WHERE = "%%local\nimport socket\nwhere = socket.gethostname()"

LOOK = r"""%%local
import os, pathlib, resource, socket, sys
mask = os.umask(2); os.umask(mask)
where = socket.gethostname()
folders = ("/opt/docker-kernel/run", "/tmp", "/inputs", "/outputs", os.environ["HOME"])
seen = [
    dict(os.environ), pathlib.Path("/proc/self/environ").read_text().split("\0"), os.getcwd(), mask,
    sys.argv, sys.path, sorted(sys.modules), sorted(globals()),
    sorted(str(path) for folder in folders for path in pathlib.Path(folder).rglob("*") if "history" not in path.name),
    sorted(os.listdir("/")), os.getuid(), os.getgroups(), resource.getrlimit(resource.RLIMIT_NOFILE),
    pathlib.Path("/proc/1/cmdline").read_text(), pathlib.Path("/proc/self/oom_score_adj").read_text(),
    [line.split()[4:6] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()],
]
seen = eval(repr(seen).replace(where, "HOST"))
del os, pathlib, resource, socket, sys, folders, mask
"""
"""What a job sees of where it runs."""


def containers(engine: Engine, kernel_id: str) -> list[ContainerState]:
    return run(engine.containers.list({labels.KIND: labels.KIND_JOB, labels.KERNEL_ID: kernel_id}))


def spares(engine: Engine, kernel_id: str) -> list[ContainerState]:
    """The spares of a kernel that run."""
    found = [one for one in containers(engine, kernel_id) if one.name.startswith(f"{labels.JOB_NAME}spare-")]
    return [one for one in found if one.running]


def spare(engine: Engine, notebook: Notebook) -> ContainerState:
    """The one that is there, or soon will be."""
    found: list[ContainerState] = until(lambda: spares(engine, notebook.container.kernel_id))
    assert len(found) == 1
    return found[0]


def local(notebook: Notebook, cell: str = WHERE) -> str:
    """Run a cell in a container of its own; returns the beginning of that container's id."""
    reply = notebook.run(cell)
    assert reply.status == "ok", reply.traceback
    return str(notebook.value("where"))


@pytest.fixture(scope="module")
def spec(make_spec: SpecMaker) -> str:
    return make_spec(warm_spares=1)


@pytest.fixture(scope="module")
def warm(make_spec: SpecMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel that has run a cell beside it."""
    settings = {"warm_spares": 1, "memory": "400m", "env": {"PRIVATE_SETTING": "b81c-not-for-inspect"}}
    one = Notebook(make_spec(**settings), tmp_path_factory.mktemp("warm"))
    local(one)
    yield one
    one.close()


def pid_of(container: str) -> int:
    """The host's number of a container's main process."""
    command = ["docker", "inspect", "-f", "{{.State.Pid}}", container]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_there_is_none_before_the_first_cell_and_the_second_takes_one(engine: Engine, start: NotebookMaker) -> None:
    one = start()
    assert containers(engine, one.container.kernel_id) == []
    first = local(one)
    waiting = spare(engine, one)
    assert not waiting.id.startswith(first)
    assert waiting.id.startswith(local(one))
    following = spare(engine, one)
    assert following.id != waiting.id
    assert following.id.startswith(local(one))


def test_a_spare_gives_a_job_what_a_fresh_container_does(
    engine: Engine, start: NotebookMaker, make_spec: SpecMaker, tmp_path: Path
) -> None:
    one = start(make_spec(warm_spares=1, env={"LEVEL": "3"}), tmp_path)
    one.run("import os; os.environ['NEW'] = 'yes'; os.makedirs('below'); os.chdir('below')")
    one.run("where = fresh = seen = 0")
    local(one, LOOK)
    one.run("fresh = seen; seen = 0")
    waiting = spare(engine, one)
    assert waiting.id.startswith(local(one, LOOK))
    assert one.value("[(a, b) for a, b in zip(fresh, seen) if a != b]") == []
    assert one.value("[seen[0]['LEVEL'], seen[0]['NEW'], seen[2].endswith('/below')]") == ["3", "yes", True]


def test_nothing_of_an_earlier_job_is_in_a_spare(engine: Engine, warm: Notebook) -> None:
    spare(engine, warm)
    leave = "import os, builtins\nopen('/tmp/mark', 'w').close()\nos.environ['MARK'] = builtins.mark = '1'\nmark = 1"
    assert warm.run(f"%%local\n{leave}").status == "ok"
    warm.run("import os; del mark, os.environ['MARK']")
    spare(engine, warm)
    look = (
        "%%local\nimport os\nfound = [os.path.exists('/tmp/mark'), 'MARK' in os.environ, 'mark' in dir(__builtins__)]"
    )
    assert warm.run(look).status == "ok"
    assert warm.value("found") == [False, False, False]


def test_several_at_once_have_a_container_each(engine: Engine, warm: Notebook) -> None:
    waiting = spare(engine, warm)
    source = (
        "from docker_kernel.guest import api\nfrom docker_kernel.guest.options import Options\n"
        'ask = \'(__import__("socket").gethostname(), __import__("time").sleep(1))[0]\'\n'
        "sent = [api.session().start(ask, Options(live=True)) for _ in range(4)]\n"
        f"places = [job.result({patient(60)}) for job in sent]"
    )
    assert warm.run(source).status == "ok"
    places = warm.value("places")
    assert len(set(places)) == 4
    assert sum(waiting.id.startswith(place) for place in places) == 1
    spare(engine, warm)
    assert until(lambda: len(containers(engine, warm.container.kernel_id)) == 1)


def test_a_job_of_another_kind_takes_a_fresh_container(engine: Engine, warm: Notebook) -> None:
    waiting = spare(engine, warm)
    where = local(warm, WHERE.replace("%%local", "%%local --memory 300m"))
    assert not waiting.id.startswith(where)
    assert until(lambda: waiting.id not in [one.id for one in containers(engine, warm.container.kernel_id)])
    waiting = spare(engine, warm)
    assert waiting.id.startswith(local(warm, WHERE.replace("%%local", "%%local --memory 300m")))
    local(warm)


def test_what_is_installed_meanwhile_is_there(engine: Engine, start: NotebookMaker, used_images: list[str]) -> None:
    one = start()
    before = environments(engine)
    local(one)
    waiting = spare(engine, one)
    one.run("import os; os.makedirs('/opt/docker-kernel/user/extra'); open('/opt/docker-kernel/user/extra/it', 'w')")
    cell = WHERE + "\nimport os; there = os.path.exists('/opt/docker-kernel/user/extra/it')"
    where = local(one, cell)
    used_images += sorted(environments(engine) - before)
    assert one.value("there") is True
    assert not waiting.id.startswith(where)


def test_another_folder_at_the_workspaces_path_is_found(engine: Engine, start: NotebookMaker, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    one = start(cwd=workspace)
    local(one)
    waiting = spare(engine, one)
    workspace.rename(tmp_path / "old")
    workspace.mkdir()
    (workspace / "new.txt").write_text("new")
    where = local(one, WHERE + f"\nfound = open({str(workspace / 'new.txt')!r}).read()")
    assert one.value("found") == "new"
    assert not waiting.id.startswith(where)


def test_environment_and_secrets_of_a_job_reach_it_and_nobody_else(engine: Engine, warm: Notebook) -> None:
    waiting = spare(engine, warm)
    warm.run("import os; os.environ['TOKEN_OF_MINE'] = 'c5-secret'")
    cell = WHERE.replace("%%local", "%%dispatch --local --env SIZE=7 --secret TOKEN_OF_MINE")
    cell += (
        "\nimport os, pathlib\nfound = [os.environ['SIZE'], os.environ['TOKEN_OF_MINE'], os.environ['PRIVATE_SETTING']]"
    )
    cell += "\nfound.append('SIZE=7' in pathlib.Path('/proc/self/environ').read_text())"
    assert waiting.id.startswith(local(warm, cell))
    assert warm.value("found") == ["7", "c5-secret", "b81c-not-for-inspect", True]
    shown = subprocess.run(["docker", "inspect", spare(engine, warm).id], capture_output=True, text=True, check=True)
    assert "b81c-not-for-inspect" not in shown.stdout and "c5-secret" not in shown.stdout and "SIZE" not in shown.stdout
    assert "SIZE" not in warm.run("%%local\nimport os; print([name for name in os.environ if name == 'SIZE'])").text


def test_costs_do_not_count_the_waiting(engine: Engine, warm: Notebook) -> None:
    waiting = spare(engine, warm)
    time.sleep(2)
    begun = time.monotonic()
    assert waiting.id.startswith(local(warm))
    took = time.monotonic() - begun
    warm.run("from docker_kernel import jobs; cost = jobs[-1].cost")
    cpu, peak, seconds = warm.value("list(cost)")
    assert 0 < cpu < patient(2) and 1 << 20 < peak < 400 << 20 and 0 < seconds < took


def test_a_spares_job_ends_as_any_does(engine: Engine, warm: Notebook) -> None:
    spare(engine, warm)
    assert warm.run("%%local\n1 / 0").name == "ZeroDivisionError"
    spare(engine, warm)
    late = warm.run("%%local --timeout 1\nimport time; time.sleep(60)")
    assert "timeout of 1 s" in late.value
    spare(engine, warm)
    assert "out of memory" in warm.run("%%local\nx = bytearray(800 << 20)").value
    spare(engine, warm)
    died = warm.run("%%local\nprint('so far', flush=True)\nimport os; os._exit(9)")
    assert "exit code 9" in died.value and "so far" in died.text
    spare(engine, warm)
    shown = warm.run("%%local\nprint('plain')\n'rich'")
    assert shown.text == "plain\n" and shown.shown == "'rich'"
    waiting = spare(engine, warm)
    request = warm.client.execute("%%local\nimport time; time.sleep(600)")
    assert until(lambda: not spares(engine, warm.container.kernel_id))
    warm.manager.interrupt_kernel()
    assert warm.reply(request)["ename"] == "KeyboardInterrupt"
    assert until(lambda: waiting.id not in [one.id for one in containers(engine, warm.container.kernel_id)])


def test_a_job_whose_container_is_killed_is_lost(engine: Engine, warm: Notebook) -> None:
    local(warm)
    waiting = spare(engine, warm)
    # Not before its cell runs: a job that is not taken yet is given to another container.
    cell = "%%local\nprint('here')\nimport time; time.sleep(600)"
    reply = warm.run(cell, on_text=lambda: run(engine.containers.kill(waiting.id)))
    assert "its container was removed" in reply.value


def test_a_spare_that_was_killed_costs_only_time(engine: Engine, warm: Notebook) -> None:
    waiting = spare(engine, warm)
    run(engine.containers.kill(waiting.id))
    assert not waiting.id.startswith(local(warm))
    # One that is killed while it is given its job: its runner is stopped before, and so has not taken it.
    waiting = spare(engine, warm)
    os.kill(pid_of(waiting.id), signal.SIGSTOP)
    request = warm.client.execute(WHERE)
    claimed = lambda: waiting.id not in [one.id for one in spares(engine, warm.container.kernel_id)]  # noqa: E731
    until(claimed, what="its claim")
    run(engine.containers.kill(waiting.id))
    assert warm.reply(request)["status"] == "ok"
    assert not waiting.id.startswith(str(warm.value("where")))


def test_a_job_whose_spare_answers_too_late_runs_once(
    engine: Engine, start: NotebookMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start(cwd=tmp_path)
    local(one)
    waiting = spare(engine, one)
    runner, remove = pid_of(waiting.id), Containers.remove

    async def remove_late(self: Containers, container: str) -> None:
        if container == waiting.id:
            os.kill(runner, signal.SIGCONT)
            await asyncio.sleep(1)
        await remove(self, container)

    os.kill(runner, signal.SIGSTOP)
    monkeypatch.setattr(spare_jobs, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(Containers, "remove", remove_late)
    where = local(one, f"{WHERE}\nprint(where, file=open('ran', 'a'))")
    assert not waiting.id.startswith(where)
    assert (tmp_path / "ran").read_text().split() == [where]


def test_a_worker_that_was_killed_while_it_waited_costs_only_time(engine: Engine, warm: Notebook) -> None:
    waiting = spare(engine, warm)
    runner = pid_of(waiting.id)
    (worker,) = until(lambda: Path(f"/proc/{runner}/task/{runner}/children").read_text().split())
    os.kill(int(worker), signal.SIGKILL)
    assert waiting.id.startswith(local(warm))


def test_a_restart_keeps_one_and_a_shutdown_none(engine: Engine, start: NotebookMaker) -> None:
    one = start()
    kernel_id = one.container.kernel_id
    local(one)
    spare(engine, one)
    one.restart()
    assert len(spares(engine, kernel_id)) == 1
    local(one)
    # At once after a cell, while its container is removed and the next one made.
    one.manager.shutdown_kernel(now=True)
    until(lambda: not containers(engine, kernel_id), what="the end of its jobs' containers")
    time.sleep(1)
    assert containers(engine, kernel_id) == [], "none came later"
    volumes = run(engine.volumes.list(f"{labels.KERNEL_ID}={kernel_id}"))
    assert volumes == []


def test_a_host_that_is_killed_leaves_no_spare(engine: Engine, make_spec: SpecMaker, tmp_path: Path) -> None:
    with Launched(make_spec(warm_spares=1, grace=patient(3)), tmp_path) as one:
        assert one.run(WHERE) == "ok"
        state = run(engine.containers.inspect(launched_container(engine, tmp_path)))
        kernel_id = state.labels[labels.KERNEL_ID]
        assert until(lambda: spares(engine, kernel_id))
        os.killpg(one.process.pid, signal.SIGKILL)
        assert until(lambda: not containers(engine, kernel_id))
        assert run(engine.containers.inspect(state.id)).running, "long before its kernel's container goes"
        volumes = set(state.volumes.values())
        assert until(lambda: volumes.isdisjoint(found["Name"] for found in run(engine.volumes.list(labels.KIND))))


def test_short_of_memory_none_is_kept(engine: Engine, warm: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = spare(engine, warm)
    monkeypatch.setattr(spare_jobs, "UPKEEP_SECONDS", 0.5)
    assert waiting.id.startswith(local(warm))
    following = spare(engine, warm)
    monkeypatch.setattr(spares_of_kernels, "FREE_MEMORY", 1.1)
    assert until(lambda: containers(engine, warm.container.kernel_id) == [])
    assert not following.id.startswith(local(warm))
    monkeypatch.setattr(spares_of_kernels, "FREE_MEMORY", 0.0)
    local(warm)
    spare(engine, warm)


def test_none_are_kept_without_the_setting(engine: Engine, start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(warm_spares=0))
    local(one)
    until(lambda: not containers(engine, one.container.kernel_id), what="the end of the job's container")
    time.sleep(1)
    assert containers(engine, one.container.kernel_id) == []
    local(one)
