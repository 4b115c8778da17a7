"""What a dispatched notebook's kernel has of its job: state, name, parameters, and what a cell raises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import snapshot
from docker_kernel.guest.worker import ERROR
from tests.guest.test_run_notebook import Place, notebook_of


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def sent(place: Place, **variables: Any) -> str:
    """What a job starts from that has some variables, a changed environment and a path; its digest."""
    context = {"env": {"SETTING": "changed"}, "cwd": "/nowhere", "sys_path": [str(place.folder / "modules")]}
    return snapshot.capture(variables, {}, str(place.folder / "state"), **context).digest


def test_a_notebook_has_the_variables_that_were_sent_and_the_jobs_environment(place: Place) -> None:
    shared = [1]
    digest = sent(place, first=shared, second={"same": shared})
    (place.folder / "modules").mkdir()
    (place.folder / "modules" / "helper_of_sender.py").write_text("value = 7")
    ran = place.run(
        notebook_of(
            "second['same'] is first, first",
            "import os, helper_of_sender\nos.environ['SETTING'], helper_of_sender.value, os.path.basename(os.getcwd())",
        ),
        manifest=digest,
    )
    assert ran.code == 0, ran.text
    results = [cell["outputs"][0]["data"]["text/plain"] for cell in ran.cells]
    assert results == ["(True, [1])", "('changed', 7, 'workspace')"]
    assert [cell["execution_count"] for cell in ran.cells] == [1, 2], "the state's coming is no cell"


def test_a_state_that_cannot_be_read_runs_no_cell_and_says_why(place: Place) -> None:
    digest = sent(place, big=list(range(1000)))
    for blob in (place.folder / "state" / "blobs").iterdir():
        blob.write_bytes(b"changed")
    ran = place.run(notebook_of("print('ran')"), manifest=digest)
    assert ran.code == 3 and "ran" not in ran.text.split() and "docker-kernel: " in ran.text


def test_the_last_error_of_a_notebook_comes_back_and_none_of_a_tolerated_one(place: Place) -> None:
    tolerated = ("raise KeyError('tolerated')", "raises-exception")
    ran = place.run(notebook_of(tolerated, "raise OSError(5, 'at the end')"))
    values, _ = snapshot.restore(str(ran.state), ran.result, {})
    assert repr(values[ERROR]) == "OSError(5, 'at the end')"
    (place.folder / "other").mkdir()
    ran = Place(place.folder / "other").run(notebook_of(tolerated))
    values, _ = snapshot.restore(str(ran.state), ran.result, {})
    assert (ran.code, values) == (0, {})


def test_an_error_that_cannot_travel_is_told_as_text(place: Place) -> None:
    cell = "class Held(Exception):\n    def __reduce__(self): raise TypeError('held')\nraise Held('x')"
    ran = place.run(notebook_of(cell))
    assert ran.code == 1 and ran.error == "Held"
    assert ran.result["error"]["name"] == "Held" and "Held" in ran.result["error"]["traceback"][-1]


def test_metrics_of_the_last_cell_are_told(place: Place) -> None:
    ran = place.run(notebook_of("from docker_kernel import job\nfor n in range(50): job.log(step=n, loss=n)"))
    told = [one for one in ran.markers if one["event"] == "metrics"]
    assert ran.code == 0 and told[-1]["step"] == 49
