"""One run of a notebook image: from the command line to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker_kernel.guest import parameters
from docker_kernel.guest.memory import oom_kills
from docker_kernel.guest.run_job import usage
from docker_kernel.runner import arguments, places, sagemaker
from docker_kernel.runner.arguments import BAD_PARAMETERS, UsageError
from docker_kernel.runner.html import Pages
from docker_kernel.runner.log import RunLog, complain
from docker_kernel.runner.sinks import FILES, HTML, NOTEBOOK, FolderSink, Sink, UrlSink, cannot_write

if TYPE_CHECKING:
    from docker_kernel.runner.execute import Ending, Stop

WORKSPACE = Path("/notebook")

NOT_DELIVERED = 74
"""The exit code where the notebook is done, but not every place has its results (EX_IOERR of sysexits.h)."""

TIMED_OUT = 124
GRACE = 8.0
"""Seconds from a signal to the end: `docker stop` gives 10."""

DELIVERY_SECONDS = 900.0
"""How long results may take to reach all places when the notebook has ended."""

STOPS = {
    signal.SIGTERM: "The run was stopped from outside (SIGTERM).",
    signal.SIGINT: "The run was interrupted (SIGINT).",
    signal.SIGHUP: "The run's terminal was closed (SIGHUP).",
    signal.SIGQUIT: "The run was stopped from its terminal (SIGQUIT).",
}

EVENTS = "DOCKER_KERNEL_EVENTS"
PARAMETERS = "DOCKER_KERNEL_PARAMETERS"
OUTPUTS = "DOCKER_KERNEL_OUTPUTS"
"""What guest/in_job.py reads in the kernel."""


def main(argv: Sequence[str]) -> int:
    """Run the notebook of this image; returns the exit code."""
    train = "train" in argv
    try:
        spec = arguments.Spec.read()
        given = arguments.parser(spec).parse_args(list(argv))
        if given.show_parameters:
            print(json.dumps(parameters.schema(spec.parameters), indent=2, ensure_ascii=False))
            return 0
        options = arguments.read(given, spec, os.environ)
        return _Execution(spec, options).run()
    except SystemExit:
        return 0  # argparse, after --help
    except (UsageError, places.NoPlace, parameters.ParameterError) as error:
        complain(str(error))
        if train:
            sagemaker.fail(str(error))
        return BAD_PARAMETERS


def was_killed(number: int) -> int:
    """Say why this container ends, where the process that ran the notebook was killed; returns the exit code."""
    reason = f"What runs the notebook was killed by {signal.Signals(number).name}"
    if number == signal.SIGKILL and oom_kills():
        reason += ", as the container ran out of memory"
    reason += ": the outputs are those of the last cell that was written."
    complain(reason)
    if "train" in sys.argv:
        sagemaker.fail(reason)
    return 128 + number


class _Execution:
    """A run whose parameters are right."""

    def __init__(self, spec: arguments.Spec, options: arguments.RunOptions) -> None:
        self._spec = spec
        self._options = options
        self._log = RunLog(options.nonce)
        self._begun = time.monotonic()
        self._sinks: list[Sink] = []
        self._unusable = ""
        self._deadline = float("inf")

    def run(self) -> int:
        folders = self._check_places()
        # Heavy: after all that could be wrong has been looked at, and before the fork that makes pages needs it, too.
        from docker_kernel.runner.execute import Stop

        title = Path(self._spec.notebook).stem
        pages = Pages(title, self._options.no_input, lambda page: self._put(HTML, page))
        self._sinks += [FolderSink(folder, self._log.say) for folder in folders]
        self._sinks += [UrlSink(url, self._log.say) for url in self._options.urls]
        stop = Stop()
        for number, reason in STOPS.items():
            signal.signal(number, lambda number, _, reason=reason: self._stopped(stop, number, reason))  # type: ignore[misc]
        return asyncio.run(self._run(stop, pages))

    def _check_places(self) -> list[str]:
        """The folders that can be written; raises UsageError if no place can."""
        self._check_urls()
        problems, folders = [], []
        for folder in self._options.folders:
            problem = cannot_write(folder)
            if problem:
                problems.append(problem)
            else:
                folders.append(os.path.abspath(folder))
        if problems and not folders and not self._options.urls:
            raise UsageError(problems[0])
        wanted = self._options.chosen or any(map(os.path.ismount, self._options.folders))
        for problem in problems if wanted else []:
            self._log.say(f"docker-kernel: {problem} The other places get the results.")
            self._unusable = self._unusable or problem
        return folders

    def _check_urls(self) -> None:
        if not self._options.urls:
            return
        import fsspec

        for url in self._options.urls:
            protocol = url.partition("://")[0]
            try:
                fsspec.get_filesystem_class(protocol)
            except (ImportError, ValueError) as error:
                said = " ".join(str(error).split()).rstrip(".")
                raise UsageError(f"--output {url}: {said}.") from None

    def _stopped(self, stop: Stop, number: int, reason: str) -> None:
        self._deadline = min(self._deadline, time.monotonic() + GRACE)
        stop(128 + number, reason)

    async def _run(self, stop: Stop, pages: Pages) -> int:
        import nbformat

        from docker_kernel.runner.document import Document
        from docker_kernel.runner.execute import Events, Run
        from docker_kernel.runner.kernel import Kernel

        loop = asyncio.get_running_loop()
        # asyncio's own handling, so that the loop wakes up for it.
        for number, reason in STOPS.items():
            loop.add_signal_handler(number, self._stopped, stop, number, reason)
        folders = [Path(sink.place) for sink in self._sinks if isinstance(sink, FolderSink)]
        room = places.scratch(folders)
        outputs = folders[0] / FILES if folders else room.path / FILES
        kernel = Kernel(self._spec.kernel, room.path, room.sockets, self._log)
        try:
            workspace = places.working_directory(WORKSPACE, room, lambda text: self._log.say(f"docker-kernel: {text}"))
            with contextlib.suppress(OSError):
                outputs.mkdir(exist_ok=True)
            environment = self._environment(room, outputs)
            if room.sockets:
                environment[EVENTS] = str(room.path / "events")
                Events(environment[EVENTS], self._log)
            # All that follows is done while it starts.
            await kernel.start(workspace / Path(self._spec.notebook).parent, environment)
            excluded = [*folders, room.path]
            before = places.inventory(workspace, excluded)
            original = nbformat.read(WORKSPACE / self._spec.notebook, as_version=4)
            notebook = nbformat.from_dict(parameters.inject(original, self._spec.parameters, self._options.values))
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell["outputs"], cell["execution_count"] = [], None
            document = Document(notebook)

            def changed(index: int) -> None:
                document.touch(index)
                content = document.content()
                self._put(NOTEBOOK, content)
                pages.put(content)

            self._put(NOTEBOOK, document.content())
            run = Run(notebook, kernel, self._log, stop, changed, self._options.cell_timeout)
            if self._options.timeout is not None:
                text = f"The run took longer than {self._options.timeout:g} s, the most that it may take."
                loop.call_later(self._options.timeout, stop, TIMED_OUT, text)
            ending = await run.run()
            self._deadline = min(self._deadline, time.monotonic() + DELIVERY_SECONDS)
            content = document.content()
            self._put(NOTEBOOK, content)
            page = loop.run_in_executor(None, pages.finish, content, ending.reason, self._until)
            await kernel.end(now=ending.code != 0)
            await page
            if pages.problem:
                self._log.say(f"docker-kernel: output.html is not what it should be: {pages.problem}.")
            written = places.written(before, places.inventory(workspace, excluded))
            made = places.written({}, places.inventory(outputs))
            await asyncio.to_thread(self._deliver, workspace, written, outputs, made)
            return self._end(ending, stop)
        finally:
            await kernel.end(now=True)
            with contextlib.suppress(OSError):
                outputs.rmdir()  # nothing was put there
            shutil.rmtree(room.path, ignore_errors=True)

    def _environment(self, room: places.Scratch, outputs: Path) -> dict[str, str]:
        made = places.environment(os.environ, room)
        for name in (arguments.NONCE, EVENTS):
            made.pop(name, None)
        if self._options.sagemaker:
            made.update(sagemaker.environment())
        made[PARAMETERS] = json.dumps(dict(self._options.values), default=str)
        made[OUTPUTS] = str(outputs)
        return made

    def _until(self) -> float:
        return self._deadline

    def _put(self, name: str, content: Sequence[bytes]) -> None:
        for sink in self._sinks:
            sink.put(name, content)

    def _deliver(self, workspace: Path, written: places.Written, outputs: Path, made: places.Written) -> None:
        """Bring everything to all places."""
        for sink in self._sinks:
            sink.finish(self._until)
        for sink in self._sinks:
            sink.bring(workspace, written.files, self._until)
            sink.bring(outputs, made.files, self._until)
        for skipped in (*written.skipped, *made.skipped)[:1]:
            count = len(written.skipped) + len(made.skipped)
            self._log.say(
                f"docker-kernel: {count} files that the notebook wrote are not brought out, {skipped} is one of them: "
                f"{places.MAX_FILES} files with {places.MAX_BYTES >> 30} GiB in all are the most."
            )

    def _end(self, ending: Ending, stop: Stop) -> int:
        """Say how it ended, for a reader and for a program."""
        code = ending.code
        failed = [f"{sink.place} ({', '.join(sink.problems)})" for sink in self._sinks if sink.problems]
        if ending.reason:
            self._log.say(f"docker-kernel: {ending.reason}")
        if failed:
            self._log.say(f"docker-kernel: not everything could be brought to {'; '.join(failed)}.")
        if code == 0 and (failed or self._unusable):
            code = stop.code or NOT_DELIVERED
        if ending.name:
            self._log.tell({"event": "raised", "name": ending.name, "value": ending.value})
        seconds, peak = usage()
        cost: dict[str, Any] = {
            "cpu_seconds": seconds,
            "peak_memory": peak,
            "seconds": time.monotonic() - self._begun,
        }
        self._log.tell(
            {
                "event": "end",
                "code": code,
                "oom": ending.out_of_memory,
                "result": "",
                "timeout": code == TIMED_OUT,
                "cost": cost,
            }
        )
        if self._options.sagemaker and code:
            sagemaker.fail(ending.reason or "Not all results could be brought out.")
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        return code
