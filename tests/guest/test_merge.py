"""What a job changed comes home: into the kernel's own objects, so that all that held one object hold it afterwards."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_kernel.guest import changes, merge, snapshot
from docker_kernel.guest.bindings import Bindings
from docker_kernel.guest.workspace_modules import NAME as MODULES
from docker_kernel.guest.workspace_modules import WorkspaceModules
from tests.guest.test_snapshot import Notebook

JOB = r"""
import importlib, json, sys, types
from docker_kernel.guest import changes, snapshot
from docker_kernel.guest.changes import Changes
from docker_kernel.guest.merge import Restored
from docker_kernel.guest.workspace_modules import NAME, WorkspaceModules

finders, known = list(sys.meta_path), set(sys.modules)
sys.path.insert(0, sys.argv[1])

def run(state, digest, source, as_base):
    changes.AS_BASE = as_base
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", "") or "").startswith(sys.argv[1]):
            del sys.modules[name]
    sys.meta_path[:] = finders
    importlib.invalidate_caches()
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    namespace, groups = module.__dict__, []
    modules = WorkspaceModules(namespace, limit=None)
    modules.expect(snapshot.read_manifest(state, digest))
    modules.begin()
    on_group = lambda *group: groups.append(Restored(*group))
    manifest = snapshot.read_manifest(state, digest)
    found, failed = snapshot.restore(state, manifest, namespace, on_group=on_group, mapped=True)
    assert not failed, failed
    modules.receive(found)
    namespace.update(found)
    before = dict(namespace)
    found_by = Changes([one for one in groups if NAME not in one.values], namespace, source, state, modules)
    exec(compile(source, "<cell>", "exec"), namespace)
    variables = {name: value for name, value in namespace.items() if not name.startswith("__")}
    done = found_by.outcome(before, variables)
    pickler = found_by.pickler(done.values)
    result = snapshot.capture(done.values, namespace, state, pickler, done.spare, changed=done.changed)
    return [result.digest, sorted({*(set(found) - set(variables)), *done.gone})]

for line in sys.stdin:
    print(json.dumps(run(*json.loads(line))), flush=True)
