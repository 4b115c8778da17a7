"""The history of jobs, in SQLite: it only adds to what targets say, and can be lost without losing a running job."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from docker_kernel.batch.record import FINAL, JobRecord
from docker_kernel.errors import JobError

log = logging.getLogger(__name__)

VERSION = 2
_SCHEMA = [
    "DROP TABLE IF EXISTS jobs",
    "CREATE TABLE jobs (job_id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, "
    "record TEXT NOT NULL)",
    "CREATE INDEX jobs_owner ON jobs (owner, created)",
    f"PRAGMA user_version = {VERSION}",
]


class Ledger:
    """Jobs' records, each as JSON; a disk that refuses is logged, never the job's problem."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.path.exists():
            self.path.touch(mode=0o600)  # its folder may be older, and open to others
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            # A power failure may lose the last rows, which the engine still knows; no write waits for the disk.
            connection.execute("PRAGMA synchronous = OFF")
            with connection:
                if self._version(connection) < VERSION:
                    connection.execute("BEGIN IMMEDIATE")
                    # Another thread or process may have been quicker.
                    for statement in _SCHEMA if self._version(connection) < VERSION else ():
                        connection.execute(statement)
                yield connection
        finally:
            connection.close()

    def _version(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def save(self, *records: JobRecord) -> None:
        """Write jobs' rows, new or again."""
        rows = [(one.id, one.owner, one.state, one.created, one.model_dump_json()) for one in records]
        try:
            with self._open() as connection:
                connection.executemany("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?)", rows)
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be written: %s", self.path, error)

    def find(
        self,
        owner: str | None = None,
        job: str | None = None,
        unsettled: bool = False,
        limit: int = 100_000,
        skip: int = 0,
    ) -> list[JobRecord]:
        """Jobs, the newest first: of one owner, of one id (or its beginning), or only those not done with.

        Args:
            limit: how many at most, when so many of the newest are skipped.
        """
        where, values = ["1"], []
        if owner is not None:
            where.append("owner = ?")
            values.append(owner)
        if job is not None:
            where.append("substr(job_id, 1, length(?)) = ?")
            values += [job, job]
        if unsettled:
            where.append(f"(state NOT IN ({','.join('?' * len(FINAL))}) OR NOT json_extract(record, '$.settled'))")
            values += sorted(FINAL)
        query = (
            f"SELECT record FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?"
        )
        found = []
        try:
            with self._open() as connection:
                rows = connection.execute(query, (*values, limit, skip)).fetchall()
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be read: %s", self.path, error)
            return []
        for (text,) in rows:
            try:
                found.append(JobRecord.model_validate_json(text))
            except ValidationError as error:
                log.warning("a row of the ledger %s is not understood: %s", self.path, error)
        return found

    def changed(self) -> int:
        """A number that is another one after each change, whichever process made it."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def under_way(self) -> list[tuple[str, str]]:
        """The id and owner of each job that has not ended."""
        query = f"SELECT job_id, owner FROM jobs WHERE state NOT IN ({','.join('?' * len(FINAL))})"
        try:
            with self._open() as connection:
                return [(str(job), str(owner)) for job, owner in connection.execute(query, sorted(FINAL))]
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be read: %s", self.path, error)
            return []

    def get(self, job: str) -> JobRecord:
        """One job by its id, or an unambiguous beginning of it; raises JobError."""
        found = self.find(job=job)
        if len(found) != 1:
            problem = f"Several jobs' ids begin with {job!r}" if found else f"There is no job {job!r}"
            raise JobError(f"{problem}: `docker-kernel jobs list` shows them.")
        return found[0]

    def delete(self, *jobs: str) -> None:
        """Forget jobs."""
        try:
            with self._open() as connection:
                connection.executemany("DELETE FROM jobs WHERE job_id = ?", [(job,) for job in jobs])
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be written: %s", self.path, error)
