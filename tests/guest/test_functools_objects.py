"""What functools makes travels with what the notebook gave it, and comes home with what the job did."""

from __future__ import annotations

import functools

import pytest

from docker_kernel.guest import snapshot
from tests.guest.test_merge import Kernel, kernel
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["kernel", "notebook"]

SHOW = """
    import functools
    class Point: pass
    @functools.singledispatch
    def show(value): "Shows."; return "some"
    @show.register
    def _(value: int): return "whole"
    @show.register(Point)
    def _(value): return "point " + suffix
    suffix = "here"
"""


def test_a_singledispatch_function_travels_with_its_implementations(notebook: Notebook) -> None:
    copy = notebook.run(SHOW).copy()
    show = copy["show"]
    copy["suffix"] = "there"
    assert [show(1), show(""), show(copy["Point"]())] == ["whole", "some", "point there"]
    assert (show.__name__, show.__doc__, show.__module__) == ("show", "Shows.", "__main__")
    assert show.__wrapped__ is show.dispatch(object) is not notebook["show"].__wrapped__
    with pytest.raises(TypeError, match="show requires at least 1 positional"):
        show()


def test_what_a_job_registers_comes_home_into_the_same_function(kernel: Kernel) -> None:
    kernel.run(SHOW)
    held = kernel.run("held = [show]")["show"]
    kernel.local("@show.register\ndef _(value: float): return 'real ' + suffix")
    assert kernel["show"] is held is kernel["held"][0]
    assert [held(0.5), held(1), held(kernel["Point"]())] == ["real here", "whole", "point here"]
    kernel.local("@functools.singledispatch\ndef made(value): return 'made'\nmade.register(int, lambda value: 'int')")
    assert [kernel["made"](1), kernel["made"]("")] == ["int", "made"]


def test_a_function_that_refers_to_itself_by_its_closure_travels(notebook: Notebook) -> None:
    notebook.run("""
        import functools
        def make():
            @functools.singledispatch
            def depth(value): return 0
            @depth.register
            def _(value: list): return 1 + max(map(depth, value), default=0)
            return depth
        depth = make()
    """)
    assert notebook.copy()["depth"]([[], [[]]]) == 3


def test_a_librarys_function_has_what_the_notebook_registered(notebook: Notebook) -> None:
    notebook.run("""
        from tests.guest.library_dispatch import describe
        class Own: pass
        describe.register(Own, lambda value: "own")
    """)
    code = "found = [describe(Own()), describe(1), describe.__module__]"
    assert notebook.job(code)["found"] == ["own", "anything", "tests.guest.library_dispatch"]


def test_classes_with_functools_descriptors_travel_and_their_instances_stay_apart(notebook: Notebook) -> None:
    notebook.run("""
        import functools
        @functools.total_ordering
        class Size:
            made = 0
            def __init__(self, n): self.n = n
            def __eq__(self, other): return self.n == other.n
            def __lt__(self, other): return self.n < other.n
            @functools.cached_property
            def square(self): type(self).made += 1; return self.n ** 2
            @functools.singledispatchmethod
            def add(self, other): raise TypeError
            @add.register
            def _(self, other: int): return self.n + other
            @add.register
            def _(self, other: list): return [self.add(one) for one in other]
            twice = functools.partialmethod(add, 2)
            @functools.lru_cache
            def slow(self): return self.n
            __hash__ = object.__hash__
        small, large = Size(2), Size(3)
        small.square
    """)
    copy = notebook.copy()
    small, large = copy["small"], copy["large"]
    assert small < large and small <= large and not small >= large
    assert [small.square, large.square, large.square, copy["Size"].made] == [4, 9, 9, 2]
    assert [small.add(1), small.add([1, 2]), large.twice(), small.slow()] == [3, [3, 4], 5, 2]
    assert {"small"} in notebook.groups() and {"large"} in notebook.groups()


def test_partials_and_cached_functions_travel_whatever_they_are_of(notebook: Notebook) -> None:
    notebook.run("""
        import functools, math
        def power(base, exponent): return base ** exponent
        square = functools.partial(power, exponent=2)
        square.note = [1]
        both = [square, functools.partial(square, 3)]
        cached = functools.lru_cache(maxsize=7)(math.sqrt)
        partly = functools.lru_cache(None)(functools.partial(power, 2))
    """)
    copy = notebook.copy()
    assert [copy["square"](5), copy["both"][1](), copy["square"].note] == [25, 9, [1]]
    assert copy["both"][0] is copy["square"]
    assert [copy["cached"](4), copy["cached"].cache_info().maxsize, copy["partly"](3)] == [2.0, 7, 8]


def test_code_of_implementations_is_seen_as_reachable(notebook: Notebook) -> None:
    notebook.run(SHOW)
    names = {name for code in snapshot.code_in(notebook["show"], notebook.namespace) for name in code.co_names}
    assert "suffix" in names


def test_a_cached_property_of_an_older_python_has_a_lock_of_its_own(notebook: Notebook) -> None:
    notebook.run("import functools\nclass One:\n    part = functools.cached_property(lambda self: 1)\none = One()")
    found = vars(notebook.copy()["One"])["part"]
    assert vars(found).keys() == vars(functools.cached_property(len)).keys() and found.attrname == "part"
