"""Capture and restore of a kernel's state: groups of variables that share objects, in content-addressed blobs.

A state folder (the kernel volume) has `blobs/` and `manifests/`; each file is named by its content's sha256. A group is
one protocol-5 pickle whose large buffers are blobs of their own (PEP 574). Variables that share a mutable object are in
one group, so that aliases survive; an unchanged group is never written again; a variable that cannot be pickled costs
only itself. Tiny groups share a few blobs, as thousands of files would cost more than what they save.

That large content is unchanged is found by comparing it with the blobs of its size, which is several times faster than
a digest and as sure: a blob's name is trusted for this, as `restore` checks it against the content anyway.
"""

from __future__ import annotations

import abc
import collections
import copyreg
import datetime
import dis
import enum
import functools
import hashlib
import importlib
import io
import json
import os
import pickle
import re
import sys
import threading
import time
import types
import typing
import weakref
from collections import defaultdict
from collections.abc import Container, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import compress
from typing import Any, Callable, NamedTuple

import cloudpickle

from docker_kernel.guest import (
    caches,
    closed_files,
    functools_objects,
    generators,
    module_objects,
    sources,
    widget_values,
)
from docker_kernel.guest.exceptions import Dropped, Exceptions

VERSION = 1
OUT_OF_BAND = 1 << 16
"""Bytes from which a buffer becomes a blob of its own; smaller ones are cheaper inside the pickle."""

LARGE = 1 << 20
"""Bytes from which content is stored by a thread, while what follows is pickled."""

_CHUNK = 1 << 18
_MAX_CANDIDATES = 64
_MAX_COMPARED = 3
"""How many blobs of its size content is compared with, in part and, where these are alike, as a whole."""

_RECENT_SECONDS = 60
"""A blob that is used again counts as new after these, so that nobody takes it for garbage."""

_MANY_OBJECTS = 1000
"""From as many elements, an array of texts is stored in a faster form than a list of them."""

_ATOMS = frozenset(
    {
        str, bytes, int, float, complex, bool, type(None), type(...), type(NotImplemented), range, slice, type,
        types.ModuleType, tuple, frozenset,
        property, classmethod, staticmethod, types.MappingProxyType, types.BuiltinFunctionType, types.FunctionType,
        types.CodeType, types.GenericAlias, datetime.timezone, datetime.timedelta,
    }
)  # fmt: skip
"""Immutable, or a shell around what is in the memo, too. A notebook's own functions link groups by `memory`."""

_ATOM_MODULES = ("typing", "dataclasses", "pandas._libs.missing", "pandas._libs.tslibs.nattype")

TINY = 1 << 10
"""Bytes up to which a group goes into a blob with others: one of 16, chosen by its first name."""

HINTS = {
    "generator": "make it a list, or create it in the cell",
    "coroutine": "await it first",
    "asyncio.task": "await it first",
    "future": "wait for its result, and keep that",
    "lock": "create it in the cell",
    "file": "open it in the cell",
    "connection": "connect in the cell",
    "socket": "connect in the cell",
    "thread": "start it in the cell",
    "weakref": "keep the object itself",
    "library": "load it in the cell",
    "cuda": "move it to the CPU first, or ask for a GPU",
}


class SnapshotError(Exception):
    """A snapshot cannot be written, or what is read is not what was written."""


class LeftOut(NamedTuple):
    """A variable that cannot travel, and why."""

    name: str
    type: str
    reason: str
    hint: str


class SentGroup(NamedTuple):
    """A group of variables as it was captured.

    Attributes:
        views: ids of the arrays whose views it has as views of one memory.
        data: the digest of its pickle; buffers: the digests of what is stored apart from that.
    """

    names: list[str]
    views: frozenset[int]
    data: str
    buffers: list[str]


class Snapshot(NamedTuple):
    """A captured state: its manifest as it is stored, the manifest's digest, what it left out, and its groups in the
    manifest's order, behind them those that are spare."""

    digest: str
    manifest: str
    left_out: list[LeftOut]
    groups: list[SentGroup]


def user_variables(shell: Any) -> dict[str, Any]:
    """The variables of a notebook: what its cells bound, not what IPython put beside them."""
    hidden = shell.user_ns_hidden
    missing = object()
    return {
        name: value
        for name, value in list(shell.user_ns.items())
        if hidden.get(name, missing) is not value and not re.fullmatch(r"_+|_i*|_i?\d+|_[iod]h|In|Out|__\w+__", name)
    }


class _Cell:
    """Stands for a closure's cell among the arguments of a function, where its content must not be followed yet."""

    def __init__(self, cell: types.CellType) -> None:
        self.cell = cell


class _Content:
    """Bytes that are stored apart from the pickle that they belong to, and then known by their digest only."""

    def __init__(self, raw: Any, settled: bool) -> None:
        self.raw: Any = raw
        self.size: int = raw.nbytes
        self.settled = settled
        """Whether it is stored in any case: not so the memory of an array that may be another's view."""
        self.digest = ""
        self.future: Future[None] | None = None

    def own_digest(self) -> str:
        """Its digest, made now if it is not stored."""
        return self.digest or digest(self.raw)


class _Marker(bytearray):
    """Stands for content in a PickleBuffer."""

    def __init__(self, content: _Content) -> None:
        super().__init__(1)
        self.content = content


