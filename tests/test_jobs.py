"""What a dispatch can be told, and what a job tells, on the kernel's own engine."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel.batch.job_folder import root
from tests.conftest import NotebookMaker
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient, until


def send(notebook: Notebook, cell: str) -> None:
    """Dispatch a cell; `sent` is the job, or the sweep."""
    reply = notebook.run(cell)
    assert reply.status == "ok", reply.traceback
    notebook.run("sent = _")


def test_parameters_are_assigned_before_the_cell_runs(notebook: Notebook) -> None:
    notebook.run("alpha = 0")
    send(
        notebook,
        "%%dispatch --param alpha=0.5 --param 'label=a b' --param flags=[1,None]\nfound = [alpha, label, flags]",
    )
    assert notebook.run("sent.result()").status == "ok"
    assert notebook.value("[found, alpha, sent.params]") == [
        [0.5, "a b", [1, None]], 0, {"alpha": 0.5, "label": "a b", "flags": [1, None]},
    ]  # fmt: skip


def test_a_sweep_is_one_snapshot_and_a_job_for_each_combination(notebook: Notebook) -> None:
    notebook.run("base = 10")
    send(
        notebook, "%%dispatch --name grid --sweep x=1,2,3 --sweep y=0,1\nassert y + x != 4, 'unlucky'\nz = base * x + y"
    )
    assert notebook.value("len(sent)") == 6
    notebook.run("found = sent.result()")
    assert notebook.value("[one['z'] if isinstance(one, dict) else type(one).__name__ for one in found]") == [
        10, 11, 20, 21, 30, "AssertionError",
    ]  # fmt: skip
    assert notebook.value("[len({job.record['snapshot'] for job in sent}), 'z' in globals()]") == [1, False]
    assert notebook.value("[job.state for job in sent]") == ["succeeded"] * 5 + ["failed"]


def test_an_expression_is_swept_over_from_python(notebook: Notebook) -> None:
    notebook.run("from docker_kernel import dispatch\nsent = dispatch('x ** 2', sweep={'x': range(4)})")
    assert notebook.value("sent.result()") == [0, 1, 4, 9]


def test_metrics_progress_and_bars_are_told(notebook: Notebook) -> None:
    cell = """%%dispatch --name train
from docker_kernel import job
for step in range(3):
    job.progress((step + 1) / 4, 'step %d' % step, loss=1 / (step + 1))
    job.log(step=step, accuracy=step / 2)
from IPython.display import HTML, display
display(HTML('<i>shown</i>'))
who = [job.name, job.id, job.params]"""
    send(notebook, cell)
    assert notebook.run("sent.result()").status == "ok"
    assert notebook.value("[who[0], who[1] == sent.id]") == ["train", True]
    assert notebook.value("sent.progress") == 0.75
    assert notebook.value("sent.last_metrics") == {"loss": pytest.approx(1 / 3), "accuracy": 1.0}
    points = notebook.value("sent.metrics")
    assert [point["accuracy"] for point in points if "accuracy" in point] == [0, 0.5, 1]
    assert [point["step"] for point in points if "accuracy" in point] == [0, 1, 2]
    assert notebook.value("sent.outputs[0]['data']['text/html']") == "<i>shown</i>"


def test_a_bar_of_tqdms_is_progress(notebook: Notebook) -> None:
    bar = " 50%|#####     | 5/10 [00:01<00:03,  4.00it/s]"
    send(notebook, f"%%dispatch\nimport sys\nprint('\\r{bar}', end='', file=sys.stderr)")
    assert notebook.run("sent.wait()").status == "ok"
    assert notebook.value("[sent.progress, sent.remaining]") == [0.5, 3.0]
    assert notebook.value("sent.logs()") == f"\r{bar}"


def test_the_same_code_in_the_notebook_says_once_that_it_is_no_job(notebook: Notebook) -> None:
    reply = notebook.run("from docker_kernel import job\nfor i in range(3): job.progress(i / 3); job.log(loss=i)")
    assert reply.status == "ok" and reply.text.count("This is not a job") == 1


def test_a_job_says_what_it_cost(notebook: Notebook) -> None:
    cell = (
        "from time import process_time as now\nblock = bytearray(200 << 20)\nend = now() + 1\nwhile now() < end: pass"
    )
    send(notebook, f"%%dispatch\n{cell}\ndel block")
    notebook.run("sent.result()")
    cpu, memory, seconds = notebook.value("list(sent.cost)")
    assert 0.8 < cpu < 30 and 200 << 20 < memory < 2 << 30 and 1 <= seconds < patient(60)


def test_files_that_a_job_writes_come_back(notebook: Notebook) -> None:
    cell = """%%dispatch
