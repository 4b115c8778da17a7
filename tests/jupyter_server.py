"""How tests wait for a Jupyter server that they have started."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

from tests.engines import answers
from tests.patience import until


def address_of(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """The address of a server, once it answers there.

    Args:
        runtime: its JUPYTER_RUNTIME_DIR, where it writes its address down, before it listens.
        log: what it prints, for the failure's text.
    """

    def find() -> str:
        assert process.poll() is None, f"the server did not start:\n{log.read_text()}"
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):
                found = json.loads(path.read_text())
                if found["pid"] == process.pid and answers(found["port"]):
                    return str(found["url"])
        return ""

    return until(find, 60, f"the start of the server whose log is {log}")
