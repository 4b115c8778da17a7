"""%%local, %%dispatch and %jobs, from a notebook to a job's container and back, on the real engine."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from docker_kernel.engine import Engine
from tests.conftest import NotebookMaker, SpecMaker
from tests.environment import environments, write_wheel
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient


def test_a_local_cell_sees_the_state_and_what_it_assigns_comes_back(notebook: Notebook) -> None:
    notebook.run("x = 20\ndef double(n): return 2 * n + offset\noffset = 2")
    reply = notebook.run("%%local\nprint('in', double(x))\ny = double(x)\ny")
    assert (reply.status, reply.text, reply.shown) == ("ok", "in 42\n", "42")
    assert notebook.value("y") == 42


def test_aliases_and_classes_of_the_notebook_survive_the_round_trip(notebook: Notebook) -> None:
    notebook.run("class Point: pass\nitems = [1]\nalias = items\np = Point(); p.items = items")
    reply = notebook.run("%%local\nassert alias is items is p.items\nalias.append(2)\nq = Point(); q.items = items")
    assert reply.status == "ok", reply.traceback
    assert notebook.value("[items, alias is items, p.items is items, isinstance(q, Point), q.items is items]") == [
        [1, 2], True, True, True, True,
    ]  # fmt: skip


def test_what_a_cell_changes_in_place_comes_back(notebook: Notebook) -> None:
    notebook.run("scores = {}")
    assert notebook.run("%%local\nscores['a'] = 1").status == "ok"
    assert notebook.value("scores") == {"a": 1}


def test_a_cell_that_fails_has_done_what_it_did_until_then(notebook: Notebook) -> None:
    notebook.run("done, other, gone = [], {}, 1\nclass Held(Exception):\n    def __init__(self, of): self.of = of")
    reply = notebook.run("%%local\ndone.append(1); other['n'] = done; new = 2; del gone\nraise Held(done)")
    assert reply.name == "Held"
    assert notebook.value("[done, other['n'] is done, new, 'gone' in globals()]") == [[1], True, 2, False]
    notebook.run("job = get_ipython().run_cell_magic('dispatch', '', 'done.append(2); new = 3; raise Held(done)')")
    reply = notebook.run("try: job.result()\nexcept Held as error: print(error.of, error.of is done, done, new)")
    assert reply.text == "[1, 2] False [1] 2\n"


def test_an_unpicklable_variable_is_named_and_costs_only_itself(notebook: Notebook) -> None:
    notebook.run("import threading\nguard = threading.Lock()\nhandle = open('/etc/hostname')\nfine = 1")
    reply = notebook.run("%%local\nprint(fine, 'guard' in globals(), 'handle' in globals())")
    assert reply.text.endswith("1 False False\n")
    assert "Left out: guard (lock): cannot pickle '_thread.lock' object" in reply.text
    assert "Left out: handle (TextIOWrapper): it is an open file; open it in the cell." in reply.text
    notebook.run("handle.close(); del guard, handle")


def test_the_original_exception_comes_back_with_the_jobs_traceback(notebook: Notebook) -> None:
    notebook.run("class Odd(Exception):\n    def __init__(self, a, b): super().__init__(a); self.b = b")
    reply = notebook.run("%%local\ndef inner():\n    raise Odd('left', 'right')\ninner()")
    assert (reply.name, reply.value) == ("Odd", "left")
    assert "raise Odd('left', 'right')" in reply.traceback
    assert "docker_kernel" not in reply.traceback
    code = (
        "try:\n    get_ipython().run_cell_magic('local', '', '1/0')\nexcept ZeroDivisionError as e: print('caught', e)"
    )
    assert notebook.run(code).text == "caught division by zero\n"


FAILING = """
import threading
class Refused(ConnectionError):
    def __init__(self, host, tries):
        super().__init__(111, "refused", host)
        self.tries, self.lock = tries, threading.Lock()
try: {}["key"]
except KeyError as error:
    error.hint = "look"
    raise Refused("here", 3) from error