class _File:
    """What a pickler writes to: large bytes and bytearrays do not become part of the pickle, but buffers.

    A pickler hands them over as they are, after their opcode and size; in the pickle, these give way to the next buffer
    (for bytes: to a call of `bytes` with it).
    """

    def __init__(self, buffers: list[_Content]) -> None:
        self._file = io.BytesIO()
        self._buffers = buffers

    def write(self, data: Any) -> None:
        if type(data) in (bytes, bytearray) and len(data) >= OUT_OF_BAND:
            with self._file.getbuffer() as written:
                head = bytes(written[-9:])
            size = len(data).to_bytes(8, "little")
            if type(data) is bytearray:
                length, instead = 9, pickle.NEXT_BUFFER
                known = head == pickle.BYTEARRAY8 + size
            else:
                length, instead = 5, b"cbuiltins\nbytes\n" + pickle.NEXT_BUFFER + pickle.TUPLE1 + pickle.REDUCE
                known = head[-5:] == pickle.BINBYTES + size[:4] and not any(size[4:])
                if head == pickle.BINBYTES8 + size:
                    length, known = 9, True
            if known:
                self._file.seek(-length, 1)
                self._file.truncate()
                self._file.write(instead)
                self._buffers.append(_Content(memoryview(data), settled=True))
                return
        self._file.write(data)

    def value(self) -> bytes:
        return self._file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a notebook's functions as code that runs in the live namespace, not with a copy of what they use.

    Args:
        namespace: the notebook's; functions whose globals it is are restored with the other side's in its place.
        blobs: where content is to be stored; None for nowhere.
        views: ids of the arrays whose views are to be restored as views of one memory.
        classes: ids of the classes that are variables themselves, and so are brought up to date where they exist.
        refusals: leave out those parts of exceptions that cannot travel; what is known of them, by id, is kept here.
        with_results: cached functions (functools.lru_cache) keep their results, but those of classes, which would come
            along with each instance.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        blobs: _Blobs | None = None,
        views: frozenset[int] = frozenset(),
        classes: frozenset[int] = frozenset(),
        refusals: dict[int, Exception | None] | None = None,
        with_results: bool = True,
    ) -> None:
        self.buffers: list[_Content] = []
        self.file = _File(self.buffers)
        super().__init__(self.file, protocol=5, buffer_callback=_collector(self.buffers, blobs))
        self.objects: list[Any] = []
        """All that was pickled, temporary objects too: while they live, no id is another object's."""
        # Called with each object, in C; that it returns None means that the object is pickled as usual.
        self.persistent_id = self.objects.append
        self._namespace = namespace
        self._blobs = blobs
        self._views = views
        self._classes = classes
        self._cells: dict[int, _Cell] = {}
        self.memory: set[int] = set()
        """The ids of what no object stands for, or one of an atomic type: memory, functions, cells of closures."""
        self.ignored: set[int] = set()
        """The ids of what belongs to a class: by these, all its instances would be one group."""
        self.assigned_elsewhere: set[tuple[str, str]] = set()
        """Global variables of other namespaces than the notebook's, each with a function that assigns it."""
        self.classes: list[type] = []
        """Those that are pickled with all that they have, as no module has them."""
        self.arrays: dict[int, set[int]] = {}
        """The ids of the arrays that show the memory of one, by that one's id."""
        self._storages: dict[int, Any] = {}
        """Storages of tensors by their address."""
        self._generators = generators.kinds()
        self._families: dict[type, Any] = {}
        self._makers: dict[type, Any] = {}
        self._refusals = refusals
        self._with_results = with_results
        self.exceptions = Exceptions(None if refusals is None else self._refusal)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType) and value.__globals__ is self._namespace:
            return self._reduce_function(value)
        if isinstance(value, (type, types.FunctionType)):
            by_file = module_objects.made_by_file(value)
            if by_file is not None:
                return module_objects.find, by_file
            if isinstance(value, types.FunctionType) and module_objects.runs_in(value) is not None:
                return self._reduce_function(value)
            if module_objects.has_taken_a_name(value):
                raise pickle.PicklingError("it goes by the name of another one, which its module's file makes")
        if isinstance(value, types.FunctionType):
            self.assigned_elsewhere.update(_assigned_elsewhere(value))
        if isinstance(value, type):
            return self._reduce_class(value)
        if type(value) is types.CodeType and sources.is_known(value.co_filename):
            # cloudpickle takes the file's name away, by which the source is found.
            return _make_code, (*self.dispatch_table[types.CodeType](value), value.co_filename)
        if type(value) is _Cell:
            return types.CellType, ()
        if type(value).__module__ == "functools" or type(value) is types.FunctionType:
            reduced = functools_objects.reduce(
                value, self._namespace, self._with_results and id(value) not in self.ignored
            )
            if reduced is not None:
                if reduced[0] is functools_objects.make_dispatching:
                    self.memory.add(id(value))
                return reduced
        if issubclass(type(value), BaseException):
            return self.exceptions.reduce(value)
        closed = closed_files.reduce(value)
        if closed is not None:
            return closed
        if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
            raise pickle.PicklingError("it is an open file")
        if isinstance(value, self._generators):
            if generators.is_library_own(value):
                self.ignored.add(id(value))
            return generators.reduce(value)
        if widget_values.is_widget(value):
            return widget_values.reduce(value)
        ctypes = sys.modules.get("ctypes")
        if ctypes is not None and isinstance(value, ctypes.CDLL):
            raise pickle.PicklingError("it is a library in this process's memory")
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and type(value) is getattr(numpy, "ndarray", None):
            return self._reduce_array(numpy, value)
        if numpy is not None and isinstance(value, getattr(numpy, "ndarray", ())):
            return self._reduce_array_child(numpy, value)
        module = type(value).__module__.partition(".")[0]
        if module == "torch" and type(value).__module__ == "torch.storage":
            return self._reduce_storage(value)
        if module == "pandas":
            reduced = self._reduce_pandas(value)
            if reduced is not None:
                return reduced
        kind = type(value)
        family = self._families[kind] if kind in self._families else self._family(kind)
        if family is not None:
            return _reduce_child(value, family)
        if kind is _NEW_TYPE and value.__module__ == "__main__":
            return _make_new_type, (value.__name__, value.__supertype__)
        base = self._makers[kind] if kind in self._makers else self._maker(kind)
        if base is not None:
            make, arguments, *more = value.__reduce_ex__(5)
            if make is copyreg.__newobj__:  # type: ignore[attr-defined]
                return (_make_by_base, (base, *arguments), *more)
        return super().reducer_override(value)

    def _family(self, kind: type) -> Any:
        """Of what built-in container a class is a child, or `object` where its `__getattr__` may answer for methods
        that pickle asks for; None where objects are pickled as usual."""
        family = _container(kind)
        if family is object:
            asks = (vars(base).get(name) for base in kind.__mro__ for name in ("__getattr__", "__getattribute__"))
            if not any(getattr(one, "__globals__", None) is self._namespace for one in asks):
                family = None
        self._families[kind] = family
        return family

    def _maker(self, kind: Any) -> Any:
        """The class above one of the notebook's that makes its objects without the `__new__` of the notebook, which may
        do more than that, or want arguments; None where there is none such, or the class says what it wants."""

        def is_own(name: str, of: Any) -> bool:
            part = next((vars(base)[name] for base in of.__mro__ if name in vars(base)), None)
            return getattr(getattr(part, "__func__", part), "__globals__", None) is self._namespace

        base = None
        if is_own("__new__", kind) and not any(is_own(name, kind) for name in _SAYS_HOW_IT_IS_MADE):
            base = next(one for one in kind.__mro__ if not is_own("__new__", one))
        self._makers[kind] = base
        return base

    def _refusal(self, value: Any) -> Exception | None:
        """Why a value cannot travel; None where it can."""
        assert self._refusals is not None
        if id(value) not in self._refusals:
            self._refusals[id(value)] = None  # For a value that contains itself.
            pickler = _Pickler(self._namespace, None, self._views, self._classes, self._refusals, self._with_results)
            try:
                pickler.dump(value)
            except Exception as error:
                self._refusals[id(value)] = error
        return self._refusals[id(value)]

    def _reduce_array(self, numpy: Any, array: Any) -> Any:
        owner = self._owner(array)
        self.memory.add(id(owner if owner.base is None else owner.base))
        # The memory of objects cannot be shown by another array, and that of permuted axes is pickled in order.
        if not owner.dtype.hasobject and owner.flags.forc:
            self.arrays.setdefault(id(owner), set()).add(id(array))
            if owner is not array and id(owner) in self._views:
                return _reduce_view(array, owner)
        if array.dtype.kind == "O" and array.size >= _MANY_OBJECTS and array.ndim:
            content = _packed_texts(numpy, array, owner, self._blobs)
            if content is not None:
                marker = pickle.PickleBuffer(_Marker(content))
                return _make_texts, (marker, array.shape, "F" if array.flags.fnc else "C")
        return super().reducer_override(array)

    def _reduce_array_child(self, numpy: Any, array: Any) -> Any:
        is_file = isinstance(array, numpy.memmap)
        if is_file and array.mode in ("r+", "w+") and array._mmap is not None:
            raise pickle.PicklingError("it is an open file, which it writes to")
        if not is_plain_array(type(array)):
            return super().reducer_override(array)
        attributes = None if is_file else dict(vars(array))
        return _make_array, (array.view(numpy.ndarray), type(array)), attributes, None, None, _fill_array

    def _owner(self, array: Any) -> Any:
        """The array whose memory an array shows."""
        return memory_owner(array)

    def digest(self) -> str:
        """Of what it has pickled, apart from the buffers."""
        return digest(self.file.value())

    def _reduce_storage(self, value: Any) -> Any:
        torch = sys.modules["torch"]
        if type(value) is torch.storage.TypedStorage:
            storage = value._untyped_storage
            if storage.device.type == "cpu" and storage.nbytes():
                return _make_typed_storage, (self._storages.setdefault(storage.data_ptr(), storage), value.dtype)
        elif type(value) is torch.UntypedStorage and value.device.type == "cpu" and value.nbytes():
            self.memory.add(value.data_ptr())
            tensor = torch.empty(0, dtype=torch.uint8).set_(value)
            try:
                return _make_storage, (pickle.PickleBuffer(tensor.numpy()),)
            except RuntimeError:
                pass  # This torch has no numpy: the storage pickles itself, with a copy.
        return super().reducer_override(value)

    def _reduce_pandas(self, value: Any) -> Any:
        """A part of a frame or series with what pandas knows of who else shows its memory: it copies that when one of
        them is changed. None for other objects."""
        if type(value).__name__ == "BlockValuesRefs":
            return type(value), ()
        if type(value).__name__ == "SingleBlockManager" and hasattr(value._block, "refs"):
            return type(value), (value._block, value.axes[0])
        index = getattr(sys.modules.get("pandas"), "Index", None)
        if index is not None and isinstance(value, index):
            part, add = "_references", "add_index_reference"
            if getattr(type(value), part, None) is not None:
                return None  # A range: it has no memory.
        else:
            part, add = "refs", "add_reference"
            if not hasattr(type(value), "mgr_locs"):
                return None  # No block of a frame.
        sharing = getattr(value, part, None)
        if type(sharing).__name__ != "BlockValuesRefs" or not hasattr(sharing, add):
            return None
        make, arguments, *more = value.__reduce_ex__(5)
        return (_make_sharing, (make, arguments, sharing, part, add), *more)

    def _reduce_function(self, function: types.FunctionType) -> Any:
        self.memory.add(id(function))
        cells = function.__closure__ or ()
        shells = tuple(self._cells.setdefault(id(cell), _Cell(cell)) for cell in cells)
        contents = []
        for cell in cells:
            try:
                contents.append((True, cell.cell_contents))
            except ValueError:
                contents.append((False, None))
            if not isinstance(contents[-1][1], type):
                self.memory.add(id(cell))
        state = {
            "contents": contents,
            "defaults": function.__defaults__,
            "kwdefaults": function.__kwdefaults__ and dict(function.__kwdefaults__),
            "annotations": dict(function.__annotations__),
            "dict": dict(function.__dict__),
            "qualname": function.__qualname__,
            "doc": function.__doc__,
            "module": function.__module__,
        }
        arguments = (function.__code__, function.__name__, shells)
        if function.__globals__ is self._namespace:
            return _make_function, arguments, state, None, None, _fill_function
        return _make_module_function, (*arguments, module_objects.runs_in(function)), state, None, None, _fill_function

    def _reduce_class(self, cls: type) -> Any:
        reduced = super().reducer_override(cls)
        if not isinstance(reduced, tuple) or len(reduced) < 6:
            return reduced
        _complete.add(cls)
        self.classes.append(cls)
        for name, part in list(vars(cls).items()):
            if isinstance(part, property):
                for function in (part.fget, part.fset, part.fdel):
                    self._ignore(function)
            elif isinstance(part, (classmethod, staticmethod, types.FunctionType)):
                self._ignore(getattr(part, "__func__", part))
            elif functools_objects.parts(part):
                self._ignore(part)
            elif name.startswith("__") and name.endswith("__"):
                self.ignored.add(id(part))
        make, arguments, state, _, _, setter = reduced
        # Python keeps these there as soon as an instance was pickled.
        state[0].pop("__slotnames__", None)
        if issubclass(cls, enum.Enum):
            # cloudpickle leaves out second names of members.
            members = {name: member.value for name, member in cls.__members__.items()}
            arguments = (*arguments[:3], members, *arguments[4:])
            for name in members:
                state[0].pop(name, None)
        elif "__slots__" in vars(cls) and not issubclass(cls, tuple):
            # cloudpickle makes a class without them, whose objects then take any attribute.
            arguments = (*arguments[:3], {**arguments[3], "__slots__": cls.__slots__}, *arguments[4:])  # type: ignore[attr-defined]
        content = (setter, state, self._is_update(cls), member_attributes(cls))
        return _make_class, (make, arguments), content, None, None, _fill_class

    def _is_update(self, cls: type) -> bool | int:
        """Whether a class is to be brought up to date where it exists."""
        return id(cls) in self._classes

    def _ignore(self, part: Any) -> None:
        """Let a method link no groups; one that a library made for the class (a dataclass's), nothing in it either."""
        if id(part) in self.ignored:
            return
        self.ignored.add(id(part))
        for inner in functools_objects.parts(part):
            self._ignore(inner)
        if isinstance(part, types.FunctionType):
            cells = part.__closure__ or ()
            self.ignored.update(map(id, cells))
            if part.__globals__ is not self._namespace:
                self.ignored.update((id(part.__dict__), id(part.__annotations__)))
                for cell in cells:
                    self._ignore(cell.cell_contents)


