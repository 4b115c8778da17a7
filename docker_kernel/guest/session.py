"""A kernel's dealings with its host side: it captures the state, starts jobs, and hears of them."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from docker_kernel.guest import (
    environment,
    generators,
    handles,
    history,
    nested,
    snapshot,
    submodules,
    temporary_files,
)
from docker_kernel.guest.blob_files import SnapshotError
from docker_kernel.guest.credentials import looks_secret
from docker_kernel.guest.garbage import collect_garbage
from docker_kernel.guest.job import STATE, Job, JobFailed, Sweep
from docker_kernel.guest.link import SOCKET, Channel, LinkFailed, RemoteError
from docker_kernel.guest.merge import Originals
from docker_kernel.guest.module_reach import reached
from docker_kernel.guest.options import CodeError, OptionError, Options, closest
from docker_kernel.guest.process_state import NAME as PROCESS
from docker_kernel.guest.process_state import Changes, ProcessState
from docker_kernel.guest.reach import cell_code, needed_names, reachable_names
from docker_kernel.guest.sources import NAME as SOURCES
from docker_kernel.guest.workspace_modules import NAME as MODULES
from docker_kernel.guest.workspace_modules import NO_MODULES, Travelling, WorkspaceModules

MAX_MANIFEST = 8 << 20
"""Characters of a manifest that the host side takes: about 400,000 variables."""

_BINDERS = frozenset({"exec", "globals", "locals", "vars", "setattr", "get_ipython"})
"""Names by which code may bind others that reading it does not show; IPython's magics are among them."""

KEPT_SNAPSHOTS = 8
"""How many of the latest snapshots stay in the kernel volume, so that jobs can be retried from them."""


KEPT_RESULTS = 20
"""How many of the latest results of %%local stay there."""


