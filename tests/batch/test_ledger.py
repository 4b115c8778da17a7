"""The history of jobs, and that nothing depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docker_kernel.batch.ledger import Ledger


def record(ledger: Ledger, job: str, kernel: str = "k", state: str = "running", **more: Any) -> None:
    ledger.record(job, kernel, "", "local", state, "", "sha256:0", "sha256:1", more.get("created", 1.0), None)


def test_a_job_has_one_row_that_follows_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new" / "jobs.sqlite")
    record(ledger, "a")
    record(ledger, "b", kernel="other", created=2.0)
    record(ledger, "a", state="succeeded")
    assert [(row["job_id"], row["state"]) for row in ledger.history()] == [("b", "running"), ("a", "succeeded")]
    assert [row["job_id"] for row in ledger.history("k")] == ["a"]


def test_a_ledger_that_cannot_be_used_is_only_logged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is no database" * 100)
    for path in (tmp_path / "file" / "jobs.sqlite", broken):
        record(Ledger(path), "a")
        assert Ledger(path).history() == []
