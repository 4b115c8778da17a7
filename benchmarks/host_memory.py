"""`python -m benchmarks.host_memory`: what a large state, and a large request, cost the server's process.

The server is a process of its own. It sends a 1 GB array to a second engine, straight and through a registry, and
brings as much back: its peak of memory is compared with what it had before. And it runs a sweep whose cell is nearly as
large as one may be: what that takes of its memory and of its disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import Row, markdown
from tests.engines import OwnRegistry, SecondEngine, need
from tests.weight import weigh

SIZE = 1_000_000_000
LIMIT = 100
"""MB by which the server may grow, whatever the state's size."""

SOURCE = 7 << 20
JOBS = 40

SERVER = f"""
import json, resource, sys
from pathlib import Path
from tests.notebook import Notebook

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

one = Notebook("benchmark", Path(sys.argv[1]))
try:
    one.run("%%dispatch --on there --wait\\n1", timeout=600)
    before = peak()
    one.run("import os\\nblock = os.urandom({SIZE})", timeout=120)
    reply = one.run("%%dispatch --on there\\nback = block[::-1]", timeout=600)
    assert reply.status == "ok", reply.traceback
    reply = one.run("_.result(); assert back[::-1] == block", timeout=900)
    assert reply.status == "ok", reply.traceback
    print(json.dumps([before, peak()]))
finally:
    one.close()
"""


def grown(folder: Path, settings: str) -> float:
    """By how many MB a server grew over the state and its way back."""
    (folder / "config.toml").write_text(f"[targets.there]\n{settings}\n")
    spec = folder / "kernels" / "benchmark"
    spec.mkdir(parents=True, exist_ok=True)
    config = {"image": "docker-kernel/python:latest"}
    stanza = {"provisioner_name": "docker-kernel", "config": config}
    content = {"argv": [sys.executable], "display_name": "", "language": "python", "metadata": {}}
    workspace = folder / "workspace"
    workspace.mkdir(exist_ok=True)
    content["metadata"] = {"supported_encryption": ["curve"], "kernel_provisioner": stanza}
    (spec / "kernel.json").write_text(json.dumps(content))
    env = {
        **os.environ,
        "DOCKER_KERNEL_CONFIG": str(folder / "config.toml"),
        "JUPYTER_PATH": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(workspace)],
        env=env,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    before, after = json.loads(done.stdout.splitlines()[-1])
    return float(after - before)


def host_memory() -> list[Row]:
    need("dockerd", "ip", "openssl", "docker-registry")
    rows = []
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory(prefix="dk-registry-") as store:
        engine = SecondEngine(Path(tempfile.mkdtemp(prefix="dk-engine-", dir="/tmp")))
        registry = OwnRegistry(Path(store))
        try:
            engine.up()
            registry.start()
            registry.serve_to(engine)
            for name, more in (("straight", ""), ("through a registry", f'registry = "{registry.address}/team"')):
                value = grown(Path(one), f'kind = "docker"\nengine = "{engine.url}"\n{more}')
                what = f"server's memory over a state of 1 GB and as much back, {name}"
                rows.append(Row(what, f"+{value:.0f} MB", "", None, f"≤ {LIMIT} MB", value <= LIMIT))
        finally:
            registry.kill()
            engine.down()
    return rows


def request_weight() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        weight = weigh(Path(folder), SOURCE, JOBS)
    what = f"a sweep of {JOBS} jobs with a cell of {SOURCE >> 20} MiB:"
    return [
        _row(f"{what} its server's disk", weight.disk, 1.5 * SOURCE),
        _row(f"{what} its server's memory at the peak", weight.peak, 40 * SOURCE),
        _row(f"{what} its server's memory after its end", weight.kept, 2 * SOURCE),
    ]


def _row(what: str, value: float, limit: float) -> Row:
    return Row(what, f"{value / 1e6:+.0f} MB", "", None, f"≤ {limit / 1e6:.0f} MB", value <= limit)


if __name__ == "__main__":
    print(markdown([*host_memory(), *request_weight()]))
