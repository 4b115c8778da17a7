"""A cell that waits for its job, and what an interrupt of it does."""

from __future__ import annotations

import time

import pytest

from tests.notebook import Notebook
from tests.patience import patient

BEGUN = "import time; print('begun', flush=True)\n"


def test_an_interrupted_cell_leaves_what_it_did_until_then(notebook: Notebook) -> None:
    notebook.run("log = []; held = [log]; other = 1")
    cell = (
        BEGUN + "log.append(1); new = 2\ntry: time.sleep(600)\nfinally: print('cleaned up'); display('last')\nnew = 3"
    )
    reply = notebook.run("%%local\n" + cell, on_text=notebook.manager.interrupt_kernel)
    assert (reply.name, reply.value) == ("KeyboardInterrupt", "") and reply.text == "begun\ncleaned up\n"
    assert reply.shown == "'last'" and "cleaned up" in reply.traceback and "docker_kernel" not in reply.traceback
    assert notebook.value("[log, held[0] is log, new, other]") == [[1], True, 2, 1]


def test_a_cell_that_handles_its_interrupt_succeeds(notebook: Notebook) -> None:
    cell = BEGUN + "try: time.sleep(600)\nexcept KeyboardInterrupt: handled = 'here'\nhandled + '!'"
    reply = notebook.run("%%local\n" + cell, on_text=notebook.manager.interrupt_kernel)
    assert (reply.status, reply.shown) == ("ok", "'here!'") and notebook.value("[handled, _]") == ["here", "here!"]


def test_an_interrupted_expression_leaves_what_it_did(notebook: Notebook) -> None:
    notebook.run(
        "import time\ndone = []\ndef work():\n    done.append(1)\n    print('begun', flush=True)\n    time.sleep(600)"
    )
    reply = notebook.run("%local work()", on_text=notebook.manager.interrupt_kernel)
    assert (reply.name, notebook.value("done")) == ("KeyboardInterrupt", [1]) and "time.sleep(600)" in reply.traceback


def test_an_interrupted_job_is_not_tried_again_and_leaves_what_it_did(notebook: Notebook) -> None:
    cell = BEGUN + "part = 1\ntime.sleep(600)"
    reply = notebook.run("%%dispatch --wait --retries 3\n" + cell, on_text=notebook.manager.interrupt_kernel)
    assert reply.name == "KeyboardInterrupt" and notebook.value("part") == 1
    notebook.run("from docker_kernel import jobs\njob = jobs[-1]")
    assert notebook.value("[job.state, job.reason, job.record['attempt']]") == [
        "failed", "its cell raised KeyboardInterrupt", 1,
    ]  # fmt: skip


def test_a_second_interrupt_stops_the_cell_and_says_that_nothing_came_home(notebook: Notebook) -> None:
    def twice() -> None:
        notebook.manager.interrupt_kernel()
        time.sleep(1)
        notebook.manager.interrupt_kernel()

    notebook.run("kept = 1")
    begun = time.monotonic()
    cell = BEGUN + "kept = 2\nwhile True:\n    try: time.sleep(600)\n    except KeyboardInterrupt: pass"
    reply = notebook.run("%%local\n" + cell, on_text=twice)
    assert reply.name == "KeyboardInterrupt" and time.monotonic() - begun < patient(18)
    assert reply.value == "The cell was stopped, and nothing that it did came home." in reply.traceback
    assert notebook.value("kept") == 1


def test_an_interrupt_before_the_cell_begins_stops_the_job(notebook: Notebook) -> None:
    notebook.run(
        "class Slow:\n    def __init__(self): self.x = 1\n"
        "    def __setstate__(self, state):\n"
        "        import os, time; os.write(1, b'comes'); time.sleep(60)\nslow = Slow()"
    )
    reply = notebook.run("%%local\nslow.x\nran = 1", on_text=notebook.manager.interrupt_kernel)
    assert (reply.name, reply.value) == ("KeyboardInterrupt", "The job was stopped before its cell began.")
    assert not notebook.value("'ran' in globals()")
    notebook.run("del slow")


def test_an_interrupt_while_the_result_comes_home_waits_for_it(notebook: Notebook) -> None:
    notebook.run(
        "class Slow:\n    def __reduce__(self):\n"
        "        import time; print('goes home', flush=True); time.sleep(2)\n        return Slow, ()"
    )
    reply = notebook.run("%%local\nbrought = Slow()\nalso = 1", on_text=notebook.manager.interrupt_kernel)
    assert (reply.name, reply.value) == ("KeyboardInterrupt", "The cell had ended before, and what it did is here.")
    assert "its result is on its way" in reply.text
    assert notebook.value("[type(brought).__name__, also]") == ["Slow", 1]
    notebook.run("del brought")


def test_a_jobs_interrupt_is_as_that_of_a_cell(notebook: Notebook) -> None:
    notebook.run("%%dispatch --detach\n" + BEGUN + "got = 5\ntime.sleep(600)")
    notebook.run("from docker_kernel import jobs\njob = jobs[-1]\nwhile 'begun' not in job.logs(): pass")
    assert notebook.value("job.interrupt()") is True
    assert notebook.run("job.result()").name == "KeyboardInterrupt" and notebook.value("got") == 5
    assert notebook.value("job.interrupt()") is False


def test_a_value_is_shown_once_and_where_it_is_asked_for(notebook: Notebook) -> None:
    notebook.run("from docker_kernel import dispatch")
    assert [one["text/plain"] for one in notebook.run("dispatch('x = 6\\nx * 7', wait=True)").displays] == ["42"]
    assert notebook.run("y = dispatch('x = 6\\nx * 7', wait=True)").displays == []
    reply = notebook.run("dispatch('x = (n for n in [1])\\nx', wait=True);")
    assert "generator object" in reply.displays[0]["text/plain"], "what it was is not here otherwise"


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "exit()"])
def test_how_to_exit_is_said_as_often_as_without_a_job(notebook: Notebook, code: str) -> None:
    reply = notebook.run("%%local\n" + code)
    assert reply.name == "SystemExit" and reply.text.count("UserWarning: To exit") == 1
