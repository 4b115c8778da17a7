"""What a module's functions hold of values is replaced with these."""

from __future__ import annotations

import types
from typing import Any

from docker_kernel.guest.module_links import replace

SOURCE = """
import functools
opts = {"inner": {"list": [1]}}
unset, pair = object(), ({"x": 1}, 2)
def default(x=opts, *, y=opts["inner"], z=unset): return x, y, z
def counted(f):
    def wrapper(): return opts_here, f()
    opts_here = opts
    return wrapper
@counted
def wrapped(x=opts): return x
class Model:
    def method(self, x=opts): return x
    @classmethod
    def of_class(cls, x=opts): return x
    @staticmethod
    def static(x=opts["inner"]["list"]): return x
    @property
    def both(self, x=pair[0]): return x
default.cache = opts
"""


def test_defaults_closures_and_attributes_hold_the_new_values_and_parts_of_them() -> None:
    module: Any = types.ModuleType("linked")
    exec(SOURCE, vars(module))
    new, sentinel, pair = {"inner": {"list": [1], "more": 1}}, object(), ({"x": 2}, 2)
    replace([(module.opts, new), (module.unset, sentinel), (module.pair, pair)], [module])
    x, y, z = module.default()
    assert x is new and y is new["inner"] and z is sentinel and module.default.cache is new
    assert all(one is new for one in (*module.wrapped(), module.Model().method(), module.Model.of_class()))
    assert module.Model.static() is new["inner"]["list"] and module.Model().both is pair[0]  # type: ignore[index]


def test_who_is_not_found_sees_what_is_in_there_now() -> None:
    held = [{"a": 1}, [1], {1}]
    replace(list(zip(held, [{"b": 2}, [2, 3], {4}], strict=True)), [])
    assert held == [{"b": 2}, [2, 3], {4}]


def test_equal_values_that_python_shares_stay() -> None:
    module: Any = types.ModuleType("linked")
    exec("one, text, none, empty = 1, 'a', None, ()\ndef f(a=1, b='a', c=None, d=()): return a, b, c, d", vars(module))
    replace([(1, 2), ("a", "b"), (None, 5), ((), (1,))], [module])
    assert module.f() == (1, "a", None, ())