def memory_owner(array: Any) -> Any:
    """The last of the arrays whose memory an array shows: of its own type, as others may be no more than a view."""
    owner, base = array, array.base
    while base is not None and any(one.__name__ == "ndarray" for one in type(base).__mro__):
        if type(base) is type(array):
            owner = base
        base = base.base
    return owner


def is_plain_array(kind: Any) -> bool:
    """Whether a child of numpy's array leaves it to that how its arrays are pickled, which forgets their attributes."""
    array: Any = sys.modules["numpy"].ndarray
    return all(getattr(kind, name) is getattr(array, name) for name in ("__reduce__", "__reduce_ex__", "__setstate__"))


def _make_array(array: Any, kind: Any) -> Any:
    return array.view(kind)


def _fill_array(array: Any, attributes: dict[str, Any] | None) -> None:
    if attributes:
        array.__dict__.update(attributes)


def _collector(buffers: list[_Content], blobs: _Blobs | None) -> Callable[[pickle.PickleBuffer], bool]:
    def collect(buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer is to be part of the pickle."""
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if type(raw.obj) is _Marker:
            content = raw.obj.content
            # It is a copy, the sooner gone the better.
            if blobs is not None:
                blobs.store(content)
        elif raw.nbytes < OUT_OF_BAND:
            return True
        else:
            content = _Content(raw, settled=getattr(raw.obj, "base", None) is None)
        buffers.append(content)
        return False

    return collect


_target: list[dict[str, Any]] = [{}]
"""The namespace in which restored functions run; `restore` says which."""


def _make_code(make: Callable[..., types.CodeType], arguments: tuple[Any, ...], file: str) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


def _make_function(code: types.CodeType, name: str, cells: tuple[types.CellType, ...]) -> types.FunctionType:
    return types.FunctionType(code, _target[0], name, None, cells or None)


def _make_module_function(
    code: types.CodeType, name: str, cells: tuple[types.CellType, ...], module: str
) -> types.FunctionType:
    return types.FunctionType(code, module_objects.globals_of(module), name, None, cells or None)


def _fill_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    for cell, (filled, content) in zip(function.__closure__ or (), state["contents"]):
        if filled:
            cell.cell_contents = content
    function.__defaults__ = state["defaults"]
    function.__kwdefaults__ = state["kwdefaults"]
    function.__annotations__ = state["annotations"]
    function.__dict__.update(state["dict"])
    function.__qualname__ = state["qualname"]
    function.__doc__ = state["doc"]
    function.__module__ = state["module"]


_CONTAINERS = (
    collections.OrderedDict, collections.Counter, collections.defaultdict, dict, collections.deque, list, set, object,
)  # fmt: skip


def _container(kind: type) -> Any:
    """Of what built-in container a class is a child, `object` for none; None where the class, or what made it, says
    how its objects are pickled."""
    family = next(one for one in _CONTAINERS if issubclass(kind, one))
    if kind is family or kind in copyreg.dispatch_table or issubclass(kind, type):
        return None
    if kind.__new__ is not family.__new__ or any(hasattr(kind, name) for name in _SAYS_HOW):
        return None
    of_object = ("__reduce_ex__", "__getstate__")
    if any(getattr(kind, name, None) is not getattr(object, name, None) for name in of_object):
        return None
    return family if kind.__reduce__ is family.__reduce__ else None


_SAYS_HOW_IT_IS_MADE = ("__getnewargs__", "__getnewargs_ex__", "__reduce__", "__reduce_ex__")

_NEW_TYPE: Any = typing.NewType


def _make_new_type(name: str, of: Any) -> Any:
    made = _NEW_TYPE(name, of)
    made.__module__ = "__main__"
    return made


def _make_by_base(base: Any, kind: Any, *arguments: Any) -> Any:
    return base.__new__(kind, *arguments)


_SAYS_HOW = ("__setstate__", "__getnewargs__", "__getnewargs_ex__")


def _reduce_child(value: Any, family: Any) -> Any:
    """Take an object apart by what the built-in class does, and not by the methods of its own class: they may need its
    attributes, or do more than to fill it; and several built-in classes forget the attributes."""
    items = pairs = attributes = None
    if issubclass(family, dict):
        found = list(family.items(value))
        pairs = [*(key for key, _ in found), *(one for _, one in found)]
    elif family is not object:
        items = list(family.__iter__(value))
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        pass
    slots = {}
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]
        try:
            slots[name] = object.__getattribute__(value, name)
        except AttributeError:
            pass
    state = (value if attributes is value else dict(attributes or {}), slots)
    factory = value.default_factory if family is collections.defaultdict else None
    limit = value.maxlen if family is collections.deque else None
    return _make_child, (type(value), family, limit), (state, items, pairs, family, factory), None, None, _fill_child


def _make_child(kind: Any, family: Any, limit: int | None) -> Any:
    made = family.__new__(kind)
    if limit is not None:
        collections.deque.__init__(made, (), limit)
    return made


def _fill_child(own: Any, content: tuple[Any, ...]) -> None:
    (attributes, slots), items, pairs, family, factory = content
    if pairs is not None:
        half = len(pairs) // 2
        for key, value in zip(pairs[:half], pairs[half:]):
            family.__setitem__(own, key, value)
    if items is not None:
        (family.update if family is set else family.extend)(own, items)
    if family is collections.defaultdict:
        own.default_factory = factory
    if attributes is own:
        object.__setattr__(own, "__dict__", own)
        attributes = {}
    # What has slots here may have had none there.
    for name, value in [*attributes.items(), *slots.items()]:
        object.__setattr__(own, name, value)


def _empty_child(own: Any, family: Any) -> None:
    if family is not object:
        family.clear(own)
    try:
        object.__getattribute__(own, "__dict__").clear()
    except AttributeError:
        pass
    for name in copyreg._slotnames(type(own)):  # type: ignore[attr-defined]
        try:
            object.__delattr__(own, name)
        except AttributeError:
            pass


def _assigned_elsewhere(function: types.FunctionType) -> set[tuple[str, str]]:
    """The global variables that a function of no module assigns, of which each pickle has a copy."""
    if cloudpickle.cloudpickle._should_pickle_by_reference(function):
        return set()
    found, waiting = set(), [function.__code__]
    while waiting:
        code = waiting.pop()
        waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
        found |= {one.argval for one in dis.get_instructions(code) if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    return {(function.__qualname__, name) for name in found}


def _make_class(make: Any, arguments: tuple[Any, ...]) -> Any:
    """A class that is yet to be filled, or the one that is here already.

    What the notebook does when a class is made (`__init_subclass__`, a metaclass's `__new__`) has been done.
    """
    known = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(arguments[-2])
    if known is not None:
        return known
    if make is not cloudpickle.cloudpickle._make_skeleton_class:
        return make(*arguments)
    meta, name, bases, attributes, tracker, _ = arguments
    made = _made_quietly(meta, name, bases, attributes)
    if made is None:
        return make(*arguments)
    return cloudpickle.cloudpickle._lookup_class_or_track(tracker, made)


class _Quiet:
    def __init_subclass__(cls, **_: Any) -> None:
        pass


class _QuietWithoutDict(_Quiet):
    __slots__ = ()


def _made_quietly(meta: Any, name: str, bases: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    """A class for which no code of the notebook's ran; None where there is none to run, or where it has to."""
    own = {id(one) for one in list(cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)}
    if not all(isinstance(base, type) for base in bases):
        return None
    above = [one for base in bases for one in base.__mro__ if id(one) in own]
    registers = any("__init_subclass__" in vars(one) for one in above)
    if not registers and id(meta) not in own:
        return None
    maker = next(one for one in meta.__mro__ if id(one) not in own)
    if not registers:
        return maker.__new__(meta, name, bases, dict(attributes))
    for quiet in (_Quiet, _QuietWithoutDict):
        try:
            made = maker.__new__(meta, name, (quiet, *bases), dict(attributes))
            made.__bases__ = bases
            return made
        except TypeError:
            pass  # Its instances have another layout.
    return None


def member_attributes(cls: type) -> dict[str, dict[str, Any]] | None:
    """What the members of an enumeration have besides their names and values; None for other classes."""
    if not issubclass(cls, enum.Enum):
        return None
    return {
        member.name: {name: value for name, value in vars(member).items() if name not in _OF_MEMBERS} for member in cls
    }


def registered(cls: type) -> list[type]:
    """The classes that were registered with an abstract one."""
    if not isinstance(cls, abc.ABCMeta):
        return []
    return [one for one in (reference() for reference in abc._get_dump(cls)[0]) if one is not None]  # type: ignore[attr-defined]


_OF_MEMBERS = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})

