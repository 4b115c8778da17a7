"""Sources of code from cells: they travel with it, and Python and IPython find them on the other side."""

from __future__ import annotations

import json
import linecache
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel.guest import snapshot, sources
from tests.notebook import ANSI
from tests.warm import python

IMPORTED = ("IPython.core.interactiveshell", "docker_kernel.guest.snapshot", "docker_kernel.guest.sources")

KERNEL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from docker_kernel.guest import snapshot, sources
state, *cells = sys.argv[1:]
shell = InteractiveShell.instance()
if state.startswith("kernel:"):
    shell.kernel = None  # what tells a notebook's shell from a job's
    state = state[7:]
for cell in cells:
    if cell.startswith("sha256:"):
        restored, failed = snapshot.restore(state, snapshot.read_manifest(state, cell), shell.user_ns)
        assert not failed, failed
        shell.user_ns.update(restored)
    else:
        shell.run_cell(cell, store_history=True)
print(snapshot.capture(snapshot.user_variables(shell), shell.user_ns, state).digest)
"""

CELL = '''
def double(n):
    """Twice."""
    # a comment that only the source has
    return 2 * n

def failing(): return double([][0])
'''


@pytest.fixture
def known_files() -> Iterator[None]:
    before = set(linecache.cache)
    yield
    for name in set(linecache.cache) - before:
        del linecache.cache[name]


def run(state: str, *cells: str) -> tuple[str, str]:
    """Run cells in an IPython of its own; returns the digest of the state after them, and what they printed."""
    cells = tuple(textwrap.dedent(cell) for cell in cells)
    done = subprocess.run([python(*IMPORTED), "-c", KERNEL, state, *cells], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, digest = done.stdout.splitlines()
    return digest, ANSI.sub("", "\n".join(printed))


def test_the_source_of_a_function_goes_there_and_of_another_comes_back(tmp_path: Path) -> None:
    state = str(tmp_path)
    sent, _ = run("kernel:" + state, "pass", CELL)
    look = """
        import inspect, linecache
        linecache.checkcache()
        print(inspect.getsource(double))
    """
    brought, printed = run(state, sent, look, "def later(): return 'made in the job'", "double??")
    assert printed.count("# a comment that only the source has") == 2
    _, printed = run(state, brought, "import inspect; print(inspect.getsource(later), inspect.getsource(double))")
    assert "return 'made in the job'" in printed and "a comment that only" in printed


def test_a_traceback_has_the_lines_and_the_cells_number(tmp_path: Path) -> None:
    sent, _ = run("kernel:" + str(tmp_path), "pass", CELL)
    _, printed = run(str(tmp_path), sent, "failing()")
    assert "def failing(): return double([][0])" in printed
    assert "Cell In[2], line 6" in printed, printed


def test_only_sources_of_code_that_travels_are_sent_and_each_once(tmp_path: Path, known_files: None) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    cells = {"<cell-1>": CELL, "<cell-2>": "password = 'secret'\n", "<cell-3>": "class A:\n  def m(self): return 1\n"}
    for name, text in cells.items():
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), namespace)
    variables = {name: value for name, value in namespace.items() if not name.startswith("__")}
    captured = snapshot.capture(variables, namespace, str(tmp_path))
    manifest = json.loads(captured.manifest)
    assert [names for pack in manifest["packs"] for names in pack["groups"]].count([sources.NAME]) == 1
    stored = [path.read_bytes() for path in (tmp_path / "blobs").iterdir()]
    assert sum(blob.count(b"only the source has") for blob in stored) == 1
    assert not any(b"password = " in blob for blob in stored) and any(b"class A:" in blob for blob in stored)
    assert sources.NAME not in snapshot.restore(str(tmp_path), manifest, {})[0]


def test_a_source_that_is_too_long_stays_and_is_named(tmp_path: Path, known_files: None) -> None:
    text = "def f(): pass\n" + "#" * sources.MAX_SOURCE
    linecache.cache["<cell>"] = (len(text), None, text.splitlines(True), "<cell>")
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), namespace)
    captured = snapshot.capture({"f": namespace["f"]}, namespace, str(tmp_path))
    assert [one.name for one in captured.left_out] == ["<cell>"]


def test_a_source_takes_the_place_of_no_file_and_of_none_that_is_there(tmp_path: Path, known_files: None) -> None:
    (tmp_path / "file.py").write_text("mine\n")
    linecache.cache["<mine>"] = (5, None, ["mine\n"], "<mine>")
    sources.restore({name: sources.Source("other\n", 1) for name in ("<mine>", str(tmp_path / "file.py"), "<new>")})
    assert linecache.getline("<mine>", 1) == linecache.getline(str(tmp_path / "file.py"), 1) == "mine\n"
    linecache.checkcache()
    assert linecache.getline("<new>", 1) == "other\n"
