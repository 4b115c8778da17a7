"""Capture and restore of a kernel's state: groups of variables that share objects, in content-addressed blobs.

A state folder (the kernel volume) has `blobs/` and `manifests/`; each file is named by its content's sha256. A group is
one protocol-5 pickle whose large buffers are blobs of their own (PEP 574). Variables that share a mutable object are in
one group, so that aliases survive; an unchanged group is never written again; a variable that cannot be pickled costs
only itself. Tiny groups share a few blobs, as thousands of files would cost more than what they save.

That large content is unchanged is found by comparing it with the blobs of its size, which is several times faster than
a digest and as sure: a blob's name is trusted for this, as `restore` checks it against the content anyway.
"""

from __future__ import annotations

import contextlib
import datetime
import dis
import enum
import hashlib
import importlib
import io
import json
import mmap
import os
import pickle
import re
import sys
import types
from collections.abc import Container, Iterable
from itertools import compress
from typing import Any, Callable, NamedTuple

import cloudpickle

from docker_kernel.guest import (
    arrays,
    blob_files,
    caches,
    callbacks,
    classes,
    closed_files,
    deep,
    enums,
    frames,
    functools_objects,
    generators,
    instances,
    matches,
    mocks,
    module_objects,
    pure_pickler,
    sources,
    widget_values,
)
from docker_kernel.guest.blob_files import Blobs, Content, SnapshotError, not_written
from docker_kernel.guest.exceptions import Dropped, Exceptions
from docker_kernel.guest.mapped_files import Mapper