from docker_kernel import job
import os
os.makedirs(job.outputs + '/deep')
open(job.outputs + '/deep/a.txt', 'w').write('hello')
open(os.path.join(job.outputs, 'b.bin'), 'wb').write(bytes(3_000_000))"""
    send(notebook, cell)
    notebook.run("sent.wait()")
    assert notebook.value("sorted(sent.files)") == ["b.bin", "deep/a.txt"]
    assert notebook.value("open(sent.files['deep/a.txt']).read()") == "hello"
    assert notebook.value("__import__('os').path.getsize(sent.files['b.bin'])") == 3_000_000
    assert "wrote no file 'c'" in notebook.run("sent.files['c']").value


def test_only_what_is_pulled_comes_back(notebook: Notebook) -> None:
    notebook.run("for name in ('first', 'second'): globals().pop(name, None)")
    send(notebook, "%%dispatch --pull second\nfirst, second = 1, 2")
    notebook.run("sent.result()")
    assert notebook.value("['first' in globals(), second]") == [False, 2]


def test_what_is_sent_can_be_chosen(notebook: Notebook) -> None:
    notebook.run("kept, dropped, helper_value = 1, 2, 3\ndef helper(): return helper_value")
    look = "\nseen = sorted(n for n in ('kept', 'dropped', 'helper', 'helper_value') if n in globals())"
    for options, expected in (
        ("--only kept", ["kept"]),
        ("--exclude dropped,kept", ["helper", "helper_value"]),
        ("--needed", ["helper", "helper_value"]),
    ):
        send(notebook, f"%%dispatch {options}\n{'helper()' if options == '--needed' else ''}{look}")
        notebook.run("sent.result()")
        assert notebook.value("seen") == expected, options
    assert "there is no variable kpet (did you mean kept?)" in notebook.run("%%dispatch --only kpet\n1").value


def test_a_cell_that_uses_what_cannot_travel_fails_at_once(notebook: Notebook) -> None:
    notebook.run("stream = (i for i in range(3))")
    before = notebook.value("len(__import__('docker_kernel').jobs)")
    reply = notebook.run("%%dispatch\nprint(next(stream))")
    assert reply.name == "JobFailed" and "The cell uses stream, which cannot travel (generator" in reply.value
    assert notebook.value("len(__import__('docker_kernel').jobs)") == before
    notebook.run("del stream")


def test_a_dry_run_says_what_would_travel_and_runs_nothing(notebook: Notebook, workspace: Path) -> None:
    (workspace / "notes.txt").write_text("x" * 2000)
    (workspace / ".env").write_text("PASSWORD=1")
    notebook.run(
        "import os\nos.environ['MY_API_KEY'] = 'abc'\nlarge = bytes(5_000_000)\nhandle = open('/etc/hostname')"
    )
    before = notebook.value("len(__import__('docker_kernel').jobs)")
    text = notebook.run("%%dispatch --dry-run\n1").text
    assert "4.8 MiB  large" in text and "handle (TextIOWrapper): it is an open file" in text
    assert "MY_API_KEY" in text and ".env" in text and "new to the target: 0 B" in text and "files: " in text
    assert notebook.value("len(__import__('docker_kernel').jobs)") == before
    notebook.run("handle.close(); del handle, large, os.environ['MY_API_KEY']")
    (workspace / ".env").unlink()


def test_credentials_stay_behind_unless_they_are_named(notebook: Notebook) -> None:
    notebook.run("import os\nos.environ['DB_PASSWORD'] = 'hunter2'\nos.environ['PLAIN'] = 'fine'")
    look = "import os\nseen = [os.environ.get('DB_PASSWORD'), os.environ.get('PLAIN')]"
    reply = notebook.run(f"%%dispatch\n{look}")
    assert "Held back, as they look like credentials: " in reply.text and "DB_PASSWORD" in reply.text
    notebook.run("sent = _; sent.result()")
    assert notebook.value("seen") == [None, "fine"]
    for option in ("--secret DB_PASSWORD", "--env DB_PASSWORD", "--secret DB_PASSWORD=hunter2"):
        send(notebook, f"%%dispatch {option}\n{look}")
        notebook.run("sent.result()")
        assert notebook.value("seen") == ["hunter2", "fine"], option
    assert "no environment variable" in notebook.run("%%dispatch --secret NOT_THERE\n1").value
    assert notebook.run("%%local\nimport os; print(os.environ.get('DB_PASSWORD'))").text == "hunter2\n"
    notebook.run("del os.environ['DB_PASSWORD']")


def test_credentials_in_the_home_folder_stay_behind_and_are_listed(notebook: Notebook) -> None:
    notebook.run(
        "import os\nfrom pathlib import Path\nhome = Path.home()\n(home / '.aws').mkdir()\n"
        "(home / '.aws/credentials').write_text('x')\n(home / '.npmrc').write_text('x')\n"
        "(home / 'tools').mkdir()\nfor name in ('server.key', 'tool.txt'): (home / 'tools' / name).write_text('x')\n"
        "(home / 'tools').chmod(0o711)"
    )
    names = "('.aws', '.npmrc', 'tools/server.key', 'tools/tool.txt')"
    look = f"seen = [(home / name).exists() for name in {names}], (home / 'tools').stat().st_mode & 0o777"
    assert "~/.aws, ~/.npmrc, ~/tools/server.key\n" in notebook.run(f"%%dispatch --dry-run\n{look}").text
    reply = notebook.run(f"%%dispatch\n{look}")
    assert "~/.aws, ~/.npmrc, ~/tools/server.key; a job that needs one" in reply.text
    notebook.run("sent = _; sent.result()")
    assert notebook.value("seen") == [[False, False, False, True], 0o711]
    assert "Held back" not in notebook.run(f"%%dispatch --wait\n{look}").text, "once"
    notebook.run("import shutil\nfor name in ('.aws', 'tools'): shutil.rmtree(home / name)")
    notebook.run("(home / '.npmrc').unlink()\ndel home, Path")


def test_a_failed_job_says_why_and_can_be_retried(notebook: Notebook, workspace: Path) -> None:
    send(notebook, "%%dispatch --name fails\nraise ValueError('broken')")
    notebook.run("sent.wait()")
    assert notebook.value("[sent.state, sent.reason, sent.record['error']]") == [
        "failed", "its cell raised ValueError: broken", "ValueError",
    ]  # fmt: skip
    assert notebook.value("repr(sent.exception())") == "ValueError('broken')"
    notebook.run("again = sent.retry()")
    notebook.run("sent.wait()")
    assert notebook.value("[again is sent, sent.state, sent.record['attempt']]") == [True, "failed", 2]


def test_retries_go_on_until_a_job_succeeds(notebook: Notebook) -> None:
    cell = "%%dispatch --retries 3\nimport random\nassert random.SystemRandom().random() < 0.9\nlucky = True"
    send(notebook, cell)
    notebook.run("sent.wait()")
    send(notebook, "%%dispatch --retries 2\nimport os; os._exit(9)")
    notebook.run("sent.wait()")
    assert notebook.value("[sent.state, sent.record['attempt'], sent.reason]") == [
        "failed", 3, "its container ended with exit code 9",
    ]  # fmt: skip


def test_a_timeout_ends_a_job_from_inside(notebook: Notebook) -> None:
    limit = f"{patient(1):g}"  # which its container's start is part of
    send(notebook, f"%%dispatch --timeout {limit}\nimport time\ntry: time.sleep(600)\nfinally: print('tidied')")
    notebook.run("sent.wait()")
    assert notebook.value("[sent.state, sent.reason]") == ["failed", f"it took longer than its timeout of {limit} s"]
    assert "tidied" in notebook.value("sent.logs()")


WRITE = (
    "from docker_kernel import job\nopen(job.outputs + '/model.bin', 'w').write('half')\nprint('written', flush=True)\n"
)


@pytest.mark.parametrize(
    ("options", "end", "ended"),
    [
        (" --timeout {limit}", "import time; time.sleep(600)", "timeout of {limit} s"),
        ("", "import os; os._exit(9)", "exit code 9"),
        ("", "import time; time.sleep(600)", "it was cancelled"),
    ],
    ids=["timeout", "death", "cancel"],
)
def test_what_a_job_wrote_before_it_was_ended_is_kept(notebook: Notebook, options: str, end: str, ended: str) -> None:
    limit = f"{patient(1):g}"
    send(notebook, f"%%dispatch{options.format(limit=limit)}\n{WRITE}\n{end}")
    if "cancelled" in ended:
        notebook.run("next(text for text in sent.logs(follow=True) if 'written' in text)\nsent.cancel()")
    notebook.run("sent.wait()")
    assert ended.format(limit=limit) in notebook.value("sent.reason")
    assert notebook.value("[list(sent.files), open(sent.files['model.bin']).read()]") == [["model.bin"], "half"]
    assert notebook.run("sent.result()").name in ("JobFailed", "JobCancelled")
    send(notebook, "%%dispatch\nimport os; os._exit(9)")
    notebook.run("sent.wait()")
    assert notebook.value("list(sent.files)") == []


def test_jobs_wait_for_their_turn_and_can_be_cancelled_while_they_do(notebook: Notebook) -> None:
    notebook.run(
        "from docker_kernel import dispatch\nsent = dispatch('import time; time.sleep(600)', sweep={'i': range(12)})"
    )
    until(lambda: notebook.value("sum(job.state == 'running' for job in sent)") >= 4, what="some jobs' beginning")
    assert notebook.value("sum(job.state == 'queued' for job in sent)") >= 4
    assert notebook.value("[sent[-1].cancel(), sent[-1].wait(), sent[-1].state]") == [True, True, "cancelled"]
    assert notebook.value("sent.cancel()") >= 4
    assert notebook.value("sent.wait()") is True


def test_logs_can_be_followed(notebook: Notebook) -> None:
    send(notebook, "%%dispatch\nimport time\nfor i in range(3): print('line', i, flush=True); time.sleep(.3)")
    assert notebook.value("''.join(sent.logs(follow=True)).split('\\n')[-4:]")[-4:] == [
        "line 0",
        "line 1",
        "line 2",
        "",
    ]


def test_a_job_can_be_awaited_and_tells_its_callbacks(notebook: Notebook) -> None:
    notebook.run("from docker_kernel import dispatch\ncalled = []")
    reply = notebook.run("sent = dispatch('6 * 7'); sent.add_done_callback(called.append); print(await sent)")
    assert reply.text == "42\n", reply.traceback
    until(lambda: notebook.value("called == [sent]"), what="the call")
    assert notebook.value("[called == [sent], sent.done(), sent.running(), sent.cancelled()]") == [
        True,
        True,
        False,
        False,
    ]


def test_a_whole_notebook_runs_with_parameters(notebook: Notebook, workspace: Path) -> None:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# A report"},
        {
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]},
            "source": "alpha = 1\nname = 'x'",
            "outputs": [],
            "execution_count": None,
        },
        {
            "cell_type": "code",
            "metadata": {},
            "source": ["print(alpha, name)\n", "alpha * 2"],
            "outputs": [],
            "execution_count": None,
        },
    ]
    (workspace / "a report.ipynb").write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})
    )
    send(
        notebook,
        '%dispatch --name "quoted" "a report.ipynb" --param alpha=21',
    )
    notebook.run("made = sent.result()")
    code = [cell for cell in notebook.value("made['cells']") if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [1, 2, 3]
    assert "alpha = 21" in code[1]["source"] and code[1]["metadata"]["tags"] == ["injected-parameters"]
    assert code[2]["outputs"][0] == {"name": "stdout", "output_type": "stream", "text": "21 x\n"}
    assert code[2]["outputs"][1]["data"]["text/plain"] == "42"
    assert notebook.value("sorted(sent.files)") == ["output.ipynb"]
    cells[2]["source"] = "1 / 0"
    (workspace / "bad.ipynb").write_text(
        json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells})
    )
    send(notebook, "%dispatch bad.ipynb")
    notebook.run("sent.wait()")
    assert notebook.value("[sent.state, sorted(sent.files)]") == ["failed", ["output.ipynb"]]
    assert notebook.run("sent.result()").name == "ZeroDivisionError"
    assert "cannot be read" in notebook.run("%dispatch missing.ipynb").value


def test_jobs_are_there_after_a_restart_of_the_kernel(notebook: Notebook) -> None:
    send(notebook, f"%%dispatch --name lasting --param n=3\n{HOLD}kept_value = [n]")
    job = notebook.value("sent.id")
    notebook.restart()
    let_go(job)
    reply = notebook.run(
        "from docker_kernel import jobs\njobs['lasting'].wait()\nprint(jobs['lasting'].result(), kept_value)"
    )
    assert reply.text == "None [3]\n", reply.traceback
    assert notebook.value("[jobs['lasting'].id, jobs['lasting'].params]") == [job, {"n": 3}]
    assert job in notebook.run("%jobs").shown


def test_a_sweep_is_found_by_its_name_and_each_of_its_jobs_by_its_id(notebook: Notebook) -> None:
    notebook.run("from docker_kernel import jobs")
    send(notebook, "%%dispatch --name grid\nvalue = 'before the sweep'")
    send(notebook, "%%dispatch --name grid --sweep rate=0.1,0.2 --sweep width=1,2\nvalue = rate * width")
    ids = notebook.value("[one.id for one in sent]")
    send(notebook, "%%dispatch --name alone --sweep rate=0.5\nvalue = rate")
    notebook.run("sent.wait(); jobs['grid'].wait()")
    for _ in ("in the kernel that sent it", "after a restart"):
        assert notebook.value("[type(jobs['grid']).__name__, [one.id for one in jobs['grid']]]") == ["Sweep", ids]
        assert notebook.value("[one['value'] for one in jobs['grid'].result()]") == [0.1, 0.2, 0.2, 0.4]
        assert notebook.value("[type(jobs['alone']).__name__, jobs['alone'].result()]") == ["Sweep", [{"value": 0.5}]]
        assert notebook.value(f"[jobs[{ids[2]!r}].id, jobs[{ids[2][:8]!r}].id, jobs[-3].id]") == [
            ids[2],
            ids[2],
            ids[2],
        ]
        assert notebook.value("[one.id for one in jobs[jobs['grid'][0].record['group']]]") == ids
        assert "(did you mean grid?)" in notebook.run("jobs['gird']").value
        notebook.restart()
        notebook.run("from docker_kernel import jobs")


def test_runs_are_compared(notebook: Notebook) -> None:
    send(
        notebook,
        "%%dispatch --name runs --sweep rate=0.1,0.2\nfrom docker_kernel import job\njob.log(step=0, loss=rate)",
    )
    notebook.run("sent.wait()")
    reply = notebook.run("rows = __import__('docker_kernel.guest.runs', fromlist=['rows']).rows(list(sent))")
    assert reply.status == "ok", reply.traceback
    rows = notebook.value("rows")
    assert [row["param.rate"] for row in rows] == [0.1, 0.2] and [row["metric.loss"] for row in rows] == [0.1, 0.2]
    assert len({row["code"] for row in rows}) == 1 and all(row["image"].startswith("sha256:") for row in rows)
    assert "has no pandas" in notebook.run("%jobs compare runs").value


@pytest.fixture
def lasting(notebook: Notebook) -> Iterator[Notebook]:
    """A kernel whose `sent` are two jobs that last; they are cancelled at the end."""
    send(notebook, "%%dispatch --sweep x=1,2\nimport time\ntime.sleep(600)")
    yield notebook
    notebook.run("sent.cancel(); sent.wait(60)", timeout=90)


def test_who_stops_following_a_job_leaves_nothing_behind(lasting: Notebook) -> None:
    cell = """
