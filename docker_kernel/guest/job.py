"""A job as its notebook sees it: follow it, wait for it, fetch what came of it, in concurrent.futures' words."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, TypeVar

from docker_kernel.guest import blob_files, handles, history, merge, snapshot, submodules
from docker_kernel.guest.bindings import Bindings
from docker_kernel.guest.exceptions import Shown
from docker_kernel.guest.imports import said_elsewhere
from docker_kernel.guest.interrupts import held, is_shown
from docker_kernel.guest.merge import Originals
from docker_kernel.guest.options import NotThere
from docker_kernel.guest.process_state import NAME as PROCESS
from docker_kernel.guest.worker import ERROR, VALUE
from docker_kernel.guest.workspace_modules import NAME as MODULES

if TYPE_CHECKING:
    from docker_kernel.guest.process_state import Settings, State
    from docker_kernel.guest.session import Session
    from docker_kernel.guest.workspace_modules import Sent

T = TypeVar("T")

STATE = "/opt/docker-kernel/state"
FINAL = ("succeeded", "failed", "cancelled", "lost")
TAIL_LINES = 20
NOT_BROUGHT = "Not brought back: %(name)s (%(type)s): %(reason)s; %(hint)s."
_UNBOUND = object()

KEPT_OUTPUT = 1 << 20
"""Characters of a job's output that the notebook keeps; `.logs()` has as much from the host side."""


class JobFailed(Exception):
    """A job ended without a result; the message says why."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, as the frames would be ours and tell a user nothing."""
        return ["\x1b[31m%s\x1b[0m: %s" % (type(self).__name__, self)]


class JobCancelled(JobFailed):
    """A job was cancelled before it had a result."""


class Cost(NamedTuple):
    """What a job used: CPU seconds, bytes of memory at the peak, seconds from its start to its end."""

    cpu_seconds: float
    peak_memory: int
    seconds: float


