"""Kernel processes that are forked, and interpreters that are started where a fork might come out different."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from docker_kernel import background
from docker_kernel.guest.supervisor import RENEWAL_SECONDS
from tests.conftest import ImageMaker, NotebookMaker, SpecMaker
from tests.notebook import Notebook
from tests.patience import patient, until

USER_SITE = "__import__('site').getusersitepackages()"

SERVERS = (
    "[int(pid) for pid in __import__('os').listdir('/proc') if pid.isdigit() and int(pid) != "
    "__import__('os').getpid() and 'forkserver.py' in open(f'/proc/{pid}/cmdline').read()]"
)


def forked(one: Notebook) -> bool:
    """Whether the kernel process was forked; its command line is that of the process it comes from."""
    return "forkserver.py" in str(one.value("open('/proc/self/cmdline').read()"))


def renewed(one: Notebook) -> int:
    """Wait for the forkserver that is made when the first cells are over; returns its process id."""
    (server,) = until(lambda: one.value(SERVERS), RENEWAL_SECONDS + 20, "a new forkserver")
    return int(server)


def write_module(one: Notebook, name: str, source: str) -> None:
    """Have a module in the user's site packages, as after a `%pip install`."""
    path = f"{USER_SITE} + '/{name}'"
    reply = one.run(
        f"import os; os.makedirs(os.path.dirname({path}), exist_ok=True); open({path}, 'w').write({source!r})"
    )
    assert reply.status == "ok", reply.traceback


def test_first_starts_and_restarts_are_forks_that_share_nothing(start: NotebookMaker) -> None:
    one = start()
    draw = "[__import__('random').random(), __import__('uuid').uuid4().hex, __import__('tempfile').mktemp()]"
    draws, pids = [one.value(draw)], [one.value("__import__('os').getpid()")]
    assert forked(one)
    for now in (False, True):
        one.run("import sys; sys.leak = x = 1; import json; json.leak = 1; import os; os.environ['LEAK'] = '1'")
        one.restart(now=now)
        assert forked(one)
        leaks = "[hasattr(__import__('sys'), 'leak'), hasattr(__import__('json'), 'leak'), 'x' in globals()]"
        assert one.value(f"{leaks} + ['LEAK' in __import__('os').environ]") == [False] * 4
        draws.append(one.value(draw))
        pids.append(one.value("__import__('os').getpid()"))
    assert len({str(value) for drawn in draws for value in drawn}) == 9 and len(set(pids)) == 3
    assert one.value("__import__('os').getppid()") == 1
    assert one.value("__import__('threading').main_thread().native_id") == pids[-1]


def test_a_fork_has_the_imports_and_the_variables_of_an_interpreter(start: NotebookMaker) -> None:
    one = start()
    state = (
        "[__import__('sys').path, __import__('sys').argv, __import__('sys').orig_argv,"
        " sorted(__import__('os').environ), str(__import__('sys').flags),"
        " __import__('locale').setlocale(0), __import__('time').tzname]"
    )
    fork = one.value(state)
    write_module(one, "fresh.py", "")
    one.restart()
    assert not forked(one), "packages have changed"
    assert one.value(state) == fork


def test_a_safe_path_keeps_the_users_folders(start: NotebookMaker, make_spec: SpecMaker) -> None:
    one = start(make_spec(env={"PYTHONSAFEPATH": "1", "PYTHONPATH": "/tmp/first:/tmp/second"}))
    path = "[name for name in __import__('sys').path if name.startswith(('/tmp', '/opt/docker-kernel/lib'))]"
    assert forked(one) and one.value(path) == ["/tmp/first", "/tmp/second"]
    write_module(one, "fresh.py", "")
    one.restart()
    assert not forked(one) and one.value(path) == ["/tmp/first", "/tmp/second"]


def test_a_restart_after_an_installation_finds_what_was_installed(start: NotebookMaker) -> None:
    one = start()
    write_module(one, "comm/__init__.py", "raise ImportError('shadowed')")
    write_module(one, "wcwidth/__init__.py", "MARK = 'newer'\ndef wcwidth(c, *a, **k): return 1\nwcswidth = wcwidth")
    one.run(f"import os; os.remove({USER_SITE} + '/comm/__init__.py'); os.rmdir({USER_SITE} + '/comm')")
    one.restart()
    assert not forked(one)
    assert one.value("__import__('wcwidth').MARK") == "newer"
    renewed(one)
    one.restart()
    assert forked(one), "the new packages are known by now"
    assert one.value("__import__('wcwidth').MARK") == "newer"


@pytest.mark.parametrize("name", ["ipykernel.py", "random.py", "zmq.py", "cloudpickle.py"])
def test_a_file_beside_the_notebook_shadows_nothing_of_ours(start: NotebookMaker, tmp_path: Path, name: str) -> None:
    one = start()
    (tmp_path / name).write_text("raise RuntimeError('shadowed')")
    for _ in range(2):
        one.restart()
        assert forked(one) and one.value("1") == 1


def test_a_forkserver_that_was_killed_or_stopped_costs_only_time(start: NotebookMaker) -> None:
    one = start()
    (server,) = one.value(SERVERS)
    one.run(f"import os; os.kill({server}, 9)")
    one.restart()
    assert one.value("1") == 1 and not forked(one)
    one.run(f"import os, signal; os.kill({renewed(one)}, signal.SIGSTOP)")
    one.restart()
    assert one.value("1") == 1 and not forked(one)


