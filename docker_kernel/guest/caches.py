"""The contents of functools.lru_cache: read from a cached function, and put into one.

functools tells nobody what a cache holds, but to the garbage collector. It takes results only from the cached function
itself, which therefore gives, for a moment, those that it is to hold.
"""

from __future__ import annotations

import functools
import gc
import types
from typing import Any, NamedTuple

CACHED = type(functools.lru_cache(None)(len))

MOST_COUNTED = 1_000_000
"""Calls up to which a cache's counters of hits and misses are set, too, as only calls can do that."""


class Contents(NamedTuple):
    """What a cache holds.

    Attributes:
        calls: the results, the least recently used first, each behind the arguments that it was given for.
        hits, misses: its counters.
    """

    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]]
    hits: int
    misses: int


def contents(cached: Any) -> Contents | None:
    """What a cache holds; None where this Python does not tell (before 3.10)."""
    info = cached.cache_info()
    if not info.currsize:
        return Contents([], info.hits, info.misses)
    # As lru_cache_tp_traverse in CPython's Modules/_functoolsmodule.c visits them.
    parts = gc.get_referents(cached)
    place = next((place for place, one in enumerate(parts) if one is cached.__wrapped__), 0)
    cache = parts[place - 1] if place else None
    if not isinstance(cache, dict) or len(cache) != info.currsize or place + 1 >= len(parts):
        return None
    mark = parts[place + 1]
    if info.maxsize is None:
        pairs = list(cache.items())
    else:
        begin = place - 1 - 3 * info.currsize
        if begin < 0 or len({id(kind) for kind in parts[begin + 2 : place - 1 : 3]}) != 1:
            return None
        pairs = list(zip(parts[begin : place - 1 : 3], parts[begin + 1 : place - 1 : 3]))
    typed = cached.cache_parameters()["typed"]
    return Contents([(*_arguments(key, mark, typed), result) for key, result in pairs], info.hits, info.misses)


def _arguments(key: Any, mark: object, typed: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a cache's key was made of, as lru_cache_make_key there does."""
    if type(key) is not tuple:
        return (key,), {}
    place = next((place for place, one in enumerate(key) if one is mark), None)
    if place is None:
        return (key[: len(key) // 2] if typed else key), {}
    count = (len(key) - place - 1 - place) // 3 if typed else (len(key) - place - 1) // 2
    named = key[place + 1 : place + 1 + 2 * count]
    return key[:place], dict(zip(named[::2], named[1::2]))


def can_fill(cached: Any) -> bool:
    """Whether results can be put into a cache: it is a plain function's."""
    return type(cached.__wrapped__) is types.FunctionType


def _give(*arguments: Any, _results: Any = (), **named: Any) -> Any:
    return _results.pop()


def fill(cached: Any, found: Contents) -> None:
    """Have a cache hold what another one did, and nothing else; other threads must not call its function meanwhile."""
    function = cached.__wrapped__
    kept = function.__code__, function.__defaults__, function.__kwdefaults__
    cached.cache_clear()
    results: list[Any] = []
    try:
        function.__defaults__ = None
        function.__kwdefaults__ = {"_results": results}
        function.__code__ = _give.__code__.replace(co_freevars=kept[0].co_freevars)
        for positional, named, result in found.calls:
            results.append(result)
            try:
                cached(*positional, **named)
            except Exception:  # of an argument's own hash
                pass
            results.clear()
        _count(cached, found)
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = kept


def _count(cached: Any, found: Contents) -> None:
    """Set the counters, by calls of which nothing is kept."""
    info = cached.cache_info()
    misses, hits = found.misses - info.misses, found.hits - info.hits
    if misses + hits > MOST_COUNTED:
        return
    new = object()
    for _ in range(misses):
        try:
            cached(new)  # raises, as there is no result for it
        except IndexError:
            pass
    if found.calls and info.currsize:
        positional, named, _ = found.calls[-1]
        for _ in range(hits):
            cached(*positional, **named)
