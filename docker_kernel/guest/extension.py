"""The IPython extension that every Docker Python kernel loads at its start: magics, and what is needed if it dies."""

from __future__ import annotations

import json
import os
from typing import Any

from docker_kernel.guest import api, wire
from docker_kernel.guest.link import PARENT_FILE, RUN
from docker_kernel.guest.magics import DispatchMagics, help_without_a_body
from docker_kernel.guest.revival import Revival


class ParentRecorder:
    """Keeps the header of the running request in a file, for the notice that the supervisor sends after a death."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._file = os.open(PARENT_FILE, os.O_WRONLY | os.O_CREAT, 0o600)

    def record(self) -> None:
        header = self._shell.parent_header.get("header", {})
        data = json.dumps(header, default=str).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))


def load_ipython_extension(shell: Any) -> None:
    api.open_session(shell)
    wire.tune(shell)
    shell.register_magics(DispatchMagics)
    shell.input_transformers_cleanup.append(help_without_a_body)
    # In a notebook image there is neither a supervisor to send a notice nor anybody who has jobs.
    if os.path.isdir(RUN):
        Revival(getattr(shell, "kernel", None))
        shell.events.register("pre_execute", ParentRecorder(shell).record)
