"""Modules of the workspace are state: a job sees the kernel's, and what its cell does to them is done here, too."""

from __future__ import annotations

import json
import sys
import types
from typing import Any, NamedTuple

import pytest

from docker_kernel.guest import snapshot
from docker_kernel.guest.changes import Changes
from docker_kernel.guest.merge import Restored
from tests.guest.test_merge import Kernel, kernel

__all__ = ["kernel"]


class Case(NamedTuple):
    """Modules by name, what the kernel does with them, the job's cell, and what holds afterwards."""

    files: dict[str, str]
    before: str
    cell: str
    expected: str


CONFIG = """
    import logging, re, threading
    alpha, name = 1, "file"
    opts = {"a": 1, "inner": {"b": [1]}}
    names = ["x"]
    _lock = threading.Lock()
    _local = threading.local()
    log = logging.getLogger("config")
    pattern = re.compile("a+")
    UNSET = object()
    class Model:
        count, seen = 0, []
        class Inner:
            size = 1
        def run(self): Model.count += 1; return self.count
        @classmethod
        def note(cls, x): cls.seen.append(x)
    def load(x=UNSET, known=opts): return (x is UNSET, known is opts, alpha, opts["a"])
    def set_alpha(value):
        global alpha
        alpha = value
    def add(value): opts.setdefault("all", []).append(value)
"""

RUN = """
    import time, uuid
    started, token, key = time.time_ns(), str(uuid.uuid4()), uuid.uuid4()
    class Holder: pass
    def current(): return token
"""

