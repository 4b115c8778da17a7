"""A real Swarm of two nodes on one machine, for tests and benchmarks.

The engine that `docker` reaches is the manager. The worker is a second dockerd in namespaces of its own (network,
mounts, processes), so that killing it takes all it ran with it, as a power cut does. One registry's store is served on
127.0.0.1 on both sides, under one port, so that an image has one reference everywhere and no engine needs a setting;
jobs' containers on both nodes reach the same store at the manager's address.

One such Swarm at a time on a machine: names are fixed, and what a killed run has left is taken down by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leftovers
from tests.patience import patient, until

FOLDER = Path("/tmp/docker-kernel-swarm")
NAMESPACE = "docker-kernel-swarm"
LINKS = ("dk-swarm0", "dk-swarm1")
WORKER = "docker-kernel-worker"
CGROUPS = "docker-kernel-swarm"
PACKAGES = {"docker-registry": "docker-registry", "ip": "iproute2", "dockerd": "docker.io", "nsenter": "util-linux"}
LOCK_SECONDS = 600
"""How long one run waits for another's Swarm to be taken down."""


def _run(*command: str, check: bool = True, timeout: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(timeout), check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        return int(sock.getsockname()[1])


def why_not() -> str:
    """Why this machine cannot run the two nodes; empty if it can. Installs what is missing where it may."""
    if os.geteuid() != 0:
        return "two nodes on one machine need root (network namespaces)"
    missing = [package for command, package in PACKAGES.items() if shutil.which(command) is None]
    if missing:
        if shutil.which("apt-get") is None:
            return f"install {', '.join(missing)}"
        done = subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", *missing],
            capture_output=True, text=True, timeout=patient(150), check=False,
        )  # fmt: skip
        if done.returncode:
            return f"{', '.join(missing)} could not be installed: {done.stderr.strip()[-200:]}"
    try:
        state = _run("docker", "info", "--format", "{{.Swarm.LocalNodeState}}")
    except RuntimeError as error:
        return str(error)
    if state != "inactive" and not (FOLDER / "joined").exists():
        return "the engine is in a Swarm already, which tests leave alone"
    return ""


