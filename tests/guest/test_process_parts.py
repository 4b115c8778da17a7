"""The registry of settings that travel."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

from docker_kernel.guest.process_parts import PARTS

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_documentation_has_a_row_for_each_library() -> None:
    reference = runpy.run_path(str(DOCS / "process_reference.py"))
    page = (DOCS / "jobs.md").read_text(encoding="utf-8")
    assert reference["table"]() in page, "run `python -c 'import process_reference; process_reference.renew()'` in docs"


def test_each_has_a_name_of_its_own() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_no_library_is_imported_to_be_ready_for_its_settings() -> None:
    code = (
        "import sys\nfrom docker_kernel.guest.process_state import ProcessState\n"
        "one = ProcessState({}); one.begin(); one.changes(all_random=True)\n"
        "print(sorted({'IPython', 'numpy', 'pandas', 'polars', 'matplotlib', 'sklearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
