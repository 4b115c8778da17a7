"""Objects of the user's classes travel with all that they have, whatever their classes do when they are asked."""

from __future__ import annotations

import pytest

from docker_kernel.guest import snapshot
from tests.guest.test_merge import Kernel, kernel
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["kernel", "notebook"]

ANSWERING = """
class Proxy:
    def __init__(self): self.inner = []
    def __getattr__(self, name): return getattr(self.inner, name)
class All:
    def __init__(self): self.d = {}
    def __getattr__(self, name): return lambda *a: (name, a)
class One:
    all_ = {}
    def __new__(cls, key):
        if key not in cls.all_: cls.all_[key] = super().__new__(cls)
        return cls.all_[key]
class Length(float):
    def __new__(cls, v, unit): self = super().__new__(cls, v); self.unit = unit; return self
    def __getattr__(self, name): return getattr(self.inner, name)
"""
NAMED = "class S:\n    n = 0\n    def __init__(self): self.d = []\n    def __reduce__(self): return 'ONE'\nONE = S()\n"
USE_ANSWERING = (
    "p, a, o, f = Proxy(), All(), One('k'), Length(1.5, ['m']); box = [p, a, o, f]",
    "p.inner.append(1); p.append(2); a.d['x'] = p; a.y = 1; o.x = 1; v = One('v'); f.unit.append(2); f.inner = [1]; "
    "f.append(2)",
    "p.inner == [1, 2] and a.d['x'] is p and a.y == 1 and One('k') is o and One('v') is v and o.x == 1 "
    "and f == 1.5 and f.unit == ['m', 2] and f.inner == [1, 2] "
    "and all(one is other for one, other in zip(box, (p, a, o, f)))",
)

CELLS = {
    "a variable that is found by its name": (
        "class S:\n    def __init__(self): self.d = []\n    def __reduce__(self): return 'ONE'\n"
        "ONE = S(); box = [ONE]\ndef f(x=ONE): return x is ONE",
        "y = f(), f(box[0]); ONE.d.append(1); box.append(ONE); ONE.n = 1",
        "y == (True, True) and box[0] is box[1] is ONE and f() and (ONE.d, ONE.n) == ([1], 1)",
    ),
    "an attribute of a class that is found by its name": (
        "class S:\n    def __reduce__(self): return 'S.one'\nS.one = S(); box = [S.one]",
        "y = box[0] is S.one; S.one.n = 1",
        "y and box[0] is S.one and S.one.n == 1",
    ),
    "a class whose objects copyreg finds by a name": (
        "import copyreg\nclass P: pass\nPI = P(); copyreg.pickle(P, lambda p: 'PI'); box = [PI]",
        "y = box[0] is PI; PI.v = 1",
        "y and box[0] is PI and PI.v == 1",
    ),
    "what is made in its own way": (
        "import copyreg, functools, threading\nclass A:\n    def __init__(self, a): self.a = a\n"
        "def make(a): return A(a)\ncopyreg.pickle(A, lambda a: (make, (a.a,)))\n"
        "class B:\n    def __init__(self, a, *, b): self.a, self.b = a, b\n"
        "    def __reduce__(self): return functools.partial(B, b=self.b), (self.a,)\n"
        "class C:\n    def __init__(self): self.lock, self.n = threading.Lock(), [0]\n"
        "    def __getstate__(self): return self.n\n"
        "    def __setstate__(self, n): self.lock, self.n = threading.Lock(), n\n"
        "class D:\n    __slots__ = 'a', '__dict__'\nclass E(D):\n    __slots__ = '__b',\n"
        "    def put(self, b): self.__b = b\n    def get(self): return self.__b\n"
        "a, b, c, e = A([1]), B([1], b=2), C(), E(); e.a, e.x = [1], 2; e.put(3); box = [a, b, c, e]",
        "a.a.append(2); b.a.append(2); c.n.append(1); e.a.append(2); e.x = 3; e.put(4); y = c.lock.locked()",
        "not y and a.a == b.a == e.a == [1, 2] and b.b == 2 and c.n == [0, 1] and not c.lock.locked() "
        "and (e.x, e.get()) == (3, 4) and all(one is other for one, other in zip(box, (a, b, c, e)))",
    ),
    "attributes of what is made of Python's classes": (
        "import array, datetime, decimal, fractions, io, pathlib, random, uuid\n"
        "class D(datetime.datetime): pass\nclass E(datetime.date): pass\nclass T(datetime.timedelta): pass\n"
        "class M(decimal.Decimal): pass\nclass F(fractions.Fraction): pass\nclass R(random.Random): pass\n"
        "class P(type(pathlib.Path())): pass\nclass B(bytearray): pass\nclass A(array.array): pass\n"
        "class S(io.StringIO): pass\nclass O(complex): pass\nclass Y(bytes): pass\n"
        "all_ = [D(2020, 1, 1), E(2020, 1, 1), T(1), M('1.5'), F(1, 2), R(1), P('a'), B(b'a'), A('d', [1]), S(), "
        "O(1j), Y(b'y'), random.Random(2)]\n"
        "for one in all_: one.note = [1]\nnote = all_[0].note; b, a, s, r = all_[7], all_[8], all_[9], all_[12]",
        "for one in all_: one.note.append(2); one.same = one.note\nb += b'b'; a.append(2); s.write('x'); r.n = 1",
        "all(one.note == [1, 2] and one.same is one.note for one in all_) and note is all_[0].note "
        "and [str(one) for one in all_[:5]] == ['2020-01-01 00:00:00', '2020-01-01', '1 day, 0:00:00', '1.5', '1/2'] "
        "and (b, list(a), s.getvalue(), r.n) == (b'ab', [1, 2], 'x', 1) "
        "and b is all_[7] and a is all_[8] and s is all_[9] and r is all_[12]",
    ),
    "attributes of functions": (
        "import functools\ndef f(): f.calls += 1\nf.calls = 3; g = f\n@functools.lru_cache\ndef c(x): return [x]\n"
        "c.note = [1]; c(1)\n@functools.singledispatch\ndef s(x): return 0\ns.note = [1]\n"
        "p = functools.partial(f); p.note = [1]; box = [c, s, p]",
        "f(); f.new = 1; c.note.append(2); s.note.append(2); p.note.append(2); c.more = c(2)",
        "(g.calls, f.new) == (4, 1) and c.note == s.note == p.note == [1, 2] and c.more is c(2) "
        "and c.cache_info().currsize == 2 and all(one is other for one, other in zip(box, (c, s, p)))",
    ),
    "children of descriptors": (
        "class Prop(property): pass\nclass Own(classmethod): pass\nclass Fixed(staticmethod): pass\n"
        "class P:\n    @Prop\n    def a(self): return 5, self.v\n    @a.setter\n    def a(self, v): self.v = v\n"
        "    @Own\n    def b(cls): return cls\n    @Fixed\n    def c(x): return x\n"
        "vars(P)['a'].note = 'x'; p, q = P(), P(); p.a = q.a = 1",
        "y = p.a, P.b() is P, P.c(2), vars(P)['a'].note; p.a = 3",
        "y == ((5, 1), True, 2, 'x') and p.a == (5, 3) and type(vars(P)['a']) is Prop",
    ),
    "classes that answer for all names": (ANSWERING + USE_ANSWERING[0], *USE_ANSWERING[1:]),
}


