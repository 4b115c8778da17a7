"""Commands that tests and benchmarks run in a container beside its main process."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def run_inside(container: str, command: Sequence[str], user: str | None = None) -> tuple[int, str]:
    """Run a command in a running container to its end: (exit code, output and errors together)."""
    options = [] if user is None else ["--user", user]
    done = subprocess.run(
        ["docker", "exec", *options, container, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")
