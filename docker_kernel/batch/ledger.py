"""The history of jobs, in SQLite: it only adds to what the engine says, and can be lost without losing a job."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import platformdirs

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    job_id TEXT PRIMARY KEY, kernel_id TEXT NOT NULL, name TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT NOT NULL, snapshot TEXT NOT NULL, image TEXT NOT NULL, created REAL NOT NULL, ended REAL
)
"""


def default_path() -> Path:
    return platformdirs.user_data_path("docker-kernel") / "jobs.sqlite"


class Ledger:
    """Records jobs; a disk that refuses is logged, never the job's problem."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_path()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=5)
        try:
            with connection:
                connection.execute(_SCHEMA)
                yield connection
        finally:
            connection.close()

    def record(
        self,
        job_id: str,
        kernel_id: str,
        name: str,
        target: str,
        state: str,
        reason: str,
        snapshot: str,
        image: str,
        created: float,
        ended: float | None,
    ) -> None:
        """Write a job's row, new or again. Times are seconds since the epoch."""
        row = (job_id, kernel_id, name, target, state, reason, snapshot, image, created, ended)
        try:
            with self._open() as connection:
                connection.execute("INSERT OR REPLACE INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be written: %s", self._path, error)

    def history(self, kernel_id: str | None = None) -> list[dict[str, object]]:
        """The rows, the newest first; of one kernel, or of all."""
        query, values = "SELECT * FROM jobs", ()
        if kernel_id is not None:
            query, values = query + " WHERE kernel_id = ?", (kernel_id,)  # type: ignore[assignment]
        try:
            with self._open() as connection:
                connection.row_factory = sqlite3.Row
                return [dict(row) for row in connection.execute(query + " ORDER BY created DESC", values)]
        except (OSError, sqlite3.Error) as error:
            log.warning("the ledger %s cannot be read: %s", self._path, error)
            return []
