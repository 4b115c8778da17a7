"""Runs a notebook image as a job on one of the config's targets, and brings its files home.

Parameters are checked by the image's labels before anything starts. A run is a job like any other
(batch/image_jobs.py): it is in the ledger, and goes on when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from docker_kernel.batch import image_jobs
from docker_kernel.batch.image_jobs import ImageJob
from docker_kernel.batch.image_origin import entry_point
from docker_kernel.batch.manager import JobManager, manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.containerize.inspect import Described, describe, read_schema
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError, JobError
from docker_kernel.guest import parameters
from docker_kernel.guest.parameters import Parameter, ParameterError, Text

PARAMETERS_FILE = "parameters"

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RunRequest:
    """One run of a notebook image.

    Args:
        image: its name on the engine that `docker` reaches.
        values: parameters as they were typed.
        params_file: a JSON or YAML file of parameters, read in the container.
        output: the folder for results; it is made if it is not there.
        urls: where else results go: URLs that the image reaches.
        target: where it runs: one of the config's.
        timeout, cell_timeout: seconds; None for the image's own.
        cpus: fractions allowed; memory: bytes.
        env: variables for the container, such as credentials.
        retries: how often it is tried again when it fails.
    """

    image: str
    output: Path
    values: Mapping[str, str] = field(default_factory=dict)
    params_file: Path | None = None
    urls: tuple[str, ...] = ()
    target: str = "local"
    no_input: bool = False
    timeout: float | None = None
    cell_timeout: float | None = None
    cpus: float | None = None
    memory: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    retries: int = 0


class WrongParameters(ContainerizeError):
    """What was given are not the image's parameters; nothing was run."""


async def run(request: RunRequest, on_event: OnEvent, detach: bool = False) -> JobRecord:
    """Run an image to its end, when its files are in the output folder; returns how it ended.

    When this is cancelled, the run is stopped, which lets it write what it has.

    Args:
        on_event: gets what the notebook prints ("output"), its progress, and how the job goes ("state").
        detach: return as soon as the run needs this process no more.

    Raises:
        WrongParameters, ContainerizeError, ImageMissing, EngineError, JobError: with a sentence for the user; then
            nothing was started.
    """
    jobs, job_id = manager(), secrets.token_hex(6)
    begun = asyncio.Event()

    async def pass_on(record: JobRecord, event: dict[str, Any]) -> None:
        if record.id == job_id:
            if record.placed is not None:
                begun.set()
            on_event(event)

    owner = image_jobs.OWNER + request.image
    jobs.listen(owner, pass_on)
    try:
        await _start(request, job_id, owner)
        ended = asyncio.ensure_future(jobs.wait(job_id))
        if not detach:
            return await asyncio.shield(ended)
        starting = asyncio.ensure_future(begun.wait())
        await asyncio.wait([ended, starting], return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        return await asyncio.to_thread(jobs.get, job_id)
    except asyncio.CancelledError:
        await asyncio.shield(_stop(jobs, job_id))
        raise
    finally:
        jobs.unlisten(owner, pass_on)


async def _stop(jobs: JobManager, job_id: str) -> None:
    """Stop a run, which may have come to be a job although its start was cut off."""
    with contextlib.suppress(JobError):  # there is no such job
        await jobs.cancel(job_id, "it was stopped")
        await jobs.wait(job_id)


async def _start(request: RunRequest, job_id: str, owner: str) -> None:
    engine = await Engine.connect()
    with contextlib.closing(engine):
        described = await describe(engine, request.image)
        values = _checked(request, described)
        file = request.params_file
        entry = entry_point((await engine.images.inspect(described.image_id))["Config"])
        job = ImageJob(
            image=described.image_id,
            reference=request.image,
            notebook=described.notebook,
            command=[*entry, *_arguments(request, values)],
            output=request.output,
            params=values,
            files={} if file is None else {_parameters_path(file): await asyncio.to_thread(_content, file)},
            env=request.env,
            memory=request.memory,
            cpus=request.cpus,
            timeout=request.timeout,
            retries=request.retries,
            id=job_id,
            owner=owner,
        )
        await image_jobs.submit(manager(), engine, job, request.target)


def _checked(request: RunRequest, described: Described) -> Mapping[str, str]:
    """The parameters that were typed; raises WrongParameters where the image would refuse them."""
    known = image_parameters(described.schema)
    # What is in a file is known only where it is read: in the container.
    wanted = known if request.params_file is None else [_optional(one) for one in known]
    try:
        parameters.check(wanted, {name: Text(value) for name, value in request.values.items()})
    except ParameterError as error:
        raise WrongParameters(str(error)) from None
    return request.values


def image_parameters(schema: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that an image's label describes.

    Raises:
        ContainerizeError: it describes none that can be; labels are anybody's.
    """
    try:
        read = read_schema(json.dumps(schema))
        required, found = set(read["required"]), []
        for name, one in read["properties"].items():
            kind = str(one.get("x-type", "any"))
            # A Literal's choices are its type.
            choices = tuple(one.get("enum", ())) if "Literal" not in kind else ()
            described = {"name": name, "type": kind, "required": name in required, "choices": choices}
            found.append(Parameter.from_dict(described))
    except ParameterError as error:
        raise ContainerizeError(f"The image's label of parameters is damaged: {error}") from None
    except (ValidationError, RecursionError):
        raise ContainerizeError(
            "The image's label of parameters is damaged: containerize its notebook again."
        ) from None
    return found


def _optional(one: Parameter) -> Parameter:
    return Parameter(one.name, one.type, choices=one.choices)


def _arguments(request: RunRequest, values: Mapping[str, str]) -> list[str]:
    made = [part for name, value in values.items() for part in ("-p", f"{name}={value}")]
    made += [part for url in request.urls for part in ("--output", url)]
    if request.params_file is not None:
        made += ["--params", _parameters_path(request.params_file)]
    made += ["--no-input"] if request.no_input else []
    made += ["--timeout", str(request.timeout)] if request.timeout is not None else []
    return made + (["--cell-timeout", str(request.cell_timeout)] if request.cell_timeout is not None else [])


def _parameters_path(file: Path) -> str:
    return f"/tmp/{PARAMETERS_FILE}{file.suffix or '.yaml'}"


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise WrongParameters(f"The file {file} cannot be read: {error.strerror}.") from None
