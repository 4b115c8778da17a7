"""A job that a variable holds is the same job when it comes home, and says in another job what was known of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from docker_kernel.guest import api, handles, snapshot
from docker_kernel.guest.job import Job, Sweep
from docker_kernel.guest.magics import _Silent
from docker_kernel.guest.session import Session
from tests.guest.test_merge import Kernel, kernel
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["kernel", "notebook"]

RECORD = {
    "id": "a1b2c3", "name": "fit", "target": "local", "kind": "cell", "params": {"n": 1}, "created": 5.0, "live": False,
    "swept": False, "state": "running", "reason": "", "ended": None, "metrics": {},
}  # fmt: skip


class _Shell:
    def __init__(self, namespace: dict[str, Any]) -> None:
        self.user_ns = namespace


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    one = Session(_Shell({}))
    monkeypatch.setattr(api, "_sessions", [one])
    yield one


def test_a_handle_comes_home_as_the_same_job_wherever_it_is_held(kernel: Kernel, session: Session) -> None:
    kernel.restart()
    one, two = (session._known({**RECORD, "id": name}) for name in ("first", "second"))
    kernel.namespace.update(one=one, sweep=Sweep([one, two]), silent=_Silent(two), held={"jobs": [one]}, what=api.jobs)
    held = kernel["held"]
    found = kernel.local("held['jobs'] += [silent.job, *sweep]; held['same'] = one is sweep[0] is held['jobs'][0]")
    assert kernel["held"] is held and held == {"jobs": [one, two, one, two], "same": True}
    assert found["held"]["jobs"][0] is one is kernel["one"]
    assert kernel.local("best = [sweep, silent, what]")["best"][2] is api.jobs


def test_that_a_job_goes_on_is_no_change_of_what_holds_it(kernel: Kernel, session: Session) -> None:
    kernel.restart()
    one = session._known(dict(RECORD))
    held = kernel.namespace["held"] = {"job": one}
    ended = "held['job']._take({**held['job'].record, 'state': 'succeeded', 'ended': 9.0})"
    kernel.local("held['score'] = 1", meanwhile=ended)
    assert kernel["held"] is held and held == {"job": one, "score": 1} and one.state == "succeeded"


def test_in_a_job_a_handle_has_what_was_known_and_refuses_the_rest_in_a_sentence(
    notebook: Notebook, session: Session
) -> None:
    one = session._known(dict(RECORD))
    one.progress, one.last_metrics = 0.5, {"loss": 0.1}
    with handles.noted() as known:
        taken = snapshot.capture({"one": one, handles.NAME: known}, notebook.namespace, notebook.state)
    api._sessions.clear()
    found, failed = snapshot.restore(notebook.state, snapshot.read_manifest(notebook.state, taken.digest), {})
    assert not failed and sorted(one.names for one in taken.groups) == [[handles.NAME], ["one"]]
    handles.tell(found[handles.NAME].values())
    away = found["one"]
    assert type(away) is Job and away is not one
    assert (away.state, away.name, away.params, away.progress) == ("running", "fit", {"n": 1}, 0.5)
    assert away.last_metrics == {"loss": 0.1} and "running 50%" in repr(away)
    sentence = "The job a1b2c3 is the notebook's, and no job can ask for another: take its result there"
    for ask in (away.result, away.cancel, away.retry, away.logs, lambda: away.variables, lambda: away.files["x"]):
        with pytest.raises(Exception, match=sentence):
            ask()


def test_a_handle_whose_record_is_gone_is_lost(session: Session) -> None:
    found = handles._job({name: RECORD[name] for name in handles.LASTING})
    assert found.state == "lost" and session._known(dict(RECORD)) is found
