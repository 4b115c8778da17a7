"""What a notebook does with jobs: dispatch a cell, follow it, fetch its result. The magics are thin over this."""

from __future__ import annotations

import ast
import collections
import html
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

from docker_kernel.guest import environment, snapshot
from docker_kernel.guest.link import PORTS_FILE, Channel, LinkFailed, RemoteError
from docker_kernel.guest.worker import ERROR, VALUE

STATE = "/opt/docker-kernel/state"
FINAL = ("succeeded", "failed", "cancelled", "lost")
TAIL_LINES = 20
REFRESH_SECONDS = 0.2
_UNBOUND = object()

MAX_MANIFEST = 8 << 20
"""Characters of a manifest that the host side takes: about 400,000 variables."""

KEPT_OUTPUT = 1 << 20
"""Characters of a job's output that the notebook keeps; `.logs()` has as much from the host side."""


class JobFailed(Exception):
    """A job ended without a result; the message says why."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, as the frames would be ours and tell a user nothing."""
        return ["\x1b[31m%s\x1b[0m: %s" % (type(self).__name__, self)]


class JobCancelled(JobFailed):
    """A job was cancelled before it had a result."""


class Job:
    """A cell or an expression that runs in a container of its own.

    Its words are those of concurrent.futures: `result()` waits for the end and gives the value, or raises what the cell
    raised; `state` is one of queued, starting, running, succeeded, failed, cancelled, lost.
    """

    def __init__(self, session: Session, job_id: str, name: str, target: str, expression: bool) -> None:
        self.id = job_id
        self.name = name
        self.target = target
        self.state = "queued"
        self.reason = ""
        self.created = time.time()
        self.ended: float | None = None
        self.outputs: list[dict[str, Any]] = []
        """The rich outputs of the job's cell, as Jupyter's messages have them."""
        self._session = session
        self._expression = expression
        self._digest = ""
        self._text: list[str] = []
        self._size = 0
        self._over = threading.Event()
        self._delivery = threading.Lock()
        self._past: collections.deque[dict[str, Any]] = collections.deque(maxlen=1000)
        self._listeners: list[Callable[[Job, dict[str, Any]], None]] = []
        self._bindings: dict[str, Any] = {}
        self._value: Any = None
        self._fetched = False

    @property
    def over(self) -> bool:
        """Whether the job has ended, however it did."""
        return self._over.is_set()

    def done(self) -> bool:
        return self.over

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it has come within `timeout` seconds. Bring nothing back."""
        return self._over.wait(timeout)

    def cancel(self) -> bool:
        """Stop the job; returns whether it was still under way."""
        if self.over:
            return False
        self._session.request("job.cancel", {"job": self.id})
        return True

    def logs(self) -> str:
        """What the job has printed so far (the last MiB of it)."""
        return str(self._session.request("job.logs", {"job": self.id})["text"])

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end, assign what the cell assigned, and return an expression's value.

        A name that was bound anew since the job was sent keeps its new value, and is reported.

        Args:
            timeout: seconds to wait; None waits for as long as the job runs.

        Raises:
            TimeoutError: it has not ended within the timeout; it goes on.
            JobCancelled, JobFailed: it ended without a result.
            Exception: what the cell raised, of its original type, with the job's traceback as a note.
        """
        if not self.wait(timeout):
            raise TimeoutError("The job %s has not ended within %s s; it goes on." % (self.id, timeout))
        if not self._fetched:
            self._fetch()
        return self._value

    def follow(self) -> Any:
        """Show the job's output in this cell as it comes, wait for the end, and return the result.

        An interrupt cancels the job.
        """
        events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._delivery:
            past, over = list(self._past), self.over
            self._listeners.append(lambda job, event: events.put(event))
        for event in past:
            self._show(event)
        interrupted = False
        while not over:
            try:
                event = events.get()
                self._show(event)
            except KeyboardInterrupt:
                interrupted = True
                self.cancel()
                continue
            over = event.get("event") == "state" and event["state"] in FINAL
        if interrupted:
            raise KeyboardInterrupt
        return self.result()

    def _show(self, event: dict[str, Any]) -> None:
        publisher = self._session.shell.display_pub
        kind = event.get("event")
        if kind == "output":
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        elif kind == "display":
            publisher.publish(event["data"], event["metadata"], transient=event["transient"], update=event["update"])
        elif kind == "result_display":
            publisher.publish(event["data"], event["metadata"])
        elif kind == "clear":
            publisher.clear_output(event["wait"])

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, or None."""
        try:
            self.result(timeout)
        except TimeoutError:
            raise
        except Exception as error:
            return error
        return None

    def _fetch(self) -> None:
        if self.state == "cancelled":
            raise JobCancelled("The job %s was cancelled: %s." % (self.id, self.reason or "no reason given"))
        if not self._digest:
            tail = "".join(self._text)[-2000:].strip()
            raise JobFailed("The job %s %s: %s.%s" % (self.id, self.state, self.reason, tail and "\n" + tail))
        shell = self._session.shell
        manifest = snapshot.read_manifest(STATE, self._digest)
        values, failed = snapshot.restore(STATE, manifest, shell.user_ns)
        if "error" in manifest:
            raise _original(manifest["error"], values.get(ERROR), self.id)
        self._value = values.pop(VALUE, None)
        deleted = [name for name in manifest.get("deleted", []) if name in shell.user_ns]
        kept = [
            name
            for name in [*values, *deleted]
            if name in self._bindings and shell.user_ns.get(name, _UNBOUND) is not self._bindings[name]
        ]
        shell.user_ns.update({name: value for name, value in values.items() if name not in kept})
        for name in deleted:
            if name not in kept:
                del shell.user_ns[name]
        self._bindings = {}
        if kept:
            print("Kept as they are, as they were bound anew since the job was sent: %s" % ", ".join(kept))
        for one in [*manifest["left_out"], *(one._asdict() for one in failed)]:
            print("Not brought back: %(name)s (%(type)s): %(reason)s; %(hint)s." % one)
        self._fetched = True

    def _receive(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "output":
            self._text.append(event["text"])
            self._size += len(event["text"])
            while self._size > KEPT_OUTPUT and len(self._text) > 1:
                self._size -= len(self._text.pop(0))
        elif kind in ("display", "result_display"):
            self.outputs.append({"data": event["data"], "metadata": event.get("metadata") or {}})
        elif kind == "state":
            self.state, self.reason = event["state"], event["reason"]
            self.ended, self._digest = event["ended"], event["result"]
        if self.state in FINAL:
            self._over.set()
        with self._delivery:
            self._past.append(event)
            listeners = list(self._listeners)
        for listener in listeners:
            listener(self, event)

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        return (self.ended or time.time()) - self.created

    def _ipython_display_(self) -> None:
        LiveDisplay(self, self._session.shell)

    def __repr__(self) -> str:
        title = " %r" % self.name if self.name else ""
        why = ": %s" % self.reason if self.reason else ""
        return "Job %s%s on %s, %s after %.1f s%s" % (self.id, title, self.target, self.state, self.seconds, why)

    def tail(self) -> str:
        """The last lines of its output, with lines that were written over (a progress bar's) as they ended."""
        lines = "".join(self._text).split("\n")
        return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines[-TAIL_LINES:]).strip("\n")


