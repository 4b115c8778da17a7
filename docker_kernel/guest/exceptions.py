"""How exceptions travel: of their own type, with their fields, attributes, notes and chain.

An exception is made again by Python's own base class and filled with what it held. Its class's `__init__` is not
called: what that takes need not be what `args` has.
"""

from __future__ import annotations

import builtins
import copyreg
import importlib
import io
import sys
import types
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

_LINKS = ("__cause__", "__context__", "__suppress_context__")
_APART = frozenset({*_LINKS, "__traceback__", "__dict__", "__weakref__"})
_PLAIN = frozenset({str, bytes, int, float, complex, bool, type(None)})
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
_UNSET = object()


class Dropped(NamedTuple):
    """A part of an exception that cannot travel, and why."""

    error: BaseException
    part: str
    value: Any
    reason: Exception


class Exceptions:
    """Takes the exceptions apart that one pickler meets.

    Args:
        refusal: what says why a value cannot travel, and None where it can; without it, all is taken to travel.
    """

    def __init__(self, refusal: Callable[[Any], Exception | None] | None = None) -> None:
        self.dropped: list[Dropped] = []
        self._refusal = refusal
        self._linked: set[int] = set()

    def reduce(self, error: BaseException) -> Any:
        """What a pickler's `reducer_override` returns for an exception."""
        # A chain is stored once and flat with the first of it that is met: it may be long, or lead back to itself.
        links: list[tuple[Any, ...]] = []
        if id(error) not in self._linked:
            chain = list(_chain(error))
            self._linked.update(map(id, chain))
            links = [link for link in map(self._link, chain) if any(link[1:])]
        own = _own_reduction(error)
        if isinstance(own, str):
            return own
        attributes = dict(error.__dict__)
        if own is not None and (_base(type(error)).__module__ != "builtins" or not self._why_not(own)):
            # Its class says how it travels, so that attributes which cannot are no loss.
            attributes = {name: value for name, value in attributes.items() if not self._why_not(value)}
            function, given, state, items, pairs, setter = (tuple(own) + (None,) * 6)[:6]
            return function, given, (state, setter, attributes, links), items, pairs, _fill_own
        kind = self._kind(error)
        arguments: tuple[Any, ...] = (kind,)
        if isinstance(error, _GROUP):
            arguments += (_GROUP.message.__get__(error), _GROUP.exceptions.__get__(error))
        fields = {name: value for name, value in _fields(error) if name != "args"}
        args = BaseException.args.__get__(error)  # type: ignore[attr-defined]
        args = tuple(self._argument(error, index, value) for index, value in enumerate(args))
        state = ({"args": args, **self._kept(error, fields)}, self._kept(error, attributes), links)
        return _make, arguments, state, None, None, _fill

    def _why_not(self, value: Any) -> Exception | None:
        if self._refusal is None or type(value) in _PLAIN:
            return None
        return self._refusal(value)

    def _kept(self, error: BaseException, parts: dict[str, Any]) -> dict[str, Any]:
        """Those parts of an exception that can travel."""
        kept = {}
        for name, value in parts.items():
            reason = self._why_not(value)
            if reason is None:
                kept[name] = value
            else:
                self.dropped.append(Dropped(error, name, value, reason))
        return kept

    def _argument(self, error: BaseException, index: int, value: Any) -> Any:
        """An item of `args`; the text of one that cannot travel, as the message is made of it."""
        reason = self._why_not(value)
        if reason is None:
            return value
        self.dropped.append(Dropped(error, "args[%d]" % index, value, reason))
        try:
            return repr(value)
        except Exception:
            return "<%s>" % type(value).__name__

    def _kind(self, error: BaseException) -> type:
        """The class of an exception; where that cannot travel, the nearest above it that can."""
        for kind in (one for one in type(error).__mro__ if issubclass(one, BaseException)):
            reason = self._why_not(kind)
            if reason is None:
                break
            if kind is type(error):
                self.dropped.append(Dropped(error, "__class__", kind, reason))
        return kind

    def _link(self, error: BaseException) -> tuple[Any, ...]:
        cause, context, suppress = (getattr(BaseException, name).__get__(error) for name in _LINKS)
        kept = self._kept(error, {"__cause__": cause, "__context__": context})
        return error, kept.get("__cause__"), kept.get("__context__"), suppress


