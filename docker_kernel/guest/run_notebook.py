"""Runs a whole notebook in a job's shell, cell after cell, and writes the executed notebook after each of them."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

from docker_kernel.guest import parameters

NAME = "output.ipynb"


class _Tee(io.TextIOBase):
    """Passes text on, and keeps it for the executed notebook."""

    def __init__(self, stream: Any, name: str, outputs: list[dict[str, Any]]) -> None:
        self._stream, self._name, self._outputs = stream, name, outputs

    def write(self, text: str) -> int:
        last = self._outputs[-1] if self._outputs else {}
        if last.get("output_type") == "stream" and last["name"] == self._name:
            last["text"] += text
        else:
            self._outputs.append({"output_type": "stream", "name": self._name, "text": text})
        written: int = self._stream.write(text)
        return written

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        number: int = self._stream.fileno()
        return number

    def writable(self) -> bool:
        return True


class _Result:
    """As IPython's result of a cell, for the whole notebook."""

    def __init__(self, success: bool = True, error: BaseException | None = None) -> None:
        self.success, self.error_in_exec, self.error_before_exec = success, error, None


def with_parameters(notebook: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The notebook with values for its parameters, as they go into a notebook image.

    Raises:
        ParameterError: one is unknown, missing or of another type.
    """
    found = parameters.find(notebook).parameters
    return parameters.inject(notebook, found, parameters.check(found, params))


def run_notebook(shell: Any, notebook: dict[str, Any], params: dict[str, Any], outputs: str, job: Any) -> Any:
    """Run a notebook's code cells until one fails, unless that is tagged `raises-exception`; none where the parameters
    do not fit.

    Returns:
        What tells success and error, as an IPython result.
    """
    try:
        made = with_parameters(notebook, params)
    except parameters.ParameterError as refused:
        print("docker-kernel: %s" % refused, file=sys.stderr)
        return _Result(False, refused)
    cells = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        cell["outputs"], cell["execution_count"] = [], None
    done = _Result()
    for number, cell in enumerate(cells):
        job.progress(number / len(cells), "cell %d of %d" % (number + 1, len(cells)))
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        if not source.strip():
            continue
        cell["execution_count"] = shell.execution_count
        result = _run_cell(shell, source, cell["outputs"])
        if not result.success:
            error, lines = shell.failure or (result.error_in_exec or result.error_before_exec, [])
            cell["outputs"].append(
                {
                    "output_type": "error",
                    "ename": type(error).__name__,
                    "evalue": str(error),
                    "traceback": list(lines),
                }
            )
            if "raises-exception" not in cell.get("metadata", {}).get("tags", []):
                done = _Result(False, error)
        _write(made, outputs)
        if not done.success:
            return done
    _write(made, outputs)
    job.progress(1.0, "%d cells" % len(cells))
    return done


def _run_cell(shell: Any, source: str, outputs: list[dict[str, Any]]) -> Any:
    streams = sys.stdout, sys.stderr
    shell.failure = None
    shell.recorder = outputs.append
    sys.stdout, sys.stderr = _Tee(streams[0], "stdout", outputs), _Tee(streams[1], "stderr", outputs)
    try:
        return shell.run_cell(source, store_history=True)
    finally:
        sys.stdout, sys.stderr = streams
        shell.recorder = None


def _write(notebook: dict[str, Any], outputs: str) -> None:
    path = os.path.join(outputs, NAME)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(notebook, file, ensure_ascii=False, indent=1)
    os.replace(path + ".new", path)
