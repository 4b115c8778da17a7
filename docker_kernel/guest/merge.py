"""Brings home what a job changed: into the kernel's own objects, so that whoever holds one of them sees the change.

A group of variables is pickled here and unpickled in the job, and a pickle's memo numbers its objects the same on both
sides. So an object has a key there by which it is found here: its group's number in the manifest and its number in the
memo. What comes back names each of the kernel's objects by its key and carries its content; where the kernel still has
the object, and it is as it was sent, it is given that content, and otherwise a new one is made of it.
"""

from __future__ import annotations

import array
import collections
import contextlib
import copyreg
import functools
import io
import pickle
import random
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

from docker_kernel.guest import (
    arrays,
    caches,
    children,
    collector,
    functools_objects,
    generators,
    instances,
    module_objects,
    snapshot,
    widget_values,
)
from docker_kernel.guest.names import by_name

LIST, DICT, SET, OTHER = range(4)
"""The kinds of references: the last two bits of their numbers. The upper ones are an object's key."""

_NO_BASES: Mapping[int, Any] = types.MappingProxyType({})

_EMPTY: dict[type, int] = {list: LIST, dict: DICT, set: SET}
_MAKERS: tuple[Any, ...] = (list, dict, set)


def _number(key: tuple[int, int], kind: int) -> int:
    return (key[0] << 40 | key[1]) << 2 | kind


_OWN = (1 << 40) - 1


def _key(number: int) -> tuple[int, int]:
    number >>= 2
    return number >> 40, number & _OWN


class _Reference:
    """Stands for one of the kernel's objects that is no plain list, dict or set."""

    def __init__(self, number: int, value: Any) -> None:
        self.number, self.value, self.native = number, value, _Native(value)


