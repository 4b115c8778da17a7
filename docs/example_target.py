"""A complete target: jobs as containers that the `docker` command makes, so many at once as `slots` says.

It is there to be read: it has all that a target needs, and uses nothing but that command. What waits for a slot waits
in a process of its own, the keeper, as a job may begin when no host process is there any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypedDict

from pydantic import Field

from docker_kernel import background, labels
from docker_kernel.batch.layers import Layer, job_layers, tar_content
from docker_kernel.batch.manifest import MAX_MANIFEST
from docker_kernel.batch.result_store import ResultFolder
from docker_kernel.config import TargetConfig
from docker_kernel.engine import File, archive
from docker_kernel.errors import DockerKernelError, EngineError, JobError
from docker_kernel.kernel import guest_files
from docker_kernel.kernel.handle import KernelHandle
from docker_kernel.targets.base import Check, JobTask, Note, Outcome, Output, Package, Progress, Target, partly_started

IMAGES = "docker-kernel-example"
"""The repository of jobs' images; the tag is the dispatch."""

GONE = ("No such container", "is already in progress")
"""What the command says of a container that is removed, or is about to be."""

SPEC = f"{guest_files.RUN}/job.json"
PAUSE = 0.2
"""Seconds between two looks at a job that waits."""

STOP_SECONDS = 10
"""Between SIGTERM and SIGKILL."""

KEEPER = """
import fcntl, subprocess, sys, time
folder, count, *containers = sys.argv[1:]
only = open("%s/%s" % (folder, containers[0]), "w")
try:
    fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit()  # another one is at it
held = None
while held is None:
    for number in range(int(count)):
        slot = open("%s/slot-%d" % (folder, number), "w")
        try:
            fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = slot
            break
        except OSError:
            slot.close()
    else:
        time.sleep(0.1)
states = subprocess.run(["docker", "inspect", "--format", "{{.State.Status}}", *containers], stdout=subprocess.PIPE)
if set(states.stdout.split()) == {b"created"} and subprocess.call(["docker", "start", *containers]) == 0:
    waiting = [subprocess.Popen(["docker", "wait", one], stdout=subprocess.PIPE, text=True) for one in containers]
    while None in [one.poll() for one in waiting]:
        if [one for one in waiting if one.poll() is not None and one.stdout.read().strip() not in ("", "0")]:
            # Tasks that wait for one that has failed would wait for ever.
            subprocess.call(["docker", "stop", *containers])
        time.sleep(0.1)
"""
"""Waits for a slot, starts a job's containers, and holds the slot until they have ended. However many a job has, one of
them does so, and none starts what ran already."""


class ExampleConfig(TargetConfig):
    """`kind = "example"`: the engine that the `docker` command reaches."""

    folder: Path = Field(description="Where the slots are.")
    slots: int = Field(1, gt=0, description="How many jobs run at once.")


class ExamplePrepared(TypedDict):
    """What a dispatch's jobs start from: an image, the kernel's user and Python in it, and the kernel's own limits."""

    image: str
    user: str
    python: str
    network: str
    memory: int | None
    cpus: float | None


class ExampleJob(TypedDict):
    """One attempt of a job: the names of its containers, by rank, and of the network that several have, or ""."""

    containers: list[str]
    network: str


