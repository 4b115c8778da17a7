"""What a value of a user's module was like when the module had been imported, to tell whether it has changed since."""

from __future__ import annotations

import enum
import sys
import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from docker_kernel.guest import generators, module_reach, snapshot
from docker_kernel.guest.own_files import is_own

MAX_OBJECTS = 20_000
"""Of how many objects a value may be for its content to be known from the import on; a larger one travels always."""

_DEPTH = 4
"""How deep the content is known of a value that cannot be pickled."""

SIMPLE = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_BY_NAME = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_DESCRIPTORS = (types.FunctionType, classmethod, staticmethod, property)
_FIXED = (*SIMPLE, *_BY_NAME, *_DESCRIPTORS, enum.Enum, types.MappingProxyType)
_WEAK_MAPPINGS = (weakref.WeakValueDictionary, weakref.WeakKeyDictionary)
_PLAIN = ("builtins", "collections", "array", "numpy")


class Mark:
    """A value, as it was.

    Attributes:
        content: what tells whether it has changed; None where that it is the same object tells.
    """

    def __init__(self, value: Any, content: Any = None) -> None:
        self.content = content
        self._id = id(value)
        # Held where that costs nothing: only while it lives is no other object of its id.
        self._held: Callable[[], Any] | None = None
        if issubclass(type(value), SIMPLE):
            self._held = lambda: value
        else:
            try:
                self._held = weakref.ref(value)
            except TypeError:
                pass

    def is_of(self, value: Any) -> bool:
        """Whether it is the same object, or as good as that."""
        if self._held is None:
            return id(value) == self._id
        held = self._held()
        # 0.0 and -0.0 are equal, and not the same.
        return held is value or (type(value) in SIMPLE and type(held) is type(value) and repr(held) == repr(value))


OF_GROUP = object()
"""The content of what came with the state: its group tells whether it changes."""


class Unknown:
    """The content of what travels always: it equals no other."""


class Parts:
    """The content of a value that cannot be pickled: of what in it can be."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parts) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]


class _TooLarge(Exception):
    pass


class _Bounded(snapshot._Pickler):
    """Gives up at a number of objects, and at what is in a GPU's memory: that would be copied to look at it."""

    def __init__(self, limit: float, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        objects, append = self.objects, self.objects.append

        def count(value: Any) -> None:
            append(value)
            if len(objects) > limit or (type(value).__module__ == "torch.storage" and value.device.type != "cpu"):
                raise _TooLarge

        self.persistent_id = count


class Contents:
    """Looks at values.

    Args:
        namespace: the notebook's, in which functions run that travel.
        limit: of how many objects a value may be, without large buffers, for its content to be known; None for any.
    """

    def __init__(self, namespace: dict[str, Any], limit: int | None) -> None:
        self._namespace, self._limit = namespace, limit

    def of(self, value: Any, mentions: set[str]) -> Any:
        """The content of a value.

        Args:
            mentions: gets the names of the modules that it mentions.
        """
        content, has_generators = self._look(value, mentions, _DEPTH)
        # Generators of random numbers travel always, to be moved to the streams of their jobs.
        return Unknown() if has_generators else content

    def _look(self, value: Any, mentions: set[str], depth: int) -> tuple[Any, bool]:
        make: Any = partial(_Bounded, float("inf") if self._limit is None else self._limit)
        try:
            with generators.noted() as found:
                pickler = snapshot.run_pickler({"": value}, self._namespace, make=make)
        except _TooLarge:
            return Unknown(), False
        except Exception:
            return self._parts(value, mentions, depth), False
        mentions |= module_reach.mentioned(pickler.objects)
        if self._limit is not None and pickler.buffers:
            return Unknown(), False
        return (pickler.digest(), tuple(content.own_digest() for content in pickler.buffers)), bool(found)

    def _parts(self, value: Any, mentions: set[str], depth: int) -> Parts:
        inner: Any = None
        kind = type(value)
        if issubclass(kind, types.GeneratorType):
            return Parts({"": _position(value)})
        if issubclass(kind, _WEAK_MAPPINGS):
            inner = dict(enumerate(list(value.items())))
        elif issubclass(kind, dict):
            inner = value
        elif issubclass(kind, (list, tuple)):
            inner = dict(enumerate(value))
        elif not issubclass(kind, _BY_NAME) and is_users(kind):
            inner = getattr(value, "__dict__", None)
        if not depth or not isinstance(inner, dict):
            return Parts({})
        looks = {str(key): self._look(part, mentions, depth - 1)[0] for key, part in list(inner.items())}
        return Parts({key: content for key, content in looks.items() if type(content) is not Unknown})


def _position(generator: types.GeneratorType[Any, Any, Any]) -> int | None:
    """How far a generator has come; None where it has ended."""
    return None if generator.gi_frame is None else generator.gi_frame.f_lasti


def may_change(value: Any, inner: bool) -> bool:
    """Whether a value can have other content while it is the same object, and that is the user's doing.

    Args:
        inner: it is an attribute of a class or function: what a library keeps there has to stay with what it keeps
            elsewhere.
    """
    kind = type(value)
    if issubclass(kind, _FIXED):
        return False
    return not inner or kind.__module__.partition(".")[0] in _PLAIN or is_users(kind)


def is_users(kind: type) -> bool:
    """Whether a class is of the notebook, or of a module of the user's."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__ == "__main__" or is_own(getattr(module, "__file__", None))


def is_librarys(value: Any) -> bool:
    """Whether an attribute of a class is a descriptor that a library has put there."""
    kind = type(value)
    return hasattr(kind, "__get__") and not issubclass(kind, _DESCRIPTORS) and not is_users(kind)
