"""How a job ended: what its runner said, what its engine says, and what we did, as one sentence."""

from __future__ import annotations

import pytest

from docker_kernel.batch.ending import Facts, combined, judge, last_words
from docker_kernel.batch.job_log import End
from docker_kernel.batch.record import JobRecord
from docker_kernel.targets.base import Outcome

RESULT = "sha256:" + "0" * 64


def end(code: int, result: str = "", **more: object) -> End:
    return End.model_validate({"event": "end", "code": code, "oom": False, "result": result, **more})


def record(kind: str = "cell", **more: object) -> JobRecord:
    return JobRecord.model_validate(
        {"group": "0", "owner": "o", "kernel_id": "k", "target": "local", "kind": kind, **more}
    )


@pytest.mark.parametrize(
    ("job", "facts", "state", "why"),
    [
        (record(result=RESULT), Facts(Outcome(0), end(0, RESULT)), "succeeded", ""),
        (record(), Facts(Outcome(0), end(0)), "failed", "exit code 0"),
        (record("image"), Facts(Outcome(0), end(0)), "succeeded", ""),
        (record(result=RESULT), Facts(Outcome(1), end(1, RESULT), "E: x"), "failed", "its cell raised E: x"),
        (record(), Facts(Outcome(3), end(3), "why it cannot start"), "failed", "why it cannot start"),
        (record("notebook", result=RESULT), Facts(Outcome(7), end(7, RESULT), "SystemExit: 7"), "failed", "SystemExit"),
        (record("image"), Facts(Outcome(2), end(2), last_words="No such parameter"), "failed", "No such parameter"),
        (record("image"), Facts(Outcome(5), end(5)), "failed", "it ended with exit code 5"),
        (record(), Facts(Outcome(143), end(143)), "lost", "a retry starts it anew"),
        (record("image"), Facts(Outcome(143), end(143)), "lost", "a retry starts it anew"),
        (record(), Facts(Outcome(255)), "lost", "its container was stopped"),
        (record(), Facts(Outcome(255), end(255)), "failed", "exit code 255"),
        (record(), Facts(Outcome(137, True)), "failed", "out of memory: it used more than the engine has"),
        (record(memory=1 << 20), Facts(Outcome(137, True)), "failed", "its 1"),
        (record(), Facts(Outcome(137, None)), "failed", "nothing tells why; probably out of memory"),
        (record("image"), Facts(Outcome(137, True), end(137, oom=True)), "failed", "out of memory"),
        (record(), Facts(Outcome(-1, lost="its node is down")), "lost", "its node is down"),
        (record(timeout=3), Facts(Outcome(124), end(124, timeout=True)), "failed", "longer than its timeout of 3 s"),
        (record(timeout=3), Facts(Outcome(143), stopped="timeout"), "failed", "longer than its timeout of 3 s"),
        (record("image"), Facts(Outcome(124), end(124, timeout=True)), "failed", "longer than it may take"),
        (record(), Facts(Outcome(143), end(143), stopped="cancelled", why="by you"), "cancelled", "by you"),
        (record(), Facts(Outcome(143), end(143, unheeded=True)), "cancelled", "its cell did not end"),
        (record(), Facts(Outcome(4, reason="the engine's word")), "failed", "the engine's word"),
    ],
)
def test_a_job_ends_in_a_state_with_a_reason(job: JobRecord, facts: Facts, state: str, why: str) -> None:
    found, reason = judge(job, facts)
    assert (found, why in reason) == (state, True), reason


@pytest.mark.parametrize(
    ("said", "outcome", "oom"),
    [(False, True, True), (True, False, True), (None, None, None), (None, False, False), (False, None, False)],
)
def test_memory_ran_out_where_anybody_says_so(said: bool | None, outcome: bool | None, oom: bool | None) -> None:
    assert combined(end(137, oom=said), Outcome(137, outcome)).out_of_memory is oom


def test_a_runner_that_came_to_its_end_is_not_lost_unless_it_was_told_to_end() -> None:
    assert not combined(end(1), Outcome(-1, lost="its node went")).lost
    assert combined(end(143), Outcome(-1, lost="its node went")).lost == "its node went"


def test_an_images_last_words_are_those_of_its_runner() -> None:
    assert last_words(b"docker-kernel: first.\nwords\ndocker-kernel: It was stopped.\nmore\n") == "It was stopped"
    assert last_words(b"only words\xff") == ""