VERSION = 1
OUT_OF_BAND = 1 << 16
"""Bytes from which a buffer becomes a blob of its own; smaller ones are cheaper inside the pickle."""


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
        data: the digest of its pickle, of `size` bytes; buffers: the digests of what is stored apart from that.
    """

    names: list[str]
    views: frozenset[int]
    data: str
    buffers: list[str]
    size: int = 0


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


class _Marker(bytearray):
    """Stands for content in a PickleBuffer."""

    def __init__(self, content: Content) -> None:
        super().__init__(1)
        self.content = content


class _File:
    """What a pickler writes to: large bytes and bytearrays do not become part of the pickle, but buffers.

    A pickler hands them over as they are, after their opcode and size; in the pickle, these give way to a call of their
    type with the next buffer.
    """

    def __init__(self, buffers: list[Content]) -> None:
        self._file = io.BytesIO()
        self._buffers = buffers

    def write(self, data: Any) -> None:
        if type(data) in (bytes, bytearray) and len(data) >= OUT_OF_BAND:
            with self._file.getbuffer() as written:
                head = bytes(written[-9:])
            size = len(data).to_bytes(8, "little")
            if type(data) is bytearray:
                length, instead = 9, b"cbuiltins\nbytearray\n" + pickle.NEXT_BUFFER + pickle.TUPLE1 + pickle.REDUCE
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
                self._buffers.append(Content(memoryview(data), settled=True))
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
        blobs: Blobs | None = None,
        views: frozenset[int] = frozenset(),
        classes: frozenset[int] = frozenset(),
        refusals: dict[int, Exception | None] | None = None,
        with_results: bool = True,
    ) -> None:
        self.buffers: list[Content] = []
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
        self._mocks, self._frames = mocks.kinds(), frames.kinds()
        self._callbacks = callbacks.kinds()
        self._instances = instances.Instances(namespace, lambda content: scan({"": content}, namespace) is not None)
        self._refusals = refusals
        self._with_results = with_results
        self.exceptions = Exceptions(None if refusals is None else self._refusal)

    def reducer_override(self, value: Any) -> Any:
        if self._mocks and issubclass(type(value), self._mocks):
            return mocks.reduce(value)
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
        if type(value) is re.Match:
            return matches.reduce(value)
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
        if self._callbacks and issubclass(type(value), self._callbacks):
            return callbacks.reduce(value)
        if self._frames and issubclass(type(value), self._frames):
            return frames.reduce(value)
        if module == "pandas":
            reduced = self._reduce_pandas(value)
            if isinstance(value, getattr(sys.modules.get("pandas"), "Index", ())):
                reduced = instances.with_added(value, reduced)
            if reduced is not None:
                return reduced
        if type(value) is classes.NEW_TYPE and value.__module__ == "__main__":
            return classes.make_new_type, (value.__name__, value.__supertype__)
        reduced = self._instances.reduce(value)
        return super().reducer_override(value) if reduced is None else reduced

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
                return arrays.reduce_view(array, owner)
        if array.dtype.kind == "O" and array.size >= arrays.MANY_OBJECTS and array.ndim:
            content = arrays.packed_texts(numpy, array, owner, self._blobs)
            if content is not None:
                marker = pickle.PickleBuffer(_Marker(content))
                return arrays.make_texts, (marker, array.shape, "F" if array.flags.fnc else "C")
        return super().reducer_override(array)

    def _reduce_array_child(self, numpy: Any, array: Any) -> Any:
        is_file = isinstance(array, numpy.memmap)
        if is_file and array.mode in ("r+", "w+") and array._mmap is not None:
            raise pickle.PicklingError("it is an open file, which it writes to")
        if not arrays.is_plain_array(type(array)):
            return instances.with_added(array, super().reducer_override(array))
        attributes = None if is_file else dict(vars(array))
        return arrays.make_array, (array.view(numpy.ndarray), type(array)), attributes, None, None, arrays.fill_array

    def _owner(self, array: Any) -> Any:
        """The array whose memory an array shows."""
        return arrays.memory_owner(array)

    def digest(self) -> str:
        """Of what it has pickled, apart from the buffers."""
        return blob_files.digest(self.file.value())

    def _reduce_storage(self, value: Any) -> Any:
        torch = sys.modules["torch"]
        if type(value) is torch.storage.TypedStorage:
            storage = value._untyped_storage
            if storage.device.type == "cpu" and storage.nbytes():
                return arrays.make_typed_storage, (self._storages.setdefault(storage.data_ptr(), storage), value.dtype)
        elif type(value) is torch.UntypedStorage and value.device.type == "cpu" and value.nbytes():
            self.memory.add(value.data_ptr())
            tensor = torch.empty(0, dtype=torch.uint8).set_(value)
            try:
                return arrays.make_storage, (pickle.PickleBuffer(tensor.numpy()),)
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
        return (arrays.make_sharing, (make, arguments, sharing, part, add), *more)

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
        classes.complete.add(cls)
        self.classes.append(cls)
        for name, part in list(vars(cls).items()):
            if isinstance(part, property):
                self.ignored.add(id(part))
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
            members = enums.members(cls)
            arguments = (*arguments[:3], members, *arguments[4:])
            for name in members:
                state[0].pop(name, None)
        elif "__slots__" in vars(cls) and not issubclass(cls, tuple):
            # cloudpickle makes a class without them, whose objects then take any attribute.
            arguments = (*arguments[:3], {**arguments[3], "__slots__": cls.__slots__}, *arguments[4:])  # type: ignore[attr-defined]
        content = (setter, state, self._is_update(cls), classes.member_attributes(cls))
        return classes.make_class, (make, arguments), content, None, None, classes.fill_class

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


def _collector(buffers: list[Content], blobs: Blobs | None) -> Callable[[pickle.PickleBuffer], bool]:
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
            content = Content(raw, settled=getattr(raw.obj, "base", None) is None)
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


class _Pickled(NamedTuple):
    data: bytes
    buffers: list[Content]
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
    blobs: Blobs | None = None,
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
    blobs: Blobs | None = None,
    views: frozenset[int] = frozenset(),
    make: MakePickler = _Pickler,
) -> _Pickler:
    """Pickle variables, and return what did: if need be with more room on the stack, without the results that cached
    functions keep, and without the attributes of exceptions that cannot be pickled."""
    try:
        return _run_pickler(values, namespace, blobs, views, make)
    except Exception as error:
        if not deep.is_too_deep(error):
            raise
    try:
        with deep.room():
            return _run_pickler(values, namespace, blobs, views, pure_pickler.pure(make) if deep.PURE else make)
    except Exception as error:
        if not deep.is_too_deep(error):
            raise
    return _run_pickler(values, namespace, blobs, views, make, to_the_end=True)


def _run_pickler(
    values: dict[str, Any],
    namespace: dict[str, Any],
    blobs: Blobs | None,
    views: frozenset[int],
    make: MakePickler,
    to_the_end: bool = False,
) -> _Pickler:
    """The same with the room that there is.

    Args:
        to_the_end: leave out parts also where they are nested too deeply.
    """
    classes = frozenset(id(value) for value in values.values() if isinstance(value, type))
    pickler = make(namespace, blobs, views, classes)
    try:
        pickler.dump(values)
        return pickler
    except SnapshotError:
        raise
    except Exception as error:
        kinds = set(map(type, pickler.objects))
        failed = any(issubclass(kind, BaseException) for kind in kinds)
        if (not failed and caches.CACHED not in kinds) or (deep.is_too_deep(error) and not to_the_end):
            raise
    pickler = make(namespace, blobs, views, classes, refusals={} if failed else None, with_results=False)
    pickler.dump(values)
    too_deep = [one.reason for one in pickler.exceptions.dropped if deep.is_too_deep(one.reason)]
    if too_deep and not to_the_end:
        raise too_deep[0]
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
    blobs: Blobs,
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
    packs: list[tuple[list[tuple[list[str], int, frozenset[int], str]], list[Content], Content]] = []
    tiny: dict[str, list[tuple[list[str], _Pickled]]] = {}
    unsent: list[SentGroup] = []

    def pack(groups: list[tuple[list[str], _Pickled]], buffers: list[Content]) -> None:
        data = groups[0][1].data if len(groups) == 1 else b"".join(one.data for _, one in groups)
        content = Content(memoryview(data), settled=True)
        for one in (content, *buffers):
            blobs.store(one)
        # One that is alone in its blob has that one's digest.
        known = [
            (names, len(one.data), one.views, blob_files.digest(one.data) if len(groups) > 1 else "")
            for names, one in groups
        ]
        packs.append((known, buffers, content))

    try:
        with Blobs(state) as blobs:
            for name, value in variables.items():
                if _is_importable(value):
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
                    unsent.append(SentGroup(group, joined.views, blob_files.digest(joined.data), []))
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
            SentGroup(names, views, own or content.digest, [buffer.digest for buffer in buffers], size)
            for groups, buffers, content in packs
            for names, size, views, own in groups
        ]
        written = blob_files.write(os.path.join(state, "manifests"), memoryview(manifest.encode()))
        return Snapshot(written, manifest, left_out, sent + unsent)
    except OSError as error:
        raise not_written(error) from None
    finally:
        for unstored in [key for key, known in arrays.texts.items() if not known.content.digest]:
            arrays.texts.pop(unstored, None)


def _is_importable(value: Any) -> bool:
    """Whether it is a module that is imported. Not by `isinstance`: what cffi makes of a library says so, too."""
    is_module = issubclass(type(value), types.ModuleType)
    return is_module and bool(value.__spec__) and sys.modules.get(value.__name__) is value


def with_context(state: str, digest: str, **context: Any) -> Snapshot:
    """A snapshot that is in the state folder, with more in its manifest.

    Raises:
        SnapshotError: it is missing, or the folder cannot be written.
    """
    manifest = json.dumps({**read_manifest(state, digest), **context}, sort_keys=True)
    try:
        return Snapshot(
            blob_files.write(os.path.join(state, "manifests"), memoryview(manifest.encode())), manifest, [], []
        )
    except OSError as error:
        raise not_written(error) from None


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
    except Exception as error:
        # It does not travel; what was seen until then may be used all the same.
        if deep.is_too_deep(error):
            pickler = pure_pickler.pure(_Pickler)(namespace) if deep.PURE else _Pickler(namespace)
            with deep.room(), contextlib.suppress(Exception):
                pickler.dump(value)
    return pickler.objects


def code_in(value: Any, namespace: dict[str, Any]) -> list[types.CodeType]:
    """The code that would travel with a value: that of the notebook's functions and classes in it, however deep."""
    return [part for part in objects_in(value, namespace) if type(part) is types.CodeType]


