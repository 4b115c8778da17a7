"""When a job's values land, and over what."""

from __future__ import annotations

import pytest

from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import until


def test_what_a_job_changed_in_place_does_not_replace_what_was_bound_since(notebook: Notebook) -> None:
    notebook.run("model = [1]; other = [1]")
    notebook.run("%%dispatch\nmodel.append(2); other.append(2)")
    reply = notebook.run("sent = _; sent.wait(); model = 'mine'; sent.result()")
    assert "Kept as they are" in reply.text and "model" in reply.text
    assert notebook.value("[model, other]") == ["mine", [1, 2]]


def test_a_name_that_did_not_exist_and_was_bound_since_is_kept(notebook: Notebook) -> None:
    notebook.run("%%dispatch\nfresh = 'job'")
    notebook.run("sent = _; sent.wait(); fresh = 'mine'; sent.result()")
    assert notebook.value("fresh") == "mine"


def test_what_a_job_deleted_is_deleted_unless_it_was_bound_since(notebook: Notebook) -> None:
    notebook.run("gone = 1; stays = 1")
    notebook.run("%%dispatch\ndel gone, stays")
    notebook.run("sent = _; sent.wait(); stays = 2; sent.result()")
    assert notebook.value("['gone' in globals(), stays]") == [False, 2]


def test_results_are_fetched_once(notebook: Notebook) -> None:
    notebook.run("%%dispatch\nonce = [1]")
    notebook.run("sent = _; sent.result(); first = once; once = 'mine'; sent.result()")
    assert notebook.value("[first, once]") == [[1], "mine"]


@pytest.mark.parametrize("count", [10_000])
def test_a_namespace_of_many_small_objects(notebook: Notebook, count: int) -> None:
    notebook.run(f"for i in range({count}): globals()[f'many{{i}}'] = [i]")
    reply = notebook.run(f"%%local\nlast = many{count - 1}[0]")
    notebook.run(f"for i in range({count}): del globals()[f'many{{i}}']")
    assert reply.status == "ok" and notebook.value("last") == count - 1


def test_a_request_that_is_too_large_is_refused_and_the_link_stays(notebook: Notebook) -> None:
    reply = notebook.run("from docker_kernel import dispatch\ndispatch('x' * (17 << 20))")
    assert reply.name == "JobFailed" and "larger than the 16 MB" in reply.value
    assert notebook.run("%local 1 + 1").shown == "2"


def test_a_connection_that_broke_is_made_anew_and_no_end_is_missed(notebook: Notebook) -> None:
    notebook.run(f"%%dispatch\n{HOLD}after = 1")
    notebook.run("sent = _\nfrom docker_kernel.guest import api\nold = api.session()._channel")
    job = notebook.value("sent.id")
    notebook.run("old._sock.shutdown(2)")
    let_go(job)
    until(lambda: Ledger(root() / "jobs.sqlite").get(job).state == "succeeded", what="the job's end")
    assert notebook.run("%local 1 + 1").shown == "2"
    notebook.run("sent.result()")
    assert notebook.value("[sent.state, after, old.broken]") == ["succeeded", 1, True]


def test_plots_are_shown_where_they_are_made(notebook: Notebook) -> None:
    reply = notebook.run("%%local\nimport os; print(os.environ['MPLBACKEND'])")
    assert "matplotlib_inline" in reply.text
