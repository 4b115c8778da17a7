"""A second real engine on this machine, in a network namespace of its own; over a socket, or TCP with TLS; a registry.

The registry is served on 127.0.0.1 of both sides, from one store, so that an image has one reference on both engines.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leftovers
from tests.patience import patient, until

PACKAGES = {"docker-registry": "docker-registry", "ip": "iproute2", "dockerd": "docker.io", "openssl": "openssl"}


def need(*commands: str) -> None:
    """Skip where a program is missing and cannot be installed."""
    missing = [PACKAGES[command] for command in commands if shutil.which(command) is None]
    if os.geteuid() != 0:
        pytest.skip("a second engine needs root")
    if missing:
        if shutil.which("apt-get") is None:
            pytest.skip(f"{', '.join(missing)} not installed")
        command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        done = subprocess.run(command, capture_output=True, text=True, timeout=patient(150), check=False)
        if done.returncode:
            pytest.skip(f"{', '.join(missing)} could not be installed: {done.stderr.strip()[-200:]}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def bridge_address() -> str:
    """This machine's address, as the containers of the engine that `docker` reaches see it."""
    command = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}"]
    subnet = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return str(next(ipaddress.ip_network(subnet).hosts()))


@contextlib.contextmanager
def paused(container: str) -> Iterator[None]:
    """While the engine has stopped all processes of a container, and starts none in it."""
    subprocess.run(["docker", "pause", container], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "unpause", container], check=False, capture_output=True)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _parent(process: int) -> int | None:
    """A process's parent; None where it has ended."""
    try:
        state, parent, *_ = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(parent)


