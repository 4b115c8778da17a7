"""How a job ended, and why, in words that a person can act on."""

from __future__ import annotations

import dataclasses
import signal
from dataclasses import dataclass

from docker_kernel.batch.job_log import End
from docker_kernel.batch.record import JobRecord, State
from docker_kernel.config import format_size
from docker_kernel.targets.base import Outcome

STOPPED_EXIT = 128 + signal.SIGTERM
"""Of a container that was told to end, as an engine tells all of its own when it starts again."""

CUT_OFF_EXIT = 255
"""Of a container that an engine finds dead when it starts: its machine went down (moby, daemon/restore)."""

CANNOT_START = 3
"""Of a job that could not begin, or not keep its result (guest/worker.py): what it raised says why."""


@dataclass(frozen=True)
class Facts:
    """What is known of a job that has ended, besides its record.

    Args:
        outcome: the word of its target's engine, and its runner's.
        end: its runner's last word; None where it had none.
        raised: the exception that its code raised, in words.
        last_words: the last line in which an image says why it ended (docs/notebook-image.md).
        stopped: why we ourselves stopped it: "cancelled", "timeout", or "" where we did not; why: in words.
    """

    outcome: Outcome
    end: End | None = None
    raised: str = ""
    last_words: str = ""
    stopped: str = ""
    why: str = ""

    @property
    def timed_out(self) -> bool:
        return self.stopped == "timeout" or (self.end is not None and self.end.timeout)

    @property
    def unheeded(self) -> bool:
        return self.end is not None and self.end.unheeded


def combined(end: End, outcome: Outcome) -> Outcome:
    """The runner's last word and the engine's as one.

    The runner came to its own end before its container, or its node, went; unless it was told to end. But the engine
    may know better that memory ran out.
    """
    words = {end.oom, outcome.out_of_memory}
    return dataclasses.replace(
        outcome,
        exit_code=end.code,
        out_of_memory=True if True in words else False if False in words else None,
        lost=outcome.lost if end.code == STOPPED_EXIT else "",
    )


def judge(record: JobRecord, facts: Facts) -> tuple[State, str]:
    """The state that a job has ended in, and why."""
    outcome, end = facts.outcome, facts.end
    if facts.stopped == "cancelled":
        return "cancelled", facts.why
    if facts.timed_out:
        limit = "it may take" if record.timeout is None else f"its timeout of {record.timeout:g} s"
        return "failed", f"it took longer than {limit}"
    if facts.unheeded:
        return "cancelled", "it was interrupted, and its cell did not end"
    if outcome.lost:
        return "lost", outcome.lost
    if outcome.exit_code == 0 and (record.result or record.kind == "image"):
        return "succeeded", ""  # an image may have brought its results elsewhere
    if record.kind == "image" and end is not None and not end.oom and outcome.exit_code != STOPPED_EXIT:
        return "failed", facts.raised or facts.last_words or f"it ended with exit code {outcome.exit_code}"
    # Its runner has told of a result: so a cell failed, or ended its notebook with a code of its own; but not where the
    # runner itself was told to end, as by an engine that stops.
    own = outcome.exit_code == 1 or (record.kind == "notebook" and outcome.exit_code != STOPPED_EXIT)
    if own and record.result and end is not None and end.code == outcome.exit_code:
        memory = "; memory ran out in its container: raise it with --memory" if outcome.out_of_memory else ""
        return "failed", f"its cell raised {facts.raised or 'an exception'}{memory}"
    if outcome.exit_code == CANNOT_START and facts.raised:
        return "failed", facts.raised
    if outcome.exit_code == STOPPED_EXIT or (end is None and outcome.exit_code == CUT_OFF_EXIT):
        why = "its engine or its machine started again, or someone stopped it"
        return "lost", f"its container was stopped while it ran: {why}; a retry starts it anew"
    limit = f"its {format_size(record.memory)}" if record.memory else "the engine has"
    if outcome.out_of_memory:
        return "failed", f"out of memory: it used more than {limit}; raise it with --memory"
    if outcome.out_of_memory is None:
        probably = f"probably out of memory, as it used more than {limit}: raise it with --memory"
        return "failed", f"it was killed, and nothing tells why; {probably}"
    return "failed", outcome.reason or f"its container ended with exit code {outcome.exit_code}"


def last_words(output: bytes) -> str:
    """The last line in which an image says why it ended, from the end of its output."""
    lines = output.decode(errors="replace").splitlines()
    said = [line.removeprefix("docker-kernel: ") for line in lines if line.startswith("docker-kernel: ")]
    return said[-1].rstrip(".") if said else ""
