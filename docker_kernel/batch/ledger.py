"""The history of jobs, in SQLite: it only adds to what targets say, and can be lost without losing a running job."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from docker_kernel.batch.record import FINAL, JobRecord, digest_of
from docker_kernel.errors import JobError

log = logging.getLogger(__name__)

VERSION = 3
_SOURCES = "CREATE TABLE sources (digest TEXT PRIMARY KEY, source TEXT NOT NULL)"
_ANEW = [
    "DROP TABLE IF EXISTS jobs",
    "CREATE TABLE jobs (job_id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, "
    "record TEXT NOT NULL)",
    "CREATE INDEX jobs_owner ON jobs (owner, created)",
    _SOURCES,
]
_FROM_2 = [
    _SOURCES,
    "INSERT OR IGNORE INTO sources SELECT digest_of(source), source FROM "
    "(SELECT json_extract(record, '$.source') AS source FROM jobs WHERE json_valid(record)) WHERE source IS NOT NULL",
    "UPDATE jobs SET record = json_set(json_remove(record, '$.source'), '$.source_digest', "
    "digest_of(json_extract(record, '$.source'))) WHERE json_valid(record) AND json_extract(record, '$.source') "
    "IS NOT NULL",
]
"""In a ledger of version 2, each job's record had its source in it."""

_UNUSED = (
    "DELETE FROM sources WHERE digest NOT IN (SELECT json_extract(record, '$.source_digest') FROM jobs "
    "WHERE json_valid(record) AND json_extract(record, '$.source_digest') IS NOT NULL)"
)


class Ledger:
    """Jobs' records, each as JSON, and what they run, each source once; a disk that refuses is logged, never the job's
    problem."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """The database, in a transaction that ends well unless something is raised."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.path.exists():
            self.path.touch(mode=0o600)  # its folder may be older, and open to others
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            # A power failure may lose the last rows, which the engine still knows; no write waits for the disk.
            connection.execute("PRAGMA synchronous = OFF")
            with connection:
                renewed = self._version(connection) < VERSION
                if renewed:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.create_function("digest_of", 1, digest_of)
                    version = self._version(connection)  # another thread or process may have been quicker
                    for statement in (_FROM_2 if version == 2 else _ANEW) if version < VERSION else ():
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                yield connection
            if renewed:
                _shrink(connection)
        finally:
            connection.close()

    def _version(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def save(self, *records: JobRecord, source: str | None = None) -> None:
        """Write jobs' rows, new or again.

        Args:
            source: what new ones run.
        """
        rows = [(one.id, one.owner, one.state, one.created, one.model_dump_json()) for one in records]
        try:
            with self.opened() as connection:
                if source is not None:
                    connection.execute("INSERT OR IGNORE INTO sources VALUES (?,?)", (digest_of(source), source))
                connection.executemany("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?)", rows)
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be written: %s", self.path, error)

    def keep_source(self, source: str) -> None:
        """Keep what new jobs run before any of them is taken over: without it, none could be started again.

        Raises:
            JobError: it cannot be kept.
        """
        try:
            with self.opened() as connection:
                connection.execute("INSERT OR IGNORE INTO sources VALUES (?,?)", (digest_of(source), source))
        except (OSError, ValueError, sqlite3.Error) as error:
            # SQLite has words of its own for this one.
            why = os.strerror(errno.ENOSPC) if "disk is full" in str(error) else error
            raise JobError(f"The job cannot be kept in {self.path}: {why}.") from None

    def find(
        self,
        owner: str | None = None,
        job: str | None = None,
        unsettled: bool = False,
        limit: int = 100_000,
        skip: int = 0,
        group: str | None = None,
    ) -> list[JobRecord]:
        """Jobs, the newest first: of one owner, of one id (or its beginning), of one dispatch, or only those not done
        with.

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
        if group is not None:
            where.append("json_extract(record, '$.group') = ?")
            values.append(group)
        if unsettled:
            where.append(f"(state NOT IN ({','.join('?' * len(FINAL))}) OR NOT json_extract(record, '$.settled'))")
            values += sorted(FINAL)
        query = (
            f"SELECT record FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, rowid DESC LIMIT ? OFFSET ?"
        )
        found = []
        try:
            with self.opened() as connection:
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

    def source(self, record: JobRecord) -> str | None:
        """What a job runs; None where it is not known."""
        query = "SELECT source FROM sources WHERE digest = ?"
        try:
            with self.opened() as connection:
                found = connection.execute(query, (record.source_digest,)).fetchone()
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be read: %s", self.path, error)
            return None
        return None if found is None else str(found[0])

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
            with self.opened() as connection:
                return [(str(job), str(owner)) for job, owner in connection.execute(query, sorted(FINAL))]
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be read: %s", self.path, error)
            return []

    def of_ids(self, jobs: Sequence[str]) -> list[JobRecord] | None:
        """Those of some jobs that there are; None where the ledger cannot be read."""
        query = "SELECT record FROM jobs WHERE job_id IN (SELECT value FROM json_each(?))"
        try:
            with self.opened() as connection:
                rows = connection.execute(query, (json.dumps(list(jobs)),)).fetchall()
            return [JobRecord.model_validate_json(text) for (text,) in rows]
        except (OSError, sqlite3.Error, ValidationError) as error:
            log.warning("the ledger %s cannot be read: %s", self.path, error)
            return None

    def get(self, job: str) -> JobRecord:
        """One job by its id, or an unambiguous beginning of it; raises JobError."""
        found = self.find(job=job)
        if len(found) != 1:
            problem = f"Several jobs' ids begin with {job!r}" if found else f"There is no job {job!r}"
            raise JobError(f"{problem}: `docker-kernel jobs list` shows them.")
        return found[0]

    def delete(self, *jobs: str) -> None:
        """Forget jobs, and what no other job runs."""
        try:
            with self.opened() as connection:
                connection.executemany("DELETE FROM jobs WHERE job_id = ?", [(job,) for job in jobs])
                connection.execute(_UNUSED)
                connection.commit()
                _shrink(connection)
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be written: %s", self.path, error)


def _shrink(connection: sqlite3.Connection) -> None:
    """Give the disk back what is free in the file, where that is most of it and nobody reads it just now."""
    free, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
    if free > pages // 2:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("VACUUM")