class Session:
    """One for each kernel process."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._jobs: dict[str, Job] = {}
        self._channel: Channel | None = None
        self._lock = threading.Lock()
        self._early: dict[str, list[dict[str, Any]]] = {}
        self._environment = dict(os.environ)
        self._reported: set[Any] = set()
        self._secrets: dict[str, list[str]] = {}
        self._snapshots: list[str] = []
        self._held_env: list[str] = []
        self._changes = Changes({}, [], {})
        self._of_modules = NO_MODULES
        self._generators: list[Any] = []
        self.process = ProcessState(shell.user_ns)
        self.process.begin()
        self.modules = WorkspaceModules(shell.user_ns)
        self.modules.begin()

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the host side; raises JobFailed with its sentence when it refuses."""
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
            missed = [job for job in self._jobs.values() if not job.over]
        for job in missed:
            job._receive({"event": "state", **channel.request("job.get", {"job": job.id})})
        return channel

    def follow(self, job: Job) -> None:
        """See to it that a job's events come here."""
        if not job.over:
            try:
                self._connected()
            except (LinkFailed, RemoteError) as error:
                raise JobFailed(str(error)) from None

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("type") != "job":
            return
        with self._lock:
            job = self._jobs.get(event["job"])
            if job is None:
                # The first events may overtake the answer that names the job.
                early = self._early.setdefault(event["job"], [])
                early.append(event)
                del early[:-1000]
                return
        job._receive(event)

    def _known(self, record: dict[str, Any]) -> Job:
        """The one object for a job."""
        with self._lock:
            job = self._jobs.get(record["id"])
            if job is None:
                job = self._jobs[record["id"]] = Job(self, record)
                early = self._early.pop(job.id, [])
            else:
                early = []
        for event in early:
            job._receive(event)
        return job

    def handle(self, record: dict[str, Any]) -> Job:
        """The job that a variable of a result holds, by what lasts of its record."""
        if record["id"] in self._jobs:
            return self._jobs[record["id"]]
        try:
            return self._known(self.request("job.get", {"job": record["id"]}))
        except JobFailed as error:
            return self._known({**record, "state": "lost", "reason": str(error), "ended": record["created"]})

    def jobs(self) -> list[Job]:
        """The notebook's jobs, the newest first, also of kernels before this one."""
        return list(self.newest())

    def together(self, job: Job) -> Job | Sweep:
        """A job, or the sweep that it is one of, whichever kernel sent it."""
        if not job.record["swept"]:
            return job
        return Sweep(sorted(self.newest(job.record["group"]), key=lambda one: one.record["stream"] or 0))

    def newest(self, group: str | None = None) -> Iterator[Job]:
        """The same as `jobs`, asked for as they are used: a notebook may have sent thousands.

        Args:
            group: only those of this dispatch.
        """
        seen: set[str] = set()
        skip, more = 0, True
        while more:
            answer = self.request("job.list", {"skip": skip, "group": group})
            skip, more = skip + len(answer["jobs"]), answer["more"]
            for record in answer["jobs"]:
                if record["id"] in seen:
                    continue  # a newer one has come, and moved it to this page
                seen.add(record["id"])
                job = self._known(record)
                if job.state != record["state"] and record["ended"]:
                    job._receive({"event": "state", **record})
                job.record["settled"] = record["settled"]  # which no event tells
                yield job

    def kept_secrets(self, job: Job) -> dict[str, str]:
        """The secrets that a job was sent with, read anew, as nobody keeps them."""
        return {name: os.environ[name] for name in self._secrets.get(job.id, []) if name in os.environ}

    # Starting

    def start(self, source: str, options: Options, kind: str | None = None, first_line: int = 1) -> Job | Sweep | None:
        """Capture the state and start one job, or one for each set of parameters.

        Args:
            source: a cell's code, an expression, or the path of a notebook (*.ipynb).
            kind: "cell", "expression" or "notebook"; None finds out.
            first_line: where the source begins in the notebook's cell, for messages.

        Returns:
            When the state is taken, not when the job has ended; None for a dry run.

        Raises:
            JobFailed: it was refused; the message says why.
            OptionError: an option does not fit, or the source is no Python.
        """
        kind = kind or _kind_of(source)
        cwd = os.getcwd()
        if kind == "notebook":
            cwd = os.path.dirname(os.path.abspath(os.path.expanduser(source.strip())))
            source = code = _read_notebook(source)
        else:
            code = _checked_code(self.shell, source, kind, first_line)
            _check_pulled(self.shell, code, options.pull or [])
            if code != TransformerManager().transform_cell(source):
                source = code  # a job's shell has no input transformers of the notebook's
        runs = options.runs()
        try:
            json.dumps(runs)
        except (TypeError, ValueError):
            raise OptionError(
                "Parameters are numbers, texts, lists and dicts of them: %r are not." % (runs[0],)
            ) from None
        env, secrets = options.environment(), options.secrets()
        found = snapshot.user_variables(self.shell)
        captured, variables = self._capture(found, code, kind, options, {*env, *secrets})
        params: dict[str, Any] = {
            "manifest": captured.manifest,
            "environment": environment.stamp(),
            "target": options.on,
            "workspace": "live" if options.live else "copy",
        }
        if options.dry_run:
            temporary = self._temporary(code, kind)
            print(_plan_text(self.request("job.plan", params), captured, self._changes, options, temporary))
            return None
        params |= {
            "kind": kind,
            "source": source,
            "params": runs,
            "name": options.name,
            "cwd": cwd,
            "timeout": options.timeout,
            "memory": options.memory,
            "cpus": options.cpus,
            "gpus": options.gpus,
            "retries": options.retries,
            "replicas": options.replicas,
            "swept": bool(options.sweep),
            "env": env,
            "secrets": secrets,
            "inputs": options.input,
            "pull": options.pull,
        }
        answer = self._start(params)
        try:
            return self._sent(answer, captured, {**self.modules.values(), **found}, variables, options)
        except KeyboardInterrupt:
            self._cancel_jobs(answer)
            raise

    def _sent(
        self,
        answer: dict[str, Any],
        captured: snapshot.Snapshot,
        bindings: dict[str, Any],
        variables: dict[str, Any],
        options: Options,
    ) -> Job | Sweep:
        """The jobs that were started, which know what they were sent from."""
        jobs = [self._known(record) for record in answer["jobs"]]
        originals = Originals(captured.groups, variables, bindings, self.shell.user_ns, still=options.live)
        for job in jobs:
            job._originals, job._sent_here = originals, True
            job._left_out = [one._asdict() for one in [*captured.left_out, *self._changes.left_out]]
            job._spare = self._of_modules.spare
            job._settings = None if options.live else self._changes.settings
            self._secrets[job.id] = list(options.secrets())
        if not options.live and self._changes.state:
            if self._generators:
                originals.note_generators()
            self._report(self.process.move_on(self._generators))
        self._report_held_back(answer["held_back"], [*environment.credentials_in_home(), *answer["held_back_in_home"]])
        return Sweep(jobs) if options.sweep else jobs[0]

    def _start(self, params: dict[str, Any]) -> dict[str, Any]:
        """Ask for new jobs. Where that is interrupted, they are cancelled when the host side has answered: nobody else
        would ever know of them."""
        answer: Future[dict[str, Any]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self.request("job.start", params))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="docker-kernel-start", daemon=True).start()
        try:
            return answer.result()
        except KeyboardInterrupt:
            answer.add_done_callback(self._cancel_started)
            raise

    def _cancel_started(self, answer: Future[dict[str, Any]]) -> None:
        if answer.exception() is None:
            self._cancel_jobs(answer.result())

    def _cancel_jobs(self, answer: dict[str, Any]) -> None:
        for record in answer["jobs"]:
            self.request("job.cancel", {"job": record["id"]})

    def _capture(
        self, found: dict[str, Any], code: str, kind: str, options: Options, sent: set[str]
    ) -> tuple[snapshot.Snapshot, dict[str, Any]]:
        """Take a snapshot of what is to be sent; returns it, and what it was taken of.

        Args:
            code: what is sent as Python, magics transformed; or a notebook's JSON.
        """
        variables = dict(found)
        # A notebook starts from nothing, unless it is told.
        if kind == "notebook" and options.only is None:
            variables, self._changes, self._of_modules = {}, Changes({}, [], {}), NO_MODULES
        else:
            self._changes = self.process.changes(all_random=True)
            before = history.named(code, self.shell) if options.only is None else {}
            chosen = self._chosen(variables, code, options)
            self._of_modules = self._chosen_of_modules(chosen, variables, code, options)
            packages = submodules.used(code if kind != "notebook" else "", chosen)
            variables = {**self._of_modules.values, **chosen, **packages, **before, PROCESS: self._changes[:2]}
            if self._of_modules.sent:
                variables[MODULES] = self._of_modules.sent
        context = self._context(options.live)
        try:
            with generators.noted() as self._generators, handles.noted() as known:
                if self._jobs and variables:
                    variables[handles.NAME] = known  # the last, as it is of those before
                captured = snapshot.capture(
                    variables, self.shell.user_ns, STATE, spare=self._of_modules.spare, **context
                )
        except SnapshotError as error:
            raise JobFailed(str(error)) from None
        if len(captured.manifest) > MAX_MANIFEST:
            text = "There are too many variables to send, %d: put them into a list or a dict."
            raise JobFailed(text % len(variables))
        if kind != "notebook":
            used = _used(code)
            for one in captured.left_out:
                if one.name in used:
                    raise JobFailed("The cell uses %s, which cannot travel (%s: %s); %s." % one)
        if not options.dry_run:
            self._report(self._usable(captured.left_out, code, kind))
            self._report(self._changes.left_out)
            self._report_temporary(self._temporary(code, kind))
        self._collect_garbage(captured.digest)
        held = (name for name, value in os.environ.items() if looks_secret(name, value) and name not in sent)
        self._held_env = [] if options.live else sorted(held)
        return captured, variables

    def _chosen(self, variables: dict[str, Any], code: str, options: Options) -> dict[str, Any]:
        """The variables that the options say are to be sent."""
        for option, given in (("only", options.only or []), ("exclude", options.exclude)):
            for name in given:
                if name not in variables:
                    raise OptionError("--%s: there is no variable %s%s." % (option, name, closest(name, variables)))
        chosen = set(variables) if options.only is None else set(options.only)
        if options.needed:
            chosen &= needed_names(code, self.shell.user_ns)
        return {name: value for name, value in variables.items() if name in chosen and name not in options.exclude}

    def _chosen_of_modules(
        self, chosen: dict[str, Any], variables: dict[str, Any], code: str, options: Options
    ) -> Travelling:
        """The values of the user's modules that are to be sent with the chosen variables."""
        files = self.modules.files()
        if not files:
            return NO_MODULES
        wanted = set(files)
        if not options.live:
            withheld = self.request("workspace.withheld", {"paths": sorted(set(files.values()))})["paths"]
            wanted = {name for name, file in files.items() if file not in withheld}
        if options.only is not None:
            wanted &= {value.__name__ for value in chosen.values() if issubclass(type(value), types.ModuleType)}
        if options.needed:
            wanted &= self._reached(code)
        self._report_stale(code, wanted)
        return self.modules.travelling(wanted, [variables[name] for name in options.exclude], True, chosen.values())

    def _reached(self, code: str) -> set[str]:
        """The user's modules that a cell can reach."""
        compiled = cell_code(code)
        namespace = self.shell.user_ns
        uses = self.modules.uses()
        if compiled is None:
            return set(uses)
        objects: list[Any] = [compiled]
        for name in needed_names(code, namespace):
            objects += snapshot.objects_in(namespace[name], namespace)
        return reached(objects, uses)

    def _report_stale(self, code: str, wanted: set[str]) -> None:
        """Name the modules that the job has otherwise than this kernel, once for each change of the file."""
        stale = {name: one for name, one in self.modules.stale().items() if one not in self._reported}
        for name in sorted(wanted & set(stale) & self._reached(code) if stale else ()):
            self._reported.add(stale[name])
            text = "The file of the module %s was changed since it was imported here: the job runs it as it is now."
            print(text % name, file=sys.stderr)

    def _collect_garbage(self, digest: str) -> None:
        """Let go of what no job needs, now and then."""
        self._snapshots = [*(one for one in self._snapshots if one != digest), digest]
        if len(self._snapshots) <= 2 * KEPT_SNAPSHOTS:
            return
        del self._snapshots[:-KEPT_SNAPSHOTS]
        jobs = self.jobs()
        keep = {*self._snapshots, *(job.record["snapshot"] for job in jobs if not job.over)}
        # Of the results, only of those that work beside the kernel does the host take no copy.
        needed = {job for job in jobs[:KEPT_RESULTS] if job.record["live"]} | {
            job for job in jobs if not job.record["settled"]
        }
        keep |= {job.record["result"] or job.record["partial"] for job in needed}
        collect_garbage(STATE, keep - {""})

    def _context(self, live: bool) -> dict[str, Any]:
        changed: dict[str, str | None] = {
            name: value
            for name, value in os.environ.items()
            if self._environment.get(name) != value and (live or not looks_secret(name, value))
        }
        changed.update({name: None for name in self._environment if name not in os.environ})
        return {"env": changed, "cwd": os.getcwd(), "sys_path": list(sys.path)}

    def _usable(self, left_out: list[snapshot.LeftOut], code: str, kind: str) -> list[snapshot.LeftOut]:
        """Those that the code may miss."""
        new = [one for one in left_out if one not in self._reported]
        if not new or kind == "notebook":
            return new
        namespace = self.shell.user_ns
        reached = reachable_names(code, namespace).union(history.named(code, self.shell))
        of_modules = {one.name for one in new if one.name in self._of_modules.values}
        modules = self._reached(code) if of_modules else set()

        def usable(name: str) -> bool:
            if name in of_modules:
                return self.modules.place(name)[0] in modules
            # An exception's part has the name of its variable before its own.
            return not reached.isdisjoint((name, name.split(".")[0]))

        return [one for one in new if usable(one.name)]

    def _report(self, left_out: list[snapshot.LeftOut]) -> None:
        """Name what does not travel, once for each variable and reason."""
        new = [one for one in left_out if one not in self._reported]
        self._reported.update(new)
        if new:
            print("Left out: %s." % _short(["%s (%s: %s; %s)" % one for one in new]))

    def _temporary(self, code: str, kind: str) -> list[str]:
        """The files in the temporary folder that the code names, and that were made since the container's start."""
        if kind == "notebook":
            cells = (cell["source"] for cell in json.loads(code)["cells"] if cell["cell_type"] == "code")
            named = temporary_files.named_in("\n".join("".join(lines) for lines in cells))
        else:
            named = temporary_files.named_by_cell(code, self.shell.user_ns)
            named += temporary_files.named_by([os.getcwd()])
        return temporary_files.those_since(named, SOCKET)

    def _report_temporary(self, paths: list[str]) -> None:
        """Name files that the job will miss, once."""
        new = [path for path in paths if ("file", path) not in self._reported]
        self._reported.update(("file", path) for path in new)
        if new:
            text = "Files in the temporary folder stay here, so the job has no %s: keep what it needs in the workspace."
            print(text % _short(new))

    def _report_held_back(self, files: list[str], in_home: list[str]) -> None:
        """Name what looks like a credential and so stays here, once."""
        env = [name for name in self._held_env if name not in self._reported]
        files = [name for name in files if ("file", name) not in self._reported]
        in_home = [name for name in in_home if ("file", name) not in self._reported]
        self._reported |= {*env, *(("file", name) for name in [*files, *in_home])}
        if env:
            text = "Held back, as they look like credentials: %s; --env NAME or --secret NAME sends one."
            print(text % ", ".join(env), file=sys.stderr)
        if files:
            text = "Held back, as they look like credentials: %s; a line !NAME in .dockerignore sends one."
            print(text % _short(files), file=sys.stderr)
        if in_home:
            text = (
                "Held back, as they look like credentials: %s; a job that needs one gets its content by --secret NAME."
            )
            print(text % _short(in_home), file=sys.stderr)


