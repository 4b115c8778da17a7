"""Runs the notebooks of examples/ with Docker Python, side by side, and says how it went: demo.py [NOTEBOOK …]"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from steps import Display, StepFailed, run, step, together

SCRIPTS = Path(__file__).parent
ROOT = SCRIPTS.parent
BIN = ROOT / ".venv" / "bin"


async def main(notebooks: list[Path]) -> int:
    began = time.monotonic()
    async with Display() as display:
        ran = await together(*(ran_well(display, one) for one in notebooks))
    print(f"\n{sum(ran)} of {len(ran)} notebooks ran, in {time.monotonic() - began:.0f} s; the jobs that they sent:")
    sys.stdout.flush()
    jobs = await asyncio.create_subprocess_exec(f"{BIN}/docker-kernel", "jobs", "list", "--limit", "8")
    if await jobs.wait() or not all(ran):
        return 1
    print("Go on in JupyterLab, with the kernel Docker Python: .venv/bin/jupyter lab examples")
    return 0


async def ran_well(display: Display, notebook: Path) -> bool:
    """Run a notebook and show its account."""
    command = [f"{BIN}/python", f"{SCRIPTS}/run_notebook.py", str(notebook)]
    try:
        account = await step(display, notebook.name, *command)
    except StepFailed as error:
        display.say(str(error))
        return False
    display.say("\n".join(f"  {line}" for line in account))
    return True


if __name__ == "__main__":
    given = [Path(argument).resolve() for argument in sys.argv[1:]]
    sys.exit(run(main(given or sorted((ROOT / "examples").glob("*.ipynb")))))
