"""Processes that are forked where tests would start interpreters are as those are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patient, until
from tests.warm import python

STATE = """
import json, os, signal, sys, threading
print(json.dumps({
    "argv": sys.argv[1:], "path": sys.path, "names": sorted(globals()), "cwd": os.getcwd(), "read": sys.stdin.read(),
    "env": dict(os.environ), "descriptors": sorted(os.listdir("/proc/self/fd"), key=int)[:-1],
    "signals": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "main": threading.main_thread().native_id == os.getpid(), "leader": os.getsid(0) == os.getpid(),
}))
"""


def run(program: str, *arguments: str, text: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.defpath, "PYTHONPATH": f"/nowhere:{Path(__file__).parents[1]}", "A": "größe"}
    return subprocess.run(
        [program, *arguments], input=text, capture_output=True, text=True, cwd=cwd, env=env, timeout=patient(60)
    )


@pytest.mark.parametrize("form", ["code", "script"])
def test_a_fork_is_as_an_interpreter_that_has_just_started(tmp_path: Path, form: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(STATE)
    arguments = ["-c", STATE] if form == "code" else [str(script)]
    found = []
    for program in (sys.executable, python("json")):
        ran = run(program, *arguments, "an argument", text="given", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        found.append(json.loads(ran.stdout))
    for one in found:
        one["env"].pop("LC_CTYPE", None)  # an interpreter in the C locale sets it
    # A session of its own, all of which a signal reaches.
    assert found[1] == {**found[0], "leader": True}


def test_forks_share_nothing_but_imports() -> None:
    draw = "import json, os, random; print(hasattr(json, 'mark'), os.getpid(), random.random()); json.mark = 1"
    drawn = [run(python("json"), "-c", draw).stdout.split() for _ in range(2)]
    assert [one[0] for one in drawn] == ["False", "False"] and not set(drawn[0][1:]) & set(drawn[1][1:])


def test_how_a_process_ended_is_told() -> None:
    raised = run(python("json"), "-c", "1 / 0")
    assert raised.returncode == 1 and raised.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert run(python("json"), "-c", "import sys; sys.exit(7)").returncode == 7
    for number in (signal.SIGKILL, signal.SIGSEGV):
        assert run(python("json"), "-c", f"import os; os.kill(os.getpid(), {number})").returncode == -number


def test_signals_reach_it_and_it_ends_with_who_started_it() -> None:
    source = "try: print(os.getpid(), flush=True); time.sleep(600)\nexcept KeyboardInterrupt: print('told')"
    command = [python("json"), "-c", f"import os, time\n{source}"]
    for number, code, said in ((signal.SIGINT, 0, "told"), (signal.SIGTERM, -15, ""), (signal.SIGKILL, -9, "")):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            process.send_signal(number)
            assert process.communicate(timeout=patient(20))[0].strip() == said and process.returncode == code
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 10, "the end of the process")  # type: ignore[misc]


def test_a_pipe_that_it_is_given_ends_when_it_closes_that() -> None:
    read, write = os.pipe()
    code = f"import os, sys; os.write({write}, b'here'); os.close({write}); sys.stdin.read()"
    with subprocess.Popen([python("json"), "-c", code], stdin=subprocess.PIPE, pass_fds=[write]) as process:
        os.close(write)
        with os.fdopen(read, "rb") as file:
            assert file.read() == b"here"
        assert process.poll() is None


def test_what_only_an_interpreter_can_is_done_by_one() -> None:
    assert run(python("json"), "-X", "dev", "-c", "import sys; print(sys.flags.dev_mode)").stdout == "True\n"
    assert run(python("json"), "--version").stdout.startswith("Python 3")
