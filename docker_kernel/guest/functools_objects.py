"""How objects of functools are pickled that pickle cannot, or not with what a notebook gave them.

Each is made empty, and then filled: what it holds may refer to it.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from docker_kernel.guest import caches
from docker_kernel.guest.caches import CACHED
from docker_kernel.guest.names import by_name, is_by_name
from docker_kernel.guest.own_files import is_own


def _nothing(*_: Any) -> None:
    """What an object is made of that is yet to be filled."""


_dispatching: Any = functools.singledispatch(_nothing)
_DISPATCHING = _dispatching.__code__
_OWN = frozenset({"register", "dispatch", "registry", "_clear_cache"})
"""What `singledispatch` itself gives a function."""

_DESCRIPTORS = (functools.cached_property, functools.partialmethod, functools.singledispatchmethod)

_MADE_ANEW = frozenset({"lock", "_method_cache", "_all_weakrefable_instances"})
"""Attributes of descriptors that are no part of what they are."""


def is_dispatching(value: Any) -> bool:
    """Whether it is a function that `singledispatch` made."""
    return type(value) is types.FunctionType and value.__code__ is _DISPATCHING


def is_importable(value: Any) -> bool:
    """Whether another process finds it by its name in its module."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return module is not None and module.__name__ != "__main__" and is_by_name(value.__module__, value)


def reduce(value: Any, namespace: dict[str, Any], with_results: bool) -> Any:
    """How one of these is pickled; None for all other objects, and those that pickle knows by their names.

    Args:
        namespace: the notebook's; with_results: cached functions keep their results.
    """
    if is_dispatching(value):
        return reduce_dispatching(value, namespace)
    if type(value) in _DESCRIPTORS:
        state = {name: part for name, part in vars(value).items() if name not in _MADE_ANEW}
        if "keywords" in state:
            state["keywords"] = dict(state["keywords"])  # its own, by which it would link what has the class
        return _make_descriptor, (type(value),), state, None, None, _fill_descriptor
    if type(value) is CACHED:
        return _with_attributes(value, _reduce_cached(value, with_results))
    return None


def _reduce_cached(value: Any, with_results: bool) -> Any:
    named = is_importable(value)
    if named and not is_own(getattr(sys.modules[value.__module__], "__file__", None)):
        return None
    parameters = _parameters(value)
    arguments = value.__wrapped__, parameters["maxsize"], parameters["typed"]
    found = caches.contents(value) if with_results and caches.can_fill(value) else None
    if named:
        own = (value.__module__, value.__qualname__)
        return None if found is None else (by_name, own, tuple(found), None, None, _fill_cached)
    if found is None or not (found.hits or found.misses):
        return make_cached, arguments
    return make_cached, arguments, tuple(found), None, None, _fill_cached


def _with_attributes(cached: Any, reduced: Any) -> Any:
    """With what was set on a cached function beside what functools did."""
    if reduced is None:
        return None
    own = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", "cache_parameters"}
    attributes = {name: part for name, part in vars(cached).items() if name not in own}
    if not attributes:
        return reduced
    make, arguments, *more = reduced
    return make, arguments, (more[0] if more else None, attributes), None, None, _fill_with_attributes


def _fill_with_attributes(cached: Any, state: tuple[Any, dict[str, Any]]) -> None:
    if state[0] is not None:
        _fill_cached(cached, state[0])
    vars(cached).update(state[1])


def reduce_dispatching(function: Any, namespace: dict[str, Any]) -> Any:
    """How a function is pickled that `singledispatch` made: of a library's, what the notebook registered."""
    registered = list(function.registry.items())
    if is_importable(function):
        own = [(kind, one) for kind, one in registered if getattr(one, "__globals__", None) is namespace]
        if not own:
            return None
        return by_name, (function.__module__, function.__qualname__), {"registered": own}, None, None, fill
    state = {
        "registered": registered,
        "dict": {name: part for name, part in vars(function).items() if name not in _OWN},
        "annotations": dict(function.__annotations__),
        "name": function.__name__,
        "qualname": function.__qualname__,
        "doc": function.__doc__,
        "module": function.__module__,
    }
    return make_dispatching, (), state, None, None, fill


def parts(value: Any) -> list[Any]:
    """The functions, and such objects again, that one of these holds."""
    if is_dispatching(value):
        return list(value.registry.values())
    if isinstance(value, functools.singledispatchmethod):
        return [value.dispatcher, value.func]
    if isinstance(value, (functools.cached_property, functools.partialmethod)):
        return [value.func]
    if type(value) is CACHED:
        return [value.__wrapped__]
    return []


def make_dispatching() -> Any:
    return functools.singledispatch(_nothing)


def like_users_own(module: str, name: str) -> Any:
    """A cached function as the one that a user's module has by a name, with no results."""
    found = by_name(module, name)
    if type(found) is not CACHED:
        return found
    return make_cached(found.__wrapped__, *_parameters(found).values())


def fill(function: Any, state: dict[str, Any]) -> None:
    """Give a function that `singledispatch` made what another one has."""
    for kind, one in state["registered"]:
        if function.registry.get(kind) is not one:
            function.register(kind, one)
    if "dict" not in state:
        return
    vars(function).update(state["dict"])
    function.__annotations__ = state["annotations"]
    function.__name__, function.__qualname__ = state["name"], state["qualname"]
    function.__doc__, function.__module__ = state["doc"], state["module"]
    names = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    if "funcname" in names:
        names["funcname"].cell_contents = state["name"]


def _make_descriptor(kind: Any) -> Any:
    return kind(_nothing)


def _fill_descriptor(value: Any, state: dict[str, Any]) -> None:
    vars(value).update(state)


def _parameters(cached: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = cached.cache_parameters()
        return found
    except AttributeError:  # before Python 3.9
        return {"maxsize": cached.cache_info().maxsize, "typed": False}


def make_cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _fill_cached(cached: Any, state: tuple[Any, ...]) -> None:
    # In a module whose file was changed, it may be another kind of function.
    if type(cached) is CACHED:
        caches.fill(cached, caches.Contents(*state))
