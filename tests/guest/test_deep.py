"""What is nested deeply travels as everything else does, and what never ends costs only itself."""

from __future__ import annotations

import io
import resource
import sys
import threading

import pytest

from docker_kernel.guest import deep, pure_pickler, snapshot
from tests.guest.test_merge import Kernel, kernel
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["kernel", "notebook"]

DEPTH = "def depth(a, part):\n    n = 0\n    while a: a = part(a); n += 1\n    return n\n"
CELLS = {
    "a linked list": (
        "class Node:\n    def __init__(self, of): self.next = of\n    def last(self):\n"
        "        while self.next: self = self.next\n        return self\n"
        "n = None\nfor _ in range(3000): n = Node(n)\nlast = n.last(); m = n",
        "n.last().v = 'x'; n.first = True",
        "last.v == 'x' and n.last() is last and m is n and m.first and depth(n, lambda a: a.next) == 3000",
    ),
    "a list that a job makes longer": (
        "class Node:\n    def __init__(self, of): self.next = of\nn = None\nfor _ in range(1500): n = Node(n)\nm = n",
        "for _ in range(2000): n = Node(n)",
        "depth(n, lambda a: a.next) == 3500 and depth(m, lambda a: a.next) == 1500",
    ),
    "lists in lists": (
        "a = inner = []\nfor _ in range(5000): a = [a]",
        "b = a\nwhile b: b = b[0]\nb.append([]); del b",
        "inner == [[]] and depth(a, lambda a: a[0]) == 5001",
    ),
    "tuples in tuples": (
        "a = ()\nfor _ in range(3000): a = (a,)\nb = [a]",
        "b.append((a,))",
        "[depth(one, lambda a: a[0]) for one in b] == [3000, 3001]",
    ),
    "a tree": (
        "class T:\n    def __init__(self): self.kids = []\nroot = t = T()\n"
        "for _ in range(2000):\n    u = T(); t.kids += [u, T()]; t = u",
        "t.kids.append(1); root.v = t",
        "t.kids == [1] and root.v is t and len(t.kids) == depth(root, lambda a: a.kids != [1] and a.kids[0]) - 2000",
    ),
    "what is linked both ways": (
        "class D:\n    def __init__(self, of): self.before, self.next = of, None\nhead = d = D(None)\n"
        "for _ in range(2000):\n    d.next = D(d); d = d.next",
        "d.next = head; head.v = 2",
        "d.next is head is head.next.before and d.before.next is d and head.v == 2",
    ),
    "slots": (
        "class S:\n    __slots__ = 'next', 'v'\n    def __init__(self, of): self.next = of\ns = None\n"
        "for _ in range(2000): s = S(s)\nt = s",
        "s.v = depth(s, lambda a: a.next)",
        "t is s and s.v == 2000",
    ),
    "functions around functions": (
        "def wrap(f): return lambda x: f(x) + 1\nf = lambda x: x\nfor _ in range(300): f = wrap(f)\ng = f",
        "y = f(1); h = wrap(g)",
        "y == 301 and f is g and h(0) == 301",
    ),
    "exceptions in exceptions": (
        "class E(Exception): pass\ne = None\nfor i in range(700):\n    x = E(i, e); x.inner = e; e = x",
        "n = depth(e, lambda a: a.args[1]), depth(e, lambda a: a.inner); e.note = 1",
        "n == (700, 700) and e.note == 1",
    ),
    "what says itself how it is made": (
        "def make(of): return R(of)\nclass R:\n    def __init__(self, of): self.of = of\n"
        "    def __reduce__(self): return make, (self.of,)\nr = None\nfor _ in range(1500): r = R(r)",
        "n = depth(r, lambda a: a.of); s = R(r)",
        "n == 1500 and depth(s, lambda a: a.of) == 1501",
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_what_is_nested_deeply_travels_both_ways(kernel: Kernel, kind: str) -> None:
    before, cell, expected = CELLS[kind]
    assert kernel.does_the_same(DEPTH + before, cell, expected)


def test_functions_that_are_nested_deeply_are_found_to_name_variables(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run("log = []\nbox = last = {}\nfor _ in range(2000): box = {'box': box}\nlast['f'] = lambda: log.append(1)")
    kernel.local("last['f']()")
    assert kernel["log"] == [1]


def test_what_never_ends_costs_only_itself_and_is_named(notebook: Notebook) -> None:
    notebook.run("""
        def make(x): return Endless()
        class Endless:
            def __reduce__(self): return make, (Endless(),)
        class Recursive:
            def __getstate__(self): return self.__getstate__()
        endless = Endless(); recursive = Recursive(); error = ValueError(endless); a = [1]
    """)
    taken = notebook.capture()
    assert [one.name for one in taken.left_out] == ["endless", "recursive", "error.args[0]"]
    assert all("without end" in one.reason for one in taken.left_out)
    restored, failed = snapshot.restore(notebook.state, notebook.manifest(), {})
    assert restored["a"] == [1] and "Endless" in str(restored["error"]) and not failed


def test_code_of_a_class_runs_in_the_same_thread_with_the_limits_as_they_were_afterwards(notebook: Notebook) -> None:
    limits = sys.getrecursionlimit(), resource.getrlimit(resource.RLIMIT_STACK)
    notebook.run("""
        from threading import current_thread as current
        threads = set()
        class N:
            def __init__(self, of): self.of = of
            def __getstate__(self): threads.add(current()); return self.__dict__
        n = None
        for _ in range(1000): n = N(n)
    """)
    assert snapshot.dumps(notebook["n"], notebook.namespace)
    assert notebook["threads"] == {threading.current_thread()}
    assert (sys.getrecursionlimit(), resource.getrlimit(resource.RLIMIT_STACK)) == limits


def test_the_main_thread_may_go_deeper_and_another_one_whose_stack_cannot_grow_may_not() -> None:
    limits = [sys.getrecursionlimit()]

    def look() -> None:
        with deep.room():
            limits.append(sys.getrecursionlimit())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    look()
    assert limits[0] == limits[1] < 10_000 < limits[2]


def test_code_that_never_ends_does_not_overrun_the_stack(notebook: Notebook) -> None:
    source = """
        class A:
            def __getstate__(self): return sorted([1, 2], key=lambda x: self.__getstate__())
        class B:
            def __getattr__(self, name): return getattr(self, name + "")
            def __reduce__(self): return self.x
        class C:
            def __repr__(self): return repr([self])
            def __reduce__(self): return f"{self}"
        a, b, c = A(), B(), C(); fine = 1
    """
    notebook.run(source)
    assert [one.name for one in notebook.capture().left_out] == ["a", "b", "c"]


OF_ALL_KINDS = """
    import collections, datetime, enum, functools
    class A:
        def __init__(self):
            self.x = [1, {2: "a"}, (3, 4.5), {5, 6}, frozenset([7]), b"x" * 10, bytearray(b"y"), "z" * 300]
            self.large = b"b" * 100_000, bytearray(100_000), [*range(3000)], {n: n for n in range(2500)}
            self.me = self
    class L(list): pass
    class E(enum.Enum): X = 1
    def f(x, y=[1]): return A
    v = [A(), A, f, L([1]), E.X, collections.OrderedDict(a=1), collections.deque([1]), datetime.date(2020, 1, 1),
         functools.partial(f, 1), ValueError("x"), range(3), slice(1), None, True, int, 2**100, ..., len, 1j]
    v[0].more = v; v.append((v,)); n = []
    for _ in range(9_000): n = [n]
"""


def test_where_c_stops_at_a_depth_of_its_own_pythons_pickler_does_the_same(notebook: Notebook) -> None:
    notebook.run(OF_ALL_KINDS)
    make = pure_pickler.pure(snapshot._Pickler)
    pickler = snapshot._run_pickler({"v": notebook["v"]}, notebook.namespace, None, frozenset(), make)
    snapshot._target[0] = notebook.namespace
    buffers = [bytearray(one.raw) for one in pickler.buffers]
    unpickler = snapshot._Unpickler(io.BytesIO(pickler.file.value()), buffers=buffers)
    v = unpickler.load()["v"]
    assert v[0].more is v is v[-1][0] and v[0].me is v[0] and v[1] is type(v[0]) and v[4] is notebook["E"].X
    assert v[0].x == notebook["v"][0].x and v[0].large == notebook["v"][0].large and v[3] == [1] and len(buffers) == 2
    kinds = {number: type(value).__name__ for number, value in pickler.memo.copy().values()}
    assert all(type(value).__name__ == kinds[number] for number, value in unpickler.memo.copy().items())
    with deep.room():
        assert snapshot._run_pickler({"n": notebook["n"]}, notebook.namespace, None, frozenset(), make)


def test_a_result_may_come_home_by_pythons_pickler(kernel: Kernel) -> None:
    before = "log = []\ndef add(n): log.append(n); return log\na = [1]; box = {'a': a, 'log': log}"
    cell = "a += range(3000); box.update((n, [n]) for n in range(3000)); add(box['a'])"
    expected = "log[0] is a is box['a'] and len(a) == 3001 and len(box) == 3002 and box[2999] == [2999]"
    use = "from docker_kernel.guest import changes, pure_pickler\n"
    use += "changes.ReturnPickler = pure_pickler.pure(changes.ReturnPickler)\ndel changes, pure_pickler\n"
    assert kernel.does_the_same(before, use + cell, expected)