class Shown:
    """What IPython shows in place of a traceback, as an exception's `_render_traceback_`."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self) -> list[str]:
        return list(self._lines)


def text_of(error: BaseException) -> str:
    """An exception's text, as tracebacks have it."""
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it is linked with."""
    seen, waiting = {id(error)}, [error]
    while waiting:
        one = waiting.pop()
        yield one
        others = [getattr(BaseException, name).__get__(one) for name in _LINKS[:2]]
        if isinstance(one, _GROUP):
            others += _GROUP.exceptions.__get__(one)
        for other in others:
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)


def _base(kind: type) -> Any:
    """The class, written in C, that makes instances of an exception's class."""
    return next(
        one
        for one in kind.__mro__
        if issubclass(one, BaseException) and isinstance(vars(one).get("__new__"), types.BuiltinFunctionType)
    )


def _own_reduction(error: BaseException) -> Any:
    """How a class says itself that its exceptions are pickled; None where it does not, or said it for its parent."""
    kind = type(error)
    registered = copyreg.dispatch_table.get(kind)
    if registered is not None:
        return registered(error)
    if _base(kind).__module__ != "builtins":
        return error.__reduce_ex__(5)  # It may hold what only its own code knows of.
    for one in kind.__mro__:
        names = vars(one)
        if one.__module__ == "builtins":
            return None
        if "__reduce__" in names or "__reduce_ex__" in names:
            return error.__reduce_ex__(5)
        if "__init__" in names or "__new__" in names:
            return None  # Python would call this with what a class above it says.
    return None


def _descriptors(kind: type) -> dict[str, Any]:
    """What gives access to the fields of an exception that are not in its `__dict__`, by name."""
    found: dict[str, Any] = {}
    for one in kind.__mro__:
        if one is not object:
            for name, part in vars(one).items():
                if isinstance(part, (types.MemberDescriptorType, types.GetSetDescriptorType)) and name not in _APART:
                    found.setdefault(name, part)
    return found


def _fields(error: BaseException) -> Iterator[tuple[str, Any]]:
    for name, part in _descriptors(type(error)).items():
        value = _get(part, error)
        if value is not _UNSET:
            yield name, value


def _get(part: Any, error: BaseException) -> Any:
    try:
        return part.__get__(error)
    except AttributeError:
        return _UNSET


def _make(kind: type, *arguments: Any) -> Any:
    return _base(kind).__new__(kind, *arguments)


def _fill(error: BaseException, state: tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]]]) -> None:
    fields, attributes, links = state
    parts = _descriptors(type(error))
    for name, value in fields.items():
        part = parts.get(name)
        if part is None:
            error.__dict__[name] = value  # This Python, or the class that stands in for its own, has no such field.
        elif value is not None or _get(part, error) is not None:  # To some, None is another thing than nothing.
            try:
                part.__set__(error, value)
            except AttributeError:
                pass  # It can only be read: what made the exception has set it.
    error.__dict__.update(attributes)
    _give_response(error)
    _set_links(links)


def _give_response(error: BaseException) -> None:
    """Give an HTTPError an empty response where its own did not travel: without any, nothing of it can be asked for."""
    urllib_error = sys.modules.get("urllib.error")
    if urllib_error is not None and isinstance(error, urllib_error.HTTPError) and "file" not in vars(error):
        known = dict(vars(error))
        response = importlib.import_module("urllib.response").addinfourl
        response.__init__(error, io.BytesIO(), known.get("hdrs"), known.get("url"), known.get("code"))
        error.fp = error.file


def _fill_own(error: Any, state: tuple[Any, Any, dict[str, Any], list[tuple[Any, ...]]]) -> None:
    content, setter, attributes, links = state
    if content is not None:
        if setter is not None:
            setter(error, content)
        else:
            error.__setstate__(content)
    for name, value in attributes.items():
        error.__dict__.setdefault(name, value)
    _set_links(links)


def _set_links(links: list[tuple[Any, ...]]) -> None:
    for error, *values in links:
        for name, value in zip(_LINKS, values):
            getattr(BaseException, name).__set__(error, value)