class SecondEngine:
    """A dockerd with its own network, data and socket.

    Attributes:
        url: its socket's address; tcp: its TLS address, with the certificates in `tls`; here: this machine's address,
            as its network sees it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self.tls = folder / "tls"
        self.namespace = f"dk{os.getpid()}"
        self._links = (f"dka{os.getpid() % 10**7}", f"dkb{os.getpid() % 10**7}")
        leftovers.add_engine(self.namespace, list(self._links), folder)
        here, there = self._links
        # Another run's engine may look for a subnet of its own at the same time.
        with Path(tempfile.gettempdir(), "dk-engine.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            taken = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
            subnet = next(f"10.98.{third}" for third in range(1, 255) if f" 10.98.{third}." not in taken)
            self.here, self.address = f"{subnet}.1", f"{subnet}.2"
            for command in (
                ["ip", "netns", "add", self.namespace],
                ["ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", self.namespace],
                ["ip", "addr", "add", f"{self.here}/24", "dev", here],
            ):
                subprocess.run(command, check=True)
        self.tcp = f"tcp://{self.address}:2376"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """Its dockerd, once it was started."""
        return self._child

    @property
    def inside(self) -> list[str]:
        """What runs a command in its network."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def up(self) -> None:
        _make_certificates(self.tls, self.address)
        here, there = self._links
        for command in (
            ["ip", "link", "set", here, "up"],
            [*self.inside, "ip", "addr", "add", f"{self.address}/24", "dev", there],
            [*self.inside, "ip", "link", "set", there, "up"],
            [*self.inside, "ip", "link", "set", "lo", "up"],
            [*self.inside, "ip", "route", "add", "default", "via", self.here],
        ):
            subprocess.run(command, check=True)
        self.start()

    def start(self, live_restore: bool = False) -> None:
        """Start it, or start it again.

        Args:
            live_restore: whether it goes on with the containers that run, else it ends them.
        """
        (self.folder / "daemon.json").write_text(json.dumps({"live-restore": live_restore}))
        command = [
            *self.inside, "dockerd", "-H", self.url, "-H", self.tcp, "--data-root", f"{self.folder}/data",
            "--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid", "--config-file",
            f"{self.folder}/daemon.json", "--tlsverify", "--tlscacert", f"{self.tls}/ca.pem",
            "--tlscert", f"{self.tls}/server.pem", "--tlskey", f"{self.tls}/server-key.pem",
        ]  # fmt: skip
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: "Server Version" in self.docker("info"), 30, "the second engine's start")

    def docker(self, *arguments: str) -> str:
        command = ["docker", "-H", self.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=False).stdout

    def _processes(self) -> list[int]:
        """All that runs in its network, and what that started: its containers have networks of their own."""
        found = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        processes = [int(one) for one in found.stdout.split()]
        children: dict[int | None, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            children.setdefault(_parent(int(folder.name)), []).append(int(folder.name))
        for process in processes:
            processes += [one for one in children.get(process, []) if one not in processes]
        return processes

    def kill(self) -> None:
        """End dockerd at once; its containers run on, as their shims do."""
        assert self._child is not None
        children = [one for one in self._processes() if _parent(one) == self._child.pid]
        self._child.kill()
        self._child.wait(patient(20))
        # Its containerd ends with it, but not at once, and a new dockerd takes even a zombie for one that still runs.
        until(lambda: not any(_parent(one) is not None for one in children), 10, "the end of its containerd")
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def down(self) -> None:
        if self._child is not None and self._child.poll() is None:
            for container in self.docker("ps", "-aq").split():
                self.docker("rm", "-f", container)
            self._child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(patient(30))
            self._child.kill()
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        leftovers.remove_engine(self.namespace, list(self._links), self.folder)
        leftovers.forget_engine(self.namespace)


def _make_certificates(folder: Path, address: str) -> None:
    """A CA of our own, a server's and a client's certificate."""
    folder.mkdir()

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test CA", "-keyout",
            "ca-key.pem", "-out", "ca.pem")  # fmt: skip
    for name, extra in (("server", f"subjectAltName=IP:{address}"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / "extra").write_text(extra)
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out",
                f"{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                "-days", "2", "-extfile", "extra", "-out", f"{name}.pem")  # fmt: skip
    shutil.copy(folder / "client.pem", folder / "cert.pem")
    shutil.copy(folder / "client-key.pem", folder / "key.pem")


class OwnRegistry:
    """A registry on 127.0.0.1.

    Args:
        settings: of its configuration, over what it needs.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self._settings = settings or {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._also: list[list[str]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again with what it has."""
        http = {"addr": f"127.0.0.1:{self.port}", **self._settings.get("http", {})}
        store = {"filesystem": {"rootdirectory": f"{self.folder}/data"}, "delete": {"enabled": True}}
        settings = {"version": 0.1, "storage": store, **self._settings, "http": http}
        (self.folder / "registry.yml").write_text(json.dumps(settings))
        with (self.folder / "log").open("ab") as log:
            for inside in [[], *self._also]:
                command = [*inside, "docker-registry", "serve", str(self.folder / "registry.yml")]
                self._children.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        until(lambda: answers(self.port), 20, "the registry's start")

    def serve_to(self, engine: SecondEngine) -> None:
        """Be on 127.0.0.1 of that engine's network, too."""
        if engine.inside not in self._also:
            self._also.append(engine.inside)
            self.kill()
            self.start()

    def kill(self) -> None:
        for child in self._children:
            child.kill()
            child.wait(patient(20))
        self._children.clear()

    def collect_garbage(self) -> None:
        command = ["docker-registry", "garbage-collect", "--delete-untagged", str(self.folder / "registry.yml")]
        subprocess.run(command, check=True, capture_output=True)


class Relay:
    """Stands before a server on 127.0.0.1 or a socket, and counts what is sent to it.

    Args:
        server: a port, or a socket's path; folder: for the relay's own socket, needed for a socket's path.

    Attributes:
        sent: bytes that went to the server; when: called with it now and then, from a thread.
    """

    def __init__(self, server: int | str, folder: Path | None = None) -> None:
        self._server = server
        self.sent = 0
        self.when: Callable[[int], object] = lambda sent: None
        self._live: set[socket.socket] = set()
        self._cut = False
        if isinstance(server, int):
            self._socket = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        else:
            assert folder is not None
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(f"{folder}/relay.sock")
            self._socket.listen(64)
            self.address = f"unix://{folder}/relay.sock"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                if self._cut:
                    near.close()
                    continue
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            if isinstance(self._server, int):
                far = socket.create_connection(("127.0.0.1", self._server))
            else:
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._server)
        except OSError:
            near.close()
            return
        self._live |= {near, far}
        back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
        back.start()
        self._pump(near, far, True)
        back.join()
        self._live -= {near, far}
        near.close()
        far.close()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if counted:
                    self.sent += len(data)
                    self.when(self.sent)
        for one, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                one.shutdown(how)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """End all connections, and take none meanwhile."""
        self._cut = True
        for one in [*self._live]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self._cut = False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="session")
def second_engine() -> Iterator[SecondEngine]:
    """Another engine for the whole run."""
    need("dockerd", "ip", "openssl")
    with running_engine() as engine:
        yield engine


@contextlib.contextmanager
def running_engine() -> Iterator[SecondEngine]:
    """Another engine, taken down at the end also on failure."""
    alone = leftovers.begin()  # in a benchmark, which is no test run
    # Sockets have short names.
    engine = SecondEngine(Path(tempfile.mkdtemp(prefix="e", dir=leftovers.folder())))
    try:
        engine.up()
        yield engine
    finally:
        engine.down()
        if alone:
            leftovers.clean()


@pytest.fixture(scope="session")
def own_registry() -> Iterator[OwnRegistry]:
    """A registry for the whole run."""
    need("docker-registry")
    with tempfile.TemporaryDirectory(prefix="dk-registry-") as folder:
        registry = OwnRegistry(Path(folder))
        try:
            registry.start()
            yield registry
        finally:
            registry.kill()
