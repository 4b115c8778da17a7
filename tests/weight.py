"""What one request of a kernel's costs its server, a process of its own: on disk, and in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SERVER = """
import json, resource, subprocess, sys, time
from pathlib import Path
from docker_kernel.batch.job_folder import root
from tests.notebook import Notebook

size, jobs = int(sys.argv[2]), int(sys.argv[3])

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

def disk():
    return sum(path.lstat().st_blocks * 512 for path in root().rglob("*") if path.is_file())

def sweep(text, count):
    reply = one.run(
        f"sent = dispatch('twice = 2 * n' + {text}, sweep=dict(n=list(range({count}))))\\n"
        "[job.wait() for job in sent]\\nassert all(job.state == 'succeeded' for job in sent), sent",
        timeout=1200,
    )
    assert reply.status == "ok", reply.traceback
    assert one.value("[job.variables['twice'] for job in sent]") == [2 * n for n in range(count)]
    return one.value("sent[0].id")

one = Notebook("weighed", Path(sys.argv[1]))
try:
    one.run("from docker_kernel import dispatch")
    sweep("''", 4)
    before, had = resident(), disk()
    job = sweep(f"'\\\\n' + '#' * {size}", jobs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    grown = {"disk": disk() - had, "peak": peak - before}
    end = time.monotonic() + 20
    while resident() - before > size and time.monotonic() < end:
        time.sleep(0.1)  # its dispatch is let go of after a job's end was told
    grown["kept"] = resident() - before
    # What another process knows of it.
    command = Path(sys.executable).with_name("docker-kernel")
    ask = lambda word: subprocess.run([command, "jobs", word, job], capture_output=True, text=True)
    print(json.dumps({**grown, "retried": ask("retry").stderr, "shown": ask("show").stdout}))
finally:
    one.close()
"""


@dataclass(frozen=True)
class Weight:
    """What a sweep added, in bytes.

    Args:
        disk: below `root()`, after its end.
        peak: of memory while it ran; kept: of memory after its end.
        retried, shown: what `docker-kernel jobs retry` and `jobs show` say, in a process of their own, of one of its
            jobs.
    """

    disk: int
    peak: int
    kept: int
    retried: str
    shown: str


def weigh(folder: Path, size: int, jobs: int) -> Weight:
    """What a sweep whose cell has so many bytes costs a server.

    Args:
        folder: an empty one, for the server's workspace, kernelspec and jobs.
    """
    spec = folder / "kernels" / "weighed"
    spec.mkdir(parents=True)
    stanza = {"provisioner_name": "docker-kernel", "config": {"image": "docker-kernel/python:latest"}}
    metadata = {"supported_encryption": ["curve"], "kernel_provisioner": stanza}
    content = {"argv": [sys.executable], "display_name": "", "language": "python", "metadata": metadata}
    (spec / "kernel.json").write_text(json.dumps(content))
    workspace = folder / "workspace"
    workspace.mkdir()
    (folder / "config.toml").write_text("[kernel]\nwarm_spares = 0\n")
    env = {
        **os.environ,
        "DOCKER_KERNEL_CONFIG": str(folder / "config.toml"),
        "JUPYTER_PATH": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(workspace), str(size), str(jobs)],
        env=env,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Weight(**json.loads(done.stdout.splitlines()[-1]))