class _Native:
    """Stands for an object that is to be pickled as if the kernel did not have it."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Result:
    """Variables that go back, and behind them the content of all that they refer to."""

    def __init__(self, values: dict[str, Any], contents: list[Any]) -> None:
        self.values, self.contents = values, contents


class Bases:
    """Groups whose pickles go back as they came, for what has not changed in them.

    The kernel does without, unless the group is no more what it was.

    Attributes:
        places: of their pickles, by their numbers.
        unchanged: by the ids of lists and dicts that hold no objects that matter, and are as they were, the references
            for them.
    """

    def __init__(self) -> None:
        self.places: dict[int, snapshot.Place] = {}
        self.unchanged: dict[int, int] = {}
        self._read: dict[int, memoryview] = {}

    def add(self, number: int, place: snapshot.Place, unchanged: Mapping[int, Any]) -> None:
        """Add a group, and what is unchanged in it, by its numbers there."""
        self.places[number] = place
        first = _number((number, 0), 0)
        self.unchanged.update(
            {id(one): first | own << 2 | (LIST if type(one) is list else DICT) for own, one in unchanged.items()}
        )

    def data(self, number: int) -> memoryview:
        if number not in self._read:
            self._read[number] = snapshot.read_pickle(self.places[number])
        return self._read[number]


class _Used:
    """Stands for the pickles of those groups that a result needs."""


class ReturnPickler(snapshot._Pickler):
    """Pickles what goes back to the kernel, with a reference for each object that came from there.

    A plain list, dict or set is a number there, and its content comes at the end, so that nothing is nested: the list
    of contents grows while it is pickled, which pickle allows.

    Args:
        known: the keys of those objects by their ids.
        owners: those arrays that show all of a memory, by the id of the array that has it: a buffer's, which the kernel
            knows nothing of.
        known_classes: by the ids of those that came from there, the number of a group that has one which was changed,
            or False.
        bases: what need not be pickled, as it is as it was sent.
    """

    def __init__(
        self,
        known: Mapping[int, tuple[int, int]],
        owners: Mapping[int, Any],
        known_classes: Mapping[int, int],
        bases: Bases,
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._owners = owners
        self._known_classes = known_classes
        # With less than two elements, a list is not asked again whether it has grown.
        self._contents: list[Any] = [None, None]
        self._references: dict[int, Any] = {}
        self._bases = bases
        self._used: set[int] = set()
        unchanged = bases.unchanged.get
        used = self._used
        append, references, get, content = self.objects.append, self._references, known.get, self._contents.append

        def reference(value: Any) -> Any:
            append(value)
            number = unchanged(id(value))
            if number is not None:
                used.add(number >> 42)
                return number
            key = get(id(value))
            if key is None:
                return None if type(value) is not snapshot._Cell else self._cell_reference(value)
            found = references.get(id(value))
            if found is None:
                kind = _EMPTY.get(type(value), OTHER)
                found = _number(key, kind)
                if kind == OTHER:
                    found = _Reference(found, value)
                else:
                    content(found)
                    content([*value, *value.values()] if kind == DICT else [*value])
                references[id(value)] = found
            return found

        self._known = known
        self.persistent_id = reference

    def _cell_reference(self, shell: snapshot._Cell) -> Any:
        key = self._known.get(id(shell.cell))
        if key is None:
            return None
        return self._references.setdefault(id(shell.cell), _Reference(_number(key, OTHER), shell))

    def dump(self, values: Any) -> None:
        super().dump(_Result(values, self._contents))

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is _Result:
            parts = (value.values, value.contents)
            return _finish, (*parts, _Used()) if self._bases.places else parts
        if kind is _Used:  # Now that all else has been pickled.
            found = [(number, pickle.PickleBuffer(self._bases.data(number))) for number in sorted(self._used)]
            return dict, (found,)
        if kind is _Native:
            make, *rest = self._reduce(value.value)
            # What pickle knows by these names has to be of the class that it makes, and what is the kernel's own is
            # not to be filled while it is read.
            return _MAKING.get(make, make), *rest
        if kind is not _Reference:
            return super().reducer_override(value)
        number, one = value.number, value.value
        kind = type(one)
        if kind is snapshot._Cell:
            return _own, (number, types.CellType, ())
        if kind is types.FunctionType:
            make, arguments, state, _, _, _ = self._reduced_function(one)
            self._contents += [number, state]
            return _own, (number, make, arguments)
        if widget_values.is_widget(one):
            make, arguments, state, _, _, _ = widget_values.reduce(one)
            self._contents += [number, state]
            return _own, (number, make, arguments)
        reduced = self._reduce(one)
        if isinstance(reduced, str):
            return by_name, (pickle.whichmodule(one, reduced), reduced)  # type: ignore[attr-defined]
        make, arguments, *rest = reduced
        state, items, pairs, setter = [*rest, None, None, None, None][:4]
        if make is instances.find:
            # Where the kernel has changed its own, it keeps that.
            make, arguments = children.make_child, (kind, object, None)
        if setter is children.fill_child:
            content = state
        elif setter is not None or not _is_plain(make, arguments):
            return _own_like, (number, value.native)
        else:
            content = (state, None if items is None else list(items), None if pairs is None else _flat(pairs))
        if getattr(kind, "__hash__", None) in (None, object.__hash__):
            self._contents += [number, content]
            return _own, (number, make, arguments)
        # A dict that has it as a key needs its content at once.
        return _own, (number, make, arguments), (number, content), None, None, _fill_at_once

    def _reduced_function(self, function: Any) -> Any:
        if functools_objects.is_dispatching(function):
            self.memory.add(id(function))
            return functools_objects.reduce_dispatching(function, self._namespace)
        return self._reduce_function(function)

    def _is_update(self, cls: type) -> bool | int:
        return self._known_classes.get(id(cls), super()._is_update(cls))

    def _owner(self, array: Any) -> Any:
        owner = super()._owner(array)
        return self._owners.get(id(owner), owner)

    def _reduce(self, value: Any) -> Any:
        """How an object is pickled that no reference stands for."""
        if type(value) is bytearray:
            return bytearray, (pickle.PickleBuffer(value),)
        reduced = super().reducer_override(value)
        if reduced is NotImplemented:
            by_type = self.dispatch_table.get(type(value))
            reduced = by_type(value) if by_type else value.__reduce_ex__(5)
        return reduced


def _new(kind: Any, *arguments: Any) -> Any:
    return kind.__new__(kind, *arguments)


def _new_with_names(kind: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return kind.__new__(kind, *arguments, **named)


_MAKING: dict[Any, Any] = {
    copyreg.__newobj__: _new,  # type: ignore[attr-defined]
    copyreg.__newobj_ex__: _new_with_names,  # type: ignore[attr-defined]
    by_name: functools_objects.like_users_own,
}


def _is_plain(make: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether an object is made of nothing but its class, and then given all its content."""
    if make is types.SimpleNamespace and not arguments:
        return True
    if make is children.make_by_base:
        return len(arguments) == 2
    return make is copyreg.__newobj__ and len(arguments) == 1  # type: ignore[attr-defined]