def _why(name: str, value: Any, error: Exception) -> LeftOut:
    kind = type(value).__qualname__
    if deep.is_too_deep(error):
        reason = "it is nested too deeply to be pickled, or makes new objects without end when it is"
        return LeftOut(name, kind, reason, "keep it flatter, or create it in the cell")
    reason = str(error).split("\n")[0] or type(error).__name__
    text = ("%s %s" % (kind, reason)).lower()
    hint = next((hint for word, hint in HINTS.items() if word in text), "create it in the cell")
    return LeftOut(name, kind, reason, hint)


def _why_dropped(dropped: Dropped, variables: dict[str, Any]) -> LeftOut:
    names = [name for name, value in variables.items() if value is dropped.error and not name.startswith("__")]
    owner = names[0] if names else type(dropped.error).__name__
    return _why("%s.%s" % (owner, dropped.part), dropped.value, dropped.reason)


def read_manifest(state: str, digest: str) -> dict[str, Any]:
    """The manifest of a given digest.

    Raises:
        SnapshotError: it is missing, or was changed.
    """
    manifest: dict[str, Any] = json.loads(bytes(blob_files.read(state, "manifests", digest)))
    if manifest.get("version") != VERSION:
        raise SnapshotError("The state has version %r, and only %d can be read." % (manifest.get("version"), VERSION))
    return manifest


class _Unpickler(pickle.Unpickler):
    """One whose `persistent_load` can be set."""


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


