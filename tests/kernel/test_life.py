"""A kernel's life from its start to its end, on the real engine."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import queue
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from docker_kernel import background, labels
from docker_kernel.engine import Engine
from docker_kernel.errors import DockerKernelError, LinkError, NotFound
from docker_kernel.kernel import container as kernel_container
from tests.conftest import NotebookMaker, SpecMaker
from tests.engines import paused
from tests.environment import environments, write_wheel
from tests.notebook import Notebook
from tests.patience import FACTOR, factor, patient, until


def gone(engine: Engine, container: str) -> bool:
    """Waits until a container has gone."""

    def look() -> bool:
        try:
            background.run_blocking(engine.containers.inspect(container))
        except NotFound:
            return True
        return False

    return until(look, what="the container's end")


# Interrupt, restart, death


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "while True: pass",
        "import subprocess; subprocess.run(['sleep', '600'])",
    ],
    ids=["sleep", "loop", "subprocess"],
)
def test_an_interrupt_ends_the_cell_and_not_the_kernel(notebook: Notebook, code: str) -> None:
    notebook.run("alive = 'still'")
    begun = f"print('begun', flush=True)\n{code}"
    assert notebook.run(begun, 20, on_text=notebook.manager.interrupt_kernel).name == "KeyboardInterrupt"
    assert notebook.value("alive") == "still"


@pytest.mark.parametrize("linked", [True, False], ids=["over a link", "without a link"])
def test_an_interrupt_that_cannot_be_delivered_is_told(
    start: NotebookMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, linked: bool
) -> None:
    monkeypatch.setattr(kernel_container, "LINK_SECONDS", 2)
    monkeypatch.setattr(kernel_container, "LINK_DELAY", 300)
    one = start()
    if linked:
        one.run("%jobs")
    assert (one.container._link is not None) == linked
    with (
        paused(one.container.container_id),
        pytest.raises(LinkError, match="The interrupt did not reach the kernel"),
    ):
        one.manager.interrupt_kernel()
    assert "The interrupt did not reach the kernel" in caplog.text


def test_a_kernel_that_nothing_reaches_is_shut_down_all_the_same(
    start: NotebookMaker, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_container, "LINK_SECONDS", 2)
    monkeypatch.setattr(kernel_container, "CONFIRM_SECONDS", 2)
    one = start()
    container = one.container.container_id
    with paused(container):
        one.manager.shutdown_kernel(now=True)
        assert gone(engine, container)
    assert "The signal 9 did not reach the kernel" in caplog.text


def test_an_interrupt_of_a_kernel_that_has_ended_is_no_error(start: NotebookMaker, engine: Engine) -> None:
    one = start()
    background.run_blocking(engine.containers.remove(one.container.container_id))
    one.manager.interrupt_kernel()


def test_a_restart_keeps_container_ports_and_what_was_installed(start: NotebookMaker) -> None:
    one = start()
    container, ports, pid = one.container.container_id, one.manager.ports, one.value("__import__('os').getpid()")
    one.run("open('/opt/docker-kernel/user/kept', 'w').close(); x = 1")
    for now in (False, True):
        one.restart(now=now)
        assert (one.container.container_id, one.manager.ports) == (container, ports)
        assert one.value("__import__('os').path.exists('/opt/docker-kernel/user/kept')") is True
        assert one.run("x").name == "NameError"
        assert one.value("__import__('os').getpid()") != pid


@pytest.mark.parametrize(("code", "exit_code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
def test_poll_gives_the_real_exit_code(start: NotebookMaker, code: str, exit_code: int) -> None:
    one = start()
    one.client.execute(f"import os; {code}")
    assert background.run_blocking(one.container.wait()) == exit_code
    assert not one.manager.is_alive()


def test_a_crash_is_told_in_the_cells_output(start: NotebookMaker) -> None:
    one = start()
    request = one.client.execute("import os, time; time.sleep(0.5); os.kill(os.getpid(), 11)")
    while True:
        message = one.client.get_iopub_msg(timeout=patient(20))
        if message["msg_type"] == "error":
            break
    assert message["parent_header"]["msg_id"] == request
    assert message["content"]["evalue"] == "The kernel died: its process was ended by SIGSEGV."
    one.restart()
    assert one.value("1") == 1


def test_out_of_memory_is_told_in_the_cells_output(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(memory="200m"))
    request = one.client.execute("hog = bytearray(500 << 20)")
    while True:
        message = one.client.get_iopub_msg(timeout=patient(20))
        if message["msg_type"] == "error":
            break
    assert message["parent_header"]["msg_id"] == request
    assert message["content"]["evalue"].startswith(
        "out of memory: the kernel used more than its 200 MiB; raise `memory` in"
    )
    background.run_blocking(one.container.wait())
    assert one.container.reason == "out of memory"


def test_a_container_that_is_gone_is_replaced_on_the_same_ports(start: NotebookMaker, engine: Engine) -> None:
    one = start()
    container, ports = one.container.container_id, one.manager.ports
    background.run_blocking(engine.containers.remove(container))
    background.run_blocking(one.container.wait())
    assert not one.manager.is_alive()
    one.restart()
    assert one.container.container_id != container and one.manager.ports == ports
    assert one.value("1 + 1") == 2


def test_a_restart_that_cannot_work_ends_dead_and_leaves_nothing(start: NotebookMaker, engine: Engine) -> None:
    one = start()
    container, port = one.container.container_id, one.manager.shell_port
    background.run_blocking(engine.containers.remove(container))
    background.run_blocking(one.container.wait())
    with socket.create_server(("127.0.0.1", port)):
        one.manager.restart_kernel()
        assert one.manager.has_kernel and not one.manager.is_alive()
        assert "port" in one.container.reason
    mine = background.run_blocking(engine.containers.list({labels.KERNEL_ID: one.manager.kernel_id}))
    assert mine == []


def test_a_shutdown_removes_container_and_volume(start: NotebookMaker, engine: Engine) -> None:
    one = start()
    container, volume = one.container.container_id, one.container.volume
    one.manager.shutdown_kernel()
    assert gone(engine, container)
    assert volume not in [found["Name"] for found in background.run_blocking(engine.volumes.list(labels.KIND))]


# Connection


def test_a_client_that_shuts_down_as_it_exits_leaves_nothing_and_says_nothing(
    make_spec: SpecMaker, tmp_path: Path, engine: Engine
) -> None:
    # `jupyter run` does so in an atexit handler.
    spec = make_spec()
    (tmp_path / "script.py").write_text("print(6 * 7)")
    command = [sys.executable, "-m", "jupyter_client.runapp", "--kernel", spec, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patient(60), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
    assert not background.run_blocking(engine.containers.list({labels.SPEC: spec}))


def test_the_connection_is_private_encrypted_and_local(notebook: Notebook, engine: Engine) -> None:
    file = Path(notebook.manager.connection_file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    info = json.loads(file.read_text())
    assert info["ip"] == "127.0.0.1" and len(info["key"]) >= 32 and info["curve_secretkey"]
    raw = subprocess.run(
        ["docker", "inspect", notebook.container.container_id], capture_output=True, text=True, check=True
    ).stdout
    bindings = [b for found in json.loads(raw)[0]["NetworkSettings"]["Ports"].values() for b in found]
    assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
    assert info["key"] not in raw and info["curve_secretkey"] not in raw


def test_without_the_curve_keys_nobody_can_run_or_read_anything(notebook: Notebook) -> None:
    info = json.loads(Path(notebook.manager.connection_file).read_text())
    context = zmq.Context()
    listener, caller = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    try:
        listener.subscribe(b"")
        listener.connect(f"tcp://127.0.0.1:{info['iopub_port']}")
        caller.connect(f"tcp://127.0.0.1:{info['shell_port']}")
        # Even with the HMAC key, which a thief of only that would have.
        content = {"code": "stolen = 1", "silent": False}
        # Where the kernel has refused the connection already, there is none that a message could wait for.
        caller.sndtimeo = 0
        with contextlib.suppress(zmq.Again):
            Session(key=info["key"].encode()).send(caller, "execute_request", content)
        notebook.run("print('secret')")
        assert not listener.poll(1500) and not caller.poll(500)
        assert notebook.value("'stolen' in globals()") is False
    finally:
        context.destroy(linger=0)


def test_encryption_can_be_turned_off_and_required(start: NotebookMaker, make_spec: SpecMaker, tmp_path: Path) -> None:
    one = start(make_spec(encryption="disabled"))
    assert "curve_secretkey" not in json.loads(Path(one.manager.connection_file).read_text())
    name = make_spec(encryption="required")
    assert start(name).value("1") == 1
    folder = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / name / "kernel.json"
    spec = json.loads(folder.read_text())
    del spec["metadata"]["supported_encryption"]
    folder.write_text(json.dumps(spec))
    with pytest.raises(DockerKernelError, match=r"does\s+not\s+support\s+CurveZMQ"):
        start(name)


@pytest.mark.parametrize("settings", [{}, {"network": "none"}], ids=["transport=ipc", "network=none"])
def test_a_kernel_without_ports(
    start: NotebookMaker, make_spec: SpecMaker, engine: Engine, settings: dict[str, str]
) -> None:
    one = start(make_spec(**settings), **({} if settings else {"transport": "ipc"}))
    assert one.manager.transport == "ipc"
    assert background.run_blocking(engine.containers.inspect(one.container.container_id)).ports == {}
    assert one.value("6 * 7") == 42
    folder = Path(one.manager.ip).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    one.restart()
    assert one.value("6 * 7") == 42
    assert one.run("%local 2").shown == "2"
    one.manager.shutdown_kernel()
    assert not folder.exists()


def test_published_ports_are_reached_on_loopback_and_known_inside(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(publish=[8050]))
    one.run("import socket; server = socket.create_server(('', 8050))")
    where = one.value("__import__('docker_kernel').ports[8050]")
    host, port = where.split(":")
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=patient(5)) as connection:
        one.run("peer, _ = server.accept(); peer.sendall(b'hello'); peer.close()")
        assert connection.recv(5) == b"hello"


# Files, user, environment, limits


def test_files_paths_and_modules_are_the_hosts(notebook: Notebook, workspace: Path) -> None:
    (workspace / "data.csv").write_text("a,b\n")
    (workspace / "script.py").write_text("def fail(): raise ValueError('here')\nran = True\n")
    assert notebook.value("[__import__('os').getcwd(), open('data.csv').read()]") == [str(workspace), "a,b\n"]
    notebook.run("%run script.py")
    assert notebook.value("ran") is True
    assert "script.py" in notebook.run("fail()").traceback
    assert str(workspace) in notebook.run("import script; script.fail.__code__.co_filename").shown
    notebook.run("%load_ext autoreload\n%autoreload 2\nimport script")
    (workspace / "script.py").write_text("def fail(): return 'reloaded'\nran = True\n")
    later = time.time() + 2  # in another second, as compiled modules note the second
    os.utime(workspace / "script.py", (later, later))
    assert notebook.value("script.fail()") == "reloaded"
    notebook.run("open('made.txt', 'w').write('x')")
    assert (workspace / "made.txt").stat().st_uid == os.getuid()


NON_ROOT = """
import json, os, sys
from pathlib import Path
from tests.notebook import Notebook
one = Notebook(sys.argv[1], Path(sys.argv[2]))
try:
    one.run("import os, getpass")
    home = "os.environ['HOME']"
    print(json.dumps(one.value(f"[os.getuid(), getpass.getuser(), {home}, os.access({home}, os.W_OK)]")))
    print(json.dumps(one.run("open('mine.txt', 'w').write('x')").status))
    print(json.dumps("Successfully installed" in one.run("%pip install --no-index ./shade-1.0-py3-none-any.whl").text))
    print(json.dumps(one.run("import shade; print(shade.COLOUR)").text))
    one.restart()
    print(json.dumps(one.run("import shade; print(shade.COLOUR)").text))
    print(json.dumps(one.run("%local shade.COLOUR").shown))