def _flat(pairs: Iterator[tuple[Any, Any]]) -> list[Any]:
    """Keys, and then values: a dict is filled when the content of its keys is there, which their hashes may need."""
    found = list(pairs)
    return [*(key for key, _ in found), *(value for _, value in found)]


def _pairs(flat: list[Any]) -> Iterator[tuple[Any, Any]]:
    """What `_flat` was given."""
    half = len(flat) // 2
    return zip(flat[:half], flat[half:])


class Load:
    """What is being brought back: the kernel's objects, and what they will be filled with when all has been read.

    Args:
        originals: whose objects are used; new ones are made where it is None.
    """

    def __init__(self, originals: Originals | None = None) -> None:
        self._originals = originals
        self.draws = originals is None or originals.still
        """Whether the kernel's generators of random numbers stand afterwards where the job's do."""
        self.made: dict[int, Any] = {}
        self._objects: dict[int, Mapping[int, Any]] = {}
        self.bases: dict[int, Any] = {}
        """Pickles of groups, which have the content of what has none in `contents`."""
        self._new: list[int] = []
        self.owned: set[int] = set()
        self.contents: list[Any] = []
        self.updates: list[Callable[[], None]] = []

    def find(self, number: int) -> Any:
        """The object of a reference that is here already; None where there is none."""
        made = self.made.get(number)
        if made is None and self._originals is not None:
            group, own = _key(number)
            objects = self._objects.get(group)
            if objects is None:
                objects = self._objects[group] = self._originals.objects(group)
            made = objects.get(own)
        return made

    def referred(self, number: int) -> Any:
        """The object that a reference stands for which has not been met before."""
        maker = _MAKERS[number & 3]
        objects = self._objects.get(number >> 42)
        made = self.find(number) if objects is None else objects.get(number >> 2 & _OWN)
        if type(made) is not maker:
            made = maker()
            self._new.append(number)
        self.made[number] = made
        return made

    def _add_contents(self) -> None:
        """Let new objects have the content that they were sent with, if none came."""
        given = set(self.contents[::2])
        memos: dict[int, Any] = {}
        for number in self._new:
            group, own = _key(number)
            if number in given or group not in self.bases:
                continue
            if group not in memos:
                unpickler = pickle.Unpickler(io.BytesIO(self.bases[group]))
                unpickler.load()
                memos[group] = unpickler.memo.copy()
            sent = memos[group][own]
            self.contents += [number, [*sent, *sent.values()] if type(sent) is dict else sent]
        self._new, self.bases = [], {}

    def apply(self) -> list[str]:
        """Give all objects their content; returns what could not be done, a sentence each."""
        self._add_contents()
        contents = iter(self.contents)
        objects: list[tuple[Any, Any]] = []
        containers: list[tuple[Any, Any]] = []
        for number, content in zip(contents, contents):
            hashes = number & 3 in (DICT, SET) or (number & 3 == OTHER and _is_hashing(content))
            (containers if hashes else objects).append((self.made[number], content))
        # Those that hash others come when these have their content.
        fills: list[Callable[[], None]] = [
            functools.partial(_refill, own, content) for own, content in [*objects, *containers]
        ]
        waiting = [*fills, *self.updates]
        self.contents, self.updates = [], []
        while True:
            failed: list[tuple[Callable[[], None], Exception]] = []
            for fill in waiting:
                try:
                    fill()
                except Exception as error:  # of the type's own code
                    failed.append((fill, error))
            if len(failed) in (0, len(waiting)):
                return [_NOT_UPDATED % error for _, error in failed]
            waiting = [fill for fill, _ in failed]  # It may have needed others that came later.


