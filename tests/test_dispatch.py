"""%%local, %%dispatch and %jobs, from a notebook to a job's container and back, on the real engine."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import nbformat
import pytest
import tqdm

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


def test_what_is_nested_deeply_mocks_members_and_what_has_a_name_come_home(notebook: Notebook) -> None:
    notebook.run(
        """
        import enum
        from unittest.mock import MagicMock
        class Node:
            def __init__(self, of): self.next = of
        nodes = None
        for turn in range(3000): nodes = Node(nodes)
        class Color(str, enum.Enum):
            RED = "red"
        color = Color.RED
        class Missing:
            def __reduce__(self): return "MISSING"
        MISSING = Missing(); holder = {"none": MISSING}
        asked = MagicMock(return_value=3)
        def length(n):
            count = 0
            while n: count, n = count + 1, n.next
            return count
    """.replace("\n        ", "\n")
    )
    cell = (
        "nodes = Node(nodes)\nnodes.next.v = color\nasked(1)\nholder['same'] = holder['none'] is MISSING\nMISSING.n = 1"
    )
    reply = notebook.run("%%local\n" + cell)
    assert (reply.status, reply.text) == ("ok", ""), reply.traceback
    found = "[length(nodes), nodes.next.v is color is Color.RED, asked.call_args.args, holder['same'], MISSING.n]"
    assert notebook.value(found) == [3001, True, [1], True, 1]
    notebook.run("class Endless:\n    def __reduce__(self): return Endless.again, (Endless(),)\nendless = Endless()")
    assert "endless, which cannot travel" in notebook.run("%%local\nendless").value
    notebook.run("del endless, nodes, asked, holder, MISSING, color")


def test_what_a_cell_changes_in_place_comes_back(notebook: Notebook) -> None:
    notebook.run("scores = {}")
    assert notebook.run("%%local\nscores['a'] = 1").status == "ok"
    assert notebook.value("scores") == {"a": 1}


def test_what_is_changed_in_a_long_list_comes_back_whatever_ran_the_cell(notebook: Notebook) -> None:
    notebook.run("many = [{'number': number, 'text': str(number)} for number in range(20_000)]; held = many[5]")
    notebook.run("from docker_kernel import jobs")
    for magic, number in (("%%local", 5), ("%%dispatch --wait", 6), ("%%dispatch --wait", 5)):
        reply = notebook.run(f"{magic}\nmany[{number}]['number'] = -1; many[{number}]['last'] = many[-1]")
        assert reply.status == "ok", reply.traceback
        found = f"[many[{number}]['number'], many[{number}]['last'] is many[-1], held is many[5], len(many)]"
        assert notebook.value(found) == [-1, True, True, 20_000]
        assert notebook.value("jobs[-1].variables['many'] == many is not jobs[-1].variables['many']") is True
        notebook.run(f"many[{number}] = {{'number': 0}}; held = many[5]")


def test_large_content_is_in_a_job_what_it_is_here(notebook: Notebook) -> None:
    notebook.run("text, changing, same = bytes(range(256)) * 40_000, bytearray(9_000_000), bytearray(8_000_000)")
    notebook.run("held = [changing, same]")
    cell = "changing[4_000_000:4_000_002] = b'ab'; found = [len(text), text[-1], type(text), type(same), any(same)]"
    for magic in ("%%local", "%%dispatch --wait"):
        reply = notebook.run(f"{magic}\n{cell}")
        assert reply.status == "ok", reply.traceback
        assert notebook.value("found == [10_240_000, 255, bytes, bytearray, False]") is True
        assert notebook.value("held[0] is changing and held[1] is same and changing.strip(b'\\0') == b'ab'") is True
        notebook.run("changing[:] = bytes(9_000_000)")


def test_an_unpicklable_variable_is_named_and_costs_only_itself(notebook: Notebook) -> None:
    notebook.run("import threading\nguard = threading.Lock()\nhandle = open('/etc/hostname')\nfine = 1")
    reply = notebook.run("%%local\nprint(fine, 'guard' in globals(), 'handle' in globals())")
    assert reply.text.endswith("1 False False\n")
    guard = "guard (lock: cannot pickle '_thread.lock' object; create it in the cell)"
    handle = "handle (TextIOWrapper: it is an open file; open it in the cell)"
    assert reply.text.startswith(f"Left out: {guard}, {handle}.\n")
    assert notebook.run("%%local\nprint(fine, 'guard' in globals())").text == "1 False\n", "once is enough"
    notebook.run("handle.close(); del guard, handle")


def test_what_is_left_out_is_named_only_where_the_cell_may_use_it(notebook: Notebook) -> None:
    notebook.run("import threading\nidle, busy = threading.Lock(), threading.Lock()\ndef hold(): return busy")
    assert notebook.run("%%local\nprint('quiet')").text == "quiet\n"
    notebook.run("from docker_kernel import jobs; job = jobs[-1]")
    assert notebook.value("sorted(one['name'] for one in job.left_out)") == ["busy", "idle"]
    reply = notebook.run("%%local\nimport sys\nif not sys.path: hold()")
    assert reply.text == "Left out: busy (lock: cannot pickle '_thread.lock' object; create it in the cell).\n"
    assert "  idle (lock): cannot pickle" in notebook.run("%%local --dry-run\nhold()").text
    assert "The cell uses idle, which cannot travel (lock" in notebook.run("%%local\nidle.acquire()").value
    notebook.run("del idle, busy, hold, job, jobs")


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


def test_a_cell_goes_on_from_the_values_before_and_leaves_its_own(notebook: Notebook) -> None:
    notebook.run("values = [1]\nvalues")
    notebook.run("'second'")
    cell = "%%local\nprint(_, Out[max(Out)], _i, In[-1].split()[-1], len(In), get_ipython().execution_count)\n"
    reply = notebook.run(cell + "__.append(2)\n__")
    length, count = notebook.value("[len(In) - 1, get_ipython().execution_count - 1]")
    assert (reply.text, reply.shown) == (f"second second 'second' __ {length} {count}\n", "[1, 2]"), reply.traceback
    assert notebook.value("[_ is values is Out[max(Out)], values, max(Out)]") == [True, [1, 2], count - 1]
    notebook.run("41")
    assert notebook.run("%local _ + 1").shown == "42"
    notebook.run("%%dispatch --wait\n_ + 1")
    assert notebook.value("[_, __]") == [43, 42]
    assert notebook.run("__import__('docker_kernel').jobs[-1].result()").shown == "43"
    notebook.run("%%local\n[6, 7];")
    assert notebook.value("_") == 43, "as its output, a value before a semicolon is not kept"
    notebook.run("import threading; threading.Lock()")
    assert "The cell uses _, which cannot travel (lock: " in notebook.run("%%local\n_.acquire()").value
    reply = notebook.run("%%local\nthreading.Lock()")
    assert reply.text == "", "a cell is hardly run for such a value"
    reply = notebook.run("_.acquire()")
    assert reply.value == "the cell's value (lock) stayed in the job: cannot pickle '_thread.lock' object"
    assert "Not brought back: the value (lock): cannot pickle" in notebook.run("%local threading.Lock()").text
    notebook.run("del values")


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


VIEW = "application/vnd.jupyter.widget-view+json"


def test_widgets_are_text_or_live_and_the_kernels_own_hear_what_a_job_did(notebook: Notebook) -> None:
    notebook.run(
        "import ipywidgets as widgets\nslider, heard = widgets.IntSlider(3), []\nbox = widgets.VBox([slider])\n"
        "slider.observe(lambda change: heard.append(change['new']), 'value'); held = [box]"
    )
    cell = "slider.value = 7\nmade = widgets.Text('here')\nbox.children += (made,)\n"
    reply = notebook.run("%%local\n" + cell + "display(made, widgets.Text('gone'))\nbox")
    made, box = notebook.value("[made.model_id, box.model_id]")
    shown = [(data["text/plain"].split("(")[0], data.get(VIEW, {}).get("model_id")) for data in reply.displays]
    assert shown == [("Text", None), ("Text", None), ("VBox", box), ("Text", made)], reply.traceback
    assert notebook.value("[slider.value, heard, held[0] is box, box.children == (slider, made)]") == [
        7, [7], True, True,
    ]  # fmt: skip
    notebook.run("slider.value = 8")
    assert notebook.value("[heard, made.value, made.comm is not None]") == [[7, 8], "here", True]
    notebook.run("%%dispatch --wait\nimport ipywidgets as widgets\ndisplay(widgets.Text('gone'))")
    outputs = notebook.value("__import__('docker_kernel').jobs[-1].outputs")
    assert [sorted(one["data"]) for one in outputs] == [["text/plain"]]
    notebook.run("del slider, heard, box, held, made")


def test_a_notebooks_widgets_are_text_here_and_views_in_what_was_executed(notebook: Notebook, workspace: Path) -> None:
    source = "import ipywidgets as widgets\ndisplay(widgets.Text('here'))\nwidgets.Text('last')"
    cell = nbformat.v4.new_code_cell(source)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), workspace / "widgets.ipynb")
    reply = notebook.run("executed = %local widgets.ipynb")
    assert [sorted(data) for data in reply.displays] == [["text/plain"], ["text/plain"]], reply.traceback
    kept = notebook.value("[sorted(one['data']) for one in executed['cells'][-1]['outputs']]")
    assert kept == [sorted(("text/plain", VIEW))] * 2
    notebook.run("del executed")


def test_bars_of_tqdm_with_widgets_are_text_and_progress(notebook: Notebook, workspace: Path) -> None:
    shutil.copytree(Path(tqdm.__file__).parent, workspace / "tqdm")
    notebook.run("import tqdm.auto, tqdm.notebook\nfrom tqdm.notebook import tqdm as bar, trange")
    cell = "for _ in bar(range(3)): pass\nfor _ in tqdm.auto.tqdm(range(4)): pass\nfrom tqdm.auto import tqdm as chosen"
    reply = notebook.run(f"%%local\n{cell}")
    assert "3/3 [" in reply.text and "4/4 [" in reply.text and not reply.displays, reply.traceback
    assert notebook.value("__import__('docker_kernel').jobs[-1].progress") == 1.0
    assert notebook.value("[chosen is tqdm.auto.tqdm, bar is tqdm.notebook.tqdm, chosen.__module__]") == [
        True, True, "tqdm.auto",
    ]  # fmt: skip
    notebook.run("del chosen, bar, trange")


def test_a_packages_modules_are_there_by_its_name_also_when_they_come_home(notebook: Notebook) -> None:
    notebook.run("import xml.dom.minidom, xml.etree.ElementTree")
    notebook.run("def tag(text): return xml.etree.ElementTree.XML(text).tag")
    cell = "%%local\nprint(xml.dom.minidom.parseString('<a/>').firstChild.tagName, tag('<b/>'))\n"
    reply = notebook.run(cell + "import wsgiref.util, xml.sax")
    assert reply.text == "a b\n", reply.traceback
    assert notebook.value("[hasattr(wsgiref, 'util'), hasattr(xml, 'sax')]") == [True, True]
    assert notebook.value("[name for name in globals() if '.' in name]") == []
    notebook.run("del xml, tag, wsgiref")


def test_files_in_the_temporary_folder_are_named_where_they_are_missed(notebook: Notebook) -> None:
    notebook.run("from pathlib import Path\nmine = Path('/tmp/mine'); mine.touch()\ndef read(): return mine")
    reply = notebook.run("%%local\nprint(read().exists())\nmade = Path('/tmp/made'); made.touch()")
    first, found, last = reply.text.splitlines()
    assert first.startswith("Files in the temporary folder stay here, so the job has no /tmp/mine: keep what")
    assert found == "False"
    assert last.startswith("The temporary folder ends with the job, and /tmp/made with it: write to the workspace")
    assert "which stay here: /tmp/mine\n" in notebook.run("%%dispatch --dry-run\nread()").text
    notebook.run("mine.unlink(); del mine, made, read")


def test_what_is_missing_in_a_job_is_named_only_where_the_cell_may_use_it(notebook: Notebook) -> None:
    notebook.run(
        "import sys\nopen('/tmp/ghost.py', 'w').write('class Ghost: pass'); sys.path.append('/tmp')\nimport ghost"
    )
    notebook.run("one = ghost.Ghost()\ndef shown(): return one")
    assert notebook.run("%%local\nprint('quiet')").text == "quiet\n"
    reply = notebook.run("%%local\nprint(shown())")
    assert "docker-kernel: one is not here: ModuleNotFoundError: No module named 'ghost'" in reply.text
    assert "ghost is not here" not in reply.text and reply.name == "NameError"
    notebook.run("sys.path.remove('/tmp'); del one, ghost, shown")


CONFIG = """
import threading
alpha, opts, names = 1, {"a": 1}, ["x"]
lock, guard = threading.Lock(), threading.Lock()
class Model:
    count = 0