import asyncio
job, called = sent[0], []
before = len(job._listeners)
job.add_done_callback(lambda job: 1 / 0)
job.add_done_callback(called.append)
for piece in job.logs(follow=True):
    break
kept = job.logs(follow=True); next(kept)
try:
    for piece in job.logs(follow=True): raise ValueError
except ValueError: pass
try: await asyncio.wait_for(job, 0.2)
except asyncio.TimeoutError: pass
print(len(job._listeners) - before)"""
    assert lasting.run(cell).text == "2\n"  # the callbacks
    # What comes faster than it is read is bounded, and said to be missing.
    come = "for number in range(40): job._receive({'event': 'output', 'text': '%d' % number + 'x' * 99_999})"
    assert lasting.run(come).status == "ok"
    assert lasting.run("text = next(kept)").status == "ok"
    gap, length = lasting.value("[text[:60], len(text)]")
    assert gap.startswith("\n… (") and "characters came faster than they were read" in gap and length < 1_100_000
    assert lasting.run("job.cancel(); job.wait(60)", timeout=90).status == "ok"
    assert lasting.run("for piece in kept: pass\ndel kept").status == "ok"
    assert lasting.value("[len(called), len(job._listeners) - before]") == [1, 0]


def test_many_jobs_are_awaited_without_a_thread_each(lasting: Notebook) -> None:
    cell = """
