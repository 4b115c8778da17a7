"""The process in a job's container that restores the state, runs the cell and writes the result.

Started by run_job.py as `python worker.py REQUEST_FD EVENTS_FD`: the job's spec arrives on the first, events (rich
outputs, progress, the result's digest) leave on the second, and standard output is the cell's own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import IO

    from docker_kernel.guest.process_state import ProcessState
    from docker_kernel.guest.snapshot import LeftOut
    from docker_kernel.guest.workspace_modules import WorkspaceModules

VALUE = "__docker_kernel_value__"
"""Under which name the value of an expression, or of a cell's last one, comes back."""

ERROR = "__docker_kernel_error__"
"""Under which name the exception of a failed cell comes back, if it can be pickled."""

SUCCESS, CELL_ERROR, CANNOT_START = 0, 1, 3
INTERRUPTED = 130

NEEDED = (
    "IPython.core.displayhook", "IPython.core.displaypub", "IPython.core.interactiveshell", "IPython.core.logger",
    "docker_kernel.guest.changes", "docker_kernel.guest.in_job", "docker_kernel.guest.inputs",
    "docker_kernel.guest.interrupts", "docker_kernel.guest.job_cell", "docker_kernel.guest.magics",
    "docker_kernel.guest.process_state", "docker_kernel.guest.snapshot", "docker_kernel.guest.workspace_modules",
)  # fmt: skip
"""Modules of every job, which are imported before its spec is read: a worker that waits for a job has them already."""

MAX_EVENT = 8 << 20
"""Bytes one event may have; the link to the kernel takes no more than twice that."""


class Events:
    """The way to the runner, which confirms each event when it is in the log. Lines are whole, whatever thread writes
    them."""

    def __init__(self, descriptor: int) -> None:
        import socket
        import threading

        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._lock = threading.Lock()

    def send(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, default=str).encode()
        if len(line) > MAX_EVENT:
            text = "An output of %.0f MB was left out: the most that a job can show at once is %d MB." % (
                len(line) / 1e6,
                MAX_EVENT / 1e6,
            )
            line = json.dumps({**event, "data": {"text/plain": text}, "metadata": {}}).encode()
        sys.stdout.flush()
        sys.stderr.flush()
        from docker_kernel.guest.interrupts import held

        try:
            # The answer to an event whose sender is interrupted would be taken for the next one's.
            with held(), self._lock:
                # The first newline ends what an interrupt may have cut off.
                self._socket.sendall(b"\n" + line + b"\n")
                self._socket.recv(1)
        except OSError:
            pass  # the runner has gone, and this process is about to


def make_shell(events: Events) -> Any:
    """An IPython shell whose rich outputs become events."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    from docker_kernel.guest.widget_values import without_view

    class Publisher(DisplayPublisher):  # type: ignore[misc]
        def publish(
            self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False, **kwargs: Any
        ) -> None:
            bundle, metadata = without_view(_as_json(data), metadata or {})
            events.send(
                {
                    "event": "display",
                    "data": bundle,
                    "metadata": metadata,
                    "transient": transient or {},
                    "update": update,
                }
            )

        def clear_output(self, wait: bool = False) -> None:
            events.send({"event": "clear", "wait": wait})

    class Hook(DisplayHook):  # type: ignore[misc]
        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
            bundle, metadata = without_view(_as_json(format_dict), md_dict or {})
            events.send({"event": "result_display", "data": bundle, "metadata": metadata})

    class Shell(InteractiveShell):  # type: ignore[misc]
        display_pub_class = Publisher
        displayhook_class = Hook
        failure: tuple[Any, list[str]] | None = None

        def enable_gui(self, gui: Any = None) -> None:
            pass

        def ask_exit(self) -> None:
            raise SystemExit  # what `exit()` and `quit()` come to in a cell

        def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
            self.failure = (evalue, list(stb))

    shell = Shell.instance()
    # What a frontend can show is decided there, not by the terminal this is not.
    shell.display_formatter.active_types = shell.display_formatter.format_types
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return shell


def _as_json(bundle: dict[str, Any]) -> dict[str, Any]:
    """A MIME bundle with its binary parts in base64, as Jupyter's messages have it."""
    import base64

    return {
        kind: base64.b64encode(value).decode() if isinstance(value, bytes) else value for kind, value in bundle.items()
    }


