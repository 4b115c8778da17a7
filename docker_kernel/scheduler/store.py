"""The jobs in jupyter-scheduler's database that run in containers. Its functions block: they are called in threads."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from jupyter_scheduler.models import DescribeJob, Status
from jupyter_scheduler.orm import Job, create_session
from sqlalchemy import or_

from docker_kernel.scheduler.environments import IMAGE, KERNEL

ACTIVE = (Status.QUEUED, Status.IN_PROGRESS, Status.STOPPING)

MESSAGE = 1000
"""Characters of a status message."""


class JobStore:
    """Reads and changes jobs.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self.id = hashlib.sha256(url.encode()).hexdigest()[:16]
        self._session = create_session(url)

    def active(self) -> list[DescribeJob]:
        """Our jobs that are not over."""
        ours = or_(*(Job.runtime_environment_name.startswith(prefix) for prefix in (KERNEL, IMAGE)))
        with self._session() as session:
            found = session.query(Job).filter(Job.status.in_(ACTIVE), ours).order_by(Job.create_time).all()
            return [DescribeJob.from_orm(one) for one in found]

    def change(self, job_id: str, having: Collection[Status], **values: Any) -> bool:
        """Change a job if it has one of these states still; returns whether it had."""
        if "status_message" in values:
            values["status_message"] = values["status_message"][:MESSAGE]
        with self._session() as session:
            jobs = session.query(Job).filter(Job.job_id == job_id, Job.status.in_(having))
            changed = jobs.update(values, synchronize_session=False)
            session.commit()
        return bool(changed)
