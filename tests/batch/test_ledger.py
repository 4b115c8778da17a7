"""The history of jobs, and that nothing depends on it."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord, digest_of
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


def test_a_source_is_kept_once_for_all_jobs_that_run_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "jobs.sqlite")
    source = "x = 1  # " + "é" * (1 << 20)
    sent = [record(f"{number:03}", source_digest=digest_of(source)) for number in range(500)]
    ledger.save(*sent, source=source)
    ledger.save(*sent)
    assert ledger.path.stat().st_size < 2 * len(source.encode()) + 500 * 4000
    assert ledger.source(ledger.get("250")) == source
    ledger.save(record("other", source_digest=digest_of("y = 2")), source="y = 2")
    ledger.delete(*(one.id for one in sent[1:]))
    assert ledger.source(sent[0]) == source and ledger.source(ledger.get("other")) == "y = 2"
    ledger.delete(sent[0].id)
    assert ledger.source(sent[0]) is None and ledger.source(ledger.get("other")) == "y = 2"
    assert ledger.path.stat().st_size < 100_000, "the disk has it back"


@pytest.mark.parametrize("odd", ["{}", "no JSON", '{"source_digest": null}'])
def test_a_row_that_is_not_understood_keeps_no_source(tmp_path: Path, odd: str) -> None:
    ledger = Ledger(tmp_path / "jobs.sqlite")
    for job, source in (("a", "x = 1"), ("b", "y = 2"), ("odd", "z = 3")):
        ledger.save(record(job, source_digest=digest_of(source)), source=source)
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE jobs SET record = ? WHERE job_id = 'odd'", [odd])
    ledger.delete("a")
    with sqlite3.connect(ledger.path) as connection:
        assert connection.execute("SELECT source FROM sources").fetchall() == [("y = 2",)]


VERSION_2 = """
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,
    record TEXT NOT NULL);
CREATE INDEX jobs_owner ON jobs (owner, created);
PRAGMA user_version = 2;
"""


def test_a_ledger_in_which_each_record_has_its_source_is_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "jobs.sqlite")
    sources = ["print('ü')  # " + "x" * 100_000, ""]
    with sqlite3.connect(ledger.path) as connection:
        connection.executescript(VERSION_2)
        for number in range(40):
            text = record(f"{number:02}", metrics={"loss": math.nan}).model_dump_json(exclude={"source_digest"})
            old = json.dumps({**json.loads(text), "source": sources[number % 2]})
            connection.execute("INSERT INTO jobs VALUES (?,?,?,?,?)", (f"{number:02}", "k", "queued", 1.0, old))
        connection.execute("INSERT INTO jobs VALUES ('bad','k','queued',1.0,'no JSON')")
    connection.close()
    assert len(ledger.find()) == 40
    for number in (0, 1, 38, 39):
        kept = ledger.get(f"{number:02}")
        assert ledger.source(kept) == sources[number % 2] and kept.code == digest_of(sources[number % 2])[:12]
        assert math.isnan(kept.metrics["loss"])
    assert ledger.path.stat().st_size < 250_000, "none has a copy any more"