_NOT_UPDATED = "An object that the job changed could not be updated here: %s"

_NEW = Load()
"""Where nobody has said what references stand for, each pickle has new objects."""

_load = _NEW


@contextlib.contextmanager
def loading(originals: Originals | None) -> Iterator[Load]:
    """Read pickles whose references stand for the objects of `originals`, or for new ones; then call `apply`."""
    global _load
    before, _load = _load, Load(originals)
    try:
        yield _load
    finally:
        _load = before


def resolver() -> Callable[[Any], Any]:
    """What says what the persistent ids of a pickle stand for that is read now."""
    load = _load
    get, referred = load.made.get, load.referred

    def resolve(number: Any) -> Any:
        if type(number) is not int:
            return number
        made = get(number)
        return referred(number) if made is None else made

    return resolve


def _finish(values: dict[str, Any], contents: list[Any], bases: Mapping[int, Any] = _NO_BASES) -> dict[str, Any]:
    _load.contents += contents[2:]
    _load.bases.update(bases)
    if _load is _NEW:
        _load.apply()
        _load.made.clear()
    return values


def update_class(group: bool | int, update: Callable[[], None]) -> None:
    """Bring a class up to date that is here already, when all has been read.

    Args:
        group: the number of one that has the class, which is not updated where it was changed here.
    """
    load = _load
    if load is _NEW:
        update()
    elif load._originals is not None and (group is True or not load._originals.changed(group)):
        load.updates.append(update)


def _is_hashing(content: Any) -> bool:
    """Whether an object has pairs, as a dict has, or is a kind of set."""
    return isinstance(content, tuple) and (content[2] is not None or set in content[3:4])


def _own(number: int, make: Any, arguments: tuple[Any, ...]) -> Any:
    """The kernel's object of a reference, which its content is yet to come for, or a new one."""
    load = _load
    own = load.find(number)
    if own is None or not _is_of(own, make, arguments):
        own = make(*arguments)
    elif number not in load.made:
        load.owned.add(number)
        if make is snapshot._make_function and own.__code__ != arguments[0]:
            load.updates += [
                functools.partial(setattr, own, "__code__", arguments[0]),
                functools.partial(setattr, own, "__name__", arguments[1]),
            ]
    load.made[number] = own
    return own


def _is_of(own: Any, make: Any, arguments: tuple[Any, ...]) -> bool:
    if make is functools_objects.make_dispatching:
        return functools_objects.is_dispatching(own)
    if make in (snapshot._make_function, snapshot._make_module_function):
        return isinstance(own, types.FunctionType) and len(own.__closure__ or ()) == len(arguments[2])
    if make is widget_values.make:
        return type(own) is arguments[0]
    if make is children.make_child:
        limit = own.maxlen if isinstance(own, collections.deque) else None
        return type(own) is arguments[0] and limit == arguments[2]
    if make is children.make_by_base:
        return type(own) is arguments[1]
    kind = arguments[0] if make is copyreg.__newobj__ else make  # type: ignore[attr-defined]
    return type(own) is kind


def _fill_at_once(own: Any, numbered: tuple[int, Any]) -> None:
    """Fill a new object; the kernel's own is filled when all has been read."""
    number, content = numbered
    if number in _load.owned:
        _load.contents += [number, content]
    else:
        _set(own, *content)


def _refill(own: Any, content: Any) -> None:
    """Replace the content of an object."""
    kind = type(own)
    if kind is list:
        own[:] = content
    elif kind is dict:
        own.clear()
        own.update(_pairs(content))
    elif kind is set:
        own.clear()
        own.update(content)
    elif functools_objects.is_dispatching(own):
        functools_objects.fill(own, content)
    elif widget_values.is_widget(own):
        widget_values.fill(own, content)
    elif kind is types.FunctionType:
        own.__dict__.clear()
        snapshot._fill_function(own, content)
    else:
        if len(content) > 3:
            children.empty_child(own, content[3])
        else:
            _empty(own, content[0])
        _set(own, *content)


