"""The main process of a kernel container: it starts, interrupts, kills and restarts the kernel process in place.

It reaps every orphan (it is process 1), reports how the kernel ended, tells the user when memory was the reason, and
holds the lease: with no host side for the grace period, it ends, and the container with it. The host side is there
while it is on the link, or holds the standard input, as it does from before the start on: no load makes it late.

Only light modules of the standard library are imported: the time until the kernel process runs is the user's.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from docker_kernel.guest import listening
from docker_kernel.guest.forks import ForkServer, Unsure
from docker_kernel.guest.link import (
    CONNECTION_FILE,
    LEASE_EXIT,
    PARENT_FILE,
    PORTS_FILE,
    SOCKET,
    STARTED_LINE,
    VERSION,
    WANTED_LINE,
    LineBuffer,
    encode,
)
from docker_kernel.guest.memory import KERNEL_OOM_SCORE, WAITING_OOM_SCORE, oom_kills, set_oom_score

sys.path.pop(0)

START_FILE = "/opt/docker-kernel/run/start.json"
NOTICE_SECONDS = 5
"""How long the notice of a kernel's death may take to reach a frontend."""

MAX_BUFFERED = 64 << 20
"""Bytes that may wait for one peer that does not read them."""

MAX_AHEAD = 16 << 20
"""Bytes that may wait for the host side before the other processes' requests are left in their sockets."""

RENEWAL_SECONDS = 5
"""How long after a clean start a new forkserver is made, so that it takes nothing from the first cells."""


def write_private(path: str, text: str) -> None:
    """Write a file that only its owner can read, replacing it at once."""
    descriptor = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def install_env(python: str, user_base: str) -> dict[str, str]:
    """Where pip installs for a user who may not write to the virtual environment that the image's Python is in.

    Pip has no user site there, so that packages go to a folder of their own, which PYTHONPATH makes importable.
    """
    environment = os.path.dirname(os.path.dirname(python))
    if not os.path.exists(environment + "/pyvenv.cfg") or os.access(environment + "/lib", os.W_OK):
        return {}
    target = user_base + "/venv"
    path = os.environ.get("PYTHONPATH")
    return {"PIP_TARGET": target, "PYTHONPATH": target + (":" + path if path else "")}


def take_stdin() -> int:
    """A descriptor of our standard input, which no process of ours inherits: theirs is empty."""
    stdin = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return stdin