def step(known=opts):
    known["a"] += 1
    Model.count += 1
    return alpha, known is opts, Model.count
"""


def test_modules_of_the_workspace_are_state(notebook: Notebook, workspace: Path) -> None:
    (workspace / "config.py").write_text(CONFIG)
    (workspace / "lonely.py").write_text("value = 1\n")
    notebook.run("import config, lonely; from config import opts, step; config.alpha = 5; held = [config.names]")
    notebook.run("config.Model.count = 4; lonely.value = open('/etc/hostname')")
    reply = notebook.run(
        "%%local\nfirst, same = step(), opts is config.opts\nconfig.names.append(opts); config.new = 1"
    )
    assert (reply.status, reply.text) == ("ok", ""), "what cannot be reached, or is made anew by the file, is no news"
    assert notebook.value("[first, same, dict(opts), config.Model.count, step()]") == [
        [5, True, 5], True, {"a": 2}, 5, [5, True, 6],
    ]  # fmt: skip
    assert notebook.value("[held[0] is config.names, config.names[1] is opts is config.opts, config.new]") == [
        True, True, 1,
    ]  # fmt: skip

    reply = notebook.run("%local lonely.value.closed")
    assert "Left out: lonely.value (TextIOWrapper: it is an open file; open it in the cell)." in reply.text
    notebook.run("lonely.value.close(); lonely.value = 2; config.guard = {'lock': config.lock}")
    reply = notebook.run("%%local\nimport lonely as other\nresult = other.value, step()[0]; lonely.value = 3")
    assert "Left out: config.guard (dict: cannot pickle '_thread.lock' object; create it in the cell)." in reply.text
    assert notebook.value("[result, lonely.value]") == [[2, 5], 3]

    (workspace / "fresh.py").write_text("value, opts = 1, {}\n")
    cell = (
        "import fresh; from fresh import opts as own; fresh.value = 5; own['a'] = 1\nfresh.file = open('one.txt', 'w')"
    )
    reply = notebook.run(f"%%local\n{cell}")
    assert "Not brought back: fresh.file (TextIOWrapper): it is an open file; open it in the cell." in reply.text
    assert notebook.value("[fresh.value, own is fresh.opts, own, hasattr(fresh, 'file')]") == [5, True, {"a": 1}, False]

    (workspace / "lonely.py").write_text("value = 1\nmore = 2\n")
    stale = "The file of the module lonely was changed since it was imported here: the job runs it as it is now.\n"
    assert notebook.run("%local lonely.value").text == stale
    assert notebook.run("%local lonely.value, lonely.more").shown == "(3, 2)"


def test_a_job_on_a_copy_has_the_modules_that_are_copied(notebook: Notebook, workspace: Path) -> None:
    (workspace / "knobs.py").write_text("import random\nspeed, table, seen, rng = 1, {}, [], random.Random(3)\n")
    (workspace / "private.py").write_text("login = ''\n")
    (workspace / ".dockerignore").write_text("private.py\nlocal.txt\n")
    notebook.run("import knobs, private; knobs.speed = 5; private.login = 'open sesame'; table = knobs.table")
    plan = notebook.run("%%dispatch --dry-run\nknobs.speed").text
    assert "knobs.speed" in plan and "private.login" not in plan and "__docker_kernel" not in plan
    assert "knobs.speed" not in notebook.run("%%dispatch --dry-run --only table\nknobs.speed").text
    assert "knobs.speed" in notebook.run("%%dispatch --dry-run --only knobs\nknobs.speed").text
    assert "knobs.speed" not in notebook.run("%%dispatch --dry-run --needed\n1 + 1").text
    assert "knobs.speed" in notebook.run("%%dispatch --dry-run --needed\nknobs.table").text

    notebook.run(
        f"%%dispatch\n{HOLD}knobs.speed += 1; knobs.table['job'] = 1; knobs.seen.append(1); drawn = knobs.rng.random()"
    )
    notebook.run("job = _\nknobs.speed = 7; knobs.seen.append(0); here = knobs.rng.random()")
    let_go(notebook.value("job.id"))
    reply = notebook.run("job.result()")
    assert "as they were bound anew since the job was sent: knobs.speed" in reply.text
    assert "as they were changed here since the job was sent, whose values job.variables has: knobs.seen" in reply.text
    assert notebook.value("[knobs.speed, table is knobs.table, table, knobs.seen]") == [7, True, {"job": 1}, [0]]
    assert notebook.value("[job.variables['knobs.speed'], job.variables['knobs.seen']]") == [6, [1]]
    notebook.run("import random; expected = random.Random(3).random(); then = knobs.rng.random()")
    assert "rng" not in reply.text and notebook.value("[drawn == expected, drawn in (here, then)]") == [True, False]


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


def test_a_job_that_a_variable_holds_is_a_handle_in_another_job_and_the_same_at_home(notebook: Notebook) -> None:
    notebook.run("%%dispatch --name fit --detach\nfrom docker_kernel import job\njob.log(score=0.5)\nmade = 41")
    notebook.run("fit = _; fit.wait(); fits = {'all': [fit.job]}\nfrom docker_kernel import jobs")
    cell = "%%local\nfits['best'] = max(fits['all'], key=lambda one: one.last_metrics['score'])\nprint(fits['best'])\n"
    reply = notebook.run(cell + "fit")
    assert reply.text.count("'fit' on local, succeeded") == 2, reply.traceback
    assert notebook.value("[fits['best'] is fits['all'][0] is fit.job, fit.result(), made]") == [True, None, 41]
    reply = notebook.run("%%local\nfits['best'].result()")
    assert "no job can ask for another: take its result there, as in `value = job.result()`" in reply.value
    notebook.run("del fit, fits, jobs")


def test_a_job_that_would_send_jobs_says_what_is_possible(notebook: Notebook) -> None:
    before = notebook.value("len(__import__('docker_kernel').jobs)")
    sentence = "A job can neither send jobs nor ask for the notebook's: run this code in it as it is"
    assert sentence in notebook.run("%%dispatch\n%%local\nx = 1").value
    assert notebook.value("len(__import__('docker_kernel').jobs)") == before
    reply = notebook.run("%%local\nif True:\n    %local 1 + 1")
    assert reply.name == "JobFailed" and reply.value.startswith(sentence) and "\n" not in reply.value
    assert notebook.run("%%local\nfrom docker_kernel import dispatch\ndispatch('1')").value.startswith(sentence)
    assert notebook.run("%%local\n%jobs").value.startswith(sentence)


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


def test_a_cell_that_fails_leaves_what_it_did_until_then(notebook: Notebook) -> None:
    notebook.run("log, count, old = [], 1, 2; held = [log]")
    reply = notebook.run("%%local\ncount = 5; log.append(count); del old\nraise ValueError('late', log)")
    assert (reply.name, reply.text) == ("ValueError", ""), reply.traceback
    assert notebook.value("[count, held[0] is log, log, 'old' in globals()]") == [5, True, [5], False]
    notebook.run("import sys; sys.last_value.args[1].append('the same')")
    assert notebook.value("log") == [5, "the same"]
    assert notebook.run("%%local\ncount = 5.5\nexit()\ncount = 0").name == "SystemExit"
    assert notebook.value("count") == 5.5
    notebook.run("%%dispatch\ncount = 6; log.clear(); 1 / 0\ncount = 7")
    notebook.run("job = _")
    assert notebook.run("job.result()").name == "ZeroDivisionError"
    assert notebook.value("held[0] is log")
    assert notebook.value("[count, held[0], job.variables['count'], type(job.exception()).__name__]") == [
        6, [], 6, "ZeroDivisionError",
    ]  # fmt: skip
    notebook.run("del log, count, held, job")


def test_a_failed_job_says_why(notebook: Notebook) -> None:
    assert "timeout of 1 s" in notebook.run("%%local --timeout 1\nimport time; time.sleep(30)").value
    reply = notebook.run("%%local --memory 100m\nhog = bytearray(400 << 20)")
    assert "out of memory: it used more than its 100 MiB; raise it with --memory" in reply.value
    assert "exit code 7" in notebook.run("%%local\nimport os; os._exit(7)").value


def test_memory_that_ran_out_for_a_process_of_the_cell_is_told(notebook: Notebook) -> None:
    hog = "subprocess.run([sys.executable, '-c', 'x = bytearray(800 << 20)'], check=True)"
    notebook.run(f"%%dispatch --memory 200m\nimport subprocess, sys\n{hog}")
    notebook.run(f"job = _; job.wait({patient(60)})", timeout=80)
    assert notebook.value("[job.state, job.record['error']]") == ["failed", "CalledProcessError"]
    reason = notebook.value("job.reason")
    assert reason.startswith("its cell raised CalledProcessError") and "memory ran out in its container" in reason
    notebook.run("del job")


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