class JobFiles(Mapping[str, str]):
    """The files that a job wrote to its output folder: from their names there to where each now is in this kernel.

    A file is brought here when it is first asked for.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = os.path.join("/tmp/docker-kernel-jobs", job.id)

    def _known(self) -> dict[str, dict[str, Any]]:
        digest = self._job.record["result"] or self._job.record["partial"]
        return {one["path"]: one for one in self._job._read_manifest(digest).get("files", [])} if digest else {}

    def __getitem__(self, name: str) -> str:
        known = self._known()
        if name not in known:
            raise NotThere(
                "The job %s wrote no file %r; it wrote: %s" % (self._job.id, name, ", ".join(known) or "none")
            )
        path = os.path.join(self._folder, *name.split("/"))
        if not os.path.realpath(path).startswith(self._folder + "/"):
            raise JobFailed("The job %s names a file outside of its folder: %r." % (self._job.id, name))
        if not os.path.exists(path):
            self._job._session.request("job.fetch", {"job": self._job.id, "file": name})
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _copy_blob(known[name]["blob"], path)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def save(self, folder: str = ".") -> list[str]:
        """Copy all files to a folder; returns their paths."""
        made = []
        for name in self:
            path = os.path.join(folder, *name.split("/"))
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            made.append(shutil.copyfile(self[name], path))
        return made

    def __repr__(self) -> str:
        return "\n".join("%s  %d bytes" % (one["path"], one["size"]) for one in self._known().values()) or "no files"


def _copy_blob(digest: str, path: str) -> None:
    """Copy a blob of the state folder to a file, and make sure that it is what the digest says."""
    found = hashlib.sha256()
    try:
        with open(os.path.join(STATE, "blobs", digest[7:]), "rb") as source, open(path + ".new", "wb") as file:
            while chunk := source.read(1 << 20):
                found.update(chunk)
                file.write(chunk)
        if found.hexdigest() != digest[7:]:
            raise JobFailed("The file %s was changed after it was written; it is not used." % path)
        os.replace(path + ".new", path)
    except OSError as error:
        raise JobFailed("The file %s cannot be written: %s." % (path, error.strerror)) from None


class Job:
    """A cell, an expression or a notebook that runs in a container of its own.

    `result()` waits for the end and gives the value, or raises what the code raised; `await job` does the same.

    Attributes:
        state: queued, starting, running, succeeded, failed, cancelled or lost; `reason` says why.
        progress: from 0 to 1, None where the job does not tell; remaining: seconds, as far as it knows.
    """

    def __init__(self, session: Session, record: dict[str, Any]) -> None:
        self._session = session
        self._text: list[str] = []
        self._size = 0
        self._printed = 0
        """Characters that have come, of which the last are in `_text`."""
        self._arrived = threading.Condition()
        self._over = threading.Event()
        self._delivery = threading.Lock()
        self._past: collections.deque[dict[str, Any]] = collections.deque(maxlen=1000)
        self._listeners: list[Listener] = []
        self._originals: Originals | None = None
        """What it was sent from, in this kernel, until its variables were assigned."""
        self._bound = False
        self._sent_here = False
        self._left_out: list[dict[str, str]] | None = None
        self._settings: Settings | None = None
        """Those of the kernel when the job was sent; None where there is nothing to compare."""
        self._process: tuple[State, list[snapshot.LeftOut]] = ({}, [])
        self._settled = False
        self._spare: frozenset[str] = frozenset()
        """The values of modules that were as their files had made them when the job was sent."""
        self._of_modules: Sent | None = None
        self._value: Any = None
        self._fetched = False
        self._take(record)

    def __reduce__(self) -> Any:
        return handles.reduce(self)

    def _take(self, record: dict[str, Any]) -> None:
        """Take over what the host side says of this job."""
        self.record = record
        self.id = str(record["id"])
        self.name: str = record["name"]
        self.target: str = record["target"]
        self.state: str = record["state"]
        self.reason: str = record["reason"]
        self.params: dict[str, Any] = record["params"]
        self.created: float = record["created"]
        self.ended: float | None = record["ended"]
        self.progress: float | None = record.get("progress")
        self.remaining: float | None = record.get("remaining")
        self.last_metrics: dict[str, float] = dict(record.get("metrics") or {})
        if self.state in FINAL:
            self._over.set()
        else:
            self._over.clear()

    # concurrent.futures' words

    @property
    def over(self) -> bool:
        """Whether the job has ended, however it did."""
        # Not the event, which a retry clears before there is a new state.
        return self.state in FINAL

    def done(self) -> bool:
        return self.over

    def running(self) -> bool:
        return self.state in ("starting", "running")

    def cancelled(self) -> bool:
        return self.state == "cancelled"

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it has come within `timeout` seconds. Bring nothing back."""
        self._session.follow(self)
        return self._over.wait(timeout)

    def interrupt(self) -> bool:
        """Interrupt the job's cell, as the notebook's own would be; returns whether the job was under way. What the
        cell has then done is its result. A job whose cell does not run yet is cancelled, and so is a notebook's, and
        one whose target cannot do this.
        """
        if self.over:
            return False
        return bool(self._session.request("job.interrupt", {"job": self.id})["interrupted"])

    def cancel(self) -> bool:
        """Stop the job; returns whether it was still under way."""
        if self.over:
            return False
        return bool(self._session.request("job.cancel", {"job": self.id})["cancelled"])

    def retry(self) -> Job:
        """Run the job once more, from the state that it was sent with. Secrets are read anew from the environment.

        Raises:
            JobFailed: it is under way, or what it started from is gone.
        """
        self._over.clear()
        self._text, self._size, self._fetched, self._settled = [], 0, False, False
        try:
            self._take(
                self._session.request("job.retry", {"job": self.id, "secrets": self._session.kept_secrets(self)})
            )
        except JobFailed:
            self._over.set()
            raise
        return self

    def add_done_callback(self, callback: Callable[[Job], object]) -> None:
        """Call a function once with this job when it has ended: at once if it has, else from a thread of ours."""

        def listener(job: Job, event: dict[str, Any]) -> None:
            if is_end(event):
                self._unlisten(listener)
                callback(job)

        with self._delivery:
            over = self.over
            if not over:
                self._listeners.append(listener)
        if over:
            callback(self)

    def _unlisten(self, listener: Listener) -> None:
        with self._delivery:
            self._listeners.remove(listener)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise, or None."""
        self._ended(timeout)
        try:
            self._fetch()
        except Exception as error:
            return error
        except BaseException as error:
            # A cell may have raised what ends a process or a wait (SystemExit, KeyboardInterrupt), too.
            if is_shown(error):
                return error
            raise
        return None

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end, assign what the cell assigned, and return the value: that of the expression, or of the
        expression that ends the cell; or the executed notebook.

        A name that was bound anew since the job was sent keeps its new value, and is reported. Jobs of a sweep assign
        nothing, as each would undo another's: see `variables`.

        Args:
            timeout: seconds to wait; None waits for as long as the job runs.

        Raises:
            TimeoutError: it has not ended within the timeout; it goes on.
            JobCancelled, JobFailed: it ended without a result.
            Exception: what the cell raised, of its original type, with the job's traceback.
        """
        self._ended(timeout)
        if not self._fetched:
            binds = self.record["kind"] != "notebook" and not self.record["swept"]
            with contextlib.ExitStack() as whole:
                values = self._assign(whole) if binds else self._fetch()
                self._value = values.get(VALUE)
            if self.record["kind"] == "notebook":
                with open(self.files["output.ipynb"], encoding="utf-8") as file:
                    self._value = json.load(file)
            self._fetched = True
        return self._value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from self._until_over().__await__()
        return self.result()

    async def _until_over(self) -> None:
        """Wait for the end without a thread: many jobs may be awaited at once."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        await loop.run_in_executor(None, self._session.follow, self)

        def listener(job: Job, event: dict[str, Any]) -> None:
            if is_end(event):
                loop.call_soon_threadsafe(ended.set)

        with self._delivery:
            over = self.over
            self._listeners.append(listener)
        try:
            if not over:
                await ended.wait()
        finally:
            self._unlisten(listener)

    def _ended(self, timeout: float | None) -> None:
        if not self.wait(timeout):
            raise TimeoutError("The job %s has not ended within %s s; it goes on." % (self.id, timeout))

    # What came of it

    @property
    def variables(self) -> dict[str, Any]:
        """What the job's cell assigned, by name, and of modules by full names (`config.alpha`); of a cell that failed,
        until then. Nothing is assigned."""
        self._ended(None)
        return {name: value for name, value in self._read()[0].items() if name != VALUE}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What the job measured so far: a dict for each point, with `step`, `time` and the values by name."""
        return [
            {"step": event["step"], "time": event["time"], **event["values"]}
            for event in self._events()
            if event["event"] == "metrics"
        ]

    @property
    def left_out(self) -> list[dict[str, str]]:
        """What could not travel when the job was sent: the `name`, `type`, `reason` and `hint` of each variable."""
        if self._left_out is None:
            try:
                self._left_out = list(snapshot.read_manifest(STATE, self.record["snapshot"])["left_out"])
            except blob_files.SnapshotError:
                text = "What the job %s started from is not here any more, nor what was left out of that."
                raise JobFailed(text % self.id) from None
        return list(self._left_out)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The rich outputs of the job's cell so far, as Jupyter's messages have them: `data` and `metadata`."""
        return [
            {"data": event["data"], "metadata": event.get("metadata") or {}}
            for event in self._events()
            if event["event"] in ("display", "result_display") and not event.get("update")
        ]

    @property
    def files(self) -> JobFiles:
        """The files that the job wrote to its output folder (`job.outputs` there), by name.

        Also those that one had written which was cancelled, timed out or died, as far as its target could keep them.
        """
        self._ended(None)
        return JobFiles(self)

    @property
    def cost(self) -> Cost | None:
        """What it used; None before its end, or where nobody could tell."""
        cost = self.record.get("cost")
        return Cost(**cost) if cost else None

    def logs(self, follow: bool = False) -> Any:
        """What the job has printed so far (the last MiB of it).

        Args:
            follow: give an iterator instead, of pieces of text as they come, to the job's end.
        """
        return self._stream() if follow else str(self._session.request("job.logs", {"job": self.id})["text"])

    def _stream(self) -> Iterator[str]:
        # Nothing is kept for this iterator, which may be left at any time.
        self._session.follow(self)
        seen, over = self._printed, self.over
        yield self.logs()
        while not over:
            with self._arrived:
                while self._printed == seen and not self.over:
                    self._arrived.wait()
                text, over = self._text_since(seen), self.over
                seen = self._printed
            if text:
                yield text

    def _text_since(self, seen: int) -> str:
        """What was printed after so many characters; where that is not all here any more, the gap is named."""
        missing, pieces = self._printed - seen, []
        for piece in reversed(self._text):
            if missing <= 0:
                break
            pieces.append(piece)
            missing -= len(piece)
        gap = (
            ["\n… (%d characters came faster than they were read, and are not kept)\n" % missing] if missing > 0 else []
        )
        return "".join([*gap, *reversed(pieces)])

    def _events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._session.request("job.events", {"job": self.id})["events"]
        return found

    def _manifest(self) -> dict[str, Any]:
        digest = str(self.record.get("result") or "")
        if self.state == "cancelled":
            raise JobCancelled("The job %s was cancelled: %s." % (self.id, self.reason or "no reason given"))
        if not digest:
            tail = self.tail() or (self.logs()[-2000:].strip())
            raise JobFailed("The job %s %s: %s.%s" % (self.id, self.state, self.reason, tail and "\n" + tail))
        return self._read_manifest(digest)

    def _read_manifest(self, digest: str) -> dict[str, Any]:
        return self._with_result(lambda: snapshot.read_manifest(STATE, digest))

    def _with_result(self, read: Callable[[], T]) -> T:
        """Read from the result, which is brought here if it is not."""
        # What ran beside the kernel wrote it here.
        for bring in (None, False, True) if self.record["live"] else (False, True):
            if bring is not None:
                self._session.request("job.fetch", {"job": self.id, "bring": bring})
            try:
                return read()
            except blob_files.SnapshotError as error:
                refusal = str(error)
        raise JobFailed("The result of the job %s is refused: %s" % (self.id, refusal))

    def _fetch(self) -> dict[str, Any]:
        """The values that came back, read anew each time, so that nothing is held; raises what the cell raised."""
        values, error = self._read()
        if error is not None:
            raise error
        return values

    def _read(
        self, originals: Originals | None = None, whole: contextlib.ExitStack | None = None
    ) -> tuple[dict[str, Any], BaseException | None]:
        """The values that came back, and what the cell raised.

        Args:
            originals: whose objects are updated and used; new ones are made where it is None.
            whole: gets what holds interrupts back from the moment on at which they are updated.
        """
        manifest = self._manifest()
        namespace = self._session.shell.user_ns

        def restored() -> tuple[dict[str, Any], list[snapshot.LeftOut]]:
            with said_elsewhere():
                return snapshot.restore(STATE, manifest, namespace)

        with merge.loading(originals) as load:
            values, failed = self._with_result(restored)
        if whole is not None:
            whole.enter_context(held())
        troubles = load.apply()
        self._process = values.pop(PROCESS, ({}, []))
        self._of_modules = values.pop(MODULES, None)
        values = submodules.variables(values)
        left_out = [*manifest["left_out"], *(one._asdict() for one in failed)]
        raised = values.pop(ERROR, None)
        lost = "".join(" (It could not be brought back: %(reason)s.)" % one for one in left_out if one["name"] == ERROR)
        for one in left_out:
            if one["name"] == VALUE and self.record["kind"] == "cell":
                values[VALUE] = history.NotBrought(one["type"], one["reason"])
            elif one["name"] != ERROR:
                print(NOT_BROUGHT % ({**one, "name": "the value"} if one["name"] == VALUE else one))
        for text in troubles:
            print(text)
        self._deleted = list(manifest.get("deleted", []))
        return values, _original(manifest["error"], raised, lost, self.id) if manifest.get("error") else None

    def _assign(self, whole: contextlib.ExitStack) -> dict[str, Any]:
        """Assign what came back, once; but what was bound anew or changed here since the job was sent stays. Then raise
        what the cell raised: until then it did what it would have done here.

        Args:
            whole: as of `_read`.
        """
        if self._bound:
            return self._fetch()
        originals, modules = self._originals, self._session.modules
        namespace = Bindings(self._session.shell.user_ns, modules)
        manifest = self._manifest()
        changed_here: set[str] = set()
        if originals is not None:
            originals.forget()
            for number in manifest.get("changed", []):
                if originals.changed(number):
                    changed_here |= originals.names(number)
        names = {name for pack in manifest["packs"] for group in pack["groups"] for name in group}
        changed_here |= {name for name in self._spare & names if modules.differs(name)}
        before = modules.files()  # what comes home may be the first to import a module here
        values, error = self._read(originals, whole)
        new = namespace.expect(self._of_modules, before)
        # What cells before had as values changes in place, if it does.
        brought = [name for name in values if name != VALUE and not history.is_result(name)]
        deleted = [name for name in self._deleted if name in namespace and originals is not None]
        bound_here = [
            name
            for name in [*brought, *deleted]
            if originals is not None
            and name not in new
            and not originals.still_bound(name, namespace)
            and namespace.get(name, _UNBOUND) is not values.get(name)
        ]
        changed_here -= {*bound_here, *deleted}
        kept = {*bound_here, *(name for name in changed_here if name in values)}
        namespace.assign({name: values[name] for name in brought if name not in kept})
        for name in deleted:
            if name not in kept:
                del namespace[name]
        self._bound, self._originals = True, None
        for text in namespace.troubles:
            print(text)
        if bound_here:
            print("Kept as they are, as they were bound anew since the job was sent: %s" % ", ".join(bound_here))
        classes = {name for name in kept if isinstance(values.get(name), type) and values[name] is namespace.get(name)}
        if classes:
            # There is one class of a name: it is the kernel's in `variables`, too.
            text = "Kept as they are, as they were changed here since the job was sent, without the job's changes: %s"
            print(text % ", ".join(sorted(classes)))
        kept -= classes
        if kept.difference(bound_here):
            text = (
                "Kept as they are, as they were changed here since the job was sent, whose values job.variables has: %s"
            )
            print(text % ", ".join(sorted(kept.difference(bound_here))))
        self._bring_settings()
        if error is not None:
            raise error
        return values

    def _bring_settings(self) -> None:
        """Set what the job's cell set, once; the random states only where the kernel has waited for it."""
        if self._settled:
            return
        self._settled = True
        state, left_out = self._process
        kept, failed = self._session.process.bring_home(state, self._settings, with_random=self.record["live"])
        for one in [*left_out, *failed]:
            print(NOT_BROUGHT % one._asdict())
        if kept:
            print("Kept as they are, as they were set anew since the job was sent: %s" % ", ".join(kept))

    # As it goes

    def follow(self, shows_value: bool = True) -> Any:
        """Show the job's output in this cell as it comes, wait for the end, and return the result.

        An interrupt is the job's cell's, whose result comes home as that of one that failed; another cancels the job.

        Args:
            shows_value: whether the value that ends a cell is shown here; else its caller may, who gets it.
        """
        from docker_kernel.guest.following import Following

        return Following(self, shows_value).follow()

    def _receive(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind == "output":
            with self._arrived:
                self._text.append(event["text"])
                self._size += len(event["text"])
                self._printed += len(event["text"])
                while self._size > KEPT_OUTPUT and len(self._text) > 1:
                    self._size -= len(self._text.pop(0))
                self._arrived.notify_all()
        elif kind == "progress":
            self.progress, self.remaining = event["value"], event.get("remaining")
        elif kind == "metrics":
            self.last_metrics.update(event["values"])
        elif kind == "state":
            with self._arrived:
                self._take({name: value for name, value in event.items() if name not in ("type", "event", "job")})
                self._arrived.notify_all()
        with self._delivery:
            self._past.append(event)
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(self, event)
            except Exception as error:  # of a user's callback, which must not keep the event from the others
                print("docker-kernel: a job's callback failed: %r" % error, file=sys.__stderr__)

    @property
    def seconds(self) -> float:
        """How long it has been on its way, or was."""
        return (self.ended or time.time()) - self.created

    def _ipython_display_(self) -> None:
        _display([self])

    def __repr__(self) -> str:
        title = " %r" % self.name if self.name else ""
        params = " (%s)" % ", ".join("%s=%r" % pair for pair in self.params.items()) if self.params else ""
        how_far = " %d%%" % (100 * self.progress) if self.progress is not None and not self.over else ""
        why = ": %s" % self.reason if self.reason else ""
        return "Job %s%s%s on %s, %s%s after %.1f s%s" % (
            self.id, title, params, self.target, self.state, how_far, self.seconds, why,
        )  # fmt: skip

    def tail(self) -> str:
        """The last lines of its output, with lines that were written over (a progress bar's) as they ended."""
        lines = "".join(self._text).split("\n")
        return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines[-TAIL_LINES:]).strip("\n")


