"""The results that functools.lru_cache keeps: in jobs, and back in the kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_kernel.guest import caches
from tests.guest.test_merge import Kernel, kernel
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["kernel", "notebook"]

VALUES = st.sampled_from([0, 1, 1.0, True, "a", "b", None, (), (1,), (1, "a"), frozenset({1})])
CALLS = st.lists(st.tuples(st.lists(VALUES, max_size=3), st.dictionaries(st.sampled_from("de"), VALUES)), max_size=12)


def cached(size: int | None, typed: bool) -> Any:
    beside = [size]

    @functools.lru_cache(size, typed)
    def function(*arguments: Any, d: Any = 4, e: Any = 5) -> list[Any]:
        return [arguments, d, e, beside]

    return function


@given(calls=CALLS, later=CALLS, size=st.sampled_from([None, 1, 3, 100]), typed=st.booleans())
def test_a_filled_cache_is_not_to_be_told_from_the_one_it_was_filled_from(
    calls: Any, later: Any, size: int | None, typed: bool
) -> None:
    first, second = cached(size, typed), cached(size, typed)
    for positional, named in calls:
        first(*positional, **named)
    found = caches.contents(first)
    assert found is not None
    caches.fill(second, found)
    assert second.cache_info() == first.cache_info()
    kept = caches.contents(second)
    assert kept is not None and [repr(call) for call in kept.calls] == [repr(call) for call in found.calls]
    assert all(mine[2] is other[2] for mine, other in zip(kept.calls, found.calls, strict=True))
    for positional, named in later:
        before = first.cache_info().hits, second.cache_info().hits
        results = first(*positional, **named), second(*positional, **named)
        assert results[0][:3] == results[1][:3]
        assert first.cache_info().hits - before[0] == second.cache_info().hits - before[1]


def test_a_function_whose_cache_was_filled_is_as_it_was() -> None:
    function = cached(3, False)
    before = function.__wrapped__.__code__, function.__wrapped__.__kwdefaults__
    caches.fill(function, caches.Contents([((1,), {}, "kept")], 2, 4))
    assert (function.__wrapped__.__code__, function.__wrapped__.__kwdefaults__) == before
    assert (function(1), function(2)) == ("kept", [(2,), 4, 5, [3]])
    assert function.cache_info()[:2] == (3, 5)


SLOW = """
import functools
runs = []
@functools.lru_cache(maxsize=50)
def slow(x):
    runs.append(x); return [x]
@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
held = slow
first = slow(1)
"""


def test_results_travel_to_a_job_with_what_else_refers_to_them(notebook: Notebook) -> None:
    notebook.run(SLOW).run("fib(20)")
    code = "again = slow(1) is first\nsize = fib.cache_info().currsize\nseen = list(runs)\nslow(2)"
    found = notebook.job(code)
    assert (found["again"], found["size"], found["seen"]) == (True, 21, [1])


def test_results_of_a_job_are_the_kernels(kernel: Kernel) -> None:
    kernel.restart()
    kernel.run(SLOW)
    own = kernel["slow"]
    kernel.local("second = slow(2); fib(30)")
    assert kernel["slow"] is own and kernel["held"] is own
    assert own(1) is kernel["first"] and own(2) is kernel["second"]
    assert kernel["runs"] == [1, 2] and kernel["fib"].cache_info().currsize == 31
    kernel.local("slow.cache_clear()")
    assert own.cache_info().currsize == 0 and own(1) == [1] and kernel["runs"] == [1, 2, 1]


def test_a_function_travels_without_its_results_where_one_cannot(notebook: Notebook) -> None:
    notebook.run(
        "import functools, threading\n@functools.cache\ndef connect(to): return to, threading.Lock()\nconnect(1)"
    )
    assert notebook.job("found = connect.cache_info().currsize, connect(2)[0]")["found"] == (0, 2)


def test_results_of_a_classs_methods_stay_where_they_are(notebook: Notebook) -> None:
    notebook.run("""
        import functools
        class Model:
            def __init__(self, n): self.n = n
            @functools.lru_cache
            def predict(self, x): return self.n * x
        models = [Model(n) for n in range(3)]
        one, other = models[:2]
        found = [model.predict(2) for model in models]
        apart = Model(5); apart.predict(1)
    """)
    assert {"apart"} in notebook.groups()
    assert notebook.job("found = [one.predict(2), other.predict(2), apart.predict(2)]")["found"] == [0, 2, 10]


@pytest.mark.parametrize("make", [functools.partial(pow, 2), abs], ids=["a partial's", "a built-in function's"])
def test_only_a_plain_functions_cache_can_be_filled(make: Callable[..., Any]) -> None:
    assert not caches.can_fill(functools.lru_cache(make))