import asyncio
async def ended(job):
    try: await job
    except Exception as error: return type(error).__name__
waiting = [asyncio.ensure_future(ended(job)) for job in sent for _ in range(40)]
await asyncio.sleep(0)
print(await asyncio.wait_for(asyncio.to_thread(int), 20), any(one.done() for one in waiting))
sent.cancel()
print(set(await asyncio.gather(*waiting)))
del waiting"""
    reply = lasting.run(cell, timeout=90)
    assert reply.text == "0 False\n{'JobCancelled'}\n", reply.traceback


def test_replicas_find_each_other(notebook: Notebook) -> None:
    cell = """%%dispatch --replicas 2
import os, socket, time
rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
if rank == 0:
    server = socket.create_server(('', address[1]))
    peer, _ = server.accept()
    told = peer.recv(100).decode()
    del server, peer
else:
    while True:
        try:
            socket.create_connection(address, 5).sendall(b'hello from %d' % rank)
            break
        except OSError:
            time.sleep(.1)
print('rank', rank, 'of', size)"""
    send(notebook, cell)
    reply = notebook.run("sent.result()")
    assert reply.status == "ok", reply.traceback + notebook.run("print(sent, sent.logs())").text
    assert notebook.value("told") == "hello from 1"
    logs = notebook.value("sent.logs()")
    assert "[0] rank 0 of 2" in logs and "[1] rank 1 of 2" in logs


def test_each_line_of_replicas_has_its_rank_once(notebook: Notebook) -> None:
    cell = """%%dispatch --replicas 2
