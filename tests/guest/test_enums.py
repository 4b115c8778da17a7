"""Enumerations of a notebook: their members are the very same in a job and at home, however they are made."""

from __future__ import annotations

import sys

import pytest

from tests.guest.test_merge import Kernel, kernel

__all__ = ["kernel"]

CELLS = {
    "members of other types": (
        "import datetime, decimal\nclass S(str, Enum):\n    A = 'a'\n    def up(self): return self.value.upper()\n"
        "class I(IntEnum):\n    A = auto(); B = auto()\nclass D(datetime.date, Enum):\n    A = 2020, 1, 2\n"
        "class T(datetime.datetime, Enum):\n    A = 2020, 1, 2\nclass M(decimal.Decimal, Enum):\n    A = '1.5'\n"
        "class F(float, Enum):\n    A = 1.5\nclass P(tuple, Enum):\n    A = 1, 2\n"
        "kinds = [S, I, D, T, M, F, P]; all_ = [one.A for one in kinds]",
        "y = [one is kind.A for one, kind in zip(all_, kinds)]; z = S.A.up(), I.B + 1, D.A.year, M.A + 1\n"
        "all_.append(I(2))",
        "all(y) and z == ('A', 3, 2020, 2.5) and all(one is kind.A for one, kind in zip(all_, kinds)) "
        "and all_[-1] is I.B",
    ),
    "classes of the notebook that members are of": (
        "import collections, dataclasses\n@dataclasses.dataclass\nclass D:\n    x: int; tags: list = "
        "dataclasses.field(default_factory=list)\n"
        "class P(D, Enum):\n    A = 1; B = 2\nclass N(collections.namedtuple('N', 'x y'), Enum):\n    A = 1, 2\n"
        "p, n = P.A, N.A",
        "p.tags.append(1); y = p is P.A, P.B.x, n is N.A, N.A.y",
        "y == (True, 2, True, 2) and P.A is p and p.tags == [1] and N.A is n",
    ),
    "flags": (
        "class F(Flag):\n    NONE = 0; R = auto(); W = auto(); RW = R | W\nclass I(IntFlag):\n    R = 4; W = 2\n"
        "f = F.R | F.W; i = I.R | I.W; u = I(8); none = F.R & F.W",
        "y = f is F.RW, ~F.R is F.W, i is I(6), u is I(8), none is F.NONE; g = F.W | F.R; h = I.W | I.R",
        "all(y) and g is f is F.RW and h is i is I(6) and u is I(8) and none is F.NONE",
    ),
    "what makes members": (
        "class A(Enum):\n    def __new__(cls, v, label):\n        self = object.__new__(cls); self._value_ = v\n"
        "        self.label = label; return self\n    X = 1, 'one'\n"
        "class B(str, Enum):\n    def __new__(cls, v, n):\n        self = str.__new__(cls, v); self._value_ = v\n"
        "        self.n = n; return self\nclass C(B):\n    X = 'a', 1\n"
        "made = []\nclass E(Enum):\n    def __init__(self, v, n): self.n = n; made.append(v)\n"
        "class G(E):\n    X = 1, 2\n"
        "all_ = [A.X, C.X, G.X]",
        "y = A(1), C('a'), G((1, 2)); z = A.X.label, C.X.n, C.X + 'z', G.X.n, made; A.X.label = 'eins'",
        "z == ('one', 1, 'az', 2, [1]) and all(one is other for one, other in zip(all_, y)) "
        "and all_ == [A.X, C.X, G.X] and A.X.label == 'eins'",
    ),
    "names and values": (
        "class P(Enum):\n    def _generate_next_value_(name, start, count, last): return name.lower()\n"
        "    A = auto(); B = auto(); ALSO_A = 'a'; LIST = [1]\n    @classmethod\n"
        "    def _missing_(cls, v): return cls.A if v == 'eh' else None\n"
        "Q = Enum('Q', 'X Y'); p, q = P('eh'), Q.X",
        "y = P.ALSO_A is P.A is p is P('eh'), list(P.__members__), Q(1) is q; P.LIST.value.append(2)",
        "y == (True, ['A', 'B', 'ALSO_A', 'LIST'], True) and p is P.A and q is Q.X and P.LIST.value == [1, 2]",
    ),
    "attributes of an enumeration": (
        "class P(Enum):\n    A = 1\n    def f(self): return 1\nP.label, P.seen = 'x', []; p = P.A; p.note = [1]",
        "P.label = 'y'; P.seen.append(p); P.more = 2; P.f = lambda self: 2; p.note.append(2)",
        "(P.label, P.more, p.f(), P.A.note) == ('y', 2, 2, [1, 2]) and P.seen[0] is P.A is p",
    ),
}
FROM_3_11 = {
    "functions that are members": (
        "from enum import member, nonmember, StrEnum\nclass P(Enum):\n    table = nonmember([])\n    @member\n"
        "    def f(x): return x + 1\nclass S(StrEnum):\n    A = auto()\np, s = P.f, S.A",
        "P.table.append(p); y = p is P.f, p.value(1), s is S.A",
        "y == (True, 2, True) and P.table[0] is P.f is p and s is S.A",
    ),
}


@pytest.mark.parametrize("kind", {**CELLS, **(FROM_3_11 if sys.version_info >= (3, 11) else {})})
def test_members_are_the_very_same_in_a_job_and_at_home(kernel: Kernel, kind: str) -> None:
    before, cell, expected = {**CELLS, **FROM_3_11}[kind]
    names = "Enum, Flag, IntEnum, IntFlag, auto"
    assert kernel.does_the_same(f"from enum import {names}\n{before}", cell, expected)
