"""jupyter-scheduler's scheduler, for 2.12: jobs in our environments run in containers, all others as they did.

What the REST API calls is here, and returns at once; what has to do with the engine is in runs.py.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_scheduler.exceptions import IdempotencyTokenError, InputUriError, SchedulerError
from jupyter_scheduler.models import (
    CreateJob,
    CreateJobDefinition,
    DescribeJob,
    Status,
)
from jupyter_scheduler.orm import Job, JobDefinition
from jupyter_scheduler.scheduler import Scheduler
from traitlets import Float, Integer

from docker_kernel import background
from docker_kernel.containerize.plan import read_notebook
from docker_kernel.errors import DockerKernelError
from docker_kernel.guest import parameters
from docker_kernel.scheduler import inputs
from docker_kernel.scheduler.environments import KERNEL, is_ours
from docker_kernel.scheduler.runs import Runs, options
from docker_kernel.scheduler.store import JobStore


class DockerScheduler(Scheduler):  # type: ignore[misc]
    """Runs notebook jobs in containers that outlive the server."""

    timeout = Float(
        0,
        config=True,
        help="How long a run may take, in seconds, where its runtime_environment_parameters do not say; 0: no limit.",
    )

    max_starting = Integer(2, min=1, config=True, help="How many jobs' images are made at once.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._runs = Runs(JobStore(self.db_url), self.get_staging_paths, self.timeout, self.max_starting, self.log)
        self._runs.begin()

    def create_job(self, model: CreateJob) -> str:
        """Record a job; its container starts in the background.

        Raises:
            InputUriError, IdempotencyTokenError, SchedulerError: it cannot be run as it is asked for.
        """
        if not is_ours(model.runtime_environment_name):
            return str(super().create_job(model))
        if not model.job_definition_id and not self.file_exists(model.input_uri):
            raise InputUriError(model.input_uri)
        self._check(model)
        with self.db_session() as session:
            token = model.idempotency_token
            if token and session.query(Job).filter(Job.idempotency_token == token).first():
                raise IdempotencyTokenError(token)
            model.output_formats = model.output_formats or []
            # STOPPED until its files are there: nothing begins with half of them.
            job = Job(**model.dict(exclude_none=True, exclude={"input_uri"}), status=Status.STOPPED)
            session.add(job)
            session.commit()
            staged = self.get_staging_paths(DescribeJob.from_orm(job))
            try:
                if model.package_input_folder:
                    copied = self.copy_input_folder(model.input_uri, staged["input"])
                    job.packaged_files = [name for name in copied if name != Path(model.input_uri).name]
                else:
                    self.copy_input_file(model.input_uri, staged["input"])
            except Exception:
                session.delete(job)
                session.commit()
                shutil.rmtree(Path(staged["input"]).parent, ignore_errors=True)
                raise
            job.status = Status.QUEUED
            session.commit()
            job_id = str(job.job_id)
        self._runs.wake()
        return job_id

    def create_job_definition(self, model: CreateJobDefinition) -> str:
        """Record a schedule, if a job of it could be run now."""
        if is_ours(model.runtime_environment_name) and self.file_exists(model.input_uri):
            self._check(model)
            if model.package_input_folder:
                with _refused():
                    inputs.check(Path(self.root_dir, model.input_uri))
        return str(super().create_job_definition(model))

    def copy_input_folder(self, input_uri: str, nb_copy_to_path: str) -> list[str]:
        """Copy a notebook with its folder to the staging folder of a job or schedule.

        For one that runs in a container: only what would go into an image. No link is followed, as the notebook's
        kernel may have made it, and the whole is bounded.

        Returns:
            The files' names, relative to that folder.

        Raises:
            SchedulerError: the folder is too large.
        """
        folder = Path(nb_copy_to_path).parent
        if not self._is_ours(folder.name):
            copied: list[str] = super().copy_input_folder(input_uri, nb_copy_to_path)
            return copied
        with _refused():
            names = inputs.copy(Path(self.root_dir, input_uri), folder)
        self.copy_input_file(input_uri, nb_copy_to_path)
        return [Path(input_uri).name, *names]

    def _is_ours(self, staged_id: str) -> bool:
        """Whether a job or schedule runs in containers, by its id."""
        with self.db_session() as session:
            found = (
                session.query(Job.runtime_environment_name).filter(Job.job_id == staged_id).first()
                or session.query(JobDefinition.runtime_environment_name)
                .filter(JobDefinition.job_definition_id == staged_id)
                .first()
            )
        return found is not None and is_ours(found[0])

    def _check(self, model: CreateJob | CreateJobDefinition) -> None:
        """Refuse wrong parameters at once, as far as reading the notebook tells; an image checks its own."""
        try:
            options(model.runtime_environment_parameters)
            if model.runtime_environment_name.startswith(KERNEL):
                notebook = read_notebook(Path(self.root_dir, model.input_uri))
                given = {name: parameters.Text(value) for name, value in (model.parameters or {}).items()}
                parameters.check(parameters.find(notebook).parameters, given)
        except (DockerKernelError, parameters.ParameterError) as error:
            raise SchedulerError(str(error)) from None

    async def stop_job(self, job_id: str) -> None:
        """Stop a job: its container is told to end, and ended if it does not."""
        if is_ours(self.get_job(job_id, False).runtime_environment_name):
            await background.run(self._runs.stop(job_id))
        else:
            super().stop_job(job_id)

    async def delete_job(self, job_id: str) -> None:
        """Delete a job, with its container if it has one."""
        job = self.get_job(job_id, False)
        if is_ours(job.runtime_environment_name):
            try:
                await background.run(self._runs.forget(job_id))
            except DockerKernelError as error:
                raise SchedulerError(str(error)) from None
        elif job.status == Status.IN_PROGRESS:
            super().stop_job(job_id)
        with self.db_session() as session:
            session.query(Job).filter(Job.job_id == job_id, Job.status == Status.IN_PROGRESS).update(
                {"status": Status.STOPPED}
            )
            session.commit()
        super().delete_job(job_id)

    async def delete_job_definition(self, job_definition_id: str) -> None:
        """Delete a schedule with its jobs."""
        with self.db_session() as session:
            found = session.query(Job.job_id).filter(Job.job_definition_id == job_definition_id).all()
        for (job_id,) in found:
            await self.delete_job(job_id)
        super().delete_job_definition(job_definition_id)

    def get_job(self, job_id: str, job_files: bool | None = True) -> DescribeJob:
        """A job; without `job_files`, as the manager of its files wants it: what the notebook wrote is among them."""
        model = super().get_job(job_id, job_files)
        if not job_files and is_ours(model.runtime_environment_name):
            model.package_input_folder = bool(model.packaged_files)
        return model

    def add_job_files(self, model: DescribeJob) -> None:
        """Fill in a job's files; those that the notebook wrote are shown also where its folder was not sent along."""
        asked = model.package_input_folder
        if is_ours(model.runtime_environment_name):
            model.package_input_folder = bool(model.packaged_files)
        super().add_job_files(model)
        model.package_input_folder = asked


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Says what is wrong with a request as the REST API does."""
    try:
        yield
    except DockerKernelError as error:
        raise SchedulerError(str(error)) from None