finally:
    one.close()
"""


@pytest.fixture
def other_user() -> Iterator[tuple[str, int, int]]:
    """A user of this machine who is not root: name, uid and the group that may use the engine."""
    if os.getuid() != 0:
        pytest.skip("only root can make a user")
    name = "dk-test-user"
    subprocess.run(["useradd", "--create-home", name], check=True)
    account = pwd.getpwnam(name)
    yield name, account.pw_uid, Path("/var/run/docker.sock").stat().st_gid
    subprocess.run(["userdel", "--remove", name], check=False, capture_output=True)


def test_a_user_who_is_not_root_owns_their_files_and_can_install(
    other_user: tuple[str, int, int], spec: str, own_folders: Path, used_images: list[str], engine: Engine
) -> None:
    name, uid, engine_group = other_user
    with tempfile.TemporaryDirectory(dir=f"/home/{name}") as text:
        work = Path(text)
        write_wheel(work)
        shutil.copytree(own_folders / "data", work / "jupyter")
        for path in [work, *work.rglob("*")]:
            os.chown(path, uid, uid)
        before = environments(engine)
        # The interpreter may lie where only root can look; reading is all that this capability allows.
        command = [
            "setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={uid},{engine_group}",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
            sys.executable, "-c", NON_ROOT, spec, text,
        ]  # fmt: skip
        env = {
            "HOME": f"/home/{name}",
            "PATH": os.environ["PATH"],
            "JUPYTER_DATA_DIR": str(work / "jupyter"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            FACTOR: str(factor()),
        }
        done = subprocess.run(
            command, env=env, cwd=text, capture_output=True, text=True, timeout=patient(120), check=False
        )
        used_images += sorted(environments(engine) - before)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert answers[:1] == [[uid, name, f"/home/{name}", True]], done.stderr
        assert answers[1:] == ["ok", True, "teal\n", "teal\n", "'teal'"], done.stderr
        assert (work / "mine.txt").stat().st_uid == uid


@pytest.mark.parametrize(
    ("mount", "sentence"),
    [
        ("{tmp}/none:/data", "does not exist here"),
        ("/:/host", "/ is never mounted"),
        ("{tmp}:/usr", "would hide the container's own /usr"),
        ("{tmp}:data", "the path in the container must be absolute"),
        ("{tmp}:/data:readonly", "the third part is 'ro' or 'rw'"),
        ("/var/run/docker.sock:/engine.sock", "sockets are never mounted"),
    ],
)
def test_a_mount_that_cannot_be_is_one_sentence_before_the_start(
    start: NotebookMaker, make_spec: SpecMaker, tmp_path: Path, mount: str, sentence: str
) -> None:
    name = make_spec(mounts=[mount.format(tmp=tmp_path)])
    with pytest.raises(DockerKernelError) as error:
        start(name)
    assert sentence in " ".join(str(error.value).split())


def test_mounts_can_be_read_only_and_are_limited_by_the_config_file(
    start: NotebookMaker, make_spec: SpecMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("allowed", "other", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.toml").write_text(f'allowed_mounts = ["{tmp_path}/allowed"]\n')
    monkeypatch.setenv("DOCKER_KERNEL_CONFIG", str(tmp_path / "config.toml"))
    one = start(make_spec(mounts=[f"{tmp_path}/allowed:/data:ro"]), tmp_path / "work")
    assert one.run("open('/data/x', 'w')").name == "OSError"
    with pytest.raises(DockerKernelError, match=r"allowed_mounts"):
        start(make_spec(mounts=[f"{tmp_path}/other:/data"]), tmp_path / "work")


def test_the_environment_is_an_allow_list(
    start: NotebookMaker, make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_CLOUD_TOKEN", "secret")
    monkeypatch.setenv("KERNEL_ROLE", "tester")
    monkeypatch.setenv("ASKED_FOR", "yes")
    one = start(make_spec(env={"MINE": "1"}, env_from_host=["ASKED_FOR"]))
    env = one.value("dict(__import__('os').environ)")
    assert (env["KERNEL_ROLE"], env["MINE"], env["ASKED_FOR"]) == ("tester", "1", "yes")
    assert "SOME_CLOUD_TOKEN" not in env and "JPY_PARENT_PID" not in env


def test_limits_and_hardening_hold(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(pids=64, shm="32m", cpus=0.5))
    status = one.run("print(open('/proc/self/status').read())").text
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert one.value("__import__('os').path.exists('/var/run/docker.sock')") is False
    assert one.value("__import__('shutil').disk_usage('/dev/shm').total") == 32 << 20
    forks = "import subprocess\nps = []\ntry:\n    for i in range(100): ps.append(subprocess.Popen(['sleep', '9']))\n"
    assert one.run(forks + "except OSError: print('limited')\nfor p in ps: p.kill()").text == "limited\n"


# Orphans, the launcher, refusals

ORPHAN = """
import sys, time
from pathlib import Path
from tests.notebook import Notebook
one = Notebook(sys.argv[1], Path(sys.argv[2]))
print(one.container.container_id, one.container.volume, flush=True)
time.sleep(600)
"""


def test_a_killed_server_leaves_no_kernel_after_the_grace(make_spec: SpecMaker, tmp_path: Path, engine: Engine) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", ORPHAN, make_spec(grace=2), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        container, volume = server.stdout.readline().split()
        server.send_signal(signal.SIGKILL)
    assert background.run_blocking(engine.containers.inspect(container)).running
    assert gone(engine, container)
    assert volume not in [found["Name"] for found in background.run_blocking(engine.volumes.list(labels.KIND))]


class Launched:
    """A kernel started by its argv, on the ports of a connection file that the client made: as VS Code does it."""

    def __init__(self, spec: str, cwd: Path) -> None:
        argv = json.loads((Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / spec / "kernel.json").read_text())["argv"]
        file, self.info = write_connection_file(str(cwd / "connection.json"), key=uuid.uuid4().hex.encode())
        argv = [part.replace("{connection_file}", file) for part in argv]
        self.process = subprocess.Popen(argv, cwd=cwd, start_new_session=True, stderr=subprocess.PIPE, text=True)
        self.client = BlockingKernelClient(connection_file=file)
        self.client.load_connection_file()
        self.client.start_channels(hb=False)

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.stop_channels()
        self.process.kill()
        self.process.wait()

    def run(self, code: str) -> str:
        self.client.execute(code)
        status: str = self.client.get_shell_msg(timeout=patient(30))["content"]["status"]
        return status

    def interrupt(self, code: str) -> str:
        """Run a cell, and interrupt its launcher as soon as the cell prints something."""
        until(self._is_subscribed, 30, "the client's connection to what the kernel publishes")
        self.client.execute(code)
        while self.client.get_iopub_msg(timeout=patient(30))["msg_type"] != "stream":
            pass
        os.killpg(self.process.pid, signal.SIGINT)
        status: str = self.client.get_shell_msg(timeout=patient(30))["content"]["status"]
        return status

    def _is_subscribed(self) -> bool:
        """Whether what the kernel publishes comes: who connects a moment too late never gets what was before."""
        self.client.kernel_info()
        self.client.get_shell_msg(timeout=patient(30))
        with contextlib.suppress(queue.Empty):
            return bool(self.client.get_iopub_msg(timeout=1))
        return False


def launched_container(engine: Engine, cwd: Path) -> str:
    file = str(cwd / "connection.json")
    (found,) = background.run_blocking(engine.containers.list({labels.CONNECTION_FILE: file}))
    return found.id


def test_the_launcher_gives_the_same_kernel_on_the_clients_ports(spec: str, tmp_path: Path, engine: Engine) -> None:
    with Launched(spec, tmp_path) as one:
        assert one.run("x = 1") == "ok"
        assert one.interrupt("import time; print('begun', flush=True); time.sleep(600)") == "error"
        container = launched_container(engine, tmp_path)
        one.client.execute("import os; os._exit(5)")
        assert one.process.wait(patient(20)) == 5
        assert gone(engine, container)


def test_the_launcher_says_that_an_interrupt_cannot_be_delivered(spec: str, tmp_path: Path, engine: Engine) -> None:
    with Launched(spec, tmp_path) as one:
        assert one.run("1") == "ok"
        container = launched_container(engine, tmp_path)
        with paused(container):
            os.kill(one.process.pid, signal.SIGINT)
            assert one.process.stderr is not None
            said = one.process.stderr.readline()
        assert said.startswith("docker-kernel: The interrupt did not reach the kernel."), said
        one.process.terminate()
        one.process.wait(20)
        assert gone(engine, container)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_launcher_that_is_killed_leaves_no_container(
    spec: str, tmp_path: Path, engine: Engine, number: signal.Signals
) -> None:
    with Launched(spec, tmp_path) as one:
        assert one.run("1") == "ok"
        container = launched_container(engine, tmp_path)
        os.killpg(one.process.pid, number)
        one.process.wait(patient(20))
        assert gone(engine, container)


def test_the_launcher_says_in_one_sentence_what_is_wrong(make_spec: SpecMaker, tmp_path: Path) -> None:
    with Launched(make_spec(image="docker-kernel-test/none:1"), tmp_path) as one:
        assert one.process.wait(patient(30)) == 1
        assert one.process.stderr is not None
        error = one.process.stderr.read()
    assert error.startswith("docker-kernel: The kernel image docker-kernel-test/none:1 is not on this engine")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image": "docker-kernel-test/none:1"}, "run `docker-kernel install --image docker-kernel-test/none:1`"),
        ({"memroy": "2g"}, "there is no setting 'memroy' (did you mean 'memory'?)"),
        ({"memory": "2 gigs"}, "write a number with a unit"),
        ({"cpus": "many"}, "cpus"),
        ({"network": "no-such-network"}, "no-such-network"),
    ],
)
def test_a_kernel_that_cannot_start_says_why_and_leaves_nothing(
    start: NotebookMaker, make_spec: SpecMaker, engine: Engine, settings: dict[str, str], sentence: str
) -> None:
    name = make_spec(**settings)
    with pytest.raises(DockerKernelError) as error:
        start(name)
    assert sentence in " ".join(str(error.value).split())
    assert background.run_blocking(engine.containers.list({labels.SPEC: name})) == []


def test_no_engine_and_a_remote_engine_are_refused_in_a_sentence(
    start: NotebookMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(DockerKernelError, match="No engine answers at"):
        start()
    with socketserver_to_engine() as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        with pytest.raises(DockerKernelError, match=r"another\s+machine"):
            start()


@contextlib.contextmanager
def socketserver_to_engine() -> Iterator[int]:
    """The local engine on a TCP port, which is how a remote one looks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", FORWARD, str(port)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield port
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


FORWARD = """
import asyncio, sys
async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data); await writer.drain()
    writer.close()
async def serve(reader, writer):
    up = await asyncio.open_unix_connection('/var/run/docker.sock')
    await asyncio.gather(pump(reader, up[1]), pump(up[0], writer))
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', int(sys.argv[1]))
    print('up', flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

INSIDE = """
import asyncio
from docker_kernel.engine import Engine
from docker_kernel.errors import DockerKernelError
from docker_kernel.kernel.locality import check_local
async def main():
    try:
        await check_local(await Engine.connect())
    except DockerKernelError as error:
        print(error)
asyncio.run(main())
"""


def test_jupyter_inside_a_container_with_the_engines_socket_is_refused(python_image: str) -> None:
    root = Path(__file__).parents[2]
    paths = dict.fromkeys([sys.prefix, sys.base_prefix, str(root)])
    mounts = [part for path in paths for part in ("-v", f"{path}:{path}:ro")]
    command = [
        "docker", "run", "--rm", "-v", "/var/run/docker.sock:/var/run/docker.sock", *mounts,
        "-e", f"PYTHONPATH={root}", python_image, sys.executable, "-c", INSIDE,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=False)
    assert "Jupyter runs in a container of this same engine" in done.stdout, done.stderr