@pytest.mark.parametrize("kind", CELLS)
def test_an_object_is_in_a_job_what_it_is_here(kernel: Kernel, kind: str) -> None:
    before, cell, expected = CELLS[kind]
    assert kernel.does_the_same(before, cell, expected)


def test_classes_of_the_users_modules_may_answer_for_all_names_too(kernel: Kernel) -> None:
    before, cell, expected = USE_ANSWERING
    assert kernel.does_the_same("from own import Proxy, All, One, Length\n" + before, cell, expected, own=ANSWERING)


def test_what_a_users_module_has_under_a_name_is_as_it_was_changed(kernel: Kernel) -> None:
    before, cell = (
        "import own; own.ONE.n = 4; box = [own.ONE]",
        "n = own.ONE.n; own.ONE.d.append(n); box.append(own.ONE)",
    )
    expected = "n == 4 and own.ONE.d == [4] and box[0] is box[1] is own.ONE"
    assert kernel.does_the_same(before, cell, expected, own=NAMED)


def test_what_a_users_module_has_under_a_name_and_cannot_travel_is_its_files(kernel: Kernel) -> None:
    locked = "import threading\n" + NAMED.replace("self.d = []", "self.lock = threading.Lock()")
    assert kernel.does_the_same("import own; box = [own.ONE]", "y = box[0] is own.ONE", "y", own=locked)


def test_what_the_kernel_changed_meanwhile_in_what_a_module_has_under_a_name_stays(kernel: Kernel) -> None:
    kernel.files(own=NAMED)
    kernel.restart()
    kernel.run("import own; own.ONE.n = 1; box = [own.ONE]")
    kernel.local("own.ONE.n = 2", meanwhile="own.ONE.n = 3; one = own.ONE")
    assert kernel["one"].n == 3


def test_instances_of_a_class_with_a_child_of_property_are_groups_of_their_own(notebook: Notebook) -> None:
    notebook.run("""
        class Prop(property): pass
        class P:
            @Prop
            def a(self): return 5
        p = P(); q = P()
    """)
    assert {frozenset({"p"}), frozenset({"q"})} <= {frozenset(group) for group in notebook.groups()}


def test_what_cannot_be_made_again_is_named_with_what_helps(notebook: Notebook) -> None:
    notebook.run("""
        class S:
            def __reduce__(self): return get, ()
        def get(): return ONE
        ONE = S()
    """)
    _, failed = snapshot.restore(notebook.state, notebook.manifest(), {})
    assert {(one.name, one.reason, one.hint) for one in failed} == {
        (name, "NameError: name 'ONE' is not defined", "create it in the cell") for name in ("ONE", "get")
    }
