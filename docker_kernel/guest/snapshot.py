"""Capture and restore of a kernel's state: groups of variables that share objects, in content-addressed blobs.

A state folder (the kernel volume) has `blobs/` and `manifests/`; each file is named by its content's sha256. A group is
one protocol-5 pickle whose large buffers are blobs of their own (PEP 574). Variables that share a mutable object are in
one group, so that aliases survive; an unchanged group is never written again; a variable that cannot be pickled costs
only itself. Tiny groups share a few blobs, as thousands of files would cost more than what they save.
"""

from __future__ import annotations

import datetime
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
import types
import weakref
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple

import cloudpickle

VERSION = 1
OUT_OF_BAND = 1 << 16
"""Bytes from which a buffer becomes a blob of its own; smaller ones are cheaper inside the pickle."""

_ATOMS = frozenset(
    {
        str, bytes, int, float, complex, bool, type(None), range, slice, type, types.ModuleType, tuple, frozenset,
        property, classmethod, staticmethod, types.MappingProxyType, types.BuiltinFunctionType, types.FunctionType,
        types.CodeType, types.GenericAlias, datetime.timezone, datetime.timedelta,
    }
)  # fmt: skip
"""Immutable, or a shell around what is in the memo, too. A notebook's own functions link groups by `memory`."""

_ATOM_MODULES = ("typing", "dataclasses")
_CACHED = type(functools.lru_cache(None)(len))

TINY = 1 << 10
"""Bytes up to which a group goes into a blob with others: one of 16, chosen by its first name."""

HINTS = {
    "generator": "make it a list, or create it in the cell",
    "coroutine": "await it first",
    "lock": "create it in the cell",
    "file": "open it in the cell",
    "connection": "connect in the cell",
    "socket": "connect in the cell",
    "thread": "start it in the cell",
    "weakref": "keep the object itself",
}


class SnapshotError(Exception):
    """A snapshot cannot be written, or what is read is not what was written."""


class LeftOut(NamedTuple):
    """A variable that cannot travel, and why."""

    name: str
    type: str
    reason: str
    hint: str


class Snapshot(NamedTuple):
    """A captured state: its manifest as it is stored, the manifest's digest, and what it left out."""

    digest: str
    manifest: str
    left_out: list[LeftOut]


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


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles a notebook's functions as code that runs in the live namespace, not with a copy of what they use.

    Args:
        namespace: the notebook's; functions whose globals it is are restored with the other side's in its place.
        views: ids of the arrays whose views are to be restored as views of one memory.
        classes: ids of the classes that are variables themselves, and so are brought up to date where they exist.
    """

    def __init__(
        self,
        file: Any,
        namespace: dict[str, Any],
        buffers: list[Any],
        views: frozenset[int] = frozenset(),
        classes: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=_collector(buffers))
        self._namespace = namespace
        self._views = views
        self._classes = classes
        self._cells: dict[int, _Cell] = {}
        self.memory: set[int] = set()
        """The ids of what the memo does not show: memory of arrays, functions, cells that closures share."""
        self.ignored: set[int] = set()
        """The ids of what belongs to a class: by these, all its instances would be one group."""
        self.arrays: dict[int, set[int]] = {}
        """The ids of the arrays that show the memory of one, by that one's id."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType) and value.__globals__ is self._namespace:
            return self._reduce_function(value)
        if isinstance(value, type):
            return self._reduce_class(value)
        if type(value) is _Cell:
            return types.CellType, ()
        if type(value) is _CACHED and getattr(value.__wrapped__, "__globals__", None) is self._namespace:
            parameters = value.cache_parameters()
            return _make_cached, (value.__wrapped__, parameters["maxsize"], parameters["typed"])
        if isinstance(value, BaseException) and type(value).__reduce__ is BaseException.__reduce__:
            return _make_exception, (type(value), value.args), value.__dict__ or None
        if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
            raise pickle.PicklingError("it is an open file")
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(value) is numpy.ndarray:
            owner = value
            while type(owner.base) is numpy.ndarray:
                owner = owner.base
            self.memory.add(id(owner if owner.base is None else owner.base))
            # The memory of objects cannot be shown by another array, and that of permuted axes is pickled in order.
            if not owner.dtype.hasobject and owner.flags.forc:
                self.arrays.setdefault(id(owner), set()).add(id(value))
                if owner is not value and id(owner) in self._views:
                    return _reduce_view(value, owner)
        return super().reducer_override(value)

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
        return _make_function, (function.__code__, function.__name__, shells), state, None, None, _fill_function

    def _reduce_class(self, cls: type) -> Any:
        reduced = super().reducer_override(cls)
        if not isinstance(reduced, tuple) or len(reduced) < 6:
            return reduced
        _complete.add(cls)
        for name, part in list(vars(cls).items()):
            if isinstance(part, property):
                for function in (part.fget, part.fset, part.fdel):
                    self._ignore(function)
            elif isinstance(part, (classmethod, staticmethod, types.FunctionType, _CACHED)):
                self._ignore(getattr(part, "__func__", part))
            elif name.startswith("__") and name.endswith("__"):
                self.ignored.add(id(part))
        make, arguments, state, _, _, setter = reduced
        return make, arguments, (setter, state, id(cls) in self._classes), None, None, _fill_class

    def _ignore(self, part: Any) -> None:
        """Let a method link no groups; one that a library made for the class (a dataclass's), nothing in it either."""
        if id(part) in self.ignored:
            return
        self.ignored.add(id(part))
        if isinstance(part, types.FunctionType):
            cells = part.__closure__ or ()
            self.ignored.update(map(id, cells))
            if part.__globals__ is not self._namespace:
                self.ignored.update((id(part.__dict__), id(part.__annotations__)))
                for cell in cells:
                    self._ignore(cell.cell_contents)