import sys, time
from docker_kernel import job
for i in range(50):
    print('line', end=' ', flush=True)
    print(i, 'of', job.rank)
    display(i) if i % 10 == 0 else time.sleep(.002)
for i in range(3):
    print('\\r%d%%' % i, end='', file=sys.stderr, flush=True)
print('\\nno newline', end='')"""
    send(notebook, cell)
    reply = notebook.run("sent.result()")
    assert reply.status == "ok", reply.traceback
    lines = notebook.value("sent.logs()").splitlines()
    for rank in (0, 1):
        own = [line[4:] for line in lines if line.startswith(f"[{rank}] ")]
        assert own == [*(f"line {i} of {rank}" for i in range(50)), "0%", "1%", "2%", "no newline"]
    assert len([line for line in lines if line]) == 2 * 54


def test_one_failing_replica_ends_the_others(notebook: Notebook) -> None:
    started = time.monotonic()
    send(
        notebook, "%%dispatch --replicas 3\nimport os, time\nif os.environ['RANK'] == '2': os._exit(5)\ntime.sleep(600)"
    )
    notebook.run("sent.wait()")
    assert time.monotonic() - started < patient(45)
    assert notebook.value("[sent.state, sent.reason]") == ["failed", "its rank 2 ended with exit code 5"]


def test_a_job_has_its_kernels_random_states_and_settings_and_brings_home_what_it_changes(notebook: Notebook) -> None:
    notebook.run(
        "import decimal, logging, random, sys, warnings\nfrom IPython.core.magic import register_line_magic\n"
        "random.seed(7); expected = [random.random() for _ in range(3)]; random.seed(7)\n"
        "warnings.simplefilter('error', DeprecationWarning); logging.getLogger('mine').setLevel(10)\n"
        "sys.setrecursionlimit(4321)\n@register_line_magic\ndef twice(line): return 2 * int(line)"
    )
    cell = (
        "drawn = random.random()\n"
        "try: warnings.warn('x', DeprecationWarning); loud = False\nexcept DeprecationWarning: loud = True\n"
        "there = [logging.getLogger('mine').level, sys.getrecursionlimit()]\n"
        "there.append(get_ipython().run_line_magic('twice', '4'))\n"
        "decimal.getcontext().prec = 6; logging.getLogger('mine').setLevel(40)"
    )
    reply = notebook.run(f"%%local\n{cell}")
    assert (reply.status, reply.text) == ("ok", ""), reply.traceback or reply.text
    assert notebook.value("[drawn, random.random()] == expected[:2] and [loud, there]") == [True, [10, 4321, 8]]
    assert notebook.value("[decimal.getcontext().prec, logging.getLogger('mine').level]") == [6, 40]
    assert notebook.run("%%local\nrandom.random(); 1 / 0").name == "ZeroDivisionError"
    assert notebook.value("random.random() not in expected")
    notebook.run("warnings.resetwarnings(); sys.setrecursionlimit(3000); decimal.getcontext().prec = 28")


def test_the_jobs_of_a_sweep_draw_numbers_of_their_own_and_the_kernel_others(notebook: Notebook) -> None:
    def draw() -> list[float]:
        notebook.run("import random; random.seed(3); own = random.Random(4)")
        notebook.run("from docker_kernel import dispatch, job\nsent = dispatch('[random.random(), own.random()]')")
        notebook.run("many = dispatch('[random.random(), own.random(), job.stream[0]]', sweep={'i': [5, 6]})")
        found = notebook.value("[sent.result(), *many.result(), [random.random(), own.random()]]")
        assert [one[2] for one in found[1:3]] == notebook.value("[one.record['stream'] for one in many]") == [0, 1]
        return [number for one in found for number in one[:2]]

    first = draw()
    assert len(set(first)) == 8 and draw() == first
    assert notebook.value("[random.Random(3).random(), random.Random(4).random()]") == first[:2]
    again = notebook.value("[many[1].retry().result(), many[1].record['stream']]")
    assert again == [[*first[4:6], 1], 1]


def test_each_rank_draws_numbers_of_its_own(notebook: Notebook) -> None:
    notebook.run("import random; random.seed(5)\nfrom docker_kernel import job")
    send(notebook, "%%dispatch --replicas 2\nprint('drawn', job.stream, random.random())")
    notebook.run("sent.result()")
    drawn = dict(re.findall(r"drawn \((\d),\) (0\.\d+)", notebook.value("sent.logs()")))
    assert set(drawn) == {"0", "1"}
    assert len({*map(float, drawn.values()), notebook.value("random.Random(5).random()")}) == 3


def test_what_no_job_needs_leaves_the_kernel_volume(notebook: Notebook) -> None:
    folder = "/opt/docker-kernel/state"
    notebook.run("%%dispatch --name first\nx_first = bytearray(100_000)")
    notebook.run("kept = _; kept.wait()")
    notebook.run(
        "import docker_kernel.guest.garbage as garbage, docker_kernel.guest.session as session\n"
        "garbage.YOUNG_SECONDS = 0; session.KEPT_SNAPSHOTS = session.KEPT_RESULTS = 2"
    )
    for number in range(7):
        notebook.run(f"changing = bytes([{number}]) * 300_000")
        assert notebook.run("%local len(changing)").shown == "300000"
    count = notebook.value(f"len(__import__('os').listdir('{folder}/manifests'))")
    assert count < 11, "7 snapshots and 7 results, but what was let go of"
    assert notebook.run("kept.result(); print(len(x_first))").text == "100000\n", "it came from the host's copy"
    notebook.run("session.KEPT_SNAPSHOTS, session.KEPT_RESULTS = 8, 20; del changing, x_first, session, garbage")


def test_an_input_comes_from_a_url_or_from_where_the_target_allows(
    notebook: Notebook, start: NotebookMaker, own_folders: Path, tmp_path: Path
) -> None:
    reply = notebook.run("%%dispatch --input data=http://127.0.0.1:9/none --wait\n1")
    assert "The input data cannot be fetched from http://127.0.0.1:9/none" in reply.value, reply.traceback
    reply = notebook.run("%%dispatch --input data=http://ada:s3cret@127.0.0.1:9/none --wait\n1")
    assert (
        "cannot be fetched from http://***@127.0.0.1:9/none" in reply.value and "s3cret" not in reply.value + reply.text
    )
    assert "is not among the `inputs`" in notebook.run("%%dispatch --input data=/etc\n1").value
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("1,2\n")
    config = own_folders / "config.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[targets.local]\ninputs = ["{data}"]\n')
    try:
        one = start(cwd=tmp_path)
    finally:
        config.write_text(before)
    cell = (
        f"%%dispatch --wait --input csv={data}/a.csv --input all={data}\n"
        "seen = open('/inputs/csv').read(), open('/inputs/all/a.csv').read()\n"
        "try: open('/inputs/all/b', 'w'); kept = False\nexcept OSError: kept = True"
    )
    assert one.run(cell).status == "ok"
    assert one.value("[seen, kept]") == [["1,2\n", "1,2\n"], True]
    (data / "out").symlink_to(own_folders)
    (data / "deep").mkdir()
    (data / "deep/in").symlink_to("../a.csv")
    (own_folders / "secret").write_text("not for jobs")
    for name, why in (("out/secret", "a link in out/secret leads out of the folder"), ("none", "there is no none in")):
        assert f"The input x: {why}" in one.run(f"%%dispatch --wait --input x={data}/{name}\n1").value
    one.run(
        f"%%dispatch --wait --input x={data}/deep/in --input all={data}\n"
        "linked = open('/inputs/x').read(), __import__('os').path.exists('/inputs/all/out/secret')"
    )
    assert one.value("linked") == ["1,2\n", False]
    code = (
        "import http.server, threading, functools\n"
        f"serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory={str(data)!r})\n"
        "server = http.server.ThreadingHTTPServer(('0.0.0.0', 0), serve)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "import socket; print(socket.gethostbyname(socket.gethostname()), server.server_port)"
    )
    address, port = one.run(code).text.split()
    reply = one.run(
        f"%%dispatch --exclude server,serve --input web=http://{address}:{port}/a.csv?token=hunter2&page=3 --name web "
        "--wait\n"
        "fetched = open('/inputs/web').read()"
    )
    assert one.value("fetched") == "1,2\n", reply.traceback
    told = one.value("__import__('docker_kernel').jobs['web'].record['inputs']['web']")
    assert told.startswith(f"http://{address}:{port}/a.csv?token=***&page=3 ") and "GMT" in told, "its version is told"
    assert b"hunter2" not in (root() / "jobs.sqlite").read_bytes()
    one.run("again = __import__('docker_kernel').jobs['web'].retry(); again.wait()")
    assert one.value("[again.state, again.record['inputs']['web']]") == ["succeeded", told]


def test_an_interrupt_while_a_job_is_sent_leaves_none(start: NotebookMaker, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(300 << 20))  # whose copy takes a while
    one = start()
    one.run("%local 1")
    timer = threading.Timer(0.5, one.manager.interrupt_kernel)
    timer.start()
    reply = one.run("%%dispatch\nimport time; time.sleep(600)")
    assert reply.name == "KeyboardInterrupt", "it was not interrupted while it was sent"
    one.run("from docker_kernel import jobs")
    asking = "[one.name for one in __import__('threading').enumerate() if one.name == 'docker-kernel-start']"
    until(lambda: one.value(asking) == [], what="the answer that nobody waits for")
    until(lambda: one.value("[job.state for job in jobs if not job.record['live']]") in ([], ["cancelled"]))
