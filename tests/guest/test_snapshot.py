"""Capture and restore of state: what comes back is what was there, and what cannot come back is named."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import blob_files, snapshot
from tests.patience import patient
from tests.warm import python

JOB = """
import json, sys
from docker_kernel.guest import snapshot
state, digest, source, known = sys.argv[1:]
namespace = sys.modules["__main__"].__dict__
restored, failed = snapshot.restore(state, snapshot.read_manifest(state, digest), namespace, mapped=True)
assert not failed, failed
own = {"snapshot", "json", "sys", "state", "digest", "source", "known", "namespace", "restored", "failed"}
namespace.update(restored)
before = dict(namespace)
exec(compile(source, "<cell>", "exec"), namespace)
names = [name for name, value in namespace.items() if name not in own and before.get(name, own) is not value]
names = [name for name in names if not name.startswith("__") and name not in ("before", "own")]
changed = {name: namespace[name] for name in [*names, *json.loads(known)]}
print(snapshot.capture(changed, namespace, state).digest)
"""


class Notebook:
    """A namespace with cells run in it, whose state can be sent through a fresh process and back."""

    def __init__(self, state: Path, namespace: dict[str, Any]) -> None:
        self.state = str(state)
        self.namespace = namespace

    def run(self, source: str) -> Notebook:
        exec(compile(textwrap.dedent(source), "<cell>", "exec"), self.namespace)
        return self

    def __getitem__(self, name: str) -> Any:
        return self.namespace[name]

    @property
    def variables(self) -> dict[str, Any]:
        return {name: value for name, value in self.namespace.items() if not name.startswith("__")}

    def capture(self) -> snapshot.Snapshot:
        return snapshot.capture(self.variables, self.namespace, self.state)

    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(self.capture().manifest)
        return manifest

    def groups(self) -> list[set[str]]:
        return [set(names) for pack in self.manifest()["packs"] for names in pack["groups"]]

    def pack(self, name: str) -> dict[str, Any]:
        """Where a variable is stored."""
        (found,) = [one for one in self.manifest()["packs"] if any(name in names for names in one["groups"])]
        return found

    def copy(self) -> dict[str, Any]:
        """The state, restored into a namespace of its own in this process."""
        namespace: dict[str, Any] = {"__name__": "__main__"}
        restored, failed = snapshot.restore(self.state, self.manifest(), namespace)
        assert not failed
        namespace.update(restored)
        return namespace

    def job(self, source: str, known: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run a cell in a fresh process that has this state; returns what it assigned, and does not bind it.

        Args:
            known: names that come back, too, as if the cell had changed them in place.
        """
        digest = self.capture().digest
        program = python("docker_kernel.guest.snapshot")
        argv = [program, "-c", JOB, self.state, digest, textwrap.dedent(source), json.dumps(known)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        manifest = snapshot.read_manifest(self.state, done.stdout.split()[-1])
        restored, failed = snapshot.restore(self.state, manifest, self.namespace)
        assert not failed, failed
        return restored


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    yield Notebook(tmp_path / "state", module.__dict__)


# Aliases


def test_a_variable_that_a_function_assigns_elsewhere_than_in_the_notebook_is_named(notebook: Notebook) -> None:
    notebook.run("space = {'n': 0}\nexec('def f():\\n    global n\\n    n += 1\\ndef g(): return n', space)")
    left_out = notebook.run("f, g = space['f'], space['g']; del space").capture().left_out
    assert [(one.name, one.type) for one in left_out] == [("n of f", "global variable")]
    assert set(notebook.copy()) >= {"f", "g"}


def test_variables_that_share_an_object_share_it_afterwards(notebook: Notebook) -> None:
    copy = notebook.run("a = []; b = {'a': a}; c = (a, 1); d = []").copy()
    copy["a"].append(1)
    assert copy["b"] == {"a": [1]} and copy["c"] == ([1], 1) and copy["d"] == []
    assert copy["b"]["a"] is copy["a"] is copy["c"][0]


def test_only_what_shares_an_object_is_grouped(notebook: Notebook) -> None:
    notebook.run("""
        import datetime
        a = []; b = [a]
        x = 'text' * 1000; y = [x]; z = {x: 1}
        one = 1; two = 1; t = (1, 2); u = [t]
        when = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
        then = datetime.datetime(2027, 1, 1, tzinfo=datetime.timezone.utc)
    """)
    groups = notebook.groups()
    assert {"a", "b"} in groups
    assert {frozenset(group) for group in groups} >= {
        frozenset({name}) for name in ["x", "y", "z", "one", "two", "t", "u", "when", "then"]
    }


def test_instances_of_one_class_are_groups_of_their_own(notebook: Notebook) -> None:
    notebook.run("""
        import dataclasses
        class Base:
            def __init__(self, *, v: int = 0): self.v = v
        class Plain(Base):
            def __init__(self, v: int): super().__init__(v=v)
            @property
            def double(self) -> int: return self.v * 2
            @classmethod
            def make(cls) -> 'Plain': return cls(1)
            @staticmethod
            def help() -> str: return ''
        @dataclasses.dataclass
        class Data:
            x: int = 0
            y: list = dataclasses.field(default_factory=list)
        p = Plain(1); q = Plain(2); d = Data(1); e = Data(2)
    """)
    assert {frozenset(group) for group in notebook.groups()} >= {frozenset({name}) for name in "pqde"}


def test_a_list_shared_by_a_class_and_a_variable_stays_shared(notebook: Notebook) -> None:
    copy = notebook.run("""
        registry = []
        class Registered:
            items = registry
            def __init__(self): self.items.append(self)
        one = Registered()
    """).job("Registered(); count = len(registry); same = Registered.items is registry; kind = type(one) is Registered")
    assert copy["count"] == 2 and copy["same"] and copy["kind"]


def test_recursive_structures(notebook: Notebook) -> None:
    copy = notebook.run("a = []; a.append(a); b = {}; b['b'] = b; c = [b]").copy()
    assert copy["a"][0] is copy["a"] and copy["b"]["b"] is copy["b"] is copy["c"][0]


def test_two_names_of_one_function_or_object(notebook: Notebook) -> None:
    copy = notebook.run("""
        def f(): f.calls += 1
        f.calls = 0
        g = f; callbacks = {'f': f}; o = object(); p = o
    """).copy()
    assert copy["f"] is copy["g"] is copy["callbacks"]["f"] and copy["o"] is copy["p"]


# Functions and classes


def test_a_function_and_the_namespace_share_globals(notebook: Notebook) -> None:
    brought = notebook.run("""
        acc = []; limit = 1
        def add(x): acc.append(x); return len(acc) > limit
        def later(): return defined_later
    """).job("""
        one, two = add(1), add(2)
        limit = 5
        three = add(3)
        defined_later = 'yes'
        four = later()
        same = list(acc)
        namespace_is_main = add.__globals__ is globals()
    """)
    assert (brought["one"], brought["two"], brought["three"]) == (False, True, False)
    assert brought["same"] == [1, 2, 3] and brought["four"] == "yes" and brought["namespace_is_main"]


def test_a_function_that_comes_back_runs_in_the_kernel(notebook: Notebook) -> None:
    brought = notebook.run("seen = []").job("""
        def note(x): seen.append(x)
        note(1)
    """)
    brought["note"](2)
    assert notebook["seen"] == [2] and brought["note"].__globals__ is notebook.namespace


def test_closures_share_their_cells(notebook: Notebook) -> None:
    copy = notebook.run("""
        def counter():
            n = 0
            def up():
                nonlocal n
                n += 1
                return n
            def read(): return n
            return up, read
        up, read = counter()
        up()
        def factorial():
            def inner(k): return 1 if k < 2 else k * inner(k - 1)
            return inner
        fact = factorial()
        def unset():
            def inner(): return missing
            return inner
            missing = 1
        empty = unset()
    """).copy()
    copy["up"]()
    assert copy["read"]() == 2 and notebook["read"]() == 1 and copy["fact"](5) == 120
    with pytest.raises(NameError):
        copy["empty"]()


def test_what_else_belongs_to_a_function(notebook: Notebook) -> None:
    copy = notebook.run("""
        import functools
        def f(a: int, b=[1], *, c={'k': 2}) -> str:
            "doc"
            return a, b, c
        f.note = 'n'
        async def co(): return 1
        def gen(): yield 1
        square = lambda x: x * x
        part = functools.partial(square, 3)
        @functools.lru_cache(maxsize=7)
        def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
        @functools.wraps(f)
        def wrapped(*args): return f(*args)
    """)
    f = copy.copy()["f"]
    assert f(0) == (0, [1], {"k": 2}) and f.__doc__ == "doc" and f.note == "n"
    assert f.__annotations__ == notebook["f"].__annotations__ and f.__module__ == "__main__"
    brought = notebook.job("a = list(gen()); b = part(); c = fib(20); d = wrapped(1); e = fib.cache_info().maxsize")
    assert (brought["a"], brought["b"], brought["c"], brought["d"][0], brought["e"]) == ([1], 9, 6765, 1, 7)


CLASSES = """
import abc, collections, dataclasses, enum, typing
class Base:
    label = 'base'
    def __init__(self, v): self.v = v
    def name(self): return 'base'
class Child(Base):
    def name(self): return 'child of ' + super().name()
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    __slots__ = ('side',)
    def __init__(self, side): self.side = side
    def area(self): return self.side ** 2
@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0
@dataclasses.dataclass(frozen=True)
class Fixed:
    x: int
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
class Flag(enum.Flag):
    A = enum.auto()
    B = enum.auto()
Pair = collections.namedtuple('Pair', 'a b')
class Typed(typing.NamedTuple):
    a: int
class Problem(Exception):
    def __init__(self, code): super().__init__(code); self.code = code
class Node:
    def __init__(self): self.me = self
values = [Child(1), Square(3), Point(1, 2), Fixed(1), Colour.RED, Flag.A | Flag.B, Pair(1, 2), Typed(3), Problem(4)]
node = Node()
"""


def test_instances_of_the_notebooks_classes_come_back_as_instances_of_them(notebook: Notebook) -> None:
    before = list(notebook.run(CLASSES)["values"])
    brought = notebook.job("""
        back = list(values)
        fresh = [Child(2), Point(3), Colour.BLUE, Pair(3, 4)]
        good = all(isinstance(a, b) for a, b in [(values[0], Base), (values[1], Shape), (values[8], Problem)])
        good = good and values[4] is Colour.RED and node.me is node and values[0].name() == 'child of base'
        good = good and values[1].area() == 9 and type(values[2]) is Point and values[2] < Point(5)
    """)
    assert brought["good"]
    for old, new in zip(before, brought["back"], strict=True):
        assert type(new) is type(old)
    assert brought["back"][2:8] == before[2:8] and brought["back"][4] is notebook["Colour"].RED
    assert [type(value).__name__ for value in brought["fresh"]] == ["Child", "Point", "Colour", "Pair"]
    assert all(type(value) is notebook[type(value).__name__] for value in brought["fresh"])


def test_an_instance_that_comes_back_does_not_undo_changes_of_its_class(notebook: Notebook) -> None:
    notebook.run("class Thing:\n    level = 1\n    def say(self): return 'old'\nt = Thing()")
    digest = notebook.capture().digest
    job = [python("docker_kernel.guest.snapshot"), "-c", JOB, notebook.state, digest, "u = Thing()", "[]"]
    result = subprocess.run(job, capture_output=True, text=True, check=True).stdout.split()[-1]
    notebook.run("Thing.level = 2\nThing.say = lambda self: 'new'")
    manifest = snapshot.read_manifest(notebook.state, result)
    restored, _ = snapshot.restore(notebook.state, manifest, notebook.namespace)
    assert type(restored["u"]) is notebook["Thing"]
    assert notebook["Thing"].level == 2 and restored["u"].say() == "new"


def test_a_class_that_the_job_changed_comes_back_changed(notebook: Notebook) -> None:
    original = notebook.run("class Config:\n    rate = 1")["Config"]
    brought = notebook.job("Config.rate = 2", known=("Config",))
    assert brought["Config"] is original and original.rate == 2


def test_a_class_defined_anew_is_another_class(notebook: Notebook) -> None:
    notebook.run("class Thing: pass")
    brought = notebook.job("class Thing:\n    new = True\nt = Thing()")
    assert brought["Thing"] is not notebook["Thing"] and type(brought["t"]) is brought["Thing"]


# Large and numeric


def test_numpy_views_stay_views(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    notebook.run("""
        import numpy as np
        a = np.arange(100_000, dtype='f8'); row = a[10:20]; back = a[::-1]
        grid = a.reshape(100, 1000); column = grid[:, 3]
        turned = np.asfortranarray(np.ones((3, 4))); rows = turned[1:, ::2]
        inside = {'whole': np.zeros(10), }
        inside['part'] = inside['whole'][2:5]
        fixed = np.arange(5); fixed.flags.writeable = False
        alone = np.arange(1_000_000)[:10]
        structured = np.zeros(3, dtype=[('x', 'f8'), ('y', 'i4')]); field = structured['y']
    """)
    copy = notebook.copy()
    copy["a"][13] = -1
    copy["a"][3] = -2
    assert copy["row"][3] == -1 and copy["back"][-14] == -1 and copy["column"][0] == -2
    assert np.shares_memory(copy["a"], copy["grid"]) and copy["back"].strides == notebook["back"].strides
    copy["turned"][1, 2] = 9
    assert copy["rows"][0, 1] == 9 and copy["rows"].shape == (2, 2)
    copy["inside"]["whole"][3] = 7
    assert copy["inside"]["part"][1] == 7
    assert not copy["fixed"].flags.writeable and copy["row"].flags.writeable
    copy["structured"]["y"][1] = 5
    assert copy["field"][1] == 5
    assert sum(notebook.pack("alone")["sizes"]) < 10_000, (
        "the rest of the memory that a lone view shows does not travel"
    )


def test_large_buffers_are_blobs_of_their_own(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\nbig = np.ones(1_000_000); small = np.ones(10)")
    big = notebook.pack("big")
    assert big["buffers"][0][1] == 8_000_000 and big["sizes"][0] < 1000 and big["groups"] == [["big"]]
    assert notebook.pack("small")["buffers"] == []
    copy = notebook.copy()
    copy["big"][0] = 5
    assert copy["big"].sum() == 1_000_004 and notebook["big"][0] == 1


def test_what_comes_back_can_be_written_to(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    brought = notebook.run("import numpy as np\na = np.zeros(100_000)").job(
        "b = a + 1; c = bytearray(100_000); c[0] = 7"
    )
    brought["b"][0] = 3
    brought["c"][1] = 8
    assert brought["b"][0] == 3 and brought["c"][:2] == b"\x07\x08"


def test_pandas(notebook: Notebook) -> None:
    pd = pytest.importorskip("pandas")
    notebook.run("""
        import numpy as np, pandas as pd
        df = pd.DataFrame({'n': np.arange(50_000), 's': [str(i) for i in range(50_000)], 'f': np.ones(50_000)})
        df['when'] = pd.Timestamp('2026-01-01', tz='UTC')
        df['kind'] = pd.Categorical(['a', 'b'] * 25_000)
        alias = df; inner = {'df': df}; series = df['f']
        indexed = df.set_index(['kind', 'n'])
    """)
    copy = notebook.copy()
    pd.testing.assert_frame_equal(copy["df"], notebook["df"])
    pd.testing.assert_frame_equal(copy["indexed"], notebook["indexed"])
    assert copy["alias"] is copy["df"] is copy["inner"]["df"]
    brought = notebook.job("means = df.groupby('kind', observed=True)['n'].mean(); df2 = df.assign(z=1)")
    assert brought["means"]["b"] == 25_000 - 0.0 and list(brought["df2"].columns)[-1] == "z"


def test_scikit_learn(notebook: Notebook) -> None:
    pytest.importorskip("sklearn")
    notebook.run("""
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, StandardScaler
        X = np.random.default_rng(0).normal(size=(200, 3)); y = (X[:, 0] > 0).astype(int)
        def double(x): return x * 2
        model = make_pipeline(FunctionTransformer(double), StandardScaler(), LogisticRegression())
    """)
    brought = notebook.job("model.fit(X, y); score = model.score(X, y)", known=("model",))
    assert brought["score"] > 0.95 and (brought["model"].predict(notebook["X"]) == notebook["y"]).mean() > 0.95


# What cannot travel


def test_one_that_cannot_travel_is_named_and_costs_only_itself(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("secret")
    notebook.run(f"""
        import asyncio, queue, socket, sqlite3, subprocess, threading, weakref, contextvars
        shared = []
        generator = (x for x in shared)
        lock = threading.Lock(); locked = [shared, lock]
        handle = open({str(tmp_path / "file.txt")!r}); binary = open({str(tmp_path / "file.txt")!r}, 'rb')
        writer = open({str(tmp_path / "new.txt")!r}, 'w')
        sock = socket.socket(); database = sqlite3.connect(':memory:'); thread = threading.Thread(target=print)
        q = queue.Queue(); process = subprocess.Popen(['true']); process.wait()
        class Holder:
            pass
        holder = Holder(); reference = weakref.ref(holder)
        async def co(): pass
        coroutine = co(); coroutine.close()
        deep = []
        for _ in range(100_000): deep = [deep]
        fine = {{'shared': shared}}
    """)
    captured = notebook.capture()
    names = {one.name for one in captured.left_out}
    assert names == {
        "generator", "lock", "locked", "handle", "binary", "writer", "sock", "database", "thread", "q", "process",
        "reference", "coroutine", "deep",
    }  # fmt: skip
    assert all(one.reason and one.hint and one.type for one in captured.left_out)
    assert json.loads(captured.manifest)["left_out"][0].keys() == {"name", "type", "reason", "hint"}
    blobs = b"".join(path.read_bytes() for path in (Path(notebook.state) / "blobs").iterdir())
    assert b"secret" not in blobs
    copy = notebook.copy()
    assert copy["fine"]["shared"] is copy["shared"] and isinstance(copy["holder"], copy["Holder"])
    for name in ("handle", "binary", "writer", "sock", "database"):
        notebook[name].close()


def test_modules_travel_by_name(notebook: Notebook) -> None:
    manifest = notebook.run("import os.path as p, json, xml.dom.minidom as dom\nd = {'json': json}").manifest()
    assert manifest["modules"]["dom"] == "xml.dom.minidom" and manifest["modules"]["json"] == "json"
    copy = notebook.copy()
    assert copy["dom"].__name__ == "xml.dom.minidom" and copy["d"]["json"] is json


def test_a_module_that_is_not_there_is_named(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = notebook.run("a = 1").manifest()
    manifest["modules"]["gone"] = "no_such_module_at_all"
    restored, failed = snapshot.restore(notebook.state, manifest, {})
    assert restored == {"a": 1} and [one.name for one in failed] == ["gone"]


def test_one_that_cannot_be_restored_is_named_and_costs_only_itself(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vanishing.py").write_text("class Thing: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    notebook.run("import vanishing\nthings = [vanishing.Thing()]; del vanishing")
    notebook.run("for i in range(100): globals()[f'v{i}'] = [i]")
    manifest = notebook.manifest()
    (tmp_path / "vanishing.py").unlink()
    del sys.modules["vanishing"]
    restored, failed = snapshot.restore(notebook.state, manifest, {})
    assert [one.name for one in failed] == ["things"] and "vanishing" in failed[0].reason
    assert all(restored[f"v{i}"] == [i] for i in range(100))


def test_a_module_made_by_hand_is_refused_or_whole(notebook: Notebook) -> None:
    notebook.run("import types\nm = types.ModuleType('made'); m.x = 1")
    captured = notebook.capture()
    assert "m" in {one.name for one in captured.left_out} or notebook.copy()["m"].x == 1


def test_names_that_shadow_builtins_and_odd_names(notebook: Notebook) -> None:
    notebook.namespace.update({"list": [1], "print": 2, "größe": 3, "weird name": 4})
    copy = notebook.copy()
    assert (copy["list"], copy["print"], copy["größe"], copy["weird name"]) == ([1], 2, 3, 4)


# Storage


def test_unchanged_groups_are_not_written_again(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    first = notebook.run("import numpy as np\na = np.ones(100_000); b = [1]; c = {'x': 2}").manifest()
    blobs = Path(notebook.state) / "blobs"
    before = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    second = notebook.run("b.append(2)").manifest()
    after = {path.name: path.stat().st_mtime_ns for path in blobs.iterdir()}
    assert after.items() > before.items() and len(after) == len(before) + 1
    changed = [one["groups"] for one in second["packs"] if one not in first["packs"]]
    assert len(changed) == 1 and ["b"] in changed[0]


def test_nothing_but_whole_blobs_is_left(notebook: Notebook) -> None:
    notebook.run("a = [1]; b = bytes(200_000)").capture()
    assert all(len(path.name) == 64 for path in (Path(notebook.state) / "blobs").iterdir())


@pytest.mark.parametrize("which", ["pickle", "buffer"])
def test_a_changed_blob_is_refused_before_it_is_read(notebook: Notebook, which: str) -> None:
    pytest.importorskip("numpy")
    manifest = notebook.run("import numpy as np\na = np.ones(100_000)").manifest()
    (pack,) = manifest["packs"]
    digest = pack["blob"] if which == "pickle" else pack["buffers"][0][0]
    path = Path(notebook.state) / "blobs" / digest.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(blob_files.SnapshotError, match="was changed"):
        snapshot.restore(notebook.state, manifest, {})


def test_a_changed_missing_or_foreign_manifest_is_refused(notebook: Notebook) -> None:
    digest = notebook.run("a = 1").capture().digest
    path = Path(notebook.state) / "manifests" / digest.removeprefix("sha256:")
    path.write_text(path.read_text().replace('"a"', '"b"'))
    for name in (digest, "sha256:" + "0" * 64, "../../etc/passwd", "sha256:../x"):
        with pytest.raises(blob_files.SnapshotError):
            snapshot.read_manifest(notebook.state, name)


def test_a_folder_that_cannot_be_written_is_said(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notebook.state = str(tmp_path / "file" / "state")
    with pytest.raises(blob_files.SnapshotError, match="cannot be written"):
        notebook.run("a = 1").capture()


def test_ten_thousand_small_objects(notebook: Notebook) -> None:
    notebook.run("for i in range(10_000): globals()[f'v{i}'] = [i, str(i)]")
    del notebook.namespace["i"]
    started = time.monotonic()
    captured = notebook.capture()
    took = time.monotonic() - started
    restored, _ = snapshot.restore(notebook.state, json.loads(captured.manifest), {})
    assert len(restored) == 10_000 and restored["v77"] == [77, "77"]
    assert len(list((Path(notebook.state) / "blobs").iterdir())) <= 16 and len(captured.manifest) < 500_000
    (only,) = snapshot.restore(notebook.state, json.loads(captured.manifest), {}, ["v77"])[0]
    assert only == "v77"
    assert took < patient(10)