_complete: weakref.WeakSet[type] = weakref.WeakSet()
"""The notebook's classes that this process has, made here or restored."""


def _fill_class(cls: type, content: tuple[Any, ...]) -> None:
    """Give a restored class its attributes: not where it exists, with changes of its own perhaps, and only came along
    with an instance."""
    setter, state, update, *more = content
    members = more[0] if more else None
    if cls not in _complete:
        _set_class(cls, setter, state, members)
        _complete.add(cls)
    elif update is not False:
        from docker_kernel.guest.merge import update_class

        update_class(update, functools.partial(_set_class, cls, setter, state, members))


def _set_class(cls: type, setter: Any, state: Any, members: dict[str, dict[str, Any]] | None) -> None:
    if members is None:
        for name, part in list(vars(cls).items()):
            of_python = name.startswith(("__", "_abc_")) or isinstance(part, _OF_SLOTS)
            if name not in state[0] and not of_python:
                delattr(cls, name)
    setter(cls, state)
    for name, attributes in (members or {}).items():
        own: Any = vars(cls.__members__[name])  # type: ignore[attr-defined]
        for gone in [one for one in own if one not in attributes and one not in _OF_MEMBERS]:
            del own[gone]
        own.update(attributes)


_OF_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def _reduce_view(view: Any, owner: Any) -> Any:
    offset = view.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return _make_view, (owner, offset, view.shape, view.strides, view.dtype, view.flags.writeable)