CASES = {
    "a value that was set anew": Case(
        {"config": CONFIG}, "import config; config.alpha = 5", "y = config.alpha", "y == 5"
    ),
    "a value that a function of the module reads": Case(
        {"config": CONFIG}, "import config; config.set_alpha(7)", "y = config.load()[2]", "y == 7 == config.alpha"
    ),
    "a module that only the cell imports by name": Case(
        {"config": CONFIG},
        "import config as c; c.alpha = 5; c.opts['a'] = 6; del c",
        "from config import alpha, opts, load\ny = alpha, opts['a'], load()",
        "y == (5, 6, (True, True, 5, 6))",
    ),
    "a dict under two names": Case(
        {"config": CONFIG},
        "import config; from config import opts",
        "same = opts is config.opts; opts['b'] = 2; seen = config.opts['b']",
        "same and seen == 2 and config.opts is opts and opts['b'] == 2",
    ),
    "a dict that functions have as a default": Case(
        {"config": CONFIG},
        "import config; held = [config.opts]; config.opts['a'] = 3",
        "y = config.load(); config.add(4)",
        "y == (True, True, 1, 3) and held[0] is config.opts and config.opts['all'] == [4]",
    ),
    "a default that has been set anew is another one": Case(
        {"config": CONFIG},
        "import config; config.opts = {'a': 9}; config.UNSET = object()",
        "y = config.load()",
        "y == (False, False, 1, 9)",
    ),
    "a sentinel that a variable holds": Case(
        {"config": CONFIG},
        "import config; none = config.UNSET",
        "y = config.load(none)",
        "y[0] and none is config.UNSET",
    ),
    "what the cell does to values": Case(
        {"config": CONFIG},
        "import config; held = config.names",
        "config.alpha = 8; config.names.append('y'); config.new = [1]; del config.name",
        "(config.alpha, config.new, hasattr(config, 'name')) == (8, [1], False) and held is config.names == ['x', 'y']",
    ),
    "what a function of the module does": Case(
        {"config": CONFIG},
        "import config; inner = config.opts['inner']",
        "config.set_alpha(9); config.add(inner); config.add(1)",
        "config.alpha == 9 and config.opts['all'][0] is inner is config.opts['inner'] and config.opts['all'][1] == 1",
    ),
    "attributes of classes": Case(
        {"config": CONFIG},
        "from config import Model; Model.count = 4; Model.Inner.size = 2; Model.seen.append(0); m = Model()",
        "y = Model.count, Model.Inner.size, m.run(), m.seen; Model.note(1); Model.extra = {'a': 1}",
        "y == (4, 2, 5, [0, 1]) and Model.count == 5 and m.seen is Model.seen is y[3] and Model.extra == {'a': 1}",
    ),
    "attributes of functions": Case(
        {"config": CONFIG},
        "from config import load; load.calls = [1]",
        "load.calls.append(2); load.last = 3",
        "load.calls == [1, 2] and load.last == 3",
    ),
    "a patched function": Case(
        {"config": CONFIG}, "import config; config.load = lambda: 3", "y = config.load()", "y == config.load() == 3"
    ),
    "a wrapper that goes by the name of what it wraps": Case(
        {"config": CONFIG},
        "import config, functools\ncalls = []\ndef traced(f):\n    @functools.wraps(f)\n    def inner(*a):\n"
        "        calls.append(a); return f(*a)\n    return inner\nconfig.load = traced(config.load)",
        "y = config.load(1)",
        "y[0] is False and calls == [(1,)] and config.load(2) and len(calls) == 2",
    ),
    "a wrapper of the module's own": Case(
        {
            "tools": "import functools\ncalls = []\ndef traced(f):\n    @functools.wraps(f)\n    def inner(*a):\n"
            "        calls.append(a); return f(*a)\n    return inner\ndef load(*a): return len(a)\n"
        },
        "import tools; tools.load = tools.traced(tools.load)",
        "y = tools.load(1, 2)",
        "y == 2 and tools.calls == [(1, 2)]",
    ),
    "results that a cached function keeps": Case(
        {
            "tools": "import functools\ncalls = []\n@functools.lru_cache(None)\ndef settings(x=0):\n"
            "    calls.append(x); return {'x': x}\n"
        },
        "import tools; from tools import settings; held = settings(); held['rate'] = 5",
        "y = settings() is held, tools.settings()['rate'], len(tools.calls); settings(1); held['job'] = 1",
        "y == (True, 5, 1) and tools.settings() is settings() is held == {'x': 0, 'rate': 5, 'job': 1} "
        "and settings(1) and tools.calls == [0, 1] and settings is tools.settings",
    ),
    "results that a cached function keeps no more": Case(
        {"tools": "import functools\n@functools.lru_cache(None)\ndef load(): return [1]\n"},
        "import tools; tools.load().append(2)",
        "y = tools.load()[:]; tools.load.cache_clear()",
        "y == [1, 2] and tools.load.cache_info().currsize == 0 and tools.load() == [1]",
    ),
    "a cached function that only the cell imports": Case(
        {"tools": "import functools\n@functools.lru_cache(None)\ndef load(): return [1]\n"},
        "x = 1",
        "import tools; y = tools.load(); y.append(2)",
        "tools.load() is y == [1, 2]",
    ),
    "what a decorator's closure has": Case(
        {
            "tools": "def counted(f):\n    calls, n = [], 0\n    def inner(*a):\n        nonlocal n\n"
            "        n += 1; calls.append(a); return n, f(*a)\n    inner.calls = calls\n    return inner\n"
            "factor = 2\n@counted\ndef load(a): return a * factor\n"
        },
        "import tools; from tools import load; load(0); tools.factor = 3",
        "y = tools.load(1), load is tools.load, tools.load.calls[:]; tools.factor = 4",
        "y == ((2, 3), True, [(0,), (1,)]) and load is tools.load and load(2) == (3, 8) and len(load.calls) == 3",
    ),
    "functions that a function of the module makes": Case(
        {
            "tools": "made = []\nscale = 1\ndef counter():\n    n = 0\n    def up():\n        nonlocal n\n"
            "        n += scale; made.append(n); return n\n    return up\nshort = lambda: (scale, made)\n"
        },
        "import tools; from tools import short; up = tools.counter(); held = [up]; up(); tools.scale = 10",
        "y = up(), short()[0], short()[1] is tools.made; tools.scale = 5",
        "y == (11, 10, True) and up() == 16 and held[0] is up and tools.made == [1, 11, 16] and short is tools.short",
    ),
    "a class that a function of the module makes": Case(
        {"tools": "seen = []\ndef make():\n    class L:\n        def put(self): seen.append(1)\n    return L\n"},
        "import tools; Local = tools.make(); one = Local(); one.put()",
        "one.put(); Local().put()",
        "tools.seen == [1, 1, 1] and type(one) is Local",
    ),
    "a patched method": Case(
        {"config": CONFIG},
        "import config; config.Model.run = lambda self: 'patched'",
        "y = config.Model().run()",
        "y == 'patched'",
    ),
    "a class that another one of its name replaces": Case(
        {"config": CONFIG},
        "import config\nclass Model(config.Model):\n    extra = 1\nconfig.Model = Model; m = Model()",
        "y = m.run(), config.Model.extra, type(m) is config.Model; n = config.Model()",
        "y == (1, 1, True) and type(n) is config.Model is Model",
    ),
    "what the kernel deleted": Case(
        {"config": CONFIG},
        "import config; del config.alpha, config.Model.count",
        "y = hasattr(config, 'alpha'), hasattr(config.Model, 'count')",
        "y == (False, False)",
    ),
    "modules that import from one another": Case(
        {
            "config": CONFIG,
            "model": "from config import opts, alpha\nimport config\nclass Net:\n    opts = opts\n"
            "def step(): opts['n'] = opts.get('n', 0) + 1; config.alpha += 1\n",
        },
        "import model; model.opts['n'] = 5",
        "model.step(); import config; same = model.opts is config.opts is model.Net.opts",
        "same and model.opts['n'] == 6 and __import__('config').alpha == 2 and model.opts is model.Net.opts",
    ),
    "a package": Case(
        {"pkg__": "from . import part\nversion = [1]\n", "pkg__part": "table = {}\ndef put(k): table[k] = 1\n"},
        "import pkg; pkg.part.put(1); pkg.version.append(2)",
        "pkg.part.put(2); import pkg.part as p; y = len(p.table), pkg.version",
        "y == (2, [1, 2]) and pkg.part.table == {1: 1, 2: 1} and pkg.version is y[1]",
    ),
    "modules that import each other": Case(
        {"left": "values = [1]\nimport right\n", "right": "import left\ndef put(): left.values.append(2)\n"},
        "import left; left.values.append(0)",
        "left.right.put()",
        "left.values == [1, 0, 2]",
    ),
    "a module that the cell is the first to import": Case(
        {"config": CONFIG},
        "",
        "import config; from config import opts; config.alpha = 5; opts['b'] = 2; names = config.names",
        "config.alpha == 5 and opts is config.opts and opts['b'] == 2 and names is config.names == ['x']",
    ),
    "a module that the cell is the first to import, and leaves as it is": Case(
        {"config": CONFIG}, "", "from config import load\ny = load()", "y == load() == (True, True, 1, 1)"
    ),
    "a module that the cell loads again": Case(
        {"config": CONFIG},
        "import config, importlib; config.alpha = 5; config.opts['a'] = 2",
        "importlib.reload(config); y = config.alpha",
        "y == 1 and config.alpha == 1 and config.opts['a'] == 1",
    ),
    "a module that was loaded again, and what is not its file's": Case(
        {"config": CONFIG},
        "import config, importlib; config.own = 1; config.alpha = 5; importlib.reload(config); config.name = 'new'",
        "y = config.own, config.alpha, config.name",
        "y == (1, 1, 'new')",
    ),
    "an instance of a module's class that the module has, too": Case(
        {"config": CONFIG + "\n    current = Model()\n"},
        "import config; now = config.current",
        "now.x = 1; y = config.current.x",
        "y == 1 and now is config.current and config.current.x == 1",
    ),
    "data classes and enums": Case(
        {
            "kinds": "import dataclasses, enum\nclass Color(enum.Enum):\n    RED = 1\n"
            "@dataclasses.dataclass(frozen=True)\nclass P:\n    x: int = 0\n"
            "    tags: list = dataclasses.field(default_factory=list)\norigin = P()\nby = {Color.RED: origin}\n"
        },
        "import kinds; kinds.origin.tags.append(kinds.Color.RED)",
        "from kinds import *; y = by[Color.RED] is origin, origin.tags[0] is Color.RED; by['n'] = P(2)",
        "y == (True, True) and kinds.by['n'] == kinds.P(2) and kinds.by[kinds.Color.RED] is kinds.origin is origin",
    ),
    "a generator of random numbers": Case(
        {"config": "import random\nrng = random.Random(3)\ndef draw(): return rng.random()\n"},
        "import config; first = config.draw()",
        "second = config.draw()",
        "[first, second, config.draw()] == list(map(lambda r: r.random(), [__import__('random').Random(3)] * 3))",
    ),
    "what its file makes otherwise each time": Case(
        {"run": RUN},
        "import run; before = run.started, run.token, run.key",
        "y = (run.started, run.token, run.key) == before and run.current() == run.token; run.token = 'new'",
        "y and (run.started, run.current(), run.key) == (before[0], 'new', before[2])",
    ),
    "the same of a module that a variable needs": Case(
        {"run": RUN},
        "import run; before = run.started, run.token, run.key; one = run.Holder()",
        "import run; y = (run.started, run.token, run.key) == before; one.x = 1",
        "y and before == (run.started, run.token, run.key) and one.x == 1",
    ),
    "code in a text": Case(
        {"config": CONFIG},
        "import config; config.opts['a'] = 2",
        'exec(\'import sys; sys.modules["config"].opts["a"] += 1\')',
        "config.opts['a'] == 3",
    ),
    "a plugin that is found in a registry": Case(
        {
            "registry": "plugins = []\ndef run_all(): return [one() for one in plugins]\n",
            "plugin": "import registry\ncalls = []\n"
            "@registry.plugins.append\ndef run(): calls.append(1); return len(calls)\n",
        },
        "import registry, plugin; registry.run_all(); run_all = registry.run_all; del plugin, registry",
        "y = run_all()",
        "y == [2] and __import__('plugin').calls == [1, 1]",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_cell_does_with_modules_in_a_job_what_it_does_here(kernel: Kernel, kind: str) -> None:
    files, before, cell, expected = CASES[kind]
    kernel.files(**files)
    kernel.restart()
    kernel.run(before).run(cell)
    assert eval(expected, kernel.namespace), "this is not what it does here"
    kernel.restart()
    kernel.run(before).local(cell)
    assert eval(expected, kernel.namespace)


def test_a_stand_in_of_no_module_is_not_taken_for_what_the_file_made(kernel: Kernel) -> None:
    kernel.files(config=CONFIG)
    kernel.restart()
    kernel.run("import config\nfrom unittest import mock\nmock.patch('config.load', autospec=True).start()")
    kernel.run("held = config.load")
    assert {one.name for one in kernel.send()[0].left_out} == {"config.load", "held"}
    kernel.run("mock.patch.stopall()")


def test_iterators_and_weak_caches_are_named_once_they_are_not_as_they_were(kernel: Kernel) -> None:
    kernel.files(
        config="""
            import weakref
            class Node: pass
            root, ids, by_name, names = Node(), (i for i in range(9)), weakref.WeakValueDictionary(), None
            names, by_name["root"] = weakref.WeakKeyDictionary(), root
        """
    )
    kernel.restart()
    kernel.run("import config")
    assert not kernel.send()[0].left_out
    kernel.run("next(config.ids); node = config.by_name['x'] = config.Node(); config.names[node] = 'x'")
    assert {one.name for one in kernel.send()[0].left_out} == {"config.ids", "config.by_name", "config.names"}


def test_what_a_file_makes_anew_is_no_news_and_what_was_put_there_is_named(kernel: Kernel) -> None:
    kernel.files(config=CONFIG + "\n    state = {'lock': threading.Lock(), 'n': 0, 'all': []}\n")
    kernel.restart()
    kernel.run("import config")
    assert not kernel.send()[0].left_out
    kernel.run("import threading; config.alpha = 5; config._lock = threading.Lock(); config.conn = threading.local()")
    kernel.run("config.Model.lock = threading.Lock(); config.state['n'] += 1")
    captured, variables = kernel.send()
    assert {one.name for one in captured.left_out} == {
        "config._lock", "config.conn", "config.Model.lock", "config.state",
    }  # fmt: skip
    assert variables["config.alpha"] == 5 and ["config.alpha"] in [one.names for one in captured.groups]


def test_a_class_that_goes_by_the_name_of_the_files_one_is_named(kernel: Kernel) -> None:
    kernel.files(config="class Model:\n    pass\ndef other():\n    class Model: pass\n    return Model\n")
    kernel.restart()
    kernel.run("import config; config.Model = config.other(); config.Model.__qualname__ = 'Model'")
    (left_out,) = kernel.send()[0].left_out
    assert left_out[::2] == ("config.Model", "it goes by the name of another one, which its module's file makes")


def test_nothing_travels_of_a_module_that_is_as_its_file_made_it(kernel: Kernel) -> None:
    kernel.files(config=CONFIG, big="table = list(range(50_000))\n")
    kernel.restart()
    kernel.run("import config; before = 1")
    names = [set(one["groups"][0]) for one in _packs(kernel)]
    assert {"before"} in names and not [one for one in names if any(name.startswith("config.") for name in one)]
    kernel.run("from config import opts; import big")
    groups = [set(names) for one in _packs(kernel) for names in one["groups"]]
    assert {"opts", "config.opts"} in groups and {"big.table"} in groups, "what is shared, or too large to tell, goes"


def test_what_is_excluded_stays_here_by_its_full_name_too(kernel: Kernel) -> None:
    kernel.files(data="big = list(range(50_000))\nsmall = {}\n", config=CONFIG)
    kernel.restart()
    kernel.run("import data, config; from data import big; data.small['a'] = config.alpha = 2")
    assert set(kernel.modules.travelling(without=[kernel["big"]]).values) >= {"data.small", "config.alpha"}
    assert "data.big" not in kernel.modules.travelling(without=[kernel["big"]]).values
    assert set(kernel.modules.travelling(wanted={"data"}).values) == {"data.big", "data.small"}


def _packs(kernel: Kernel) -> list[dict[str, Any]]:
    packs: list[dict[str, Any]] = json.loads(kernel.send()[0].manifest)["packs"]
    return packs


def test_a_module_is_neither_imported_nor_needed_for_its_values(kernel: Kernel) -> None:
    kernel.files(config=CONFIG, broken="value = 1\n", gone="value = 1\n")
    kernel.restart()
    kernel.run(
        "import config, broken; config.alpha = 5; broken.value = 2; import gone; gone.value = 3; del broken, gone"
    )
    (kernel.workspace / "broken.py").write_text("1 / 0\n")
    (kernel.workspace / "gone.py").unlink()
    kernel.run("del config").local("import sys; there = {'config', 'broken', 'gone'} & set(sys.modules); x = 1")
    assert kernel["there"] == set() and kernel["x"] == 1
    kernel.local("try: import broken\nexcept ZeroDivisionError: x = 2")
    assert kernel["x"] == 2


def test_large_values_that_the_cell_cannot_reach_are_not_looked_at(kernel: Kernel) -> None:
    kernel.files(
        config="import helper\nopts = {'a': 1}\ndef use(): return helper.use()\n",
        helper="size = {}\ndef use():\n    import late\n    return late.rows\n",
        late="rows = list(range(50_000))\n",
        data="table = list(range(50_000))\n",
    )
    kernel.restart()
    kernel.run("import config, helper, late, data; config.opts['a'] = helper.size['b'] = 2")
    captured, _ = kernel.send()

    def looked_at(cell: str) -> set[str]:
        groups = [Restored(number, values, None, []) for number, values in enumerate(_groups(kernel, captured))]
        kernel.modules._sent = kernel.modules.travelling().sent or kernel.modules._sent
        changes = Changes(groups, kernel.namespace, cell, kernel.state, kernel.modules)
        return {name for number in changes.reached for name in groups[number].values}

    assert looked_at("1 + 1") == set()
    assert looked_at("data.table.append(1)") == {"data.table"}
    assert looked_at("helper.use()") == looked_at("from helper import size") == {"helper.size", "late.rows"}
    assert looked_at("config") == {"config.opts", "helper.size", "late.rows"}
    assert looked_at("exec('x = 1')") == {"config.opts", "helper.size", "late.rows", "data.table"}


def _groups(kernel: Kernel, captured: snapshot.Snapshot) -> list[dict[str, Any]]:
    values = kernel.modules.values()
    return [{name: values[name] for name in one.names if name in values} for one in captured.groups]


LIBRARIES = {
    "tables": """
        from sqlalchemy import Column, ForeignKey, Integer, String, create_engine
        from sqlalchemy.orm import DeclarativeBase, relationship, sessionmaker
        make = sessionmaker(create_engine("sqlite://"))
        class Base(DeclarativeBase): pass
        class User(Base):
            __tablename__ = "users"
            id, name = Column(Integer, primary_key=True), Column(String)
    """,
    "more_tables": """
        from tables import *
        class Address(Base):
            __tablename__ = "addresses"
            id, owner = Column(Integer, primary_key=True), Column(Integer, ForeignKey("users.id"))
            user = relationship("User", backref="addresses")
        def names():
            Base.metadata.create_all(make.kw["bind"])
            with make.begin() as session:
                session.add(Address(user=User(name="a")))
                return [one.addresses[0].user.name for one in session.query(User)]
    """,
    "kinds": """
        import abc, collections, enum, pydantic, typing
        class Settings(pydantic.BaseModel):
            limits: dict = {}
        settings = Settings()
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...
        class Square(Shape):
            def area(self): return 1
        T = typing.TypeVar("T")
        class Box(typing.Generic[T]): items: list = []
        Point = collections.namedtuple("Point", "x y")
        class Flags(enum.Flag): A = 1
    """,
    "numbers_": """
        import argparse, contextlib, functools, itertools, logging, pathlib, sys, threading
        import numpy as np, pandas as pd
        from sklearn.linear_model import LinearRegression
        small, frame, model = np.arange(3), pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), LinearRegression()
        log, handler, parser = logging.getLogger("n"), logging.StreamHandler(), argparse.ArgumentParser()
        counter, stack, path, out = itertools.count(), contextlib.ExitStack(), pathlib.Path("."), sys.stdout
        lock, event, thread = threading.RLock(), threading.Event(), threading.Thread(target=print)
        generator, part, file = (x for x in [1]), functools.partial(print, 1), open("/etc/hostname")
        @functools.lru_cache
        def cached(x): return x
        @functools.singledispatch
        def describe(x): return "any"
        describe.register(int)(lambda x: "int")
        def fit(): model.fit(small.reshape(-1, 1), small)
    """,
}


def test_modules_that_libraries_made_a_lot_in_are_left_to_their_files(kernel: Kernel) -> None:
    for name in ("sqlalchemy", "pydantic", "pandas", "sklearn"):
        pytest.importorskip(name)
    kernel.files(**LIBRARIES)
    kernel.restart()
    kernel.run("import more_tables, kinds, numbers_; more_tables.Address(user=more_tables.User(name='b'))")
    values, spare, _ = kernel.modules.travelling()
    assert set(values) == spare and not kernel.send()[0].left_out
    held = kernel["numbers_"].frame, kernel["numbers_"].model
    kernel.local("names = more_tables.names(); kind = numbers_.describe(1)")
    assert (kernel["names"], kernel["kind"]) == (["a"], "int")
    kernel.local("numbers_.fit(); numbers_.frame['c'] = 1; numbers_.small[0] = 9; kinds.settings.limits['a'] = 1")
    assert held[0] is kernel["numbers_"].frame and held[1] is kernel["numbers_"].model
    kernel.local("y = numbers_.model.coef_[0], list(numbers_.frame), numbers_.small[0], kinds.settings.limits")
    assert kernel["y"] == (pytest.approx(1), ["a", "b", "c"], 9, {"a": 1})
    assert kernel.local("names = more_tables.names()")["names"] == ["a"]


def test_what_came_home_in_the_place_of_what_the_file_made_stays_in_its_place(kernel: Kernel) -> None:
    """The order of sets of texts is each process's own, so that such values are not known there as the same."""
    kernel.files(
        config="opts = {'s': {'a', 'b', 'c', 'd', 'e'}}\ndef load(known=opts): return known is opts, len(opts['s'])\n"
    )
    kernel.restart()
    kernel.run("import config; held = [config.load]")
    kernel.local("config.opts['s'].add('f'); y = config.load()")
    assert kernel["y"] == kernel["config"].load() == (True, 6)
    kernel.local("y = config.load(); config.opts['s'].add('g')")
    assert kernel["y"] == (True, 6) and kernel["config"].load() == (True, 7)


class Proxy:
    """Fails at any question, as those of a request that is not there do."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("there is no request")


def test_proxies_that_fail_at_any_question_are_left_alone(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.files(config="from tests.guest.test_workspace_modules import Proxy\nrequest, alpha = Proxy(), 1\n")
    kernel.restart()
    kernel.run("import config; config.alpha = 5").local("y = config.alpha")
    assert kernel["y"] == 5 and not capsys.readouterr().err


class Library:
    """As what cffi makes of a library: no module, though it says so."""

    __slots__ = ()

    @property
    def __class__(self) -> Any:
        return types.ModuleType


def test_what_only_says_that_it_is_a_module_is_left_alone(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "library", Library())  # type: ignore[arg-type]
    kernel.restart()
    kernel.run("import library; one = [1]")
    captured = kernel.capture()
    assert [left.name for left in captured.left_out] == ["library"]
    assert kernel.modules.files() == {}
