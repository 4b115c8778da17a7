"""What a test run that was cut off has left behind, and its removal.

A fixture's own clean-up takes down what it made. But a run that is interrupted has no time for all of them:
pytest-xdist ends workers after ten seconds, and whoever is killed cleans nothing up. So everything that a run makes
outside its processes can be found again by the run's name: its processes have it in their environment, its second
engines are listed in its folder, its containers belong to the kernels and jobs that its folders know of. The run
removes what is left at its end, however that comes; after a SIGKILL, the next run does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from docker_kernel import labels

RUN = "DOCKER_KERNEL_TEST_RUN"
"""Names the variable with the run's name, which all its processes inherit."""

IMAGE_LABEL = "io.docker-kernel.test-run"
"""The label that says of an image which run made it, or what it is built on."""

PREFIX = "dk-run-"


def begin() -> bool:
    """Give this run a name and a folder; False where a process that belongs to it already has, as in its workers."""
    if RUN in os.environ:
        return False
    os.environ[RUN] = f"{os.getpid()}-{secrets.token_hex(3)}"
    folder().mkdir(mode=0o700)
    return True


def folder() -> Path:
    """The run's folder, with a short name, as sockets go there."""
    return Path(tempfile.gettempdir()) / (PREFIX + os.environ[RUN])


def add_engine(namespace: str, links: list[str], data: Path) -> None:
    """Note a second engine before it is made."""
    kept = {"namespace": namespace, "links": links, "data": str(data)}
    (folder() / f"{namespace}.engine").write_text(json.dumps(kept))


def forget_engine(namespace: str) -> None:
    """Note that a second engine was taken down."""
    (folder() / f"{namespace}.engine").unlink(missing_ok=True)


def add_swarm() -> None:
    """Note that the run has the machine's Swarm of two nodes."""
    if RUN in os.environ:
        (folder() / "swarm").touch()


def add_homes(basetemp: Path) -> None:
    """Note where this run's folders are, whose connection files and ledgers name its kernels and jobs."""
    with (folder() / "homes").open("a") as file:
        file.write(f"{basetemp}\n")


def clean() -> list[str]:
    """Remove all that this run has left; returns what that was, in words."""
    found = _clean(os.environ[RUN], folder())
    shutil.rmtree(folder(), ignore_errors=True)
    del os.environ[RUN]
    return found


def clean_killed_runs() -> list[str]:
    """Remove what runs have left that were killed."""
    found: list[str] = []
    for one in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        name = one.name.removeprefix(PREFIX)
        if not Path("/proc", name.partition("-")[0]).exists():
            found += _clean(name, one)
            shutil.rmtree(one, ignore_errors=True)
    return found


def _clean(name: str, run: Path) -> list[str]:
    found = [f"process {pid} ({what})" for pid, what in _end_processes(name)]
    for file in run.glob("*.engine"):
        kept = json.loads(file.read_text())
        remove_engine(kept["namespace"], kept["links"], Path(kept["data"]))
        found.append(f"the second engine in {kept['data']}")
    from tests import swarm  # which notes there that it is up

    if (run / "swarm").exists() and swarm.take_down_if_left():
        found.append("the Swarm of two nodes")
    homes = (run / "homes").read_text().split() if (run / "homes").exists() else []
    containers = _containers(homes)
    if containers:
        subprocess.run(["docker", "rm", "--force", "--volumes", *containers], capture_output=True, check=False)
        found += [f"container {one}" for one in containers]
    return found + [f"image {one}" for one in _remove_images(name)]


def _remove_images(name: str) -> list[str]:
    """Remove the throwaway images of a run, and what was built on them."""

    def docker(*arguments: str) -> list[str]:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout.split()

    images = docker("images", "--quiet", "--no-trunc", "--filter", f"label={IMAGE_LABEL}={name}")
    if images:
        docker("rmi", "--force", *images)
    return images


def _end_processes(name: str) -> Iterator[tuple[int, str]]:
    """End the processes that have a run's name, but those that this one descends from."""
    wanted = f"{RUN}={name}".encode()
    spared = set(_ancestors())
    for again in range(3):
        left = [pid for pid in _processes_with(wanted) if pid not in spared]
        for pid in left:
            with contextlib.suppress(OSError):
                what = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
                os.kill(pid, signal.SIGKILL)
                if not again:
                    yield pid, what.strip()
        if not left:
            return
        time.sleep(0.2)


def _processes_with(variable: bytes) -> Iterator[int]:
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable in (one / "environ").read_bytes().split(b"\0"):
                yield int(one.name)


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _containers(homes: list[str]) -> list[str]:
    """The containers of the kernels and jobs that the folders of a run know of, and those that have one mounted."""
    kernels: set[str] = set()
    jobs: set[str] = set()
    for ledger in (file for home in homes for file in Path(home).rglob("jobs.sqlite")):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(ledger)) as database:
            for job, record in database.execute("SELECT job_id, record FROM jobs"):
                jobs.add(job)
                with contextlib.suppress(ValueError):  # some tests write what is no record
                    kernels.add(json.loads(record).get("kernel_id", ""))
    names = ("id", labels.CONNECTION_FILE, labels.KERNEL_ID, labels.JOB_ID)
    form = "\t".join(["{{.ID}}", "{{.Mounts}}", *(f'{{{{.Label "{name}"}}}}' for name in names[1:])])
    command = ["docker", "ps", "--all", "--no-trunc", "--filter", f"label={labels.KIND}", "--format", form]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = []
    for line in listed.splitlines():
        container, mounts, connection_file, kernel, job = line.split("\t")
        paths = [connection_file, *mounts.split(",")]
        ours = any(path.startswith(home.rstrip("/") + "/") for home in homes for path in paths)
        if ours or job in jobs - {""} or kernel in kernels - {""}:
            found.append(container)
    return found


def remove_engine(namespace: str, links: list[str], data: Path) -> None:
    """Remove a second engine whose dockerd has ended: what it ran, its network, its mounts, its folder."""
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    for pid in pids.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    for one in Path("/proc").glob("[0-9]*"):
        # Shims of its containers are in the host's network, and name the engine's folder.
        with contextlib.suppress(OSError):
            if str(data).encode() in (one / "cmdline").read_bytes() and int(one.name) != os.getpid():
                os.kill(int(one.name), signal.SIGKILL)
    subprocess.run(["ip", "link", "del", links[0]], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{data}/"):
            subprocess.run(["umount", "-l", line.split()[1]], check=False)
    shutil.rmtree(data, ignore_errors=True)