def _make_view(owner: Any, offset: int, shape: Any, strides: Any, dtype: Any, writeable: bool) -> Any:
    numpy = importlib.import_module("numpy")
    view: Any = numpy.ndarray(shape, dtype, owner.ravel(order="K"), offset, strides)
    if not writeable:
        view.flags.writeable = False
    return view


class _Texts(NamedTuple):
    """An array of texts, as it was captured last."""

    owner: weakref.ref[Any]
    elements: Any
    content: _Content


_texts: dict[tuple[int, int], _Texts] = {}
"""By the address and the number of their elements. They go when the memory goes that they are about."""


def _packed_texts(numpy: Any, array: Any, owner: Any, blobs: _Blobs | None) -> _Content | None:
    """The content of an array of texts and other simple immutable values; None for other arrays.

    An array that has the very same elements as when it was last captured, which were kept since, has the same content.
    """
    flat = array.ravel("F" if array.flags.fnc else "C")
    key = (array.__array_interface__["data"][0], array.size)
    known = _texts.get(key)
    if known is not None and (_pointers(numpy, flat) == _pointers(numpy, known.elements)).all():
        digest = known.content.digest
        if not digest or blobs is None or blobs.has(digest, known.content.size):
            return known.content
    data = _pack_texts(numpy, flat.tolist())
    if data is None:
        return None
    content = _Content(memoryview(data), settled=True)
    try:
        owner = weakref.ref(owner, lambda _: _texts.pop(key, None))
    except TypeError:
        return content
    _texts[key] = _Texts(owner, flat.copy(), content)
    return content


class _Pointers:
    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {**array.__array_interface__, "typestr": "u%d" % array.itemsize, "descr": []}
        self.array = array


def _pointers(numpy: Any, array: Any) -> Any:
    """The addresses of an array's elements, as an array."""
    return numpy.asarray(_Pointers(array))


_SIMPLE = frozenset({str, bytes, int, float, bool, type(None)})


def _pack_texts(numpy: Any, values: list[Any]) -> bytes | None:
    kinds = set(map(type, values))
    missing = getattr(sys.modules.get("pandas"), "NA", None)
    if str not in kinds or not kinds - {type(missing)} <= _SIMPLE:
        return None
    packed: tuple[list[Any], bytes | None, str] = (values, None, "")
    sample = values[:: len(values) // _MANY_OBJECTS]
    if kinds <= {str, float, type(None), type(missing)} and len(set(sample)) < len(sample) // 2:
        codes: defaultdict[Any, int] = defaultdict()
        codes.default_factory = codes.__len__
        array = numpy.fromiter(map(codes.__getitem__, values), "u4", len(values))
        # 0.0 and -0.0 would be one.
        if len(codes) < len(values) // 2 and all(value != value for value in codes if type(value) is float):
            kind = "u1" if len(codes) <= 1 << 8 else "u2" if len(codes) <= 1 << 16 else "u4"
            packed = (list(codes), array.astype(kind).tobytes(), kind)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5)
    pickler.fast = True  # No memo, which takes most of the time, for what is flat.
    pickler.dump(packed)
    return file.getvalue()


def _make_texts(data: Any, shape: tuple[int, ...], order: str) -> Any:
    numpy = importlib.import_module("numpy")
    values, codes, kind = pickle.loads(data)
    array: Any = numpy.empty(len(values), object)
    array[:] = values
    if codes is not None:
        array = array[numpy.frombuffer(codes, kind)]
    return array.reshape(shape, order=order)


def _make_sharing(make: Any, arguments: tuple[Any, ...], sharing: Any, part: str, add: str) -> Any:
    made = make(*arguments)
    if getattr(made, part, None) is not sharing:
        setattr(made, part, sharing)
        getattr(sharing, add)(made)
    return made