def _original(error: dict[str, Any], value: Any, job_id: str) -> BaseException:
    """The exception a job's cell raised, with the job's traceback; one that could not travel is described."""
    original = value if isinstance(value, BaseException) else None
    if original is None:
        original = JobFailed("The job %s raised %s: %s" % (job_id, error["name"], error["value"]))
    # IPython shows what this method gives in place of the traceback of our own frames.
    setattr(original, "_render_traceback_", lambda: list(error["traceback"]))  # noqa: B010
    return original


class Session:
    """A kernel's dealings with its host side: one for each kernel process."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.jobs: dict[str, Job] = {}
        self._channel: Channel | None = None
        self._lock = threading.Lock()
        self._early: dict[str, list[dict[str, Any]]] = {}
        self._environment = dict(os.environ)
        self._reported: set[snapshot.LeftOut] = set()

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the host side; raises RuntimeError with its sentence when it refuses."""
        try:
            return self._connected().request(method, params)
        except (LinkFailed, RemoteError) as error:
            raise JobFailed(str(error)) from None

    def _connected(self) -> Channel:
        with self._lock:
            if self._channel is not None and not self._channel.broken:
                return self._channel
            self._channel = channel = Channel.connect()
            channel.subscribe(self._on_event)
            missed = [job for job in self.jobs.values() if not job.over]
        for job in missed:
            job._receive({"event": "state", **channel.request("job.get", {"job": job.id})})
        return channel

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("type") != "job":
            return
        with self._lock:
            job = self.jobs.get(event["job"])
            if job is None:
                # The first events may overtake the answer that names the job.
                self._early.setdefault(event["job"], []).append(event)
                return
        job._receive(event)

    def start(
        self,
        source: str,
        *,
        target: str = "local",
        expression: bool = False,
        live_workspace: bool = False,
        name: str = "",
        timeout: float | None = None,
        memory: str | None = None,
        cpus: float | None = None,
    ) -> Job:
        """Capture the state and start a job; returns when the state is taken, not when the job has ended.

        Raises:
            JobFailed: the job was refused; the message says why.
        """
        # A cell that cannot be compiled needs no container to say so.
        compile(self.shell.transform_cell(source), "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        found = snapshot.user_variables(self.shell)
        variables = {name: value for name, value in found.items() if not isinstance(value, (Job, Jobs, Ports))}
        try:
            captured = snapshot.capture(variables, self.shell.user_ns, STATE, **self._context())
        except snapshot.SnapshotError as error:
            raise JobFailed(str(error)) from None
        if len(captured.manifest) > MAX_MANIFEST:
            raise JobFailed(
                "There are too many variables to send, %d: put them into a list or a dict." % len(variables)
            )
        self._report(captured.left_out)
        params = {
            "manifest": captured.manifest,
            "environment": environment.stamp(),
            "kind": "expression" if expression else "cell",
            "source": source,
            "target": target,
            "workspace": "live" if live_workspace else "copy",
            "name": name,
            "cwd": os.getcwd(),
            "timeout": timeout,
            "memory": memory,
            "cpus": cpus,
        }
        answer = self.request("job.start", params)
        job = Job(self, str(answer["job"]), name, target, expression)
        job._bindings = {name: found.get(name, _UNBOUND) for name in _names(self.shell, source)}
        with self._lock:
            self.jobs[job.id] = job
            early = self._early.pop(job.id, [])
        for event in early:
            job._receive(event)
        return job

    def _context(self) -> dict[str, Any]:
        changed: dict[str, str | None] = {
            name: value for name, value in os.environ.items() if self._environment.get(name) != value
        }
        changed.update({name: None for name in self._environment if name not in os.environ})
        return {"env": changed, "cwd": os.getcwd(), "sys_path": list(sys.path)}

    def _report(self, left_out: list[snapshot.LeftOut]) -> None:
        """Name what does not travel, once for each variable and reason."""
        for one in left_out:
            if one not in self._reported:
                self._reported.add(one)
                print("Left out: %s (%s): %s; %s." % one, file=sys.stderr)

    def listing(self) -> list[Job]:
        """This kernel's jobs, the newest first."""
        return sorted(self.jobs.values(), key=lambda job: job.created, reverse=True)


def _names(shell: Any, source: str) -> set[str]:
    """The names that a cell binds or may change in place, as far as reading it tells."""
    try:
        tree = ast.parse(shell.transform_cell(source))
    except SyntaxError:
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        elif isinstance(getattr(node, "name", None), str):
            names.add(node.name)  # type: ignore[attr-defined]
    return names


class LiveDisplay:
    """A job's display in the cell that sent it, kept up to date after the cell has ended.

    Messages go out with the sending cell's own header: frontends route them to its output by that and by the display's
    id. Where a frontend drops them (nbclient, once a cell is done), the first state stays.
    """

    def __init__(self, job: Job, shell: Any) -> None:
        self._job = job
        self._kernel = getattr(shell, "kernel", None)
        self._parent = dict(shell.parent_header) if hasattr(shell, "parent_header") else {}
        self._id = "docker-kernel-job-%s" % job.id
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._last = 0.0
        self._publish("display_data")
        job._listeners.append(self._on_event)
        if job.over:
            self._publish("update_display_data")

    def _on_event(self, job: Job, event: dict[str, Any]) -> None:
        if event["event"] in ("display", "result_display"):
            self._send(
                "display_data", {"data": event["data"], "metadata": event.get("metadata") or {}, "transient": {}}
            )
        with self._lock:
            wait = self._last + REFRESH_SECONDS - time.monotonic()
            if job.state not in FINAL and wait > 0:
                if self._timer is None:
                    self._timer = threading.Timer(wait, self._late)
                    self._timer.daemon = True
                    self._timer.start()
                return
            self._last = time.monotonic()
        self._publish("update_display_data")

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            self._last = time.monotonic()
        self._publish("update_display_data")

    def _publish(self, kind: str) -> None:
        content = {"data": render(self._job), "metadata": {}, "transient": {"display_id": self._id}}
        self._send(kind, content)

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        if self._kernel is not None:
            self._kernel.session.send(
                self._kernel.iopub_socket, kind, content, parent=self._parent, ident=("kernel.%s" % kind).encode()
            )


COLOURS = {"succeeded": "#2e7d32", "failed": "#c62828", "lost": "#c62828", "cancelled": "#616161"}


def render(job: Job) -> dict[str, str]:
    """A job as text and as HTML."""
    tail = job.tail()
    colour = COLOURS.get(job.state, "#1565c0")
    parts = [
        '<div style="border-left:3px solid %s;padding-left:.6em">' % colour,
        "<b>Job %s</b>%s on %s &middot; " % (job.id, html.escape(job.name and " " + job.name), html.escape(job.target)),
        '<span style="color:%s">%s</span> &middot; %.1f s' % (colour, job.state, job.seconds),
    ]
    if job.reason:
        parts.append("<br>%s" % html.escape(job.reason))
    if tail:
        parts.append('<pre style="margin:.3em 0;max-height:20em;overflow:auto">%s</pre>' % html.escape(tail))
    parts.append("</div>")
    return {"text/plain": repr(job) + (tail and "\n" + tail), "text/html": "".join(parts)}


class Jobs:
    """This kernel's jobs: `jobs[-1]` is the latest, `jobs["name"]` the latest of that name or id."""

    def __getitem__(self, key: Any) -> Job:
        found = session().listing()
        if isinstance(key, int):
            return found[::-1][key]
        for job in found:
            if key in (job.id, job.name):
                return job
        raise KeyError("This kernel has no job %r; %%jobs lists them." % (key,))

    def __iter__(self) -> Iterator[Job]:
        return iter(session().listing())

    def __len__(self) -> int:
        return len(session().listing())

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "This kernel has sent no job yet."


class Ports:
    """Where the ports that this kernel publishes can be reached from the host: `ports[8050]` is "127.0.0.1:49153"."""

    def __getitem__(self, port: int) -> str:
        published = self._read()
        if str(port) not in published:
            raise KeyError("Port %s is not published: name it in the kernelspec's `publish`." % port)
        return "127.0.0.1:%d" % published[str(port)]

    def __iter__(self) -> Iterator[int]:
        return iter(int(port) for port in self._read())

    def __repr__(self) -> str:
        return repr({port: self[port] for port in self})

    def _read(self) -> dict[str, int]:
        try:
            with open(PORTS_FILE) as file:
                found: dict[str, int] = json.load(file)
        except OSError:
            return {}
        return found


def dispatch(source: str, **options: Any) -> Job:
    """Send code off as a job, as %%dispatch does; options are those of `Session.start`."""
    return session().start(source, **options)


jobs = Jobs()
ports = Ports()

_sessions: list[Session] = []


def session() -> Session:
    """This kernel's session.

    Raises:
        RuntimeError: this process is no Docker kernel.
    """
    if not _sessions:
        raise RuntimeError('This is not a Docker kernel: pick "Docker Python" in Jupyter to dispatch cells.')
    return _sessions[0]


def open_session(shell: Any) -> Session:
    """Make this process's session; called once, when the kernel starts."""
    _sessions[:] = [Session(shell)]
    return _sessions[0]