class TwoNodes:
    """The Swarm while it is up.

    Attributes:
        address: the manager's, as the worker and all containers reach it.
        port: the registry's, on 127.0.0.1 of both nodes and on `address`.
        worker_url: the worker's engine.
    """

    def __init__(self) -> None:
        self.port = _free_port()
        # Docker 20.10 may go on listening (on port 7946) on the address of a Swarm that it has left, with that one's
        # keys: nodes of the next Swarm there would not find each other's containers.
        taken = _run("ip", "-4", "-o", "addr") + _run("ss", "--listening", "--tcp", "--numeric", "--no-header")
        subnet = next(f"10.99.{third}" for third in range(256) if f" 10.99.{third}." not in taken)
        self.address, self.worker_address = f"{subnet}.1", f"{subnet}.2"
        self.worker_url = f"unix://{FOLDER}/worker.sock"
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        """The registry's files."""
        return FOLDER / "registry"

    def up(self) -> None:
        FOLDER.mkdir(parents=True)
        inside = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
        _run("ip", "netns", "add", NAMESPACE)
        _run("ip", "link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1], "netns", NAMESPACE)
        _run("ip", "addr", "add", f"{self.address}/24", "dev", LINKS[0])
        _run("ip", "link", "set", LINKS[0], "up")
        for arguments in (
            ["addr", "add", f"{self.worker_address}/24", "dev", LINKS[1]],
            ["link", "set", LINKS[1], "up"],
            ["link", "set", "lo", "up"],
            ["route", "add", "default", "via", self.address],
        ):
            _run(*inside, "ip", *arguments)
        for name, host, prefix in (("registry", "0.0.0.0", []), ("registry-worker", "127.0.0.1", inside)):
            settings = {
                "version": 0.1,
                "storage": {"filesystem": {"rootdirectory": str(self.store)}, "delete": {"enabled": True}},
                "http": {"addr": f"{host}:{self.port}"},
            }
            (FOLDER / f"{name}.yml").write_text(json.dumps(settings))
            self._spawn(name, [*prefix, "docker-registry", "serve", str(FOLDER / f"{name}.yml")])
        self.start_worker()
        until(self._registry_answers, 10, "the registry's start")
        (FOLDER / "joined").touch()
        _run("docker", "swarm", "init", "--advertise-addr", self.address, "--listen-addr", f"{self.address}:2377")
        token = _run("docker", "swarm", "join-token", "-q", "worker")
        self.on_worker("swarm", "join", "--token", token, f"{self.address}:2377")
        self.wait_for_worker()

    def _registry_answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1):
            return True
        return False

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (FOLDER / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=FOLDER
            )
        (FOLDER / f"{name}.pid").write_text(str(child.pid))
        self._children.append(child)
        return child

    def start_worker(self) -> None:
        """Start the worker's engine, or start it again."""
        (FOLDER / "worker.json").write_text("{}")
        dockerd = (
            f"dockerd -H {self.worker_url} --data-root {FOLDER}/data --exec-root {FOLDER}/exec "
            f"--pidfile {FOLDER}/dockerd.pid --config-file {FOLDER}/worker.json --cgroup-parent {CGROUPS}"
        )
        # The shell is the namespace's init: it reaps, and everything ends with it.
        command = (
            f"rm -rf {FOLDER}/exec {FOLDER}/dockerd.pid {FOLDER}/worker.sock; hostname {WORKER}; {dockerd} & wait $!"
        )
        self._spawn(
            "worker",
            [
                "nsenter", f"--net=/run/netns/{NAMESPACE}",
                "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", command,
            ],
        )  # fmt: skip
        until(self._worker_answers, 60, "the worker's start")

    def _worker_answers(self) -> bool:
        done = subprocess.run(
            ["docker", "-H", self.worker_url, "info"], capture_output=True, timeout=patient(20), check=False
        )
        return done.returncode == 0

    def kill_worker(self) -> None:
        """Cut the worker's power."""
        pid = int((FOLDER / "worker.pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        for child in self._children:
            if child.pid == pid:
                child.wait(20)

    def wait_for_worker(self, state: str = "ready", seconds: float = 40) -> None:
        """Wait until the manager sees the worker in a state."""
        until(lambda: self.node_state(WORKER) == state, seconds, f"the worker's state {state}")

    @staticmethod
    def node_state(name: str) -> str:
        found = _run("docker", "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ID}}")
        states = [line.split()[1].lower() for line in found.splitlines() if line.split()[0] == name]
        return "ready" if "ready" in states else states[0] if states else ""

    @property
    def manager_name(self) -> str:
        return _run("docker", "info", "--format", "{{.Name}}")

    def on_worker(self, *arguments: str) -> str:
        """Run a docker command against the worker's engine."""
        return _run("docker", "-H", self.worker_url, *arguments)

    def collect_garbage(self) -> None:
        """Run the registry's garbage collection."""
        _run("docker-registry", "garbage-collect", str(FOLDER / "registry.yml"))

    def down(self) -> None:
        tear_down()
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)


def tear_down() -> None:
    """Take down what this or a killed run has left."""
    with contextlib.suppress(OSError):
        _remove_images(json.loads((FOLDER / "registry.yml").read_text())["http"]["addr"].rpartition(":")[2])
    if (FOLDER / "joined").exists():
        _run("docker", "swarm", "leave", "--force", check=False)
    for file in FOLDER.glob("*.pid"):
        if file.stem not in ("worker", "registry", "registry-worker"):
            continue
        with contextlib.suppress(ProcessLookupError, ValueError):
            pid = int(file.read_text())
            if str(FOLDER) in Path(f"/proc/{pid}/cmdline").read_text() if Path(f"/proc/{pid}").exists() else False:
                os.killpg(pid, signal.SIGKILL)
                until(lambda pid=pid: not _alive(pid), 20, "the end of a process")  # type: ignore[misc]
    _run("ip", "link", "del", LINKS[0], check=False)
    _run("ip", "netns", "del", NAMESPACE, check=False)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for controller in Path("/sys/fs/cgroup").glob(f"**/{CGROUPS}"):
        for folder in sorted(controller.glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()


def take_down_if_left() -> bool:
    """Take down what a killed run has left, unless another one uses it; returns whether there was anything."""
    with Path(f"{FOLDER}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        left = FOLDER.exists()
        if left:
            tear_down()
        return left


def _remove_images(port: str) -> None:
    """Remove from the manager what it pulled from, or tagged for, the registry; a task's container may yet be going."""
    names = _run("docker", "images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}", check=False)
    for name, tag, digest in (line.split() for line in names.splitlines() if line.startswith(f"127.0.0.1:{port}/")):
        _run("docker", "rmi", f"{name}@{digest}" if tag == "<none>" else f"{name}:{tag}", check=False)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def running_swarm() -> Iterator[TwoNodes]:
    """The two nodes, taken down at the end also on failure; raises RuntimeError where they cannot run."""
    with Path(f"{FOLDER}.lock").open("w") as lock:
        end = time.monotonic() + patient(LOCK_SECONDS)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError("another run has had its Swarm up for too long") from None
                time.sleep(0.2)
        if reason := why_not():
            raise RuntimeError(reason)
        tear_down()
        nodes = TwoNodes()
        try:
            nodes.up()
            yield nodes
        finally:
            nodes.down()


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[TwoNodes]:
    """A Swarm of two nodes for the whole run; skips where the machine cannot run one."""
    leftovers.add_swarm()
    with contextlib.ExitStack() as stack:
        try:
            nodes = stack.enter_context(running_swarm())
        except RuntimeError as error:
            pytest.skip(f"no Swarm of two nodes here: {error}")
        yield nodes