def _empty(own: Any, state: Any) -> None:
    for base in (dict, list, set):
        if isinstance(own, base):
            base.clear(own)  # type: ignore[arg-type]
    attributes = getattr(own, "__dict__", None)
    if isinstance(attributes, dict):
        attributes.clear()
    if state is not None and not hasattr(type(own), "__setstate__"):
        for name in copyreg._slotnames(type(own)):  # type: ignore[attr-defined]
            if hasattr(own, name):
                object.__delattr__(own, name)


def _set(own: Any, state: Any, items: Any, pairs: Any, *form: Any) -> None:
    """As a pickle gives an object its content."""
    if form:
        children.fill_child(own, (state, items, pairs, *form))
        return
    if items is not None:
        if isinstance(own, set):
            own.update(items)
        else:
            own.extend(items) if hasattr(own, "extend") else [own.append(one) for one in items]
    if pairs is not None:
        for key, value in _pairs(pairs):
            own[key] = value
    if state is None:
        return
    setter = getattr(own, "__setstate__", None)
    if setter is not None:
        # It may take parts out, and be called again.
        setter(dict(state) if type(state) is dict else state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    attributes = getattr(own, "__dict__", None)
    if state and attributes is not None:
        attributes.update(state)
        state = None
    # Where the class has slots here, it may have none in the job: cloudpickle makes it without them.
    for name, value in {**(state or {}), **(slots or {})}.items():
        object.__setattr__(own, name, value)


def _own_like(number: int, fresh: Any) -> Any:
    """The kernel's object of a reference with the content of another one, where its type allows that; else that one."""
    load = _load
    own = load.find(number)
    if number in load.made:
        return own
    load.made[number] = fresh
    if own is not None and type(own) is type(fresh):
        # Where the kernel went on in a stream of its own, its generators stay where they are.
        stays = isinstance(own, generators.kinds()) and not load.draws
        update = None if stays else _updater(own, fresh)
        if update is not None:
            load.updates.append(update)
        if stays or update is not None:
            load.made[number] = own
    return load.made[number]


def _updater(own: Any, fresh: Any) -> Callable[[], None] | None:
    """What gives an object the content of another of its type, and its attributes; None where nothing can."""
    update = _content_updater(own, fresh)
    if update is None or not hasattr(own, "__dict__"):
        return update
    update_content = update

    def update_all() -> None:
        update_content()
        own.__dict__.clear()
        own.__dict__.update(fresh.__dict__)

    return update_all


def _content_updater(own: Any, fresh: Any) -> Callable[[], None] | None:
    if type(own) is caches.CACHED:
        found = caches.contents(fresh)
        return (lambda: caches.fill(own, found)) if found is not None and caches.can_fill(own) else None
    if isinstance(own, (bytearray, array.array)):
        return lambda: own.__setitem__(slice(None), fresh)
    if isinstance(own, (dict, set, collections.deque)):

        def replace() -> None:
            own.clear()
            own.extend(fresh) if isinstance(own, collections.deque) else own.update(fresh)
            if isinstance(own, collections.defaultdict):
                own.default_factory = fresh.default_factory

        limits = {one.maxlen for one in (own, fresh) if isinstance(one, collections.deque)}
        return replace if len(limits) < 2 else None
    module = type(own).__module__
    numpy: Any = sys.modules.get("numpy")
    is_array = numpy is not None and isinstance(own, getattr(numpy, "ndarray", ()))
    if is_array and arrays.is_plain_array(type(own)):
        if own.shape != fresh.shape or own.dtype != fresh.dtype or not own.flags.writeable:
            return None

        def assign() -> None:
            numpy.asarray(own)[...] = numpy.asarray(fresh)
            own.flags.writeable = fresh.flags.writeable

        return assign
    if module.startswith("numpy.random"):
        if hasattr(own, "bit_generator") and type(own.bit_generator) is type(fresh.bit_generator):
            # With the sequence from which more are spawned.
            return lambda: own.bit_generator.__setstate__(fresh.bit_generator.__reduce__()[2])
        if hasattr(own, "set_state"):
            return lambda: own.set_state(fresh.get_state(legacy=False))
        if hasattr(own, "random_raw"):
            return lambda: own.__setstate__(fresh.__reduce__()[2])
    if isinstance(own, random.Random):
        return lambda: own.setstate(fresh.getstate())
    if isinstance(own, (io.StringIO, io.BytesIO)):

        def rewrite() -> None:
            own.seek(0)
            own.truncate()
            own.write(fresh.getvalue())
            own.seek(fresh.tell())

        return rewrite
    return None


# In the job


class Restored(NamedTuple):
    """A group of variables as it was restored in a job.

    Attributes:
        number: in the manifest.
        values: by name, as they were restored, whatever the names are bound to later.
        memo: of its pickle.
        buffers: the digest and the size of each part that was stored apart from the pickle.
        place: of its pickle; None where it has none.
    """

    number: int
    values: dict[str, Any]
    memo: Any
    buffers: list[tuple[str, int]]
    place: snapshot.Place | None = None

    def known(self, namespace: dict[str, Any]) -> tuple[dict[int, tuple[int, int]], list[Any]]:
        """The keys of its objects by their ids, and those that are arrays."""
        memo = self.memo.copy()
        # Most kinds are tracked as a whole or not at all.
        kinds = {kind: _is_tracked_kind(kind) for kind in set(map(type, memo.values()))}
        own, some = self.number, {kind for kind, is_tracked_kind in kinds.items() if is_tracked_kind is None}
        if some:
            untracked = [
                number for number, value in memo.items() if type(value) in some and not is_tracked(value, namespace)
            ]
            for number in untracked:
                del memo[number]
        tracked = {kind for kind, is_tracked_kind in kinds.items() if is_tracked_kind is not False}
        # Of one that is there twice, the first number.
        keys = {id(value): (own, number) for number, value in reversed(memo.items()) if type(value) in tracked}
        shown = {kind for kind in tracked if kind.__name__ == "ndarray"}
        return keys, [value for value in memo.values() if type(value) in shown] if shown else []


def owners(values: Iterable[Any]) -> dict[int, Any]:
    """The arrays among values that show all of another one's memory, by the id of that one."""
    found: dict[int, Any] = {}
    for value in values:
        if type(value).__name__ == "ndarray" and type(value).__module__ == "numpy" and value.base is not None:
            owner = arrays.memory_owner(value)
            if owner.nbytes == value.nbytes and value.flags.forc:
                found.setdefault(id(owner), value)
    return found


def is_tracked(value: Any, namespace: dict[str, Any]) -> bool:
    """Whether it makes a difference that a reference from elsewhere is to this very object."""
    kind = type(value)
    if kind is types.FunctionType:
        if functools_objects.is_dispatching(value):
            return not functools_objects.is_importable(value)
        return value.__globals__ is namespace or module_objects.runs_in(value) is not None
    tracked = _is_tracked_kind(kind)
    # Functions that libraries have compiled are pickled by their names.
    return not isinstance(getattr(value, "__qualname__", None), str) if tracked is None else tracked


def _is_tracked_kind(kind: type) -> bool | None:
    """Whether `is_tracked` says yes, or no, to all objects of a type; None where they differ."""
    if kind is types.FunctionType:
        return None
    if kind in snapshot._ATOMS or snapshot._is_atom(kind):
        return False
    is_callable = any("__call__" in vars(base) for base in kind.__mro__)
    return None if is_callable and kind is not caches.CACHED else True


# In the kernel


@dataclass
class _Group:
    names: list[str]
    views: frozenset[int]
    data: str
    buffers: list[str]
    size: int
    values: dict[str, Any]
    objects: int = 0
    without_generators: str = ""


class _WithoutGenerators(snapshot._Pickler):
    """Leaves out the states of generators of random numbers."""

    def reducer_override(self, value: Any) -> Any:
        return (object, ()) if isinstance(value, self._generators) else super().reducer_override(value)


class Originals:
    """The variables that a snapshot was taken of, for as long as its jobs are under way.

    Objects that can be held weakly are.

    Args:
        sent: the groups of the snapshot; variables: what was captured; bindings: all variables that there were.
        still: the kernel does nothing meanwhile, so that large content need not be compared.
    """

    def __init__(
        self,
        sent: list[snapshot.SentGroup],
        variables: dict[str, Any],
        bindings: dict[str, Any],
        namespace: dict[str, Any],
        still: bool,
    ) -> None:
        self._namespace, self.still = namespace, still
        self._groups = [
            _Group(
                *(one.names, one.views, one.data, one.buffers, one.size),
                {name: _held(variables.get(name)) for name in one.names},
            )
            for one in sent
        ]
        self._bindings = {name: _held(value) for name, value in bindings.items()}
        self._found: dict[int, dict[int, Any] | None] = {}

    def names(self, number: int) -> set[str]:
        """The names of the variables of a group."""
        return set(self._groups[number].names) if number < len(self._groups) else set()

    def still_bound(self, name: str, namespace: Mapping[str, Any]) -> bool:
        """Whether a name is bound to what it was bound to then, or to nothing as it was."""
        held = self._bindings.get(name)
        if held is None:
            return name not in namespace
        return name in namespace and namespace[name] is held()

    def note_generators(self) -> None:
        """Take it for no change that generators of random numbers in the variables go on, as they do in the kernel."""
        for group in self._groups:
            with generators.noted() as found:
                pickler = self._pickle(group)
            if pickler is not None and found:
                group.objects, group.without_generators = len(_numbered(pickler)), self._without_generators(group)

    def _without_generators(self, group: _Group) -> str:
        pickler = self._pickle(group, _WithoutGenerators)
        return "" if pickler is None else pickler.digest()

    def _pickle(self, group: _Group, kind: Any = snapshot._Pickler) -> snapshot._Pickler | None:
        values = {name: value() for name, value in group.values.items()}
        try:
            return snapshot.run_pickler(values, self._namespace, None, group.views, kind)
        except Exception:
            return None

    def forget(self) -> None:
        """Look at the objects anew next time."""
        self._found.clear()

    def changed(self, number: int) -> bool:
        """Whether the objects of a group are not as they were sent, or are gone."""
        return self._objects(number) is None

    def objects(self, number: int) -> Mapping[int, Any]:
        """The objects of a group by their own numbers; none where they are gone or not as they were sent."""
        return self._objects(number) or {}

    def _objects(self, number: int) -> dict[int, Any] | None:
        if number not in self._found:
            self._found[number] = self._look(self._groups[number]) if number < len(self._groups) else None
        return self._found[number]

    def _look(self, group: _Group) -> dict[int, Any] | None:
        pickler = self._pickle(group)
        if pickler is None:
            return None
        is_as_sent = pickler.digest() == group.data or self._generators_went_on(group, pickler)
        if not is_as_sent and not self._never_is_the_same(group, pickler):
            return None
        if len(pickler.buffers) != len(group.buffers):
            return None
        if not self.still and [content.own_digest() for content in pickler.buffers] != group.buffers:
            return None
        objects = _numbered(pickler)
        if pickler._cells:
            objects.update({number: one.cell for number, one in objects.items() if type(one) is snapshot._Cell})
        return objects

    def _generators_went_on(self, group: _Group, pickler: snapshot._Pickler) -> bool:
        """Whether nothing else has changed; with another number of objects, none would be found by its key."""
        if not group.without_generators or len(_numbered(pickler)) != group.objects:
            return False
        return self._without_generators(group) == group.without_generators

    def _never_is_the_same(self, group: _Group, pickler: snapshot._Pickler) -> bool:
        """Whether a class has its objects pickled otherwise each time (a counter, the time), while the kernel does
        nothing to them."""
        if not self.still or len(pickler.file.value()) != group.size:
            return False
        again = self._pickle(group)
        return again is not None and again.digest() != pickler.digest()


def _numbered(pickler: snapshot._Pickler) -> dict[int, Any]:
    """What was pickled, by its number in the memo."""
    with collector.paused():
        return dict(pickler.memo.copy().values())


def _held(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value
