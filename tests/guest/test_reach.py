"""Which variables a cell can reach."""

from __future__ import annotations

import ast

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from docker_kernel.guest.reach import needed_names, reachable_names
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["notebook"]

CELL = """
import dataclasses, functools
a = b = c = d = e = g = h = t = u = 1
def uses_a(): return a
def nested():
    def inner(): return b
    return inner
class Base:
    def base(self): return c
class Child(Base):
    label = lambda self: d
    def child(self): return uses_a()
child = {'x': [[[[Child()]]]]}
def default(x=lambda: e): return x()
@functools.lru_cache
def cached(): return g
class Meta(type):
    def __call__(cls): return h
class WithMeta(metaclass=Meta): pass
def make():
    inside = lambda: u
    return lambda: inside()
closure = make()
many = [lambda: u] * 20_000
@dataclasses.dataclass
class Data:
    x: int = 0
    def run(self): return t
data = Data()
part = functools.partial(uses_a); method = data.run
def asks(frame): return frame.query('x > @t')
generator = (x for x in [t])
def attribute(x): return x.u
"""


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("uses_a()", "uses_a a"),
        ("nested()()", "nested b"),
        ("child", "child a c d uses_a"),
        ("class More(Child): pass", "Child a c d uses_a"),
        ("default()", "default e"),
        ("cached()", "cached g"),
        ("WithMeta()", "WithMeta h"),
        ("closure()", "closure u"),
        ("many[0]()", "many u"),
        ("data.run()", "data t"),
        ("method()", "method t"),
        ("part()", "part a"),
        ("asks(None)", "asks t"),
        ("attribute(None)", "attribute"),
        ("generator", "generator"),
        ("[a for _ in range(3)]", "a"),
        ("f'{a + b}'", "a b"),
        ("def later(): return a", "a"),
        ("await nested()", "nested b"),
        ("a = 5", ""),
        ("a += 5", "a"),
        ("del a", "a"),
        ("get_ipython().run_line_magic('timeit', 'uses_a()')", "uses_a a"),
        ("data.query('x > @t')", "data t"),
        ("eval('a + b')", "a b"),
        ("globals()['a']", "a"),
        ("print('a')", ""),
        ("unknown", ""),
    ],
)
def test_a_cell_needs_what_it_can_reach(notebook: Notebook, source: str, needed: str) -> None:
    notebook.run(CELL)
    assert needed_names(source, notebook.namespace) - {"__name__"} == set(needed.split())


def test_it_reads_trees_and_takes_all_where_it_cannot_read(notebook: Notebook) -> None:
    notebook.run(CELL)
    assert needed_names(ast.parse("nested()"), notebook.namespace) == {"nested", "b"}
    assert needed_names("what this", notebook.namespace) == set(notebook.namespace)


@pytest.mark.parametrize("cell", ["exec(text)", "runs()", "%timeit a", "def later(: pass"])
def test_code_that_runs_text_may_use_any_variable(notebook: Notebook, cell: str) -> None:
    notebook.run("a = 1; text = ''\ndef runs(): return eval('a')")
    code = TransformerManager().transform_cell(cell)
    assert reachable_names(code, notebook.namespace) >= {"a", "text", "runs"}
    assert reachable_names("a", notebook.namespace) == {"a"}
