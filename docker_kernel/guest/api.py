"""What `docker_kernel` offers to code in a kernel: dispatch, job, jobs and ports. The magics are thin over this."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from docker_kernel.guest import nested
from docker_kernel.guest.in_job import job
from docker_kernel.guest.job import Job, JobCancelled, JobFailed, Sweep
from docker_kernel.guest.link import PORTS_FILE
from docker_kernel.guest.options import NotThere, OptionError, Options, closest
from docker_kernel.guest.session import Session

__all__ = ["Job", "JobCancelled", "JobFailed", "Sweep", "dispatch", "job", "jobs", "ports"]

MIN_PREFIX = 3
"""Characters of a job's id that stand for it."""


class Jobs:
    """This notebook's jobs, as they were sent: `jobs[-1]` is the latest, `jobs["name"]` the latest dispatch so called,
    a job or a sweep, and `jobs["c0ffee"]` the job whose id is that or begins so.

    A sweep has an id, too, which its display names.
    """

    def __reduce__(self) -> str:
        return "jobs"

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._called(key)
        if key == -1:
            for one in session().newest():
                return one
        found = session().jobs()
        if isinstance(key, slice) or (isinstance(key, int) and -len(found) <= key < len(found)):
            return found[::-1][key]
        raise NotThere("This notebook has no job %r: %%jobs lists its %d." % (key, len(found)))

    def _called(self, key: str) -> Job | Sweep:
        found, begin_so = [], []
        for one in session().newest():
            if key == one.id:
                return one
            if key and key in (one.name, one.record["group"]):
                return session().together(one)
            found.append(one)
            if len(key) >= MIN_PREFIX and one.id.startswith(key):
                begin_so.append(one)
        if len(begin_so) == 1:
            return begin_so[0]
        if begin_so:
            raise NotThere("The ids of %d jobs begin with %r: give more of it." % (len(begin_so), key))
        hint = closest(key, {one.name for one in found if one.name})
        raise NotThere("This notebook has no job %r%s: %%jobs lists its %d." % (key, hint, len(found)))

    def __iter__(self) -> Iterator[Job]:
        return reversed(session().jobs())

    def __len__(self) -> int:
        return len(session().jobs())

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row a run: parameters, metrics, state, durations, code, image, git commit."""
        from docker_kernel.guest.runs import to_frame

        return to_frame(list(self))

    def __repr__(self) -> str:
        return self._repr_mimebundle_()["text/plain"]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The newest first, as a table where HTML can be shown."""
        from docker_kernel.guest.display import MAX_ROWS, render_jobs

        return render_jobs(list(itertools.islice(session().newest(), MAX_ROWS + 1)))


class Ports:
    """Where the ports that this kernel publishes can be reached from the host: `ports[8050]` is "127.0.0.1:49153"."""

    def __reduce__(self) -> str:
        return "ports"

    def __getitem__(self, port: int) -> str:
        published = self._read()
        if str(port) not in published:
            raise NotThere("Port %s is not published: name it in the kernelspec's `publish`." % port)
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


def dispatch(source: str, **options: Any) -> Any:
    """Send a cell's code, an expression or a notebook (its path) off, as %%dispatch does.

    Args:
        options: those of %%dispatch by the same names (`on="cluster"`, `param={"alpha": 0.5}`, `sweep={...}`): see
            guest/options.py.

    Returns:
        The job; with `sweep` a sequence of them; with `wait` the result; with `dry_run` None.

    Raises:
        JobFailed, OptionError: with a sentence that says what is wrong.
    """
    if not isinstance(source, str):
        hint = ": write its call as a text, as in dispatch('train(x)')" if callable(source) else ""
        kind = "a function" if callable(source) else repr(source)[:100]
        raise OptionError("dispatch() takes code, or a notebook's path, as a text, not %s%s." % (kind, hint))
    chosen = Options.of(options)
    sent = session().start(source, chosen)
    # The value is shown where the caller shows it.
    return sent.follow(shows_value=False) if chosen.wait and sent is not None else sent


jobs = Jobs()
ports = Ports()

_sessions: list[Session] = []


def session() -> Session:
    """This kernel's session.

    Raises:
        JobFailed: it is a job's, or a notebook image's.
        RuntimeError: this process is no Docker kernel.
    """
    if nested.refusal():
        raise JobFailed(nested.refusal())
    if not _sessions:
        raise RuntimeError('This is not a Docker kernel: pick "Docker Python" in Jupyter to dispatch cells.')
    return _sessions[0]


def own_session() -> Session | None:
    """This kernel's session; None in other processes."""
    return _sessions[0] if _sessions else None


def open_session(shell: Any) -> Session:
    """Make this process's session; called once, when the kernel starts."""
    _sessions[:] = [Session(shell)]
    return _sessions[0]