def _short(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" and %d more" % (len(names) - 10) if len(names) > 10 else "")


def _kind_of(source: str) -> str:
    if source.strip().endswith(".ipynb") and "\n" not in source.strip():
        return "notebook"
    try:
        ast.parse(source.strip(), mode="eval")
    except SyntaxError:
        return "cell"
    return "expression"


def _checked_code(shell: Any, source: str, kind: str, first_line: int) -> str:
    """The code as Python, magics transformed. What is no Python is refused: no container is needed to say so.

    This is done once for each cell, as here: the input transformers of a notebook's own may do more than to transform.

    Raises:
        CodeError: with what Python says of it.
    """
    if not source.strip():
        raise CodeError("There is no code to run.")
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = ""
    try:
        code = str(shell.transform_cell(source))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "expression":
                compile(source.strip(), "<cell>", "eval", flags)
            else:
                compile(code, "<cell>", "exec", flags)
    except SyntaxError as error:
        if kind == "expression" and code and _is_cell(code):
            raise CodeError(
                "%r is a statement, and a line takes an expression: put it into a cell below the magic with two %%."
                % source.strip()
            ) from None
        # The transformed source begins with the first line that is not empty.
        empty = len(source) - len(source.lstrip()) if kind == "cell" else 0
        error.lineno = error.end_lineno = (error.lineno or 1) + first_line - 1 + source[:empty].count("\n")
        shown = traceback.format_exception_only(type(error), error)
        shown[0] = shown[0].replace('File "<cell>"', "Cell")
        raise CodeError(
            "The cell has an error in line %d: %s." % (error.lineno, error.msg), "".join(shown).splitlines()
        ) from None
    except ValueError as error:
        raise CodeError("The code cannot be read: %s." % error) from None
    refusal = nested.refusal_of(code) if kind == "cell" else ""
    if refusal:
        raise CodeError(refusal)
    return code