class Peer:
    """A connection to the supervisor's socket: the host side's relay, or a process in the container."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.role: str | None = None
        self.lines = LineBuffer()
        self.out = bytearray()


class Supervisor:
    def __init__(self, start: dict[str, object], stdin: int) -> None:
        self.start = start
        self.stdin: int | None = stdin
        """Until the host side no longer holds the other end."""
        self.grace = float(start["grace"])  # type: ignore[arg-type]
        self.peers: dict[int, Peer] = {}
        self.host: Peer | None = None
        self.host_seen = False
        self.early: list[tuple[Peer, dict[str, object]]] = []
        """Requests from before the host side's first coming, which it lets wait for the kernel's start."""
        self.unanswered: set[str] = set()
        self.holding = False
        self.kernel_pid = 0
        self.forks: ForkServer | None = None
        self.can_fork = bool(start.get("guest"))
        self.renewal: float | None = None
        """When a forkserver is to be started again."""
        self.forking = False
        self.early_signals: list[int] = []
        """For a kernel process that is being forked."""
        self.reaped: dict[int, int] = {}
        """Statuses of processes that ended while the fork's id was not known yet."""
        self.listening: list[socket.socket] = []
        """Where the kernel's clients connect to, where its processes and the notice of its death inherit that."""
        self.warm = not self.can_fork
        self.generation = 0
        self.exit_code: int | None = None
        self.oom = False
        self.ooms_before = 0
        self.expected = False
        self.notice_pid = 0
        self.notice_deadline = 0.0
        self.died: tuple[int, bool] = (0, False)
        self.lease_deadline: float | None = None
        """When this ends, as there is no host side."""
        self.idle_deadline: float | None = None
        self.poll = select.poll()

    # The kernel process

    def kernel_env(self) -> dict[str, str]:
        env = dict(os.environ)
        env.update(install_env(str(self.start["python"]), str(self.start["user_base"])))
        env.update(self.start["env"])  # type: ignore[call-overload]
        env["PATH"] = "%s/bin:%s" % (self.start["user_base"], env.get("PATH", os.defpath))
        return env

    def kernel_argv(self) -> list[str]:
        return [str(part).replace("{connection_file}", CONNECTION_FILE) for part in self.start["argv"]]  # type: ignore[attr-defined]

    def start_forkserver(self) -> None:
        """Have a forkserver, where this kernel can be forked."""
        self.renewal = None
        if self.can_fork and self.forks is None:
            score = WAITING_OOM_SCORE if self.start.get("waiting") else 0
            try:
                self.forks = ForkServer([str(part) for part in self.start["interpreter"]], self.kernel_env(), score)  # type: ignore[attr-defined]
            except OSError:
                # There may be no more processes; the kernel that runs needs none of it.
                self.renewal = time.monotonic() + RENEWAL_SECONDS
                return
            self.poll.register(self.forks.sock, select.POLLIN)

    def end_forkserver(self, renew: bool) -> None:
        """End the forkserver; a fork that is under way becomes a clean start."""
        if self.forks is not None:
            self.poll.unregister(self.forks.sock)
            self.forks.end()
            self.forks = None
        self.can_fork = self.can_fork and renew
        if not self.warm:
            self.warm = True
            self.tell_host({"type": "warm"})
        if self.forking:
            self.forking = False
            self.kernel_started(self.start_interpreter())
        if self.can_fork:
            self.renewal = time.monotonic() + RENEWAL_SECONDS

    def from_forkserver(self) -> None:
        assert self.forks is not None
        try:
            messages = self.forks.messages()
        except ValueError:
            messages = None
        if messages is None:
            self.end_forkserver(renew=self.generation > 0 and not self.forking)
            return
        for message in messages:
            kind = message["type"]
            if kind == "loaded":
                self.warm = True
                self.tell_host({"type": "warm"})
            elif kind == "forked" and self.forking:
                try:
                    self.forks.go()
                except OSError:
                    self.end_forkserver(renew=True)
                    return
                self.forking = False
                self.kernel_started(int(message["pid"]))  # type: ignore[call-overload]
            elif kind in ("unsure", "unfit"):
                self.end_forkserver(renew=kind == "unsure")
                return

    def spawn(self) -> None:
        """Start the kernel process in a session of its own, so that an interrupt reaches what its cells start.

        It is forked where that is as good as starting an interpreter.
        """
        write_private(CONNECTION_FILE, json.dumps(self.start["connection"]))
        self.ooms_before = oom_kills() or 0
        if self.listening:
            try:
                listening.show(self.start["connection"])  # type: ignore[arg-type]
            except OSError as error:
                os.write(2, ("docker-kernel: no client can connect: %s\n" % error).encode())
        self.generation += 1
        self.exit_code, self.oom, self.expected, self.idle_deadline = None, False, False, None
        self.reaped.clear()
        if self.forks is not None:
            self.forking = True
            try:
                self.forks.ask(self.kernel_argv(), self.kernel_env(), str(self.start["cwd"]), KERNEL_OOM_SCORE)
            except (OSError, Unsure):
                self.end_forkserver(renew=True)
        else:
            self.kernel_started(self.start_interpreter())

    def kernel_started(self, pid: int) -> None:
        self.kernel_pid = pid
        if self.generation == 1:
            self.announce(STARTED_LINE)
        self.tell_host({"type": "started", "generation": self.generation})
        signals, self.early_signals = self.early_signals, []
        for number in signals:
            self.signal_kernel(number)
        if pid in self.reaped:
            self.kernel_process_ended(self.reaped.pop(pid))

    def start_interpreter(self) -> int:
        argv, env = self.kernel_argv(), self.kernel_env()
        pid = os.fork()
        if pid == 0:
            self._become(argv, env)
        return pid

    def _become(self, argv: list[str], env: dict[str, str]) -> None:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            # Ignored until ipykernel runs a cell: an interrupt of a kernel that still starts would end it.
            signal.signal(signal.SIGINT, signal.SIG_IGN if self.start.get("guest") else signal.SIG_DFL)
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            set_oom_score(KERNEL_OOM_SCORE)
            os.chdir(str(self.start["cwd"]))
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(2, ("docker-kernel: %s cannot be started: %s\n" % (argv[0], error)).encode())
        finally:
            os._exit(127)

    def signal_kernel(self, number: int) -> None:
        """Send a signal to the kernel process and all that its cells started; no-op when it has ended."""
        if self.forking:
            self.early_signals.append(number)
        elif self.kernel_pid:
            if number in (signal.SIGTERM, signal.SIGKILL):
                self.expected = True
            try:
                os.killpg(self.kernel_pid, number)
            except ProcessLookupError:
                try:
                    os.kill(self.kernel_pid, number)  # before its setsid
                except ProcessLookupError:
                    pass
        elif self.notice_pid and number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(self.notice_pid, signal.SIGKILL)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.kernel_pid:
                self.kernel_process_ended(status)
            elif self.forking:
                self.reaped[pid] = status
            elif pid == self.notice_pid:
                self.notice_pid = 0
                self.report(*self.died)

    def kernel_process_ended(self, status: int) -> None:
        self.kernel_pid = 0
        self.kernel_ended(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))

    def kernel_ended(self, code: int) -> None:
        oom = code == -signal.SIGKILL and (oom_kills() or 0) > self.ooms_before
        if self.expected or not self.start.get("guest") or not (oom or code < 0):
            self.report(code, oom)
            return
        self.died = (code, oom)
        if oom:
            text = "out of memory: the kernel used more than its %s; raise `memory` in %s." % (
                self.start.get("memory_text") or "engine allows",
                self.start.get("settings_hint") or "the kernel's settings",
            )
        else:
            text = "The kernel died: its process was ended by %s." % signal.Signals(-code).name
        notice = {"text": text, "name": "MemoryError" if oom else "KernelDied"}
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "notice.py")
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                os.execvpe(
                    str(self.start["python"]),
                    [str(self.start["python"]), "-I", script, CONNECTION_FILE, PARENT_FILE, json.dumps(notice)],
                    dict(os.environ),
                )
            finally:
                os._exit(127)
        self.notice_pid = pid
        self.notice_deadline = time.monotonic() + NOTICE_SECONDS

    def announce(self, line: bytes) -> None:
        """Tell a host side that has opened no link yet, as one costs the engine more than to read this output."""
        if not self.host_seen:
            try:
                os.write(1, line)
            except OSError:
                pass

    def report(self, code: int, oom: bool) -> None:
        self.announce(WANTED_LINE)
        self.exit_code, self.oom = code, oom
        self.idle_deadline = time.monotonic() + max(self.grace, 10)
        self.tell_host({"type": "exited", "generation": self.generation, "code": code, "oom": oom})

    # The link

    def listen(self) -> None:
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(SOCKET)
        os.chmod(SOCKET, 0o600)
        self.server.listen(16)
        self.server.setblocking(False)
        self.poll.register(self.server, select.POLLIN)

    def tell_host(self, message: dict[str, object]) -> None:
        if self.host is not None:
            self.send(self.host, message)

    def send(self, peer: Peer, message: dict[str, object]) -> None:
        if peer.sock.fileno() not in self.peers:
            return
        peer.out += encode(message)
        if len(peer.out) > MAX_BUFFERED:
            self.drop(peer)
        else:
            self.flush(peer)

    def flush(self, peer: Peer) -> None:
        try:
            while peer.out:
                sent = peer.sock.send(peer.out)
                del peer.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(peer)
            return
        self.watch(peer)
        if peer is self.host:
            self.hold(len(peer.out) > MAX_AHEAD)

    def held(self, peer: Peer) -> bool:
        return self.holding and peer.role not in (None, "host")

    def watch(self, peer: Peer) -> None:
        """Say what of a peer wakes the loop."""
        reads = 0 if self.held(peer) else select.POLLIN
        self.poll.modify(peer.sock, reads | (select.POLLOUT if peer.out else 0))

    def hold(self, holding: bool) -> None:
        """Read no requests while the host side takes none: who sends many of them waits for it."""
        if self.holding != holding:
            self.holding = holding
            for peer in self.peers.values():
                self.watch(peer)

    def drop(self, peer: Peer) -> None:
        if self.peers.pop(peer.sock.fileno(), None) is None:
            return
        self.poll.unregister(peer.sock)
        peer.sock.close()
        if peer is self.host:
            self.host = None
            self.hold(False)
            for number in sorted(self.unanswered):
                text = "The link to the Jupyter server broke before it answered; try again."
                self.from_host({"type": "reply", "id": number, "error": text})
            self.look_for_host()

    def drop_stdin(self) -> None:
        if self.stdin is not None:
            self.poll.unregister(self.stdin)
            os.close(self.stdin)
            self.stdin = None
            self.look_for_host()

    def look_for_host(self) -> None:
        """Let the lease run from when there is no host side any more."""
        there = self.host is not None or self.stdin is not None
        self.lease_deadline = None if there else time.monotonic() + self.grace

    def accept(self) -> None:
        try:
            sock, _ = self.server.accept()
        except OSError:
            return
        sock.setblocking(False)
        self.peers[sock.fileno()] = Peer(sock)
        self.poll.register(sock, select.POLLIN)

    def receive(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(1 << 18)
            if not data:
                self.drop(peer)
                return
            for line in peer.lines.feed(data):
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("a message is an object")
                self.handle(peer, message)
        except BlockingIOError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self.drop(peer)

    def handle(self, peer: Peer, message: dict[str, object]) -> None:
        if peer.role is None:
            peer.role = str(message["role"])
            self.watch(peer)
            if peer.role == "host":
                if self.host is not None:
                    self.drop(self.host)
                self.host = peer
                self.look_for_host()
                self.send(
                    peer,
                    {
                        "type": "hello",
                        "version": VERSION,
                        "generation": self.generation,
                        "alive": self.exit_code is None,
                        "code": self.exit_code,
                        "oom": self.oom,
                        "warm": self.warm,
                    },
                )
                self.host_seen = True
                early, self.early = self.early, []
                for client, request in early:
                    if client.sock.fileno() in self.peers:
                        self.handle(client, request)
        elif peer.role == "host":
            self.from_host(message)
        elif message.get("type") == "request":
            if not self.host_seen:
                self.early.append((peer, message))
                self.announce(WANTED_LINE)
            elif self.host is None:
                text = "The Jupyter server that started this kernel is not connected to it."
                self.send(peer, {"type": "reply", "id": message["id"], "error": text})
            else:
                number = "%d:%d" % (peer.sock.fileno(), int(message["id"]))  # type: ignore[call-overload]
                self.unanswered.add(number)
                request = {"type": "request", "id": number, "method": message["method"], "params": message["params"]}
                self.tell_host(request)

    def from_host(self, message: dict[str, object]) -> None:
        kind = message["type"]
        if kind == "hello":
            if not message.get("attached"):
                self.drop_stdin()  # if somebody holds it still, it is not the host side
        elif kind == "signal":
            self.signal_kernel(int(message["number"]))  # type: ignore[call-overload]
        elif kind == "expect":
            self.expected = True
        elif kind == "start":
            if self.notice_pid:
                os.kill(self.notice_pid, signal.SIGKILL)
                os.waitpid(self.notice_pid, 0)
                self.notice_pid = 0
            if not self.kernel_pid and not self.forking:
                self.start.update(message["update"])  # type: ignore[call-overload]
                self.grace = float(self.start["grace"])  # type: ignore[arg-type]
                if self.start.pop("waiting", None):
                    set_oom_score(0)
                self.spawn()
        elif kind == "ports":
            write_private(PORTS_FILE, json.dumps(message["ports"]))
        elif kind == "stop":
            self.stop(0)
        elif kind == "reply":
            self.unanswered.discard(str(message["id"]))
            client, _, number = str(message["id"]).partition(":")
            peer = self.peers.get(int(client))
            if peer is not None and peer.role == "kernel":
                self.send(peer, {**message, "id": int(number)})
        elif kind == "event":
            for peer in list(self.peers.values()):
                if peer.role == "kernel":
                    self.send(peer, message)
        if "confirm" in message:
            self.tell_host({"type": "confirmed", "number": message["confirm"]})

    # Life

    def stop(self, code: int) -> None:
        """End everything in the container: process 1 takes all others with it."""
        self.signal_kernel(signal.SIGKILL)
        os._exit(code)

    def deadline(self) -> float:
        """When the next of the waits has its end."""
        ends = []
        if self.lease_deadline is not None:
            ends.append(self.lease_deadline)
        if self.idle_deadline is not None:
            ends.append(self.idle_deadline)
        if self.notice_pid:
            ends.append(self.notice_deadline)
        if self.renewal is not None:
            ends.append(self.renewal)
        if self.forks is not None and self.forks.deadline is not None:
            ends.append(self.forks.deadline)
        return min(ends) if ends else float("inf")

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.listen()
        self.poll.register(wake_read, select.POLLIN)
        if self.stdin is not None:
            self.poll.register(self.stdin, select.POLLIN)
        if self.can_fork:
            try:
                self.listening = listening.open_all(self.start["connection"])  # type: ignore[arg-type]
            except OSError:
                pass  # the kernel process will say what is wrong
        self.start_forkserver()
        if self.start.get("waiting"):
            set_oom_score(WAITING_OOM_SCORE)
        else:
            self.spawn()
        while True:
            wait = self.deadline() - time.monotonic()
            events = self.poll.poll(None if wait == float("inf") else max(0, int(wait * 1000) + 1))
            now = time.monotonic()
            for descriptor, mask in events:
                if descriptor == wake_read:
                    if signal.SIGTERM in os.read(wake_read, 512):
                        self.stop(128 + signal.SIGTERM)
                elif descriptor == self.server.fileno():
                    self.accept()
                elif descriptor == self.stdin:
                    if not os.read(descriptor, 1 << 16):
                        self.drop_stdin()
                elif self.forks is not None and descriptor == self.forks.sock.fileno():
                    self.from_forkserver()
                elif descriptor in self.peers:
                    peer = self.peers[descriptor]
                    if mask & select.POLLOUT:
                        self.flush(peer)
                    if self.held(peer):
                        mask &= ~select.POLLIN
                    if mask & ~select.POLLOUT and descriptor in self.peers:
                        self.receive(peer)
            self.reap()
            if self.notice_pid and now >= self.notice_deadline:
                os.kill(self.notice_pid, signal.SIGKILL)
            if self.forks is not None and self.forks.deadline is not None and now >= self.forks.deadline:
                self.end_forkserver(renew=True)
            if self.renewal is not None and now >= self.renewal:
                self.start_forkserver()
            if self.lease_deadline is not None and now >= self.lease_deadline:
                self.stop(LEASE_EXIT)
            if self.idle_deadline is not None and now >= self.idle_deadline:
                self.stop(self.exit_code if self.exit_code and self.exit_code > 0 else 128 - (self.exit_code or -128))


def main() -> None:
    stdin = take_stdin()
    with open(START_FILE) as file:
        start = json.load(file)
    os.unlink(START_FILE)
    user_site = "%s/lib/python%d.%d/site-packages" % (start["user_base"], *sys.version_info[:2])
    try:
        # A user site that does not exist when Python starts is not on its path, even after pip has filled it.
        os.makedirs(user_site, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
    Supervisor(start, stdin).run()


if __name__ == "__main__":
    main()
