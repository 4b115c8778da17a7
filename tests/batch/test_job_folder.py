"""One follower for each job, at the cost of no descriptor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from docker_kernel.batch.job_folder import MAX_OUTPUT, JobFolder, root

OTHER = (
    "import sys\nfrom docker_kernel.batch.job_folder import JobFolder\n"
    "kept = [JobFolder(job).lock() for job in sys.argv[1:]]\n"
    "print([lock is not None for lock in kept], flush=True)\nsys.stdin.read()"
)


def other(*jobs: str) -> subprocess.Popen[str]:
    """Another process that wants to follow jobs, until its input ends."""
    command = [sys.executable, "-c", OTHER, *jobs]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_job_has_one_follower_until_that_lets_go_or_is_killed() -> None:
    first, second = "00000000000a", "ffffffffffff"
    mine = JobFolder(first).lock()
    assert mine is not None and JobFolder(first).lock() is None
    with other(first, second) as process:
        assert said(process) == "[False, True]"
        assert JobFolder(second).lock() is None
        mine.close()
        mine.close()
        process.kill()
        process.wait()
    again = [JobFolder(job).lock() for job in (first, second)]
    assert all(again)
    for lock in again:
        assert lock is not None
        lock.close()
    with other(first) as process:
        assert said(process) == "[True]"
        process.communicate("")


def test_queued_jobs_cost_no_descriptors() -> None:
    before = descriptors()
    kept = [JobFolder(f"{number:012x}").lock() for number in range(2000)]
    assert all(kept) and descriptors() <= before + 1
    for lock in kept:
        assert lock is not None
        lock.close()
    for number in range(2000):
        JobFolder(f"{number:012x}").remove()


def test_a_lock_file_that_was_removed_does_not_let_two_follow_a_job() -> None:
    job = "0000000000bb"
    JobFolder(job).lock()
    (root() / "locks").unlink()
    assert JobFolder(job).lock() is not None
    with other(job) as process:
        assert said(process) == "[False]"
        process.communicate("")


def test_output_and_events_are_gone_on_with_behind_the_last_position() -> None:
    folder = JobFolder("00000000000b")
    folder.make()
    folder.add_output(b"one\n")
    folder.add_event({"event": "metrics", "step": 1})
    folder.keep_position({"attempt": 1, "after": {"0": "4"}})
    folder.add_output(b"two\n")
    folder.add_event({"event": "metrics", "step": 2})
    kept = folder.go_back_to_position(1)
    assert kept is not None and kept["after"] == {"0": "4"}
    assert folder.output() == b"one\n" and [one["step"] for one in folder.events("metrics")] == [1]
    assert folder.go_back_to_position(2) is None, "another attempt's log is another"
    folder.add_output(b"x" * (MAX_OUTPUT // 2))
    folder.add_output(b"put aside before\n")
    assert folder.go_back_to_position(1) is not None and folder.output() == b"one\n"
    folder.restart()
    assert folder.go_back_to_position(1) is None
    folder.remove()