class Place(NamedTuple):
    """Where a group's pickle is: in which blob of a state, and where there.

    Attributes:
        digest: that of the pickle; buffers: their digests and sizes.
    """

    state: str
    blob: str
    start: int
    size: int
    digest: str
    buffers: list[tuple[str, int]]


OnGroup = Callable[[int, "dict[str, Any]", Any, "list[tuple[str, int]]", Place], None]


def restore(
    state: str,
    manifest: dict[str, Any],
    namespace: dict[str, Any],
    names: Iterable[str] | None = None,
    on_group: OnGroup | None = None,
    mapped: bool = False,
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Read the variables of a manifest; every blob is checked against its digest before it is unpickled.

    Args:
        namespace: where restored functions find their globals. It is not filled here.
        names: restore only the groups that hold one of these; None for all.
        on_group: is called with each group: its number in the manifest, its variables, the memo of its pickle, the
            digest and size of each buffer, and where it is.
        mapped: large content need not be copied: its files stay as long as this process.

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
    from docker_kernel.guest.merge import resolver

    _target[0], resolve = namespace, resolver()
    shown = _Shown(namespace)
    shown.add(found)
    again: list[tuple[int, memoryview, list[str], Any, Place]] = []

    def load(this: int, group: memoryview, names_here: list[str], buffers: Any, place: Place) -> str:
        """Read a group; returns why it cannot be."""
        try:
            unpickler = _Unpickler(io.BytesIO(group), buffers=buffers)
            unpickler.persistent_load = resolve  # type: ignore[method-assign]
            values = unpickler.load()
            found.update(values)
            shown.add(values)
            if on_group is not None:
                on_group(this, values, unpickler.memo, place.buffers, place)
            return ""
        except Exception as error:
            return "%s: %s" % (type(error).__name__, error)

    packs: list[tuple[int, Any]] = []
    number = 0
    for pack in manifest["packs"]:
        if wanted is None or any(wanted.intersection(names_here) for names_here in pack["groups"]):
            packs.append((number, pack))
        number += len(pack["groups"])
    with Mapper(state, (one for _, pack in packs for one in pack["buffers"]) if mapped else ()) as mapper:
        # Those come last whose content is being checked meanwhile.
        for number, pack in sorted(packs, key=lambda one: mapper.has_any(one[1]["buffers"])):
            data = memoryview(blob_files.read(state, "blobs", pack["blob"]))
            start = 0
            buffers = [mapper.take(digest) or blob_files.read(state, "blobs", digest) for digest, _ in pack["buffers"]]
            for this, (names_here, size) in enumerate(zip(pack["groups"], pack["sizes"]), number):
                group, begin, start = data[start : start + size], start, start + size
                if wanted is not None and not wanted.intersection(names_here):
                    continue
                own = pack["blob"] if len(pack["groups"]) == 1 else blob_files.digest(group)
                one = (this, group, names_here, buffers, Place(state, pack["blob"], begin, size, own, pack["buffers"]))
                if load(*one):
                    again.append(one)
    # What is read by code of the notebook may need variables that came later.
    reasons: list[str] = []
    while again:
        before, reasons = again, [load(*one) for one in again]
        again = [one for one, reason in zip(before, reasons) if reason]
        if len(again) == len(before):
            break
    for (_, _, names_here, *_), reason in zip(again, filter(None, reasons)):
        hint = HINTS["cuda"] if "cuda" in reason.lower() else "create it in the cell"
        if reason.startswith(
            ("ModuleNotFoundError", "ImportError", "AttributeError: Can't get", "AttributeError: module")
        ):
            hint = "is its package installed there?"
        failed += [LeftOut(name, "", reason, hint) for name in names_here]
    shown.end()
    sources.restore(found.pop(sources.NAME, {}))
    order = [*manifest["modules"], *(name for _, pack in packs for names_here in pack["groups"] for name in names_here)]
    return {name: found[name] for name in order if name in found}, failed


def read_pickle(place: Place) -> memoryview:
    """The pickle of a group.

    Raises:
        SnapshotError: the blob is missing or was changed.
    """
    return memoryview(blob_files.read(place.state, "blobs", place.blob))[place.start : place.start + place.size]


def read_again(place: Place) -> tuple[dict[str, Any], dict[int, Any]]:
    """The variables of a group of plain values, anew, with nothing in their large buffers, and its pickle's memo.

    Raises:
        SnapshotError: the blob is missing or was changed.
    """
    unpickler = pickle.Unpickler(
        io.BytesIO(read_pickle(place)), buffers=[mmap.mmap(-1, size) for _, size in place.buffers]
    )
    values: dict[str, Any] = unpickler.load()
    return values, unpickler.memo.copy()