class ExampleTarget(Target[ExampleConfig, ExamplePrepared, ExampleJob]):
    """Containers, made by the `docker` command."""

    kind = "example"
    Config: ClassVar = ExampleConfig
    default_max_jobs = 100  # it has a queue of its own

    async def check(self) -> list[Check]:
        try:
            version = await docker("version", "--format", "{{.Server.Version}}")
        except DockerKernelError as error:
            return [Check("docker", "none", False, str(error))]
        return [Check("docker", version, True), Check("slots", str(self.config.slots), True)]

    # Once for all jobs of a dispatch

    async def missing(self, kernel: KernelHandle, package: Package) -> int:
        return sum(layer.size for layer in await job_layers(kernel, package))

    async def prepare(self, kernel: KernelHandle, package: Package, progress: Progress) -> ExamplePrepared:
        layers = await job_layers(kernel, package)
        container, image = f"{IMAGES}-{package.package_id}", f"{IMAGES}:{package.package_id}"
        try:
            await docker("create", "--name", container, package.image, "true")
            for number, layer in enumerate(layers):
                progress(f"copies part {number + 1} of {len(layers)}")
                await background.in_own_thread(_copy_into, container, layer)
            await docker("commit", container, image)
        except BaseException:
            await asyncio.shield(self.abandon(package.package_id))
            raise
        finally:
            await asyncio.shield(docker("rm", "--force", container))
        return {
            "image": image,
            "user": kernel.user,
            "python": kernel.python,
            "network": kernel.config.network,
            "memory": kernel.config.memory,
            "cpus": kernel.config.cpus,
        }

    async def abandon(self, package_id: str) -> None:
        await docker("rm", "--force", f"{IMAGES}-{package_id}")
        await docker("image", "rm", f"{IMAGES}:{package_id}", unless="No such image")

    async def release(self, prepared: ExamplePrepared) -> None:
        await docker("image", "rm", "--force", prepared["image"], unless="No such image")

    # A job

    async def start(self, task: JobTask, prepared: ExamplePrepared) -> ExampleJob:
        await self._remove_earlier(task)
        job: ExampleJob = {"containers": task.names(), "network": task.label if task.replicas > 1 else ""}
        try:
            if job["network"]:
                await docker("network", "create", "--label", f"{labels.JOB_ID}={task.job_id}", job["network"])
            for rank, name in enumerate(job["containers"]):
                await docker("create", *self._options(task, prepared, name, job["network"]))
                await docker("cp", "-", f"{name}:/", given=archive([_spec_file(task, prepared, rank)]))
            await asyncio.to_thread(self._keep, job)
        except BaseException:
            await asyncio.shield(self.clean(job))
            raise
        return job

    def _options(self, task: JobTask, prepared: ExamplePrepared, name: str, network: str) -> list[str]:
        memory, cpus = task.memory or prepared["memory"], task.cpus or prepared["cpus"]
        marks = {labels.KIND: labels.KIND_JOB, labels.JOB_ID: task.job_id, labels.USER: str(os.getuid())}
        mounts = [
            f"type={'volume' if one.volume else 'bind'},source={one.source},target={one.at},readonly"
            for one in task.inputs
        ]
        return [
            *("--name", name, "--user", prepared["user"], "--workdir", "/", "--cap-drop", "ALL"),
            *("--network", network or prepared["network"], "--entrypoint", prepared["python"]),
            *(part for key, value in marks.items() for part in ("--label", f"{key}={value}")),
            *(part for mount in mounts for part in ("--mount", mount)),
            *(("--memory", str(memory), "--memory-swap", str(memory)) if memory else ()),
            *(("--cpus", str(cpus)) if cpus else ()),
            *(("--gpus", task.gpus) if task.gpus else ()),
            *(prepared["image"], "-I", "-S", f"{guest_files.LIB}/docker_kernel/guest/run_job.py", SPEC),
        ]

    def _keep(self, job: ExampleJob) -> None:
        """Have a job started when there is a slot, by a process that outlives this one."""
        self.config.folder.mkdir(parents=True, exist_ok=True)
        arguments = [str(self.config.folder), str(self.config.slots), *job["containers"]]
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", KEEPER, *arguments],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def _remove_earlier(self, task: JobTask) -> None:
        """Remove what earlier attempts left."""
        mark = f"label={labels.JOB_ID}={task.job_id}"
        for kind in ("container", "network") if task.attempt > 1 else ():
            if left := (await docker(kind, "ls", "--quiet", *(["--all"] * (kind == "container")), "--filter", mark)):
                await docker(kind, "rm", *(["--force"] * (kind == "container")), *left.split())

    async def find(self, task: JobTask, prepared: ExamplePrepared) -> ExampleJob | None:
        job: ExampleJob = {"containers": task.names(), "network": task.label if task.replicas > 1 else ""}
        # Without force, the engine refuses to remove what runs. What ran already has to stay.
        for name in job["containers"]:
            if await _state(name) == "created":
                with contextlib.suppress(EngineError):
                    await docker("rm", name)
        begun = [name for name in job["containers"] if await _state(name)]
        if len(begun) == task.replicas:
            return job
        await self.clean(job)
        if begun:
            raise JobError(partly_started(len(begun), task))
        return None

    async def output(self, job: ExampleJob, after: Mapping[int, str]) -> AsyncIterator[Output | Note]:
        waits = False
        while "created" in [await _state(name) for name in job["containers"]]:
            if not waits:
                waits = True
                yield Note(f"all {self.config.slots} slots are taken")
                await asyncio.to_thread(self._keep, job)  # its keeper may have gone with the machine
            await asyncio.sleep(PAUSE)
        pieces: asyncio.Queue[Output | None] = asyncio.Queue(maxsize=64)

        async def read(rank: int, name: str) -> None:
            try:
                async for piece in _log(rank, name, int(after.get(rank, 0))):
                    await pieces.put(piece)
            finally:
                await pieces.put(None)

        readers = [asyncio.create_task(read(rank, name)) for rank, name in enumerate(job["containers"])]
        try:
            left = len(readers)
            while left:
                piece = await pieces.get()
                if piece is None:
                    left -= 1
                else:
                    yield piece
        finally:
            for reader in readers:
                reader.cancel()

    async def outcome(self, job: ExampleJob) -> Outcome:
        ends: list[tuple[str, int, bool]] = []
        for name in job["containers"]:
            asked = "{{.State.Status}} {{.State.FinishedAt}} {{.State.ExitCode}} {{.State.OOMKilled}}"
            try:
                await docker("wait", name)
                status, finished, number, killed = (await docker("inspect", "--format", asked, name)).split()
            except EngineError as error:
                return Outcome(-1, lost=f"its container has gone ({error})")
            if status in ("removing", "dead"):
                return Outcome(-1, lost="its container has gone: somebody removes it")
            ends.append((finished, int(number), killed == "true"))
        # The one that failed first is the reason of the others' end.
        _, code, oom = min((end for end in ends if end[1]), default=ends[0])
        return Outcome(code, True if oom else None if code == 128 + signal.SIGKILL else False)

    async def cancel(self, job: ExampleJob) -> None:
        for name in job["containers"]:
            if await _state(name) == "created":
                await docker("rm", name, unless="No such container")
        left = [name for name in job["containers"] if await _state(name) == "running"]
        if left:
            await docker("stop", "--time", str(STOP_SECONDS), *left)

    async def result(self, job: ExampleJob, digest: str, folder: Path) -> None:
        place = ResultFolder(folder, self.config.max_result)

        def bring() -> None:
            state = f"{job['containers'][0]}:{guest_files.STATE}"
            manifest = _copied_from(f"{state}/manifests/{digest[7:]}")
            place.write("manifests", digest, tar_content(manifest), MAX_MANIFEST)
            for blob in place.missing_blobs(digest):
                place.write("blobs", blob, tar_content(_copied_from(f"{state}/blobs/{blob[7:]}")))

        if not await asyncio.to_thread(place.complete, digest):
            await background.in_own_thread(bring)

    async def clean(self, job: ExampleJob) -> None:
        await docker("rm", "--force", "--volumes", *job["containers"])
        if job["network"]:
            await docker("network", "rm", job["network"], unless="not found")
        await asyncio.to_thread((self.config.folder / job["containers"][0]).unlink, missing_ok=True)