FILL = """
import os, signal, time
os.kill({server}, 9)
while os.path.exists("/proc/{server}"):
    time.sleep(0.01)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        while not os.path.exists("enough"):
            time.sleep(0.2)
        os._exit(0)
"""

FORK_AND_GIVE_UP = """
import os, sys, time
from docker_kernel.guest import boot
from docker_kernel.guest.forks import ForkServer
server, answers = ForkServer([sys.executable, "-Xfrozen_modules=off"], dict(os.environ), 0), []
def answer(kind):
    while not any(message["type"] == kind for message in answers):
        answers.extend(server.messages())
        time.sleep(0.01)
    return answers[-1]
answer("loaded")
server.ask([sys.executable, boot.__file__, "-f", "/tmp/other.json"], dict(os.environ), "/tmp", 500)
pid = answer("forked")["pid"]
assert os.path.exists(f"/proc/{pid}")
server.end()
while os.path.exists(f"/proc/{pid}"):
    time.sleep(0.01)
print([os.path.exists("/tmp/other.json"), os.path.exists(f"/proc/{pid}")])
"""


def test_a_fork_that_is_given_up_becomes_no_second_kernel(start: NotebookMaker) -> None:
    reply = start().run(FORK_AND_GIVE_UP)
    assert reply.text.strip() == "[False, False]", reply.traceback


def test_a_kernel_with_as_many_processes_as_it_may_have_outlives_the_next_forkserver(
    start: NotebookMaker, make_spec: SpecMaker, tmp_path: Path
) -> None:
    one = start(make_spec(pids=48))
    (server,) = one.value(SERVERS)
    assert one.run(FILL.format(server=server)).name == "BlockingIOError"
    time.sleep(RENEWAL_SECONDS + 1)
    assert one.container.exit_code is None
    (tmp_path / "enough").touch()
    listing = ["docker", "top", one.container.container_id]
    until(lambda: len(subprocess.run(listing, capture_output=True, check=True).stdout.splitlines()) < 20)
    assert one.value("1") == 1 and one.container.exit_code is None
    renewed(one)


def test_a_forkserver_that_hangs_in_its_imports_costs_only_time(start: NotebookMaker) -> None:
    one = start()
    before = one.container.container_id
    write_module(one, "usercustomize.py", "import sys, time\nif 'forkserver' in sys.orig_argv[2]: time.sleep(600)")
    one.restart()
    assert not forked(one), "packages have changed"
    renewed(one)
    one.restart()
    assert not forked(one) and one.container.container_id == before


@pytest.mark.parametrize("fork", [True, False])
def test_an_interrupt_of_a_kernel_that_still_starts_does_not_end_it(start: NotebookMaker, fork: bool) -> None:
    one = start()
    for number in range(3):
        if not fork:
            write_module(one, f"fresh{number}.py", "")
        restarting = threading.Thread(target=one.manager.restart_kernel, kwargs={"now": True})
        restarting.start()
        while restarting.is_alive():
            background.run_blocking(one.container.signal(signal.SIGINT))
            time.sleep(0.01)
        time.sleep(0.3)
        one.client.wait_for_ready(timeout=patient(30))
        assert forked(one) is fork or number
    one.begin("import time; print('begun', flush=True); time.sleep(600)", stop_on_error=False)
    one.manager.interrupt_kernel()
    assert one.value("1") == 1, "a cell can be interrupted as ever"


@pytest.mark.parametrize(
    "end",
    [
        "import os; os.kill(os.getpid(), 11)",
        "import os; os._exit(7)",
        "import os, threading; threading.Thread(target=__import__('time').sleep, args=(60,)).start(); os.abort()",
    ],
    ids=["crash", "exit", "threads"],
)
def test_a_kernel_that_died_is_forked_again(start: NotebookMaker, end: str) -> None:
    one = start()
    one.client.execute(end)
    background.run_blocking(asyncio.wait_for(one.container.wait(), patient(20)))
    one.restart()
    assert forked(one) and one.value("1") == 1


def test_a_variable_that_acts_at_an_interpreters_start_has_one_started(start: NotebookMaker) -> None:
    one = start()
    for name, value, expected in (("PYTHONHASHSEED", "0", False), ("A_VARIABLE", "1", None)):
        one.manager.restart_kernel(env={**os.environ, name: value})
        one.client.wait_for_ready(timeout=patient(30))
        assert one.value(f"__import__('os').environ.get({name!r})") == value
        if expected is not None:
            assert forked(one) is expected


def test_an_image_whose_python_imports_numpy_by_itself_is_not_forked(
    start: NotebookMaker, make_spec: SpecMaker, make_image: ImageMaker
) -> None:
    module = "/usr/lib/python3/dist-packages"
    image = make_image(
        f"FROM docker-kernel/python\nUSER 0\nRUN mkdir -p {module}/numpy/random && touch {module}/numpy/__init__.py"
        f" {module}/numpy/random/__init__.py && echo 'import numpy.random' > {module}/early.pth"
    )
    one = start(make_spec(image=image))
    assert not forked(one)
    one.restart()
    assert not forked(one) and one.value("'numpy.random' in __import__('sys').modules") is True
