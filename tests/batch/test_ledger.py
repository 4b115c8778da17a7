"""The history of jobs, and that nothing depends on it."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord
from docker_kernel.errors import JobError


def record(job: str, owner: str = "k", created: float = 1.0, **more: Any) -> JobRecord:
    return JobRecord(id=job, group="g", owner=owner, kernel_id="k", target="local", created=created, **more)


def test_a_job_has_one_row_that_follows_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new" / "jobs.sqlite")
    ledger.save(record("a", state="running"), record("b", owner="other", created=2.0))
    ledger.save(record("a", state="succeeded", settled=True, metrics={"loss": math.nan, "top": math.inf}))
    assert [(one.id, one.state) for one in ledger.find()] == [("b", "queued"), ("a", "succeeded")]
    assert [one.id for one in ledger.find(owner="k")] == ["a"]
    assert [one.id for one in ledger.find(unsettled=True)] == ["b"]
    assert math.isnan(ledger.get("a").metrics["loss"]) and ledger.get("a").metrics["top"] == math.inf
    ledger.delete("a")
    assert [one.id for one in ledger.find()] == ["b"]


def test_a_job_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "jobs.sqlite")
    ledger.save(record("ab12"), record("ab34"))
    assert ledger.get("ab1").id == "ab12"
    for wrong, sentence in (("ab", "Several jobs' ids begin with 'ab'"), ("x", "There is no job 'x'"), ("%", "no job")):
        with pytest.raises(JobError, match=sentence):
            ledger.get(wrong)


def test_a_ledger_that_cannot_be_used_is_only_logged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"this is no database" * 100)
    for path in (tmp_path / "file" / "jobs.sqlite", broken):
        Ledger(path).save(record("a"))
        assert Ledger(path).find() == []


def test_a_row_that_is_not_understood_costs_only_itself(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "jobs.sqlite")
    ledger.save(record("a"), record("b"))
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE jobs SET record = '{}' WHERE job_id = 'a'")
    assert [one.id for one in ledger.find()] == ["b"]