async def docker(*arguments: str, given: bytes | None = None, unless: str = "\0") -> str:
    """Run the command, and return what it prints.

    Args:
        given: its standard input.
        unless: what it says where it had nothing to do.

    Raises:
        EngineError: it failed.
    """

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["docker", *arguments], input=given or b"", capture_output=True, check=False)

    done = await background.in_own_thread(run)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode and not any(one in said for one in (unless, *GONE)):
        raise EngineError(said.partition("\n")[0] or f"docker {arguments[0]} failed")
    return done.stdout.decode(errors="replace").strip()


async def _state(container: str) -> str:
    """What the engine calls a container's state; "" where there is none."""
    return await docker("inspect", "--format", "{{.State.Status}}", container, unless="No such object")


async def _log(rank: int, container: str, given: int) -> AsyncIterator[Output]:
    """A container's log to its end, behind so many bytes that were given out before."""
    reading = await asyncio.create_subprocess_exec(
        *("docker", "logs", "--follow", container), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert reading.stdout is not None
    skip = given
    try:
        while data := await reading.stdout.read(1 << 16):
            data, skip = data[skip:], max(0, skip - len(data))
            given += len(data)
            if data:
                yield Output(rank, data, str(given))
    finally:
        with contextlib.suppress(ProcessLookupError):
            reading.kill()
        await reading.wait()


def _spec_file(task: JobTask, prepared: ExamplePrepared, rank: int) -> File:
    """What the runner of a task reads. Only its user can, and it is gone before the job's code runs."""
    spec = {**task.spec, "secrets": dict(task.secrets)}
    if task.replicas > 1:
        place = {"master_addr": task.names()[0], "master_port": 29500}
        spec |= {"rank": rank, "world_size": task.replicas, **place}
    uid, _, gid = prepared["user"].partition(":")
    return File(SPEC.lstrip("/"), json.dumps(spec).encode(), mode=0o600, uid=int(uid), gid=int(gid))


def _copy_into(container: str, layer: Layer) -> None:
    with subprocess.Popen(["docker", "cp", "-", f"{container}:/"], stdin=subprocess.PIPE) as copying:
        assert copying.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            for piece in layer.open():
                copying.stdin.write(piece)
            copying.stdin.close()
    if copying.returncode:
        raise JobError("The state could not be copied: has the engine's disk space?")


def _copied_from(path: str) -> Iterator[bytes]:
    """The tar archive of a file of a container, in pieces."""
    with subprocess.Popen(["docker", "cp", path, "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as copying:
        assert copying.stdout is not None
        pieces: Iterable[bytes] = iter(lambda: copying.stdout.read(1 << 20), b"")  # type: ignore[union-attr]
        yield from pieces
    if copying.returncode:
        raise JobError("The result is gone: its container has it no more.")