def _is_cell(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def _check_pulled(shell: Any, code: str, pulled: list[str]) -> None:
    """Refuse a name to bring back that neither the code nor the notebook has.

    Raises:
        OptionError: names it, and the closest one.
    """
    names = _names(code)
    if names & _BINDERS or re.search(r"\bimport\s*\*", code):
        return  # what it binds is known when it runs only
    for name in pulled:
        if name not in names and name not in shell.user_ns:
            raise OptionError("--pull: the cell assigns no %s%s." % (name, closest(name, names)))


def _read_notebook(path: str) -> str:
    """A notebook's content as JSON, without its outputs."""
    path = os.path.expanduser(path.strip())
    try:
        with open(path, encoding="utf-8") as file:
            notebook = json.load(file)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
    except OSError as error:
        raise JobFailed("The notebook %s cannot be read: %s." % (path, error.strerror)) from None
    except (ValueError, KeyError, TypeError):
        raise JobFailed("%s is no notebook of format 4: open and save it in Jupyter first." % path) from None
    return json.dumps(notebook)


def _names(code: str) -> set[str]:
    """The names that a cell binds or may change in place, as far as reading it tells."""
    try:
        tree = ast.parse(code)
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


def _used(code: str) -> set[str]:
    """The names that a cell reads and does not bind itself."""
    try:
        nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    except SyntaxError:
        return set()
    read = {node.id for node in nodes if isinstance(node.ctx, ast.Load)}
    return read - {node.id for node in nodes if not isinstance(node.ctx, ast.Load)}


def _plan_text(
    plan: dict[str, Any], captured: snapshot.Snapshot, changes: Changes, options: Options, temporary: list[str]
) -> str:
    """What would travel, for a reader."""
    manifest = json.loads(captured.manifest)
    sizes: list[tuple[int, str]] = []
    for pack in manifest["packs"]:
        buffers = sum(size for _, size in pack["buffers"])
        for names, size in zip(pack["groups"], pack["sizes"]):
            if names not in ([PROCESS], [MODULES], [SOURCES], [handles.NAME], [history.NAME]):
                sizes.append((size + buffers, ", ".join(names)))
    sizes.sort(key=lambda pair: (-pair[0], pair[1]))
    lines = ["To the target %s would travel:" % options.on, "variables (together where they share objects):"]
    lines += ["  %10s  %s" % (_size(size), names) for size, names in sizes] or ["  none"]
    if manifest["modules"]:
        lines.append("modules, by name: %s" % ", ".join(sorted(manifest["modules"])))
    if changes.state:
        lines.append("settings and random states of: %s" % ", ".join(changes.state))
    if manifest["left_out"] or changes.left_out:
        lines.append("left out:")
        left_out = [*manifest["left_out"], *(one._asdict() for one in changes.left_out)]
        lines += ["  %(name)s (%(type)s): %(reason)s; %(hint)s" % one for one in left_out]
    lines.append("packages installed since the start: %s" % (", ".join(plan["packages"]) or "none"))
    if options.live:
        lines.append("files: the workspace itself")
    else:
        lines.append("files: %d of the workspace, %s" % (plan["files"], _size(plan["files_size"])))
    if temporary:
        lines.append("files in the temporary folder, which stay here: %s" % _short(temporary))
    held = sorted(name for name, value in os.environ.items() if looks_secret(name, value)) if not options.live else []
    held = [name for name in held if name not in options.environment() and name not in options.secrets()]
    held += [*plan["held_back"], *environment.credentials_in_home(), *plan["held_back_in_home"]]
    lines.append("held back, as they look like credentials: %s" % (_short(held) if held else "none"))
    lines.append("new to the target: %s" % _size(plan["new"]))
    return "\n".join(lines)


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return "%d B" % size if unit == "B" else "%.1f %s" % (size, unit)
        size /= 1024
    return "%.1f GiB" % size