def _collector(buffers: list[Any]) -> Callable[[pickle.PickleBuffer], bool]:
    def collect(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    return collect


_target: list[dict[str, Any]] = [{}]
"""The namespace in which restored functions run; `restore` says which."""


def _make_function(code: types.CodeType, name: str, cells: tuple[types.CellType, ...]) -> types.FunctionType:
    return types.FunctionType(code, _target[0], name, None, cells or None)


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


def _make_cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


_complete: weakref.WeakSet[type] = weakref.WeakSet()
"""The notebook's classes that this process has, made here or restored."""


def _fill_class(cls: type, content: tuple[Any, Any, bool]) -> None:
    """Give a restored class its attributes: not where it exists, with changes of its own perhaps, and only came along
    with an instance."""
    setter, state, update = content
    if update or cls not in _complete:
        setter(cls, state)
        _complete.add(cls)


def _make_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception as it was: calling its class with its args fails where __init__ takes others."""
    return kind.__new__(kind, *args)


def _reduce_view(view: Any, owner: Any) -> Any:
    offset = view.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return _make_view, (owner, offset, view.shape, view.strides, view.dtype, view.flags.writeable)


def _make_view(owner: Any, offset: int, shape: Any, strides: Any, dtype: Any, writeable: bool) -> Any:
    numpy = importlib.import_module("numpy")
    view: Any = numpy.ndarray(shape, dtype, owner.ravel(order="K"), offset, strides)
    if not writeable:
        view.flags.writeable = False
    return view


class _Pickled(NamedTuple):
    data: bytes
    buffers: list[Any]
    shared: set[int]
    arrays: dict[int, set[int]]
    keep: Any


def _pickle(values: dict[str, Any], namespace: dict[str, Any], views: frozenset[int] = frozenset()) -> _Pickled:
    file = io.BytesIO()
    buffers: list[Any] = []
    classes = frozenset(id(value) for value in values.values() if isinstance(value, type))
    pickler = _Pickler(file, namespace, buffers, views, classes)
    pickler.dump(values)
    # The memo keeps temporary objects alive, so that no id in it is another object's, too.
    memo = pickler.memo.copy()
    atoms = {kind for kind in {type(value) for _, value in memo.values()} if _is_atom(kind)}
    shared = {key for key, (_, value) in memo.items() if type(value) not in atoms}
    shared = (shared | pickler.memory) - pickler.ignored - {id(values)}
    return _Pickled(file.getvalue(), buffers, shared, pickler.arrays, (memo, values))


def _is_atom(kind: type) -> bool:
    """Whether it makes no difference that two variables hold the same object of a type, or equal ones."""
    if kind in _ATOMS or issubclass(kind, (type, enum.Enum)) or kind.__module__ in _ATOM_MODULES:
        return True
    return any(base.__name__ == "dtype" for base in kind.__mro__)


def _pickle_group(
    names: list[str], pickled: dict[str, _Pickled], variables: dict[str, Any], namespace: Any
) -> _Pickled:
    """What is stored for a group: together where it has several variables or arrays that share memory."""
    arrays: dict[int, set[int]] = {}
    for name in names:
        for owner, views in pickled[name].arrays.items():
            arrays.setdefault(owner, set()).update(views)
    shared = frozenset(owner for owner, views in arrays.items() if len(views) > 1)
    if len(names) == 1 and not shared:
        return pickled[names[0]]
    return _pickle({name: variables[name] for name in names}, namespace, shared)


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


def capture(variables: dict[str, Any], namespace: dict[str, Any], state: str, **context: Any) -> Snapshot:
    """Write variables to a state folder.

    Args:
        variables: what to capture, by name.
        namespace: the notebook's namespace, which its functions run in.
        state: the state folder.
        context: what else the manifest is to hold (JSON values).

    Raises:
        SnapshotError: the folder cannot be written; the message says why.
    """
    modules: dict[str, str] = {}
    left_out: list[LeftOut] = []
    pickled: dict[str, _Pickled] = {}
    for name, value in variables.items():
        if isinstance(value, types.ModuleType) and value.__spec__ and sys.modules.get(value.__name__) is value:
            modules[name] = value.__name__
            continue
        try:
            pickled[name] = _pickle({name: value}, namespace)
        except Exception as error:
            left_out.append(_why(name, value, error))
    packs = []
    tiny: dict[str, list[tuple[list[str], bytes]]] = {}
    try:
        for group in _groups(pickled):
            try:
                one = _pickle_group(group, pickled, variables, namespace)
            except Exception as error:
                left_out += [_why(name, variables[name], error) for name in group]
                continue
            if len(one.data) <= TINY and not one.buffers:
                key = hashlib.sha256(group[0].encode(errors="surrogatepass")).hexdigest()[0]
                tiny.setdefault(key, []).append((group, one.data))
            else:
                packs.append(_write_pack(state, [(group, one.data)], one.buffers))
        packs += [_write_pack(state, tiny[key], []) for key in sorted(tiny)]
        manifest = json.dumps(
            {
                "version": VERSION,
                "python": "%d.%d.%d" % sys.version_info[:3],
                "cloudpickle": cloudpickle.__version__,
                "packs": packs,
                "modules": modules,
                "left_out": [one._asdict() for one in left_out],
                **context,
            },
            sort_keys=True,
        )
        digest = _write(state, "manifests", manifest.encode())
    except OSError as error:
        raise SnapshotError("The state cannot be written: %s." % (error.strerror or error)) from None
    return Snapshot(digest, manifest, left_out)


def fingerprints(variables: dict[str, Any], namespace: dict[str, Any]) -> dict[str, str]:
    """What tells whether a variable's content changed within this process; without those that cannot be pickled."""
    found = {}
    for name, value in variables.items():
        if isinstance(value, types.ModuleType):
            continue
        try:
            one = _pickle({name: value}, namespace)
        except Exception:
            continue
        digest = hashlib.sha256(one.data)
        for raw in one.buffers:
            digest.update(raw)
        found[name] = digest.hexdigest()
    return found


def _why(name: str, value: Any, error: Exception) -> LeftOut:
    kind = type(value).__qualname__
    if isinstance(error, RecursionError):
        return LeftOut(name, kind, "it is nested too deeply to be pickled", "keep it flatter, or create it in the cell")
    reason = str(error).split("\n")[0] or type(error).__name__
    text = ("%s %s" % (kind, reason)).lower()
    hint = next((hint for word, hint in HINTS.items() if word in text), "create it in the cell")
    return LeftOut(name, kind, reason, hint)


def _write_pack(state: str, groups: list[tuple[list[str], bytes]], buffers: list[Any]) -> dict[str, Any]:
    return {
        "groups": [names for names, _ in groups],
        "sizes": [len(data) for _, data in groups],
        "blob": _write(state, "blobs", b"".join(data for _, data in groups)),
        "buffers": [[_write(state, "blobs", raw), raw.nbytes] for raw in buffers],
    }


def _write(state: str, folder: str, data: Any) -> str:
    """Store bytes under their digest, atomically; what is there already is not written again."""
    digest = hashlib.sha256(data).hexdigest()
    path = os.path.join(state, folder, digest)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # Not the process's id: jobs that write to one volume at once have the same.
        fresh = "%s.%s.new" % (path, os.urandom(8).hex())
        try:
            with open(fresh, "wb") as file:
                file.write(data)
            os.replace(fresh, path)
        except BaseException:
            try:
                os.unlink(fresh)
            except OSError:
                pass
            raise
    return "sha256:" + digest


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


def restore(
    state: str, manifest: dict[str, Any], namespace: dict[str, Any], names: Iterable[str] | None = None
) -> tuple[dict[str, Any], list[LeftOut]]:
    """Read the variables of a manifest; every blob is checked against its digest before it is unpickled.

    Args:
        namespace: where restored functions find their globals. It is not filled here.
        names: restore only the groups that hold one of these; None for all.

    Returns:
        The variables, and those that could not be restored, with the reason.

    Raises:
        SnapshotError: a blob is missing or was changed.
    """
    found: dict[str, Any] = {}
    failed: list[LeftOut] = []
    wanted = None if names is None else set(names)
    for name, module in manifest["modules"].items():
        if wanted is None or name in wanted:
            try:
                found[name] = importlib.import_module(module)
            except Exception as error:
                failed.append(LeftOut(name, "module", str(error), "install it where the job runs"))
    _target[0] = namespace
    for pack in manifest["packs"]:
        if wanted is not None and not any(wanted.intersection(names) for names in pack["groups"]):
            continue
        data = memoryview(_read(state, "blobs", pack["blob"]))
        buffers = [_read(state, "blobs", digest) for digest, _ in pack["buffers"]]
        for names_here, size in zip(pack["groups"], pack["sizes"]):
            group, data = data[:size], data[size:]
            if wanted is not None and not wanted.intersection(names_here):
                continue
            try:
                found.update(pickle.loads(group, buffers=buffers))
            except Exception as error:
                reason = "%s: %s" % (type(error).__name__, error)
                failed += [LeftOut(name, "", reason, "is its package installed there?") for name in names_here]
    return found, failed