"""


def test_an_exception_keeps_its_fields_and_its_chain(notebook: Notebook) -> None:
    code = f"""
import docker_kernel
job = docker_kernel.dispatch({FAILING!r})
try: job.result()
except ConnectionError as one: print(one, "|", one.errno, one.filename, one.tries, one.__cause__.hint)
print(type(job.exception()).__name__, hasattr(job.exception(), "lock"))
"""
    reply = notebook.run(code)
    assert "Not brought back: Refused.lock (lock): cannot pickle '_thread.lock' object; create it in" in reply.text
    assert "[Errno 111] refused: 'here' | 111 here 3 look\n" in reply.text, reply.traceback
    assert reply.text.endswith("Refused False\n")
    reply = notebook.run("job.result()")
    assert reply.name == "Refused" and "direct cause of the following exception" in reply.traceback
    assert 'try: {}["key"]' in reply.traceback and "docker_kernel" not in reply.traceback


def test_an_exception_that_ends_a_process_or_a_wait_is_the_jobs(notebook: Notebook) -> None:
    notebook.run("job = %dispatch __import__('sys').exit(3)")
    assert notebook.run("print(repr(job.exception()), job.exception().code)").text.endswith("SystemExit(3) 3\n")
    notebook.run("job = %dispatch (_ for _ in ()).throw(TimeoutError('own'))")
    assert notebook.run("print(repr(job.exception()))").text == "TimeoutError('own')\n"


def test_an_expression_gives_its_value(notebook: Notebook) -> None:
    assert notebook.run("%local 6 * 7").shown == "42"
    assert notebook.run("%dispatch --local 6 * 7").shown == "42"
    assert notebook.run("value = %local sum(range(4))\nprint(value)").text == "6\n"


def test_code_on_a_line_is_run_as_it_was_written(notebook: Notebook) -> None:
    notebook.run("n, text = 4, 'in 1984 and {n} $n'")
    assert notebook.run(r"%local __import__('re').findall(r'\d{4}', text)").shown == "['1984']"
    assert notebook.run("%local text == 'in 1984 and {n} $n'").shown == "True"
    assert "[--exclude NAMES]" in notebook.run("%%local --help").text


def test_output_streams_while_the_cell_runs(notebook: Notebook, workspace: Path) -> None:
    code = (
        "%%local\nimport os, time\nprint('first', flush=True)\nwhile not os.path.exists('heard'): time.sleep(.05)\n"
        "print('second')"
    )
    assert notebook.run(code, on_text=(workspace / "heard").touch).text == "first\nsecond\n"


def test_a_cell_has_ipythons_semantics(notebook: Notebook) -> None:
    code = (
        "%%local\nimport asyncio\nfrom IPython.display import display, HTML\nawait asyncio.sleep(0)\n"
        "display(HTML('<b>bold</b>'))\nfiles = !echo one two\nprint(files[0])\n%env SHADE=blue\n'last'"
    )
    reply = notebook.run(code)
    assert reply.status == "ok", reply.traceback
    assert "one two" in reply.text and "SHADE=blue" in reply.text
    assert reply.displays[0]["text/html"] == "<b>bold</b>"
    assert reply.shown == "'last'"


def test_a_cell_works_on_the_workspace_and_a_job_on_a_copy(notebook: Notebook, workspace: Path) -> None:
    (workspace / "data.csv").write_text("a,b\n")
    (workspace / "helper.py").write_text("def greet(): return 'from helper'\n")
    notebook.run("import helper")
    reply = notebook.run("%%local\nprint(helper.greet(), open('data.csv').read())\nopen('local.txt', 'w').write('x')")
    assert reply.text.startswith("from helper a,b"), reply.traceback
    assert (workspace / "local.txt").exists()
    (workspace / ".dockerignore").write_text("local.txt\n")
    code = "%%dispatch --wait\nimport os\nprint(helper.greet(), os.path.exists('local.txt'))\nopen('job.txt', 'w')"
    assert notebook.run(code).text == "from helper False\n"
    assert not (workspace / "job.txt").exists()


def test_the_environment_travels(notebook: Notebook) -> None:
    notebook.run("import os\nos.environ['SHADE'] = 'green'\nos.environ.pop('LANG', None)")
    assert notebook.run("%%local\nprint(os.environ['SHADE'], os.environ.get('LANG'))").text == "green None\n"


def test_a_dispatched_job_runs_beside_the_notebook_and_its_display_is_updated(notebook: Notebook) -> None:
    notebook.run("result = None")
    reply = notebook.run(f"%%dispatch --name slow\nprint('working')\n{HOLD}result = 'done'")
    assert reply.status == "ok", reply.traceback
    assert "Job" in reply.displays[0]["text/plain"] and "slow" in reply.displays[0]["text/html"]
    notebook.run("job = _")
    assert notebook.value("[job.state in ('starting', 'running'), job.done(), result]") == [True, False, None]
    let_go(notebook.value("job.id"))
    assert notebook.run("job.result()").status == "ok"
    assert notebook.value("[result, job.state, job.logs()]") == ["done", "succeeded", "working\n"]
    assert "succeeded" in notebook.run("%jobs").shown
    assert notebook.value("__import__('docker_kernel').jobs['slow'].id == job.id") is True
    shown = notebook.run("job").shown
    assert "working" in shown and "succeeded" in shown


def test_a_name_bound_anew_since_the_dispatch_keeps_its_value(notebook: Notebook) -> None:
    notebook.run("kept = 'old'")
    notebook.run("%%dispatch\nkept = 'from the job'\nbrought = 1")
    reply = notebook.run("job = _\nkept = 'new'\njob.result()")
    assert "Kept as they are" in reply.text and "kept" in reply.text
    assert notebook.value("[kept, brought]") == ["new", 1]


def test_what_a_job_changed_through_something_else_comes_home(notebook: Notebook) -> None:
    notebook.run("log = []\ndef train(n):\n    log.append(n)\n    return n\nheld = [log]; n = 0")
    assert notebook.run("%local train(3)").shown == "3"
    notebook.run("%%local\ntrain(4)")
    assert notebook.run("job = %dispatch train(5)\njob.result()").shown == "5"
    assert notebook.value("[log, held[0] is log]") == [[3, 4, 5], True]
    # Magics of the cell's own can run any code.
    notebook.run("%%local\n%timeit -n1 -r1 train(6)")
    assert notebook.value("held") == [[3, 4, 5, 6]]


def test_what_is_held_outside_of_the_variables_changes_too(notebook: Notebook) -> None:
    notebook.run(
        "import threading\nshared = []\nlock, held = threading.Lock(), {'lock': threading.Lock(), 'is': shared}"
    )
    assert notebook.run("%%local\nshared.append(1)\nlater = shared").status == "ok"
    assert notebook.value("[held['is'], held['is'] is shared is later]") == [[1], True]
    notebook.run("del lock, held")


def test_what_was_changed_here_since_the_dispatch_stays_and_both_can_be_had(notebook: Notebook) -> None:
    notebook.run("here = [1]; alias = here; there = [1]; both = {'there': there}")
    notebook.run(f"%%dispatch\n{HOLD}here.append('job'); there.append('job'); new = there")
    notebook.run("job = _\nhere.append('kernel')")
    let_go(notebook.value("job.id"))
    reply = notebook.run("job.result()")
    assert "as they were changed here since the job was sent, whose values job.variables has: alias, here" in reply.text
    assert notebook.value("[here, alias is here, there, new is there is both['there']]") == [
        [1, "kernel"], True, [1, "job"], True,
    ]  # fmt: skip
    assert notebook.value("[job.variables['here'], job.variables['there'] is there]") == [[1, "job"], False]


def test_a_class_that_was_changed_here_since_the_dispatch_stays_and_is_named(notebook: Notebook) -> None:
    notebook.run("class Config: a = b = 1")
    notebook.run("job = get_ipython().run_cell_magic('dispatch', '', 'Config.a = 2; other = 3')\nConfig.b = 5")
    reply = notebook.run("job.result()")
    assert "without the job's changes: Config" in reply.text
    assert notebook.value("[Config.a, Config.b, other]") == [1, 5, 3]


def test_a_generator_that_goes_on_here_is_no_change(notebook: Notebook) -> None:
    notebook.run(
        "import random\nclass Model: pass\nmodel = Model(); model.rng = random.Random(5); model.log = []\n"
        "held = [model]\ndef fit(): model.log.append(model.rng.random())"
    )
    notebook.run("%%dispatch\nfit()")
    reply = notebook.run("job = _\ndrawn = model.rng.random()\njob.result()")
    assert "Kept" not in reply.text
    assert notebook.value("[len(model.log), model.log[0] == random.Random(5).random(), held[0] is model]") == [
        1, True, True,
    ]  # fmt: skip
    assert notebook.value("drawn not in model.log") is True
    notebook.run("model.rng = random.Random(5)")
    notebook.run("%local fit()")
    notebook.run("same = random.Random(5)")
    assert notebook.value("[model.log[1] == same.random(), model.rng.random() == same.random()]") == [True, True]


def test_a_job_can_be_cancelled(notebook: Notebook) -> None:
    notebook.run("%%dispatch\nimport time; time.sleep(60)")
    notebook.run("job = _\nwhile not job.running(): pass\njob.cancel(); job.wait()")
    assert notebook.value("job.state") == "cancelled"
    assert notebook.value("job.seconds") < 8, "a main process that has just begun has no ear for signals yet"
    reply = notebook.run("job.result()")
    assert reply.name == "JobCancelled" and reply.traceback.count("\n") == 0


def test_an_interrupt_cancels_a_local_cell(notebook: Notebook) -> None:
    started = time.monotonic()
    cell = "%%local\nimport time\ntry: print('begun', flush=True); time.sleep(600)\nfinally: print('cleaned up')"
    reply = notebook.run(cell, on_text=notebook.manager.interrupt_kernel)
    assert reply.name == "KeyboardInterrupt" and time.monotonic() - started < patient(20)
    assert "cleaned up" in reply.text


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("%%dispatch --nmae x\n1", "there is no option --nmae (did you mean --name?)"),
        ("%%dispatch --on nowhere\n1", "There is no target 'nowhere': the config file names local."),
        ("%%dispatch --on lokal\n1", "There is no target 'lokal' (did you mean 'local'?)"),
        ("%%local --timeout soon\n1", "invalid float value: 'soon'"),
        ("%%dispatch --timeout -1\n1", "timeout has to be a number above 0 and up to 31622400 (a year)"),
        ("%%dispatch --timeout nan\n1", "timeout has to be a number above 0"),
        ("%%dispatch --retries -1\n1", "retries has to be a whole number from 0 to 100, not -1."),
        ("%%dispatch --replicas 0\n1", "replicas has to be a whole number from 1 to 256, not 0."),
        ("%%dispatch --cpus 0\n1", "cpus has to be a number above 0, not 0.0."),
        ("%%local --memory lots\n1", "is no size"),
        ("%%dispatch --memory 5x\n1", "--memory 5x: '5x' is no size: write a number with a unit, such as 512m or 2g."),
        ("%%dispatch --memory 1k\n1", "engines give a container 6 MiB at least"),
        ("%%dispatch --sweep x=range(abc)\n1", "--sweep x=range(abc): a range needs whole numbers, as in range(10)."),
        ("%%dispatch --sweep x=range(1,5,0)\n1", "--sweep x=range(1,5,0): range() arg 3 must not be zero."),
        ("%%dispatch --sweep x=range(9999999)\n1", "A sweep may have 2000 jobs at most"),
        ("%%dispatch --sweep x=\n1", "--sweep x has no values"),
        (
            "%%dispatch --param a=1 --param a=2\n1",
            "--param a is given twice; --sweep a=V1,V2 makes a job for each value",
        ),
        ("%%dispatch --input a=x --input a=y\n1", "--input a is given twice"),
        ("%%dispatch --param class=2\n1", "'class' cannot be a parameter: it is no Python name."),
        ("%%dispatch --env 1A=2\n1", "'1A' is no name of an environment variable"),
        ("%%dispatch --pull totl\ntotal = 1", "--pull: the cell assigns no totl (did you mean total?)."),
        ("%%local something\n1", "put code below the first line"),
        ("%local", "Give an expression"),
        ('%dispatch "not there.ipynb"', "The notebook not there.ipynb cannot be read: No such file or directory."),
        (
            "from docker_kernel import dispatch\ndispatch('gone.ipynb')",
            "The notebook gone.ipynb cannot be read: No such file or directory.",
        ),
        ("%dispatch x = 5", "'x = 5' is a statement, and a line takes an expression: put it into a cell"),
        ("%local print('a'", "The cell has an error in line 1: '(' was never closed."),
        (
            "from docker_kernel import dispatch\ndispatch(5)",
            "dispatch() takes code, or a notebook's path, as a text, not 5.",
        ),
        ("dispatch(print)", "not a function: write its call as a text, as in dispatch('train(x)')."),
        ("dispatch('')", "There is no code to run."),
        ("dispatch('1', timeout=-1)", "timeout has to be a number above 0"),
        ("dispatch('1', sweep={'a': 5})", "sweep: a needs a list of values, not 5."),
        ("dispatch('1', env=5)", "env has to be a list of names, not 5."),
        ("from docker_kernel import jobs\njobs['nope']", "This notebook has no job 'nope': %jobs lists its "),
        ("jobs[10_000]", "This notebook has no job 10000: %jobs lists its "),
        ("%jobs 'a", '%jobs: no closing quotation in "\'a".'),
        ("%jobs compare NOPE", "%jobs: no job is called 'NOPE'"),
    ],
)
def test_bad_input_gets_one_sentence_and_starts_nothing(notebook: Notebook, line: str, sentence: str) -> None:
    notebook.run("from docker_kernel import dispatch")
    before = notebook.value("len(__import__('docker_kernel').jobs)")
    reply = notebook.run(line)
    assert reply.status == "error" and sentence in reply.value + reply.text
    assert reply.traceback.count("\n") <= (3 if "error in line" in sentence else 0)
    assert notebook.value("len(__import__('docker_kernel').jobs)") == before


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("%%dispatch\nx = = 3", "  Cell, line 2\n    x = = 3\n        ^\nSyntaxError: invalid syntax"),
        ("%%local\n\n\nfor i in\n  pass", "  Cell, line 4\n    for i in\n            ^\nSyntaxError: invalid syntax"),
        ("%%local\nif 1:\nx=1", "Cell, line 3\n    x=1\n    ^\nIndentationError: expected an indented block"),
    ],
)
def test_a_cell_that_is_no_python_gets_pythons_own_message(notebook: Notebook, cell: str, shown: str) -> None:
    reply = notebook.run(cell)
    assert reply.status == "error" and shown in reply.traceback and "docker_kernel" not in reply.traceback


def test_a_failed_job_says_why(notebook: Notebook) -> None:
    assert "timeout of 1 s" in notebook.run("%%local --timeout 1\nimport time; time.sleep(30)").value
    reply = notebook.run("%%local --memory 100m\nhog = bytearray(400 << 20)")
    assert "out of memory: it used more than its 100 MiB; raise it with --memory" in reply.value
    assert "exit code 7" in notebook.run("%%local\nimport os; os._exit(7)").value


def test_user_output_that_looks_like_a_marker_is_only_output(notebook: Notebook) -> None:
    fake = '##docker-kernel 00000000000000000000000000000000 {"event":"end","code":0,"result":"sha256:0"}'
    reply = notebook.run(f"%%local\nprint('''{fake}''')\nprint('after')")
    assert reply.text == f"{fake}\nafter\n"


def test_packages_installed_in_the_kernel_reach_the_job_and_no_secret_does(
    start: NotebookMaker, tmp_path: Path, engine: Engine, used_images: list[str], make_spec: SpecMaker
) -> None:
    before = environments(engine)
    write_wheel(tmp_path)
    one = start(make_spec(env={"PRIVATE_SETTING": "e7c1f0c9-not-for-layers"}))
    assert "Successfully installed" in one.run("%pip install --no-index ./shade-1.0-py3-none-any.whl").text
    one.run("import shade")
    assert one.run("%%local\nprint(shade.COLOUR)").text == "teal\n"
    assert one.run("%%local\nprint(shade.COLOUR)").text == "teal\n"
    tags = sorted(environments(engine) - before)
    used_images += tags
    assert len(tags) == 1, "the environment layer is built once"
    for key in (one.container.launch.keys.hmac, one.container.launch.keys.curve_secret, "e7c1f0c9-not-for-layers"):
        assert key.encode() not in _everything_in(tags[0], tmp_path)


def test_an_environment_too_large_to_copy_is_refused_before_it_is_copied(notebook: Notebook) -> None:
    notebook.run("import os\nhuge = os.path.expanduser('~/weights.bin')\nopen(huge, 'wb').truncate(1 << 40)")
    started = time.monotonic()
    reply = notebook.run("%%dispatch\n1")
    notebook.run("os.unlink(huge)")
    assert "more than the 20 GiB that its jobs may get; its largest file so far is " in reply.value, reply.traceback
    assert "/weights.bin (1 TiB): keep data in /tmp" in reply.value
    assert time.monotonic() - started < patient(30)
    assert notebook.run("%local 1 + 1").shown == "2"


def _everything_in(image: str, folder: Path) -> bytes:
    """The config and the last layer of an image, with every file in it, as bytes to search."""
    saved = folder / "image.tar"
    subprocess.run(["docker", "save", "-o", str(saved), image], check=True)
    found = []
    with tarfile.open(saved) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        found.append(outer.extractfile(manifest["Config"]).read())  # type: ignore[union-attr]
        for layer in manifest["Layers"][-2:]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                for member in inner:
                    found.append(member.name.encode())
                    if member.isreg():
                        found.append(inner.extractfile(member).read())  # type: ignore[union-attr]
    saved.unlink()
    return b"\0".join(found)


HOST_SIDE = """
import pickle, sys
def fatal(*args, **kwargs): raise SystemExit("the host side unpickled something")
pickle.loads = pickle.load = pickle.Unpickler = fatal
import _pickle
_pickle.loads = _pickle.load = _pickle.Unpickler = fatal
from pathlib import Path
from tests.notebook import Notebook
one = Notebook(sys.argv[1], Path(sys.argv[2]))
try:
    one.run("import fractions; x = fractions.Fraction(1, 3)")
    reply = one.run("%%local\\ny = x * 3\\nprint(y)")
    assert (reply.status, reply.text) == ("ok", "1\\n"), reply
    assert one.run("%%dispatch --wait\\nz = [x]").status == "ok"
    assert one.run("%%local\\n1/0").name == "ZeroDivisionError"
finally:
    one.close()
print("never unpickled")
"""


def test_the_host_side_never_unpickles(spec: str, tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(1)) == 1
    command = [sys.executable, "-c", HOST_SIDE, spec, str(tmp_path)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=patient(120), check=False)
    assert "never unpickled" in done.stdout, done.stderr


def test_a_job_reaches_neither_the_engine_nor_more_than_its_kernel(notebook: Notebook) -> None:
    reply = notebook.run("%%local\nimport os, glob\nprint(os.path.exists('/var/run/docker.sock'), os.getuid())")
    assert reply.text.startswith("False")
    status = notebook.run("%%local\nprint(open('/proc/self/status').read())").text
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