def _make_typed_storage(storage: Any, dtype: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _make_storage(data: Any) -> Any:
    torch = importlib.import_module("torch")
    return torch.frombuffer(bytearray(data) if type(data) is bytes else data, dtype=torch.uint8).untyped_storage()


class _Pickled(NamedTuple):
    data: bytes
    buffers: list[_Content]
    shared: set[int]
    arrays: dict[int, set[int]]
    dropped: list[Dropped]
    files: set[str]
    """Those that its code is said to come from."""
    keep: Any
    views: frozenset[int] = frozenset()
    assigned_elsewhere: frozenset[tuple[str, str]] = frozenset()


MakePickler = Callable[..., _Pickler]


def _pickle(
    values: dict[str, Any],
    namespace: dict[str, Any],
    blobs: _Blobs | None = None,
    views: frozenset[int] = frozenset(),
    make: MakePickler = _Pickler,
) -> _Pickled:
    pickler = run_pickler(values, namespace, blobs, views, make)
    pickler.clear_memo()
    objects = pickler.objects
    kinds = set(map(type, objects))
    linking = {kind for kind in kinds if not _is_atom(kind)}
    keep = list(compress(objects, map(linking.__contains__, map(type, objects))))
    code = [one for one in objects if type(one) is types.CodeType] if types.CodeType in kinds else []
    files = {one.co_filename for one in code}
    # The memo and this list are as large as what follows, which need not stand beside them.
    objects.clear()
    shared = set(map(id, keep))
    shared |= pickler.memory
    shared -= pickler.ignored
    shared.discard(id(values))
    dropped = pickler.exceptions.dropped
    data = pickler.file.value()
    elsewhere = frozenset(pickler.assigned_elsewhere)
    return _Pickled(data, pickler.buffers, shared, pickler.arrays, dropped, files, (keep, values), views, elsewhere)


def run_pickler(
    values: dict[str, Any],
    namespace: dict[str, Any],
    blobs: _Blobs | None = None,
    views: frozenset[int] = frozenset(),
    make: MakePickler = _Pickler,
) -> _Pickler:
    """Pickle variables, and return what did: if need be without the results that cached functions keep, and without
    the attributes of exceptions that cannot be pickled."""
    classes = frozenset(id(value) for value in values.values() if isinstance(value, type))
    pickler = make(namespace, blobs, views, classes)
    try:
        pickler.dump(values)
    except SnapshotError:
        raise
    except Exception:
        kinds = set(map(type, pickler.objects))
        failed = any(issubclass(kind, BaseException) for kind in kinds)
        if not failed and caches.CACHED not in kinds:
            raise
        pickler = make(namespace, blobs, views, classes, refusals={} if failed else None, with_results=False)
        pickler.dump(values)
    return pickler


def _is_atom(kind: type) -> bool:
    """Whether it makes no difference that two variables hold the same object of a type, or equal ones."""
    if kind in _ATOMS or issubclass(kind, (type, enum.Enum)) or kind.__module__ in _ATOM_MODULES:
        return True
    return any(base.__name__ in ("dtype", "ufunc") for base in kind.__mro__)


def _pickle_group(
    names: list[str],
    pickled: dict[str, _Pickled],
    variables: dict[str, Any],
    namespace: Any,
    blobs: _Blobs,
    make: MakePickler,
) -> _Pickled:
    """What is stored for a group: together where it has several variables or arrays that share memory."""
    arrays: dict[int, set[int]] = {}
    for name in names:
        for owner, views in pickled[name].arrays.items():
            arrays.setdefault(owner, set()).update(views)
    shared = frozenset(owner for owner, views in arrays.items() if len(views) > 1)
    if len(names) == 1 and not shared:
        return pickled[names[0]]
    return _pickle({name: variables[name] for name in names}, namespace, blobs, shared, make)


def _groups(pickled: dict[str, _Pickled]) -> list[list[str]]:
    """The names, in groups that share objects, both in their first appearance's order."""
    leader = {name: name for name in pickled}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    seen: set[int] = set()
    twice: set[int] = set()
    for one in pickled.values():
        twice |= one.shared & seen
        seen |= one.shared
    owner: dict[int, str] = {}
    for name, one in pickled.items():
        for key in one.shared & twice:
            other = owner.setdefault(key, name)
            if other is not name:
                leader[find(name)] = find(other)
    groups: dict[str, list[str]] = {}
    for name in pickled:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def capture(
    variables: dict[str, Any],
    namespace: dict[str, Any],
    state: str,
    make: MakePickler = _Pickler,
    spare: Container[str] = (),
    **context: Any,
) -> Snapshot:
    """Write variables to a state folder.

    Args:
        variables: what to capture, by name.
        namespace: the notebook's namespace, which its functions run in.
        state: the state folder.
        make: makes what pickles a group.
        spare: names of those that are written only where they share objects with others; for the other side to know
            them by, the manifest has the digests of their groups.
        context: what else the manifest is to hold (JSON values).

    Raises:
        SnapshotError: the folder cannot be written; the message says why.
    """
    modules: dict[str, str] = {}
    left_out: list[LeftOut] = []
    pickled: dict[str, _Pickled] = {}
    packs: list[tuple[list[tuple[list[str], int, frozenset[int], str]], list[_Content], _Content]] = []
    tiny: dict[str, list[tuple[list[str], _Pickled]]] = {}
    unsent: list[SentGroup] = []

    def pack(groups: list[tuple[list[str], _Pickled]], buffers: list[_Content]) -> None:
        data = groups[0][1].data if len(groups) == 1 else b"".join(one.data for _, one in groups)
        content = _Content(memoryview(data), settled=True)
        for one in (content, *buffers):
            blobs.store(one)
        # One that is alone in its blob has that one's digest.
        known = [
            (names, len(one.data), one.views, digest(one.data) if len(groups) > 1 else "") for names, one in groups
        ]
        packs.append((known, buffers, content))

    try:
        with _Blobs(state) as blobs:
            for name, value in variables.items():
                if isinstance(value, types.ModuleType) and value.__spec__ and sys.modules.get(value.__name__) is value:
                    modules[name] = value.__name__
                    continue
                try:
                    pickled[name] = _pickle({name: value}, namespace, blobs, make=make)
                except SnapshotError:
                    raise
                except Exception as error:
                    left_out.append(_why(name, value, error))
                    continue
                for content in pickled[name].buffers:
                    if content.settled and name not in spare:
                        blobs.store(content)
            for group in _groups(pickled):
                if all(name in spare for name in group):
                    joined = _pickle_group(group, pickled, variables, namespace, blobs, make)
                    unsent.append(SentGroup(group, joined.views, digest(joined.data), []))
                    continue
                try:
                    one = _pickle_group(group, pickled, variables, namespace, blobs, make)
                except SnapshotError:
                    raise
                except Exception as error:
                    left_out += [_why(name, variables[name], error) for name in group]
                    continue
                left_out += [_why_dropped(part, {name: variables[name] for name in group}) for part in one.dropped]
                if len(one.data) <= TINY and not one.buffers:
                    key = hashlib.sha256(group[0].encode(errors="surrogatepass")).hexdigest()[0]
                    tiny.setdefault(key, []).append((group, one))
                else:
                    pack([(group, one)], one.buffers)
            for key in sorted(tiny):
                pack(tiny[key], [])
            found, too_long = sources.collect(file for one in pickled.values() for file in one.files)
            if found:
                pack([([sources.NAME], _pickle({sources.NAME: found}, namespace))], [])
            for function, name in sorted({pair for one in pickled.values() for pair in one.assigned_elsewhere}):
                reason = "%s assigns it, whose variables are not the notebook's: others do not see that" % function
                left_out.append(LeftOut("%s of %s" % (name, function), "global variable", reason, "%run -i its file"))
            reason, hint = "it is too long", "its functions travel without it"
            left_out += [LeftOut(name, "source of code", reason, hint) for name in too_long]
            blobs.finish()
        manifest = json.dumps(
            {
                "version": VERSION,
                "python": "%d.%d.%d" % sys.version_info[:3],
                "cloudpickle": cloudpickle.__version__,
                "packs": [
                    {
                        "groups": [names for names, *_ in groups],
                        "sizes": [size for _, size, *_ in groups],
                        "blob": content.digest,
                        "buffers": [[buffer.digest, buffer.size] for buffer in buffers],
                    }
                    for groups, buffers, content in packs
                ],
                "modules": modules,
                "left_out": [one._asdict() for one in left_out],
                **({"spare": [{"names": one.names, "data": one.data} for one in unsent]} if unsent else {}),
                **context,
            },
            sort_keys=True,
        )
        sent = [
            SentGroup(names, views, own or content.digest, [buffer.digest for buffer in buffers])
            for groups, buffers, content in packs
            for names, _, views, own in groups
        ]
        written = _write(os.path.join(state, "manifests"), memoryview(manifest.encode()))
        return Snapshot(written, manifest, left_out, sent + unsent)
    except OSError as error:
        raise _not_written(error) from None
    finally:
        for unstored in [key for key, known in _texts.items() if not known.content.digest]:
            _texts.pop(unstored, None)


def with_context(state: str, digest: str, **context: Any) -> Snapshot:
    """A snapshot that is in the state folder, with more in its manifest.

    Raises:
        SnapshotError: it is missing, or the folder cannot be written.
    """
    manifest = json.dumps({**read_manifest(state, digest), **context}, sort_keys=True)
    try:
        return Snapshot(_write(os.path.join(state, "manifests"), memoryview(manifest.encode())), manifest, [], [])
    except OSError as error:
        raise _not_written(error) from None


def scan(values: dict[str, Any], namespace: dict[str, Any]) -> _Pickler | None:
    """Pickle a group to nowhere, and return what did; None where it cannot be pickled."""
    arrays: frozenset[int] = frozenset()
    while True:
        try:
            pickler = run_pickler(values, namespace, None, arrays)
        except Exception:
            return None
        shared = frozenset(owner for owner, views in pickler.arrays.items() if len(views) > 1)
        if shared <= arrays:
            return pickler
        arrays |= shared


def dumps(value: Any, namespace: dict[str, Any]) -> bytes:
    """A value by itself, pickled as a variable is."""
    one = _pickle({"": value}, namespace)
    return pickle.dumps((one.data, [bytes(content.raw) for content in one.buffers]), protocol=5)


def loads(data: bytes, namespace: dict[str, Any]) -> Any:
    """The value that `dumps` gave; functions of the notebook run in `namespace`."""
    _target[0] = namespace
    pickled, buffers = pickle.loads(data)
    return pickle.loads(pickled, buffers=[bytearray(one) for one in buffers])[""]


def objects_in(value: Any, namespace: dict[str, Any]) -> list[Any]:
    """The objects that would travel with a value, however deep, also those that would by their names."""
    pickler = _Pickler(namespace)
    try:
        pickler.dump(value)
    except Exception:
        pass  # It does not travel; what was seen until then may be used all the same.
    return pickler.objects


def code_in(value: Any, namespace: dict[str, Any]) -> list[types.CodeType]:
    """The code that would travel with a value: that of the notebook's functions and classes in it, however deep."""
    return [part for part in objects_in(value, namespace) if type(part) is types.CodeType]


def _why(name: str, value: Any, error: Exception) -> LeftOut:
    kind = type(value).__qualname__
    if isinstance(error, RecursionError):
        return LeftOut(name, kind, "it is nested too deeply to be pickled", "keep it flatter, or create it in the cell")
    reason = str(error).split("\n")[0] or type(error).__name__
    text = ("%s %s" % (kind, reason)).lower()
    hint = next((hint for word, hint in HINTS.items() if word in text), "create it in the cell")
    return LeftOut(name, kind, reason, hint)


def _why_dropped(dropped: Dropped, variables: dict[str, Any]) -> LeftOut:
    names = [name for name, value in variables.items() if value is dropped.error and not name.startswith("__")]
    owner = names[0] if names else type(dropped.error).__name__
    return _why("%s.%s" % (owner, dropped.part), dropped.value, dropped.reason)


def _not_written(error: OSError) -> SnapshotError:
    return SnapshotError("The state cannot be written: %s." % (error.strerror or error))


class _Blobs:
    """Stores content in a state folder, what is large beside what else is done, and nothing twice."""

    def __init__(self, state: str) -> None:
        self._folder = os.path.join(state, "blobs")
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[_Content] = []
        self._lock = threading.Lock()
        self._names: dict[int, list[str]] | None = None

    def __enter__(self) -> _Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        for content in self._waiting:
            if content.future is not None:
                content.future.cancel()
                content.future = None
        if self._pool is not None:
            self._pool.shutdown()

    def has(self, digest: str, size: int) -> bool:
        return _has(os.path.join(self._folder, digest[7:]), size)

    def store(self, content: _Content) -> None:
        """Begin to store content, if nothing did; its digest is known when `finish` has returned.

        Raises:
            SnapshotError: it cannot be written.
        """
        if content.raw is None or content.future is not None:
            return
        if content.size < LARGE:
            try:
                content.digest, content.raw = _write(self._folder, content.raw), None
            except OSError as error:
                raise _not_written(error) from None
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(2)
        content.future = self._pool.submit(self._store, content)
        self._waiting.append(content)

    def finish(self) -> None:
        """Wait until all is stored; raises SnapshotError where that fails."""
        for content in self._waiting:
            try:
                if content.future is not None:
                    content.future.result()
            except OSError as error:
                raise _not_written(error) from None

    def _store(self, content: _Content) -> None:
        raw = content.raw
        alike = self._alike(content.size)
        likely = [name for name in alike[:_MAX_CANDIDATES] if _similar(os.path.join(self._folder, name), raw)]
        for name in likely[:_MAX_COMPARED]:
            path = os.path.join(self._folder, name)
            if _equal(path, raw) and _has(path, content.size):
                content.digest, content.raw = "sha256:" + name, None
                return
        # What is not there for sure is written while its digest is made.
        new = len(alike) <= _MAX_CANDIDATES and len(likely) <= _MAX_COMPARED
        content.digest = _write(self._folder, raw, new)
        content.raw = None
        with self._lock:
            alike.insert(0, content.digest[7:])

    def _alike(self, size: int) -> list[str]:
        """The names of the blobs of a size, the newest first."""
        with self._lock:
            if self._names is None:
                self._names = {}
                found = []
                try:
                    found = [(entry.stat(), entry.name) for entry in os.scandir(self._folder)]
                except OSError:
                    pass
                for status, name in sorted(found, key=lambda pair: -pair[0].st_mtime_ns):
                    if len(name) == 64:
                        self._names.setdefault(status.st_size, []).append(name)
            return self._names.setdefault(size, [])


def is_stored(state: str, digest: str, content: _Content) -> bool:
    """Whether the content is what a state folder has under a digest."""
    return content.size >= LARGE and _equal(os.path.join(state, "blobs", digest[7:]), content.raw)


def _similar(path: str, raw: memoryview) -> bool:
    """Whether a file has the same content where it is quick to see: at its beginning, middle and end."""
    last = (raw.nbytes - 1) // _CHUNK * _CHUNK
    starts = (0, last // 2 // _CHUNK * _CHUNK, last)
    return all(_equal_part(path, raw, start, min(start + _CHUNK, raw.nbytes)) for start in starts)


def _equal(path: str, raw: memoryview) -> bool:
    """Whether a file has the same content."""
    size = raw.nbytes
    middle = size // 2 // _CHUNK * _CHUNK
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(_equal_part(path, raw, middle, size)))
    other.start()
    try:
        found.append(_equal_part(path, raw, 0, middle))
    finally:
        other.join()
    return found == [True, True]


def _equal_part(path: str, raw: memoryview, start: int, stop: int) -> bool:
    chunk = bytearray(_CHUNK)  # Not a memoryview: that compares item by item.
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            for offset in range(start, stop, _CHUNK):
                if stop - offset < _CHUNK:
                    del chunk[stop - offset :]
                if file.readinto(chunk) != len(chunk) or chunk != raw[offset : offset + len(chunk)]:
                    return False
    except OSError:
        return False
    return True


def _has(path: str, size: int) -> bool:
    """Whether a file is there, and whole; it is then as good as just written."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    if status.st_mtime < time.time() - _RECENT_SECONDS:
        try:
            os.utime(path)
        except OSError:
            pass  # Another user's.
    return status.st_size == size


def digest(raw: Any) -> str:
    """The name of content: its sha256."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _write(folder: str, raw: memoryview, new: bool = False) -> str:
    """Store bytes under their digest, atomically; what is there already is not written again.

    Args:
        new: they are known not to be there, so that there is no need to wait for the digest.
    """
    digests: list[str] = []
    if not new:
        digests.append(digest(raw))
        if _has(os.path.join(folder, digests[0][7:]), raw.nbytes):
            return digests[0]
    hasher = threading.Thread(target=lambda: digests.append(digest(raw)))
    os.makedirs(folder, exist_ok=True)
    # Not the process's id: jobs that write to one volume at once have the same.
    fresh = os.path.join(folder, os.urandom(8).hex() + ".new")
    try:
        if new:
            hasher.start()
        try:
            with open(fresh, "wb", buffering=0) as file:
                written = 0
                while written < raw.nbytes:
                    written += file.write(raw[written:])
        finally:
            if new:
                hasher.join()
        os.replace(fresh, os.path.join(folder, digests[0][7:]))
    except BaseException:
        try:
            os.unlink(fresh)
        except OSError:
            pass
        raise
    return digests[0]


def _read(state: str, folder: str, digest: str) -> bytearray:
    """Read what was stored under a digest, and make sure that it is still that."""
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise SnapshotError("%r is no digest." % digest)
    path = os.path.join(state, folder, digest[7:])
    try:
        with open(path, "rb") as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(data)
    except OSError as error:
        raise SnapshotError("The state's %s cannot be read: %s." % (digest[:19], error.strerror)) from None
    if hashlib.sha256(data).hexdigest() != digest[7:]:
        raise SnapshotError("The state's %s was changed after it was written; it is not used." % digest[:19])
    return data


def read_manifest(state: str, digest: str) -> dict[str, Any]:
    """The manifest of a given digest.

    Raises:
        SnapshotError: it is missing, or was changed.
    """
    manifest: dict[str, Any] = json.loads(bytes(_read(state, "manifests", digest)))
    if manifest.get("version") != VERSION:
        raise SnapshotError("The state has version %r, and only %d can be read." % (manifest.get("version"), VERSION))
    return manifest


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, number: Any) -> Any:
        from docker_kernel.guest.merge import referred

        return referred(number)