def _display(jobs: list[Job]) -> None:
    from docker_kernel.guest.display import LiveDisplay

    shell = jobs[0]._session.shell if jobs else None
    if shell is not None:
        LiveDisplay(jobs, shell)
    else:
        print(*map(repr, jobs), sep="\n")


Listener = Callable[[Job, "dict[str, Any]"], None]


def is_end(event: dict[str, Any]) -> bool:
    """Whether a job's event is its last one."""
    return event.get("event") == "state" and event["state"] in FINAL


def _original(error: dict[str, Any], value: Any, lost: str, job_id: str) -> BaseException:
    """The exception a job's cell raised, with the job's traceback; one that could not travel is described.

    Args:
        lost: why it could not, a sentence.
    """
    original = value if isinstance(value, BaseException) else None
    if original is None:
        original = JobFailed("The job %s raised %s: %s%s" % (job_id, error["name"], error["value"], lost))
    # IPython shows what this gives in place of the traceback of our own frames.
    original.__dict__["_render_traceback_"] = Shown(list(error["traceback"]))
    return original


class Sweep(collections.abc.Sequence[Job]):
    """The jobs of one dispatch, one for each set of parameters."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs

    def __getitem__(self, index: Any) -> Any:
        return self._jobs[index]

    def __len__(self) -> int:
        return len(self._jobs)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of all; returns whether it has come within `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        return all(job.wait(None if end is None else max(0.0, end - time.monotonic())) for job in self._jobs)

    def result(self, timeout: float | None = None) -> list[Any]:
        """Each job's value (of an expression), variables (of a cell), or the exception of one that failed, in order."""
        if not self.wait(timeout):
            raise TimeoutError("The sweep has not ended within %s s; it goes on." % timeout)
        found: list[Any] = []
        for job in self._jobs:
            error = job.exception()
            value = error or (job.variables if job.record["kind"] == "cell" else job.result())
            found.append(value)
        return found

    def cancel(self) -> int:
        """Stop those that have not ended; returns how many."""
        return sum(job.cancel() for job in self._jobs)

    def retry(self) -> list[Job]:
        """Run those that did not succeed once more; returns them."""
        return [job.retry() for job in self._jobs if job.over and job.state != "succeeded"]

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row a job."""
        from docker_kernel.guest.runs import to_frame

        return to_frame(self._jobs)

    def interrupt(self) -> int:
        """Interrupt those that have not ended, as a job's `interrupt` does; returns how many."""
        return sum(job.interrupt() for job in self._jobs)

    def follow(self, shows_value: bool = True) -> list[Any]:
        """Wait for all; an interrupt is that of all."""
        try:
            return self.result()
        except KeyboardInterrupt:
            with held():
                self.interrupt()
            raise

    def _ipython_display_(self) -> None:
        _display(self._jobs)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._jobs))