def set_up(spec: dict[str, Any], manifest: dict[str, Any]) -> None:
    """The process's own state: environment and folder."""
    for name, value in (manifest.get("env") or {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # A notebook runs in its own folder, and not in that of who sent it.
    own = spec["cwd"] if spec["kind"] == "notebook" else manifest.get("cwd") or spec["cwd"]
    for folder in (own, spec["cwd"], os.path.expanduser("~")):
        try:
            os.chdir(folder)
        except OSError:
            continue
        break
    if os.getcwd() != os.path.realpath(own):
        what = "its notebook's folder" if spec["kind"] == "notebook" else "the kernel's folder"
        text = "docker-kernel: the job runs in %s, as %s, %s, is not here: the workspace's files travel only."
        print(text % (os.getcwd(), what, own), file=sys.stderr)


def output_files(folder: str, state: str) -> list[dict[str, Any]]:
    """Store what the job wrote to its output folder; returns what the result's manifest says of it."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(parent, name)
            if os.path.isfile(path) and not os.path.islink(path):
                try:
                    source = open(path, "rb")  # noqa: SIM115
                except OSError as error:
                    # One file that is closed to us, or has gone meanwhile, costs no other.
                    print("docker-kernel: The file %s is left out: %s." % (path, error.strerror), file=sys.stderr)
                    continue
                with source:
                    digest, size = _store(source, path, state)
                # The manifest is UTF-8, as a file's name need not be.
                shown = os.fsencode(os.path.relpath(path, folder)).decode("utf-8", "backslashreplace")
                found.append({"path": shown, "size": size, "blob": digest})
    return found


def _store(source: IO[bytes], path: str, state: str) -> tuple[str, int]:
    """Copy a file to the state folder under its digest; returns that and its size."""
    import hashlib

    digest, size = hashlib.sha256(), 0
    os.makedirs(os.path.join(state, "blobs"), exist_ok=True)
    fresh = os.path.join(state, "blobs", os.urandom(8).hex() + ".new")
    try:
        with open(fresh, "wb") as file:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                size += file.write(chunk)
        os.replace(fresh, os.path.join(state, "blobs", digest.hexdigest()))
    except OSError as error:
        if os.path.exists(fresh):
            os.unlink(fresh)
        from docker_kernel.guest.blob_files import SnapshotError

        raise SnapshotError("The file %s cannot be kept: %s." % (path, error.strerror or error)) from None
    return "sha256:" + digest.hexdigest(), size


def stream_of(spec: dict[str, Any]) -> tuple[int, ...]:
    """Which of the streams of random numbers is the job's: () where it is the only one of its dispatch."""
    own = () if spec.get("stream") is None else (int(spec["stream"]),)
    return (*own, int(spec["rank"])) if spec.get("world_size") else own


def restore_state(
    spec: dict[str, Any], manifest: dict[str, Any], shell: Any, on_group: Any = None
) -> tuple[ProcessState, WorkspaceModules, dict[str, Any]]:
    """Give a shell the state that a job was sent with; returns the process's, the modules', and the variables.

    Args:
        on_group: as of `snapshot.restore`.
    """
    from docker_kernel.guest import generators, handles, history, snapshot, submodules
    from docker_kernel.guest.imports import said_elsewhere
    from docker_kernel.guest.magics import DispatchMagics
    from docker_kernel.guest.process_state import NAME as PROCESS
    from docker_kernel.guest.process_state import ProcessState
    from docker_kernel.guest.workspace_modules import WorkspaceModules

    # Not before IPython is there, which a file of the user's must not shadow.
    if manifest.get("sys_path"):
        sys.path[:] = manifest["sys_path"]
    process = ProcessState(shell.user_ns, stream_of(spec))
    modules = WorkspaceModules(shell.user_ns, limit=None)
    modules.expect(manifest)
    modules.begin()
    with generators.noted() as found, said_elsewhere():
        restored, failed = snapshot.restore(spec["state"], manifest, shell.user_ns, None, on_group, mapped=True)
    # Of a package's modules only the package has a name.
    restored = submodules.variables(restored)
    handles.tell(restored.pop(handles.NAME, {}).values())
    shell.register_magics(DispatchMagics)  # which say that a job sends none
    history.give(shell, restored)
    sent = restored.pop(PROCESS, ({}, []))
    modules.receive(restored)
    shell.user_ns.update(restored)
    failed += [*process.apply(sent[0]), *process.give_stream(found)]
    of_modules = [one for one in failed if modules.came(one.name)]
    for one in of_modules:
        print("docker-kernel: %s is not as it was: %s" % (one.name, one.reason), file=sys.stderr)
    for one in _usable([one for one in failed if one not in of_modules], spec, shell):
        print("docker-kernel: %s is not here: %s" % (one.name, one.reason), file=sys.stderr)
    return process, modules, restored


def _usable(failed: list[LeftOut], spec: dict[str, Any], shell: Any) -> list[LeftOut]:
    """Of what could not be restored, that which the cell may miss."""
    if not failed or spec["kind"] == "notebook":
        return failed
    from docker_kernel.guest.job_cell import job_cell
    from docker_kernel.guest.reach import reachable_names

    names = dict.fromkeys(one.name.split(".")[0] for one in failed)
    reached = reachable_names(job_cell(shell, spec["source"]).code, {**names, **shell.user_ns})
    return [one for one in failed if one.type not in ("", "module") or one.name.split(".")[0] in reached]


def _report_temporary(values: dict[str, Any], outputs: str) -> None:
    """Name the files that values name and that end with the container."""
    from docker_kernel.guest import temporary_files

    paths = [path for path in temporary_files.named_by(values.values()) if not (path + "/").startswith(outputs + "/")]
    if paths:
        text = "The temporary folder ends with the job, and %s with it: write to the workspace, or to job.outputs."
        print(text % ", ".join(paths[:10]), flush=True)


def run(spec: dict[str, Any], events: Events) -> int:
    from docker_kernel.guest import handles, history, inputs, snapshot, sources, submodules, text_bars, widget_values
    from docker_kernel.guest.changes import Changes, Outcome
    from docker_kernel.guest.exceptions import text_of
    from docker_kernel.guest.in_job import job
    from docker_kernel.guest.job_cell import job_cell
    from docker_kernel.guest.merge import Restored
    from docker_kernel.guest.process_state import NAME as PROCESS
    from docker_kernel.guest.workspace_modules import NAME as MODULES

    state = spec["state"]
    manifest = snapshot.read_manifest(state, spec["manifest"])
    set_up(spec, manifest)
    if spec["kind"] == "notebook":
        from docker_kernel.guest.run_notebook import run_notebook

        inputs.link(spec.get("linked") or {})
        inputs.fetch(spec.get("inputs") or {}, events.send)
        return run_notebook(spec, events.send, os.environ["DOCKER_KERNEL_OUTPUTS"])
    shell = make_shell(events)
    text_bars.begin()
    groups: list[Restored] = []
    process, modules, restored = restore_state(spec, manifest, shell, lambda *group: groups.append(Restored(*group)))
    widget_values.begin()
    inputs.link(spec.get("linked") or {})
    inputs.fetch(spec.get("inputs") or {}, events.send)
    outputs = os.environ["DOCKER_KERNEL_OUTPUTS"]
    job._begin(spec, events.send, outputs, stream_of(spec))
    params = spec.get("params") or {}
    shell.user_ns.update(params)
    before = dict(shell.user_ns)
    cell = job_cell(shell, spec["source"])
    own_names = {PROCESS, MODULES, sources.NAME, handles.NAME, history.NAME}
    groups = [group for group in groups if not own_names & set(group.values)]
    changes = Changes(groups, shell.user_ns, cell.code, state, modules)
    imported = set(sys.modules)
    process.begin()

    result = cell.run(events.send, as_value_of=VALUE if spec["kind"] == "expression" else "")
    job.flush()
    sys.stdout.flush()
    sys.stderr.flush()

    variables = snapshot.user_variables(shell)
    variables.update((name, value) for name, value in restored.items() if history.is_result(name))
    pulled = spec.get("pull")
    if pulled is not None:
        done = Outcome({name: variables[name] for name in pulled if name in variables}, [], [], frozenset())
    else:
        done = changes.outcome(before, variables)
        found = submodules.used(cell.code, variables)
        done.values.update((name, module) for name, module in found.items() if name not in imported)
    assigned = done.values
    if VALUE in shell.user_ns:
        assigned[VALUE] = shell.user_ns[VALUE]
    elif result.success and result.result is not None and pulled is None:
        assigned[VALUE] = result.result
    if result.success:
        _report_temporary(assigned, outputs)
    settings = process.changes(only_random=pulled is not None)
    if settings.state or settings.left_out:
        assigned[PROCESS] = settings[:2]
    context: dict[str, Any] = {
        "deleted": sorted({*(set(restored) - set(variables)), *done.gone}),
        "changed": done.changed,
    }
    if not result.success:
        error, lines = shell.failure or (result.error_in_exec or result.error_before_exec, [])
        context["error"] = {
            "name": type(error).__name__,
            "value": text_of(error),
            "traceback": lines or traceback.format_exception(type(error), error, error.__traceback__),
        }
        BaseException.with_traceback(error, None)  # Not by its own class, which may forbid to set attributes.
        assigned[ERROR] = error
        events.send({"event": "raised", "name": type(error).__name__[:200], "value": text_of(error)[:500]})
    context["files"] = output_files(outputs, state)
    captured = snapshot.capture(assigned, shell.user_ns, state, changes.pickler(assigned), done.spare, **context)
    if spec.get("result"):
        from docker_kernel.guest.deliver import deliver

        deliver(state, captured.digest, spec["result"], events.send)
    events.send({"event": "result", "digest": captured.digest})
    return SUCCESS if result.success else CELL_ERROR


def salvage(left: dict[str, Any]) -> None:
    """Keep the files that a job wrote whose worker was killed; events go to standard output, a line each.

    Args:
        left: `state`, `outputs`, and `result` as in the job's spec.
    """
    from docker_kernel.guest import snapshot
    from docker_kernel.guest.blob_files import SnapshotError
    from docker_kernel.guest.deliver import deliver

    def send(event: dict[str, Any]) -> None:
        print(json.dumps(event))

    try:
        files = output_files(left["outputs"], left["state"])
        digest = snapshot.capture({}, {}, left["state"], deleted=[], files=files).digest
        if left["result"]:
            deliver(left["state"], digest, left["result"], send)
    except SnapshotError as error:
        send({"event": "failed", "reason": str(error)})
    else:
        send({"event": "result", "digest": digest})


def main() -> int:
    from docker_kernel.guest.boot import load_guest

    load_guest()
    from docker_kernel.guest.memory import KERNEL_OOM_SCORE, set_oom_score

    if sys.argv[1] == "salvage":
        salvage(json.loads(sys.argv[2]))
        return SUCCESS
    try:
        for name in NEEDED:
            importlib.import_module(name)
        with os.fdopen(int(sys.argv[1])) as file:
            spec = json.load(file)
        set_oom_score(KERNEL_OOM_SCORE)  # while it waited, it was to go before all others
    except KeyboardInterrupt:
        return INTERRUPTED
    events = Events(int(sys.argv[2]))
    sys.argv = [""]
    # A pipe's output is held back in blocks, where a notebook shows lines as they come.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    from docker_kernel.guest.blob_files import SnapshotError
    from docker_kernel.guest.inputs import InputFailed

    try:
        return run(spec, events)
    except (SnapshotError, InputFailed) as error:
        events.send({"event": "raised", "name": "", "value": str(error)[:500]})
        print("docker-kernel: %s" % error, file=sys.stderr)
        return CANNOT_START
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    lib = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[0 : 0 if getattr(sys.flags, "safe_path", False) else 1] = [lib]
    sys.exit(main())