"""
EXAMPLES = int(os.environ.get("DOCKER_KERNEL_TEST_EXAMPLES", "50"))


class Kernel(Notebook):
    """A notebook's namespace here, and a process that runs its jobs."""

    def __init__(self, state: Path) -> None:
        super().__init__(state, {})
        self.workspace = state.parent / "workspace"
        self.workspace.mkdir()
        self.as_base = changes.AS_BASE
        self._finders = list(sys.meta_path)
        self.worker = subprocess.Popen(
            [sys.executable, "-B", "-c", JOB, str(self.workspace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.restart()

    def restart(self) -> None:
        """Begin with no variables, and without the modules of the workspace."""
        self.as_base = changes.AS_BASE
        self.forget_modules()
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        self.namespace = module.__dict__
        self.modules = WorkspaceModules(self.namespace)
        self.modules.begin()

    def forget_modules(self) -> None:
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(self.workspace)):
                del sys.modules[name]
        sys.meta_path[:] = self._finders
        importlib.invalidate_caches()

    def files(self, **texts: str) -> None:
        """Have these modules in the workspace, and no others; `a__b` is one of the package `a`, `a__` that itself."""
        shutil.rmtree(self.workspace)
        self.workspace.mkdir()
        for name, text in texts.items():
            package, _, module = name.rpartition("__")
            path = self.workspace / package / f"{module or '__init__'}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def run(self, source: str) -> Kernel:
        super().run(source)
        return self

    def result(self, source: str) -> str:
        """Run a cell in a job; returns its result's digest, and assigns nothing."""
        return self._job(self.capture().digest, source)[0]

    def send(self) -> tuple[snapshot.Snapshot, dict[str, Any]]:
        """Take a snapshot of variables and modules; returns it, and what it was taken of."""
        values, spare, sent = self.modules.travelling(constants=True, beside=self.variables.values())
        variables = {**values, **self.variables, **({MODULES: sent} if sent else {})}
        return snapshot.capture(variables, self.namespace, self.state, spare=spare), variables

    def _job(self, digest: str, source: str) -> tuple[str, list[str]]:
        assert self.worker.stdin is not None and self.worker.stdout is not None
        request = [self.state, digest, textwrap.dedent(source), self.as_base]
        print(json.dumps(request), file=self.worker.stdin, flush=True)
        result, deleted = json.loads(self.worker.stdout.readline())
        return result, deleted

    def local(self, source: str, meanwhile: str = "", fresh: bool = False) -> dict[str, Any]:
        """Run a cell in a job and assign what came of it; returns that.

        Args:
            meanwhile: runs here before it comes back; fresh: the kernel's objects are not used, nor is assigned.
        """
        bindings = {**self.modules.values(), **self.variables}
        taken, variables = self.send()
        assert not taken.left_out, taken.left_out
        originals = merge.Originals(taken.groups, variables, bindings, self.namespace, still=not meanwhile)
        digest, deleted = self._job(taken.digest, source)
        self.run(meanwhile)
        manifest = snapshot.read_manifest(self.state, digest)
        assert not manifest["left_out"], manifest["left_out"]
        if not meanwhile:
            kept = [
                name for number in manifest["changed"] if originals.changed(number) for name in originals.names(number)
            ]
            assert not kept, f"{kept} would stay as they are, as if they had been changed here meanwhile"
            originals.forget()
        before = self.modules.files()
        with merge.loading(None if fresh else originals) as load:
            values, failed = snapshot.restore(self.state, manifest, self.namespace)
        assert not failed, failed
        troubles = load.apply()
        assert not troubles, troubles
        sent = values.pop(MODULES, None)
        if not fresh:
            bound = Bindings(self.namespace, self.modules)
            bound.expect(sent, before)
            bound.assign(values)
            for name in deleted:
                del bound[name]
            assert not bound.troubles, bound.troubles
        return values

    def does_the_same(self, before: str, cell: str, expected: str, **files: str) -> bool:
        """Whether what is expected of a cell holds when it ran here, and when it ran in a job."""
        self.files(**files)
        self.restart()
        self.run(before).run(cell)
        assert eval(expected, self.namespace), "this is not what it does here"
        self.restart()
        self.run(before).local(cell)
        return bool(eval(expected, self.namespace))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    main, bytecode = sys.modules["__main__"], sys.dont_write_bytecode
    one = Kernel(tmp_path_factory.mktemp("kernel") / "state")
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(one.workspace))
    yield one
    one.forget_modules()
    sys.modules["__main__"], sys.dont_write_bytecode = main, bytecode
    sys.path.remove(str(one.workspace))
    one.worker.stdin.close()  # type: ignore[union-attr]
    one.worker.wait()


CELLS = {
    "a function that appends to a global": ("log = []\ndef train(n): log.append(n)", "train(3)", "log == [3]"),
    "a method": (
        "class Sum:\n    def __init__(self): self.n, self.all = 0, []\n"
        "    def add(self, x): self.n += x; self.all.append(x)\nacc = Sum(); other = acc; seen = acc.all",
        "acc.add(2); acc.add(3)",
        "(acc.n, seen) == (5, [2, 3]) and other is acc and acc.all is seen",
    ),
    "a decorator's closure": (
        "def counted(f):\n    calls = []\n    def inner(*a):\n        calls.append(a); return f(*a)\n"
        "    inner.calls = calls\n    return inner\n@counted\ndef f(x): return x\ncalls = f.calls",
        "f(1)",
        "f(2) == 2 and calls == [(1,), (2,)] and f.calls is calls",
    ),
    "a nonlocal that functions share": (
        "def counter():\n    n = 0\n    def up():\n        nonlocal n; n += 1; return n\n    return up, lambda: n\n"
        "up, get = counter(); callbacks = [up]",
        "up(); up()",
        "get() == 2 and up() == 3 and get() == 3 and callbacks[0] is up",
    ),
    "a context manager": (
        "import contextlib\nsteps = []\n@contextlib.contextmanager\n"
        "def step():\n    steps.append('in'); yield; steps.append('out')",
        "with step(): pass",
        "steps == ['in', 'out']",
    ),
    "code in a text": ("seen = []", "exec('se' + 'en.append(1)')", "seen == [1]"),
    "a default argument": (
        "def f(x, known=[]):\n    known.append(x); return known\ng = f",
        "f(1)",
        "g(2) == [1, 2] and g is f",
    ),
    "an attribute of a function": ("def f(): f.calls += 1\nf.calls = 0\ng = f", "f()", "g.calls == 1"),
    "an attribute of a class": (
        "class A:\n    made = []\n    n = 0\n    def use(self): A.n += 1; self.made.append(1)\na = A(); made = A.made",
        "a.use()",
        "A.n == 1 and made == [1] and a.made is made and type(a) is A",
    ),
    "a new name for an old object": ("old = [1]; box = {'old': old}", "new = old", "new is old is box['old']"),
    "a part of an old object": ("tree = {'leaf': [1]}", "leaf = tree['leaf']", "leaf is tree['leaf']"),
    "two groups that become one": ("a = [1]; b = [2]", "a.append(b)", "a[1] is b"),
    "a group that falls apart": (
        "a = [1]; b = {'a': a}",
        "b['a'] = [1]; a.append(2)",
        "(a, b) == ([1, 2], {'a': [1]})",
    ),
    "names that change places": ("a = [1]; b = [2]; both = [a, b]", "a, b = b, a", "both[0] is b and both[1] is a"),
    "lists in tuples": ("a = []; t = (a, 1)", "t[0].append(1)", "a == [1] and t[0] is a"),
    "sets, deques and the like": (
        "import collections, array\nd = collections.defaultdict(list); c = collections.Counter(); s = {1}\n"
        "q = collections.deque([1], 3); o = collections.OrderedDict(a=1); r = array.array('d', [1])\n"
        "b = bytearray(b'ab'); all_ = [d, c, s, q, o, r, b]",
        "d['x'].append(1); c['z'] += 2; s.add(2); q.append(2); o['b'] = 2; o.move_to_end('a'); r.append(2); b += b'cd'",
        "all(x is y for x, y in zip(all_, (d, c, s, q, o, r, b))) and all_ == [{'x': [1]}, {'z': 2}, {1, 2}, "
        "collections.deque([1, 2]), {'b': 2, 'a': 1}, array.array('d', [1, 2]), bytearray(b'abcd')] "
        "and list(o) == ['b', 'a'] and d['new'] == []",
    ),
    "children of list and dict": (
        "class L(list): pass\nclass D(dict): pass\nx = L([1]); x.tag = 1; y = D(a=1); y.tag = 1; both = [x, y]",
        "x.append(2); x.tag = 2; y['b'] = 2; y.tag = 2",
        "both[0] is x and both[1] is y and (x, y, x.tag, y.tag) == ([1, 2], {'a': 1, 'b': 2}, 2, 2)",
    ),
    "named tuples": (
        "import collections, typing\nclass P(typing.NamedTuple):\n    a: list\n    b: int = 1\n"
        "    def put(self): self.a.append(self.b)\nQ = collections.namedtuple('Q', 'a b')\n"
        "p = P([]); q = Q([], p); box = [p, q]",
        "p.put(); q.a.append(2); r = P(q.a)",
        "(p.a, q.a, type(p), type(q)) == ([1], [2], P, Q) and box[0] is q.b and box[1].a is q.a is r.a "
        "and P([1]).b == 1",
    ),
    "children of what does not change": (
        "class T(tuple): pass\nclass S(str): pass\nclass F(frozenset): pass\nclass N(int): pass\n"
        "class K:\n    def __new__(cls, *, a): self = super().__new__(cls); self.a = a; return self\n"
        "    def __getnewargs_ex__(self): return (), {'a': self.a}\n"
        "t = T([[]]); s = S('s'); f = F([1]); n = N(5); k = K(a=[]); all_ = [t, s, f, n, k]",
        "t[0].append(1); s.tag = f.tag = n.tag = [t]; k.a.append(2)",
        "t == ([1],) and s.tag is f.tag is n.tag and s.tag[0] is all_[0] is t and all_[4] is k and k.a == [2] "
        "and [type(one) for one in all_] == [T, S, F, N, K] and all_[1:4] == ['s', {1}, 5]",
    ),
    "data classes": (
        "import dataclasses\n@dataclasses.dataclass(slots=True)\nclass S:\n    n: int = 0\n"
        "@dataclasses.dataclass(frozen=True)\nclass C:\n    parts: list\ns = S(); c = C([]); box = {'s': s, 'c': c}",
        "s.n += 1; c.parts.append(s)",
        "s.n == 1 and c.parts == [s] and box['s'] is s is c.parts[0] and box['c'] is c and S().n == 0",
    ),
    "slots": (
        "class P:\n    __slots__ = ('x', 'all')\np = P(); p.x, p.all = 1, [p]; all_ = p.all",
        "p.x = 2; del p.all",
        "p.x == 2 and not hasattr(p, 'all') and all_ == [p]",
    ),
    "what takes no other attributes": (
        "class A:\n    __slots__ = ('x', '__weakref__')\nclass B(A):\n    __slots__ = 'y'\nclass C(A): pass\n"
        "a, b, c = A(), B(), C(); a.x = []; b.x = a.x; b.y = 1",
        "took = []\nfor one in (a, b, c):\n    try: one.z = 1\n    except AttributeError: pass\n"
        "    else: took.append(one)\na.x.append(1); b.y = 2",
        "took == [c] and c.z == 1 and a.x is b.x and (b.x, b.y) == ([1], 2)",
    ),
    "parents and children": (
        "class N:\n    def __init__(self): self.kids, self.parent = [], None\n"
        "    def add(self, kid): self.kids.append(kid); kid.parent = self\n"
        "p = N(); k = N(); p.add(k); of = {k: 1, p: 2}",
        "p.add(N()); of[p.kids[1]] = 3",
        "p.kids[0] is k and k.parent is p is p.kids[1].parent and of[k] == 1 and of[p.kids[1]] == 3",
    ),
    "an object that is its own part": (
        "a = []; a.append(a); b = [a]",
        "a.append(1)",
        "a[0] is a is b[0] and len(a) == 2",
    ),
    "what is nested deeply": (
        "n = []\nfor _ in range(300): n = [n]\nm = n",
        "m[0].append(1)",
        "m is n and len(n[0]) == 2",
    ),
    "keys with a hash of their own": (
        "class K:\n    def __init__(self, v): self.v = v\n    def __hash__(self): return hash(self.v)\n"
        "    def __eq__(self, o): return self.v == o.v\nk = K(1); of = {k: [1]}; keys = {k}",
        "of[k].append(2); of[K(2)] = []; keys.add(K(3)); more = {k: 1}",
        "of[k] == [1, 2] and of[K(2)] == [] and K(3) in keys and k in keys and next(iter(more)) is k",
    ),
    "a class that only its instances name": (
        "class C:\n    n = 0\n    made = []\n    def hit(self): type(self).n += 1; self.made.append(self)\n"
        "    @classmethod\n    def inc(cls): cls.n += 1\nobjects = [C(), C()]; inc = {'inc': C.inc}",
        "for one in objects: one.hit()\ninc['inc']()",
        "C.n == 3 and C.made[0] is objects[0] and type(objects[1]) is C",
    ),
    "a class that no variable is": (
        "def make():\n    class C:\n        n = 0\n        def hit(self): type(self).n += 1\n"
        "    return C()\nc = make()",
        "c.hit(); other = type(c)()",
        "type(c).n == other.n == 1 and type(other) is type(c)",
    ),
    "what a class loses, and gets": (
        "class C:\n    a = 1\n    def f(self): return 1\nc = C()",
        "del C.a; C.f = lambda self: 2; C.new = property(lambda self: 3)",
        "not hasattr(C, 'a') and (c.f(), c.new) == (2, 3) and type(c) is C",
    ),
    "who registers with an abstract class": (
        "import abc\nclass A(abc.ABC): pass\nclass B: pass\nall_ = [A()]",
        "type(all_[0]).register(B)",
        "isinstance(B(), A)",
    ),
    "classes that register when they are made": (
        "made = []\nclass A:\n    def __init_subclass__(cls, key, **more): made.append(cls); cls.key = key\n"
        "class M(type):\n    def __init__(cls, *more): super().__init__(*more); made.append(cls)\n"
        "class B(A, key='b'): pass\nclass C(metaclass=M): pass\nb, c = B(), C()",
        "n = len(made); b.x = c.x = n\nclass D(A, key='d'): pass\nclass E(C): pass",
        "(n, b.x, B.key, D.key) == (2, 2, 'b', 'd') and made[0] is B and made[1] is C and made[2:] == [D, E]",
    ),
    "members of an enumeration": (
        "import enum\nclass P(enum.Enum):\n    A = 1, 2; B = 3, 4; ALSO_A = 1, 2\n"
        "    def __init__(self, x, y): self.x, self.y, self.seen = x, y, []\np = P.B; of = {P.A: p}",
        "P.A.x += 10; P.A.seen.append(P.ALSO_A.y); p = P.A",
        "(P.A.x, P.A.seen, P.B.y) == (11, [2], 4) and of[P.ALSO_A] is P.B and p is P.A",
    ),
    "what needs other variables to be restored": (
        "import threading\nknown = {}\ndef lock(): return threading.Lock()\n"
        "def get(k): return known.setdefault(k, T(k))\n"
        "class T:\n    def __init__(self, k): self.k, self.lock = k, lock()\n"
        "    def __reduce__(self): return get, (self.k,)\n"
        "class S:\n    def __init__(self): self.n, self.lock = 0, lock()\n    def __getstate__(self): return self.n\n"
        "    def __setstate__(self, n): self.n, self.lock = n, lock()\n"
        "    def up(self):\n        with self.lock: self.n += 1\ns = S(); t = T('t'); box = [s]",
        "s.up(); s.up(); k = t.k; u = get('u')",
        "s.n == 2 and box[0] is s and (t.k, k) == ('t', 't') and u is get('u')",
    ),
    "a namespace that has itself": (
        "import types\nn = types.SimpleNamespace(a=[1]); n.me = n; box = [n]",
        "n.b = n.a; n.a.append(2); del n.a; n.d = [n]",
        "n.me is box[0] is n.d[0] is n and n.b == [1, 2] and not hasattr(n, 'a')",
    ),
    "circles of what is made in its own way": (
        "def make(): return R.__new__(R)\nclass R:\n    def __init__(self): self.kids, self.up = [], None\n"
        "    def __reduce__(self): return make, (), self.__dict__\na = R(); b = R(); a.kids.append(b); b.up = a",
        "c = R(); c.up = b; b.kids.append(c); a.v = 1",
        "b.up is a and a.kids[0] is b and b.kids[0] is c and c.up is b and a.v == 1",
    ),
    "a function's code": (
        "def f(): return 1\ndef g(): return 2\nh = f",
        "f.__code__ = g.__code__; f.__name__ = 'new'",
        "h is f and (h(), h.__name__) == (2, 'new')",
    ),
    "containers whose classes do more than to fill them": (
        "class D(dict):\n    def __init__(self, log): super().__init__(); self.log = log\n"
        "    def __setitem__(self, k, v): self.log.append(k); super().__setitem__(k, v * 2)\n"
        "class L(list):\n    def append(self, v): super().append(v * 2)\n"
        "    def extend(self, all_): [self.append(v) for v in all_]\n"
        "class S(set):\n    def update(self, *all_): raise TypeError\n    def __hash__(self): return id(self)\n"
        "log = []; d = D(log); d['a'] = 1; l = L(); l.append(1); s = S(); s.add(1); s.own = s; of = {s: d}; "
        "box = [d, l]",
        "d['b'] = 2; l.append(2); s.add(2); l.tag = s",
        "(d, log, list(l), set(s)) == ({'a': 2, 'b': 4}, ['a', 'b'], [2, 4], {1, 2}) and d.log is log "
        "and box[0] is d and box[1] is l and l.tag is s.own is s and of[s] is d",
    ),
    "attributes of containers": (
        "import collections\nclass C(collections.Counter): pass\n"
        "class O(collections.OrderedDict):\n    def __init__(self, n): super().__init__(); self.n = n\n"
        "    def __setitem__(self, k, v):\n        super().__setitem__(k, v); self.move_to_end(k)\n"
        "        if len(self) > self.n: self.popitem(last=False)\n"
        "class F(collections.defaultdict):\n    def __missing__(self, k): self.hits += 1; "
        "return super().__missing__(k)\n"
        "class R(collections.deque):\n    def __init__(self, n): super().__init__(maxlen=n); self.n = n\n"
        "c = C('aab'); c.tag = 1; o = O(2); o['a'] = 1; o['b'] = 2; f = F(list); f.hits = 0; r = R(2); "
        "box = [c, o, f, r]",
        "c['z'] = 5; c.tag += 1; o['a'] = 3; o['c'] = 4; f['x'].append(1); f.default_factory = set; "
        "r.extend('abc'); r.n = 3",
        "(c['z'], c.tag, list(o), f, f.hits, f['new'], list(r), r.maxlen, r.n) "
        "== (5, 2, ['a', 'c'], {'x': [1], 'new': set()}, 1, set(), ['b', 'c'], 2, 3) "
        "and all(one is other for one, other in zip(box, (c, o, f, r)))",
    ),
    "attributes that are the items": (
        "class A(dict):\n    def __init__(self, **items): super().__init__(**items); self.__dict__ = self\n"
        "a = A(x=1); box = [a]",
        "a.y = 2; n = a['y']; a['z'] = A(q=1)",
        "(a, n, a.z.q) == ({'x': 1, 'y': 2, 'z': {'q': 1}}, 2, 1) "
        "and a.__dict__ is a is box[0] and a.z.__dict__ is a.z",
    ),
    "classes that answer for all names": (
        "class P:\n    def __init__(self, of): self.of = of\n"
        "    def __getattr__(self, name): return lambda *a: (name, a)\n"
        "class Q:\n    __slots__ = 'data', 'more'\n    def __init__(self): self.data = {}\n"
        "    def __getattr__(self, name): return self.data[name]\np = P([]); q = Q(); box = [p, q]",
        "p.of.append(1); q.data['x'] = p; q.more = q.x; r = p.some(1)",
        "p.of == [1] and q.x is q.more is p is box[0] and box[1] is q and r == ('some', (1,))",
    ),
    "classes whose __new__ does more than to make": (
        "import collections\nclass P:\n    all_ = {}\n"
        "    def __new__(cls, key):\n"
        "        if key not in cls.all_: cls.all_[key] = super().__new__(cls); cls.all_[key].asked = 0\n"
        "        cls.all_[key].asked += 1; return cls.all_[key]\n"
        "class F(float):\n"
        "    def __new__(cls, v, unit): self = super().__new__(cls, v); self.unit = unit; return self\n"
        "class N(collections.namedtuple('N', 'a b')):\n    def __new__(cls, a): return super().__new__(cls, a, [a])\n"
        "p = P('a'); f = F(1.5, ['m']); n = N(1); box = [p, f, n]",
        "q = P('b'); p.more = P('a'); f.unit.append('s'); n.b.append(2); g = F(2, f.unit)",
        "P.all_ == {'a': p, 'b': q} and p.more is p is box[0] and (p.asked, q.asked) == (2, 1) and box[1] is f "
        "and g.unit is f.unit == ['m', 's'] and n == (1, [1, 2]) and box[2] is n and type(n) is N",
    ),
    "new types": (
        "import typing\nU = typing.NewType('U', int); V = typing.NewType('V', U)\ndef f(u: U) -> V: return V(u)",
        "v = f(U(5))",
        "v == 5 and V.__supertype__.__name__ == 'U'",
    ),
    "cached properties": (
        "import functools\nclass C:\n    n = 0\n    @functools.cached_property\n    def v(self): self.n += 1; "
        "return [self.n]\n"
        "c = C(); d = C()",
        "v = c.v",
        "c.v is v == [1] and c.n == 1 and d.v == [1] and d.__dict__.keys() == {'n', 'v'}",
    ),
    "text streams": (
        "import io\ns = io.StringIO(); box = [s]",
        "s.write('hi')",
        "s.getvalue() == 'hi' and box[0] is s",
    ),
    "generators of random numbers": (
        "import random\nr = random.Random(3); box = [r]; expected = random.Random(3)",
        "r.random()",
        "box[0] is r and expected.random() and r.random() == expected.random()",
    ),
    "what it deletes": ("a = [1]; b = [2]", "del a; b.clear()", "b == [] and 'a' not in globals()"),
    "a name that it binds anew after a change": (
        "a = [1]; box = [a]",
        "a.append(2); a = 5",
        "box == [[1, 2]] and a == 5",
    ),
}


ARRAYS = {
    "an array that is filled": ("a = np.zeros(4); box = [a]", "a[2] = 5", "a[2] == 5 and box[0] is a"),
    "a view": ("a = np.zeros(4); v = a[1:3]", "v[0] = 5", "a[1] == 5 and v.base is a"),
    "a view of a large one": ("a = np.zeros(10**5); v = a[1:3]", "v[0] = 5", "a[1] == 5 and np.shares_memory(a, v)"),
    "a view that it makes": ("a = np.zeros(10**5)", "a[1] = 1; v = a[1:3]", "np.shares_memory(a, v) and v[0] == 1"),
    "one of another shape": (
        "a = np.zeros(4); box = {'a': a}",
        "a.shape = 2, 2",
        "box['a'] is a and a.shape == (2, 2)",
    ),
    "spawned generators": (
        "r = np.random.default_rng(1); expected = np.random.default_rng(1)",
        "a = r.spawn(2)[1].random()",
        "[one.random() for one in expected.spawn(2)][1] == a"
        " and r.spawn(1)[0].random() == expected.spawn(1)[0].random()",
    ),
    "one that is made read-only": (
        "a = np.zeros(4); box = [a]",
        "a.flags.writeable = False",
        "not box[0].flags.writeable",
    ),
    "children of arrays": (
        "class A(np.ndarray):\n"
        "    def __array_finalize__(self, of): self.info = getattr(of, 'info', None)\n"
        "a = np.zeros(3).view(A); a.info = {'k': 1}; b = np.zeros(3); v = b.view(A); m = np.zeros((1, 2)).view(A)\n"
        "big = np.zeros(10**5); w = big.view(A); box = [a, m, w]",
        "a[0] = 5; a.info['z'] = 2; v[1] = 3; m[0, 0] = 9; w[5] = 1",
        "(list(a), a.info, b[1], m.tolist(), big[5]) == ([5, 0, 0], {'k': 1, 'z': 2}, 3, [[9, 0]], 1) "
        "and box[0] is a and box[1] is m and box[2] is w and type(a) is type(v) is A and np.shares_memory(b, v)",
    ),
    "what was set on arrays": (
        "r = np.rec.array([(1, 2.0)], names='a,b'); m = np.ma.array([1, 2], mask=[0, 1]); x = np.matrix([[1]])\n"
        "class F(np.float64): pass\nall_ = [r, m, x, F(2)]\n"
        "for one in all_: one.note = [1]",
        "for one in all_: one.note.append(2)\nr.a[0] = m[0] = x[0, 0] = 5",
        "all(one.note == [1, 2] for one in all_) and (r.a[0], m[0], x[0, 0], all_[3]) == (5, 5, 5, 2)",
    ),
    "a generator": (
        "r = np.random.default_rng(1); box = [r]",
        "r.random()",
        "box[0] is r and r.random() == np.random.default_rng(1).random(2)[1]",
    ),
}


FRAMES = {
    "a column of a frame": (
        "df = pd.DataFrame({'a': [1, 2], 't': ['x', 'y']}); s = df['a']; t = df['t']; u = df['a']",
        "df.loc[0, 'a'] = 9; df.loc[0, 't'] = 'z'; u.iloc[1] = 5",
        "(list(df.a), list(df.t), list(s), list(t), list(u)) == ([9, 2], ['z', 'y'], [1, 2], ['x', 'y'], [1, 5])",
    ),
    "frames that are made of one another": (
        "a = pd.DataFrame({'k': [1, 2], 'v': [3, 4]}); b = a.rename(columns=str.upper)\nc = a.set_index('k')\n"
        "d = a[:1]; e = a.copy(deep=False); big = pd.DataFrame(np.zeros((20000, 2)), columns=list('ab'))\n"
        "f = big['a']",
        "b.loc[0, 'K'] = 9; a.loc[1, 'v'] = 8; d.iloc[0, 1] = 7; big.iloc[0, 0] = 1",
        "[list(one) for one in (a.k, a.v, b.K, b.V, c.index, c.v, d.v, e.v)] "
        "== [[1, 2], [3, 8], [9, 2], [3, 4], [1, 2], [3, 4], [7], [3, 4]] and f[0] == 0 and big.a[0] == 1",
    ),
    "an index and a series of it": (
        "i = pd.Index([3, 1]); s = pd.Series(i); r = pd.Series([1, 2], index=i); t = r + 1",
        "s.iloc[0] = 9; r.iloc[0] = 5",
        "(list(i), list(s), list(r.index), list(r), list(t)) == ([3, 1], [9, 1], [3, 1], [5, 2], [2, 3])",
    ),
    "what was set on an index": (
        "i, d, r = pd.Index([1, 2]), pd.date_range('2020', periods=2), pd.RangeIndex(3)\n"
        "for one in (i, d, r): one.note = [1]\nbox = [i, d, r]",
        "for one in (i, d, r): one.note.append(2)",
        "all(one.note == [1, 2] for one in box) and box[0] is i and box[1] is d and (list(i), len(d)) == ([1, 2], 2)",
    ),
    "what was set on frames": (
        "import warnings\nwarnings.simplefilter('ignore')\nclass D(pd.DataFrame):\n    _metadata = ['unit']\n"
        "    @property\n    def _constructor(self): return D\n"
        "df = pd.DataFrame({'a': [1, 2]}); df.note = 'x'; df.tags = [1]; df.attrs['u'] = [1]; s = df.a.copy(); "
        "s.note = {'k': 1}; d = D({'a': [1]}); d.unit = ['m']; d.other = 5; box = [df, s, d]",
        "y = df.note, s.note['k'], d.unit, d.other; df['b'] = 1; df.tags.append(2); df.attrs['u'].append(2); "
        "s.note['k'] = 2; d.unit.append('s'); d.other += 1; df.new = df.tags",
        "y == ('x', 1, ['m', 's'], 5) and (df.note, df.tags, df.attrs) == ('x', [1, 2], {'u': [1, 2]}) "
        "and df.new is df.tags and list(df) == ['a', 'b'] and s.note == {'k': 2} "
        "and (d.unit, d.other) == (['m', 's'], 6) and type(d) is D "
        "and all(one is other for one, other in zip(box, (df, s, d)))",
    ),
    "values that are missing": (
        "s = pd.Series(['a', None], dtype='string'); d = {'na': pd.NA, 'nat': pd.NaT}; box = [s]",
        "s[1] = 'b'; d['same'] = d['na'] is pd.NA",
        "list(s) == ['a', 'b'] and box[0] is s and d['na'] is pd.NA and d['nat'] is pd.NaT and d['same']",
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_share_in_a_job_what_they_share_here(kernel: Kernel, kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    if int(pandas.__version__.split(".")[0]) < 3:
        pytest.skip("a frame's views are its own copies from pandas 3 on")
    before, cell, expected = FRAMES[kind]
    before = "import numpy as np, pandas as pd\n" + before
    kernel.restart()
    kernel.run(before).run(cell)
    assert eval(expected, kernel.namespace), "this is not what it does here"
    kernel.restart()
    kernel.run(before).local(cell)
    assert eval(expected, kernel.namespace)


@pytest.mark.parametrize("kind", {**CELLS, **ARRAYS})
def test_a_cell_does_in_a_job_what_it_does_here(kernel: Kernel, kind: str) -> None:
    before, cell, expected = {**CELLS, **ARRAYS}[kind]
    if kind in ARRAYS:
        pytest.importorskip("numpy")
        before = "import numpy as np\n" + before
    kernel.restart()
    kernel.run(before).run(cell)
    assert eval(expected, kernel.namespace), "this is not what it does here"
    kernel.restart()
    kernel.run(before).local(cell)
    assert eval(expected, kernel.namespace)


def test_frames_are_filled_in_place(kernel: Kernel) -> None:
    pytest.importorskip("pandas")
    kernel.restart()
    kernel.run("import pandas as pd\ndf = pd.DataFrame({'a': [1, 2]}); box = {'df': df}; out = [df]")
    kernel.local("df['b'] = df.a * 2; df.loc[0, 'a'] = 9")
    assert kernel["box"]["df"] is kernel["df"] is kernel["out"][0]
    assert kernel["df"].to_dict("list") == {"a": [9, 2], "b": [2, 4]}


def test_a_figures_parts_need_one_another_to_be_filled(kernel: Kernel) -> None:
    pytest.importorskip("matplotlib")
    before = "from matplotlib.figure import Figure\nf = Figure(); ax = f.subplots(); ax.note = [1]; box = [f, ax]"
    cell = "ax.plot([1, 2]); ax.note.append(2); f.note = 'f'"
    expected = "(ax.note, f.note, len(ax.lines)) == ([1, 2], 'f', 1) and f.axes[0] is ax is box[1] and box[0] is f"
    assert kernel.does_the_same(before, cell, expected)


def test_what_is_pickled_otherwise_each_time_comes_home(kernel: Kernel) -> None:
    before = (
        "class Seen:\n    def __init__(self): self.times, self.values = 0, []\n"
        "    def __getstate__(self):\n        self.times += 1\n        return self.__dict__\n"
        "seen = Seen(); box = [seen, seen.values]"
    )
    expected = "seen.values == [1] and box[0] is seen and box[1] is seen.values"
    assert kernel.does_the_same(before, "seen.values.append(1)", expected)


def test_a_fitted_pipeline_holds_its_parts(kernel: Kernel) -> None:
    pytest.importorskip("sklearn")
    kernel.restart()
    kernel.run(
        """
        import numpy as np
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        clf = LinearRegression(); pipe = make_pipeline(StandardScaler(), clf); X = np.arange(6.0).reshape(-1, 1)
        """
    ).local("pipe.fit(X, X[:, 0])")
    assert kernel["pipe"][-1] is kernel["clf"]
    assert kernel["clf"].coef_ == pytest.approx(1.7078, abs=1e-3)


def test_what_is_held_outside_of_the_variables_changes_too(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("a = [1]; b = {'a': a}")
    held = [kernel["a"], kernel["b"]]
    kernel.local("a.append(2); b['new'] = a")
    assert held == [[1, 2], {"a": [1, 2], "new": [1, 2]}]
    assert held[1]["new"] is held[0] is kernel["a"]


def test_what_does_not_change_stays_the_very_same_object(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("a = [1]; b = (a,); c = {'x': 2.5}; d = 'text' * 3; e = []")
    before = kernel.variables
    assert set(kernel.local("len(a) + len(b); e.append(1); str(c) + d")) == {"e"}
    assert all(kernel[name] is value for name, value in before.items())


def test_a_group_that_was_changed_here_meanwhile_is_made_anew_beside_it(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("a = [1]; b = {'a': a}; c = [0]; own = a")
    brought = kernel.local("a.append(2); c.append(1); new = [a, c]", meanwhile="a.append('here'); held = [a, c]")
    assert kernel["held"] == [[1, "here"], [0, 1]]
    assert brought["a"] == [1, 2] and brought["b"]["a"] is brought["a"] is brought["new"][0]
    assert brought["new"][1] is kernel["held"][1]


def test_a_class_that_was_changed_here_meanwhile_stays_as_it_is(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("class C:\n    n = 0\nc = C(); d = C(); e = [1]")
    kernel.local("C.n = 5; e.append(2)", meanwhile="C.n = 7")
    assert (kernel["C"].n, kernel["e"]) == (7, [1, 2])
    kernel.local("d.x = 1; e.append(3)", meanwhile="C.m = 8")
    assert (kernel["C"].m, kernel["e"]) == (8, [1, 2, 3])


def test_a_class_is_not_changed_by_looking_at_a_result(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("class C:\n    n = 0\nc = C()")
    kernel.local("C.n = 5; c.x = 1", fresh=True)
    assert kernel["C"].n == 0


def test_results_can_be_read_without_the_kernels_objects(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("a = [1]; b = {'a': a}; f = lambda: a; s = {1}")
    values = kernel.local("b['b'] = a; a.append(2); s.add(2); new = b['a']", fresh=True)
    assert values["b"] == {"a": [1, 2], "b": [1, 2]} and values["s"] == {1, 2}
    assert values["b"]["a"] is values["b"]["b"] is values["a"] is values["new"] is not kernel["a"]
    assert kernel["a"] == [1] and kernel["s"] == {1}


def test_without_a_kernel_results_are_whole_too(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("a = [1]; b = {'a': a}; c = {1}")
    digest = kernel.result("a.append(2); c.add(2)")
    for _ in range(2):
        values, _ = snapshot.restore(kernel.state, snapshot.read_manifest(kernel.state, digest), {})
        assert values == {"a": [1, 2], "b": {"a": [1, 2]}, "c": {1, 2}} and values["b"]["a"] is values["a"]


NAMES = "abcd"
MAKE = """
class Node:
    pass
def make(kind, parts):
    if kind == "list": return list(parts)
    if kind == "tuple": return tuple(parts)
    if kind == "dict": return dict(enumerate(parts))
    if kind == "node":
        node = Node(); node.parts = list(parts); return node
    return kind
def parts(one):
    if isinstance(one, (list, tuple)): return list(one)
    if isinstance(one, dict): return list(one.values())
    if isinstance(one, Node): return list(vars(one).values())
    return []
def everything():
    waiting = [globals()[name] for name in "abcd" if name in globals()]
    if "store" in globals(): waiting += [store.e, store.f, store.Box.g]
    found = []
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, tuple): waiting += one  # which of two equal ones a name holds is not kept
        elif not isinstance(one, (int, str)) and not any(one is other for other in found):
            found.append(one); waiting += parts(one)
    return found
def pick(number):
    found = everything()
    return found[number % len(found)] if found else number
def put(target, value):
    if isinstance(target, list): target.append(value)
    elif isinstance(target, dict): target[len(target)] = value
    elif isinstance(target, Node): setattr(target, "x%d" % len(vars(target)), value)
def drop(target):
    if isinstance(target, list) and target: del target[0]
    elif isinstance(target, dict) and target: del target[next(iter(target))]
    elif isinstance(target, Node) and vars(target): del vars(target)[next(iter(vars(target)))]
"""
"""Builds and changes graphs of objects. All is chosen by numbers, so that it is the same wherever it runs."""

KINDS = ["list", "dict", "tuple", "node", "list"]


def shape(namespace: dict[str, Any], names: str) -> Any:
    """Values and identities of all that variables hold, as what can be compared."""
    seen: dict[int, int] = {}
    numbers = itertools.count()

    def look(one: Any) -> Any:
        if isinstance(one, (int, str)):
            return one
        # A tuple's identity is not promised: it is replaced by an equal one.
        if isinstance(one, tuple):
            return ("tuple", [look(part) for part in one])
        if id(one) in seen:
            return ("seen", seen[id(one)])
        seen[id(one)] = next(numbers)
        if isinstance(one, list):
            return ("list", [look(part) for part in one])
        if isinstance(one, dict):
            return ("dict", [(key, look(value)) for key, value in one.items()])
        return ("node", [(key, look(value)) for key, value in vars(one).items()])

    return [(name, look(namespace[name])) for name in names if name in namespace]


def graph_and_changes(
    seed: int, objects: int, changes: int, names: Sequence[str] = NAMES, kinds: Sequence[str] = KINDS
) -> tuple[str, str]:
    chance = random.Random(seed)
    made = [f"{name} = make({chance.choice(kinds)!r}, [{number}])" for number, name in enumerate(names[:4])]
    for _ in range(objects):
        kind, name = chance.choice(kinds), chance.choice(names)
        picked = ", ".join(f"pick({chance.randrange(50)})" for _ in range(chance.randrange(3)))
        made.append(
            chance.choice(
                [
                    f"{name} = make({kind!r}, [{picked}])",
                    f"put(pick({chance.randrange(50)}), make({kind!r}, [{picked}]))",
                ]
            )
        )
    done = []
    for _ in range(changes):
        one, other = (f"pick({chance.randrange(50)})" for _ in range(2))
        done.append(
            chance.choice(
                [
                    f"put({one}, {other})",
                    f"drop({one})",
                    f"{chance.choice(names)} = {one}",
                    f"put({one}, make('list', [{other}]))",
                ]
            )
        )
    return "\n".join(made), "\n".join(done)


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(1, 8), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_graphs_are_changed_in_a_job_as_they_are_here(
    kernel: Kernel, seed: int, objects: int, changes: int, fresh: bool
) -> None:
    made, done = graph_and_changes(seed, objects, changes)
    kernel.restart()
    kernel.run(MAKE).run(made)
    held = kernel.run("held = everything()")["held"] if fresh else []
    kernel.run(done)
    expected, expected_held = shape(kernel.namespace, NAMES), shape({"a": list(held)}, "a")
    kernel.restart()
    kernel.run(MAKE).run(made)
    held = kernel.run("held = everything()")["held"] if fresh else []
    kernel.local(done)
    assert shape(kernel.namespace, NAMES) == expected
    if fresh:
        assert shape({"a": list(held)}, "a") == expected_held


PLAIN_KINDS = ["list", "dict", "tuple", "list", "dict"]


@given(st.integers(0, 2**32), st.integers(0, 16), st.integers(1, 8), st.sampled_from(["kernel", "changed", "fresh"]))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_plain_graphs_are_changed_in_a_job_as_they_are_here(
    kernel: Kernel, seed: int, objects: int, changes: int, here: str
) -> None:
    """Also where nothing of what they were is there any more."""
    made, done = graph_and_changes(seed, objects, changes, kinds=PLAIN_KINDS)
    kernel.restart()
    kernel.run(MAKE).run(made).run(done)
    expected = {name: shape(kernel.namespace, name) for name in NAMES}
    together = shape(kernel.namespace, NAMES)
    kernel.restart()
    kernel.as_base = 0
    kernel.run(MAKE).run(made)
    held = kernel.run("held = everything()")["held"]
    kernel.namespace.pop("held")
    if here == "changed":
        # As if another thread did it: each object, so that none is what it was.
        values = kernel.local(done, meanwhile="for one in everything(): put(one, 99)")
    else:
        values = kernel.local(done, fresh=here == "fresh")
    assert {name: shape(values, name) for name in values} == {name: expected[name] for name in values}
    if here == "kernel":
        assert shape(kernel.namespace, NAMES) == together and held is not None


def test_what_is_unchanged_in_a_large_list_does_not_come_back(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("""
        many = [{'number': number, 'text': f'text {number}'} for number in range(5000)]
        first, held = many[0], many[7]
    """)
    sent = kernel.capture()
    digest = kernel.result("many.append(many[3]); many[7]['number'] = 7.0; many[1]['new'] = first")
    (pack,) = snapshot.read_manifest(kernel.state, digest)["packs"]
    (size,) = pack["sizes"]
    blobs = {pack["blob"] for pack in json.loads(sent.manifest)["packs"]}
    assert size < 100_000 and [blob for blob, _ in pack["buffers"] if blob in blobs]
    kernel.local("many.append(many[3]); many[7]['number'] = 7.0; many[1]['new'] = first")
    many = kernel["many"]
    assert len(many) == 5001 and many[-1] is many[3] and many[1]["new"] is kernel["first"] is many[0]
    assert kernel["held"] is many[7] and type(many[7]["number"]) is float and many[7]["text"] == "text 7"
    values, _ = snapshot.restore(kernel.state, snapshot.read_manifest(kernel.state, digest), {})
    assert values["many"] == many and values["many"][-1] is values["many"][3]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1", "True"),
        ("1", "1.0"),
        ("0.0", "-0.0"),
        ("'a'", "b'a'"),
        ("2", "3"),
        ("None", "0"),
        ("1", "[1]"),
        ("[1]", "1"),
    ],
)
def test_what_is_equal_and_not_the_same_comes_back_from_among_many(kernel: Kernel, before: str, after: str) -> None:
    kernel.restart()
    kernel.run(f"many = [{{'x': {before}, 'text': 'text %d' % number}} for number in range(5000)]")
    kernel.local(f"many[4321]['x'] = {after}")
    assert repr(kernel["many"][4321]["x"]) == repr(eval(after))
    kernel.local("many[1234] = {'text': many[1234].pop('text'), 'x': many[1234].pop('x')}")
    assert [*kernel["many"][1234]] == ["text", "x"] and [*kernel["many"][1235]] == ["x", "text"]


STORE = """
e, f = [0], {"x": 1}
f["e"] = e
class Box:
    g = [e]
"""
PLACES = ["a", "b", "store.e", "store.f", "store.Box.g"]


@given(
    st.integers(0, 2**32),
    st.integers(0, 12),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from(["kernel", "job", "both"]),
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_graphs_in_modules_are_changed_in_a_job_as_they_are_here(
    kernel: Kernel, seed: int, objects: int, changes: int, outside: bool, imported: str
) -> None:
    """They are also held by variables, classes of the module, and, some of them, by nothing else that travels."""
    made, done = graph_and_changes(seed, objects, changes, PLACES)
    here = ["" if imported == "job" else "import store\n", "" if imported == "kernel" else "import store\n"]
    kernel.files(store=STORE)

    def state() -> Any:
        module = importlib.import_module("store")
        there = {id(one) for one in kernel["everything"]()}
        still_held = [one if id(one) in there else 0 for one in kept]
        found = {**kernel.namespace, "e": module.e, "f": module.f, "g": module.Box.g, "o": still_held}
        return shape(found, "abefgo")

    kept: list[Any] = []
    kernel.restart()
    kernel.run(MAKE).run(here[0] + ("" if imported == "job" else made))
    if outside:
        kept = kernel.run("kept = everything()").namespace.pop("kept")
    kernel.run(here[1] + done)
    expected = state()
    kernel.restart()
    kernel.run(MAKE).run(here[0] + ("" if imported == "job" else made))
    if outside:
        kept = kernel.run("kept = everything()").namespace.pop("kept")
    kernel.local(here[1] + done)
    assert state() == expected