class _Shown:
    """Variables that can be seen in a namespace while others are restored, whose classes' code may use them."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._added: dict[str, Any] = {}

    def add(self, values: dict[str, Any]) -> None:
        for name in values.keys() - self._namespace.keys():
            self._namespace[name] = self._added[name] = values[name]

    def end(self) -> None:
        for name, value in self._added.items():
            if self._namespace.get(name, self) is value:
                del self._namespace[name]


OnGroup = Callable[[int, "dict[str, Any]", Any, "list[tuple[str, int]]"], None]


def restore(
    state: str,
    manifest: dict[str, Any],
    namespace: dict[str, Any],
    names: Iterable[str] | None = None,
    on_group: OnGroup | None = None,
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Read the variables of a manifest; every blob is checked against its digest before it is unpickled.

    Args:
        namespace: where restored functions find their globals. It is not filled here.
        names: restore only the groups that hold one of these; None for all.
        on_group: is called with each group: its number in the manifest, its variables, the memo of its pickle, and the
            digest and size of each buffer.

    Returns:
        The variables, and those that could not be restored, with the reason.

    Raises:
        SnapshotError: a blob is missing or was changed.
    """
    found: dict[str, Any] = {}
    failed: list[LeftOut] = []
    wanted = None if names is None else {*names, sources.NAME}
    for name, module in manifest["modules"].items():
        if wanted is None or name in wanted:
            try:
                found[name] = importlib.import_module(module)
            except Exception as error:
                failed.append(LeftOut(name, "module", str(error), "install it where the job runs"))
    _target[0] = namespace
    shown = _Shown(namespace)
    shown.add(found)
    again: list[tuple[int, memoryview, list[str], Any, Any]] = []
    number = -1

    def load(this: int, group: memoryview, names_here: list[str], buffers: Any, sizes: Any) -> str:
        """Read a group; returns why it cannot be."""
        try:
            unpickler = _Unpickler(io.BytesIO(group), buffers=buffers)
            values = unpickler.load()
            found.update(values)
            shown.add(values)
            if on_group is not None:
                on_group(this, values, unpickler.memo, sizes)
            return ""
        except Exception as error:
            return "%s: %s" % (type(error).__name__, error)

    for pack in manifest["packs"]:
        first, number = number + 1, number + len(pack["groups"])
        if wanted is not None and not any(wanted.intersection(names) for names in pack["groups"]):
            continue
        data = memoryview(_read(state, "blobs", pack["blob"]))
        buffers = [_read(state, "blobs", digest) for digest, _ in pack["buffers"]]
        for this, (names_here, size) in enumerate(zip(pack["groups"], pack["sizes"]), first):
            group, data = data[:size], data[size:]
            if wanted is not None and not wanted.intersection(names_here):
                continue
            if load(this, group, names_here, buffers, pack["buffers"]):
                again.append((this, group, names_here, buffers, pack["buffers"]))
    # What is read by code of the notebook may need variables that came later.
    reasons: list[str] = []
    while again:
        before, reasons = again, [load(*one) for one in again]
        again = [one for one, reason in zip(before, reasons) if reason]
        if len(again) == len(before):
            break
    for (_, _, names_here, *_), reason in zip(again, filter(None, reasons)):
        hint = HINTS["cuda"] if "cuda" in reason.lower() else "is its package installed there?"
        failed += [LeftOut(name, "", reason, hint) for name in names_here]
    shown.end()
    sources.restore(found.pop(sources.NAME, {}))
    return found, failed
