"""The values of the user's own modules, those of the workspace, which are state as variables are.

A job imports a module anew, from its file. What is not as the file made it travels among the variables, under its full
name (`config.alpha`, `models.Net.count`), and so by the same groups and rules; what is as the file made it does so only
where it shares objects with what travels, and else is the file's own on the other side. To tell, each module is looked
at when its import has ended. A value is put in its place when the other side imports the module, or at once where it
has: nothing is imported for this.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import os
import sys
import types
import weakref
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from docker_kernel.guest import generators, module_objects, module_reach, snapshot
from docker_kernel.guest.imports import when_any_imported
from docker_kernel.guest.merge import Restored
from docker_kernel.guest.module_links import replace
from docker_kernel.guest.own_files import is_own

NAME = "__docker_kernel_modules__"
"""Under which name it travels among the variables which values are of modules."""

MAX_OBJECTS = 20_000
"""Of how many objects a value may be for its content to be known from the import on; a larger one travels always."""

_DEPTH = 4
"""How deep the content is remembered of a value that cannot be pickled."""

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
_BY_NAME = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_DESCRIPTORS = (types.FunctionType, classmethod, staticmethod, property)
_CONTAINERS = ("builtins", "collections", "array", "numpy")

_PICKLING = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")

_ABSENT = object()


def is_full_name(name: str) -> bool:
    """Whether a name is that of a value of a module, and of no variable."""
    return "." in name


class Sent(NamedTuple):
    """What the other side is told of the modules.

    Attributes:
        values: for each module, the full names of its values that may travel.
        gone: those of what its file made, and is no more.
        rebound: those of what stands in the place of what the file made there.
        uses: for each module that is imported, which others it uses.
    """

    values: dict[str, list[str]]
    gone: dict[str, list[str]]
    rebound: frozenset[str]
    uses: dict[str, list[str]]


class Travelling(NamedTuple):
    """Values that may travel, by their full names.

    Attributes:
        spare: the names of those that need not, unless they share objects with others.
        sent: None where there is nothing to tell.
    """

    values: dict[str, Any]
    spare: frozenset[str]
    sent: Sent | None


class _Mark:
    """A value, as it was when its module had been imported.

    Attributes:
        content: what tells whether it is as it was; None where that it is the same object tells.
    """

    def __init__(self, value: Any, content: Any = None) -> None:
        self.content = content
        self._id = id(value)
        # Held where that costs nothing: only while it lives is no other object of its id.
        self._held: Callable[[], Any] | None = None
        if isinstance(value, _SIMPLE):
            self._held = lambda: value
        else:
            try:
                self._held = weakref.ref(value)
            except TypeError:
                pass

    def is_of(self, value: Any) -> bool:
        if self._held is None:
            return id(value) == self._id
        held = self._held()
        return held is value or (isinstance(value, _SIMPLE) and _same(held, value))


def _same(one: Any, other: Any) -> bool:
    """Whether simple values are equal, of the same type, and not 0.0 and -0.0."""
    return type(one) is type(other) and repr(one) == repr(other)


_OF_GROUP = object()
"""The content of what came with the state: its group tells whether it changes."""


class _TooLarge(Exception):
    pass


class _Bounded(snapshot._Pickler):
    """Gives up at a number of objects."""

    def __init__(self, limit: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        objects, append = self.objects, self.objects.append

        def count(value: Any) -> None:
            append(value)
            if len(objects) > limit:
                raise _TooLarge

        self.persistent_id = count


class WorkspaceModules:
    """This process's.

    Args:
        namespace: the notebook's, in which functions run that travel.
        limit: of how many objects a value may be for its content to be remembered, without large buffers; None for any.
    """

    def __init__(self, namespace: dict[str, Any], limit: int | None = MAX_OBJECTS) -> None:
        self._namespace, self._limit = namespace, limit
        self._marks: dict[str, dict[str, _Mark]] = {}
        self._stamps: dict[str, Any] = {}
        self._mentions: dict[str, set[str]] = {}
        self._waiting: dict[str, dict[str, Any]] = {}
        self._placed: dict[str, list[str]] = {}
        """The full names of what came with the state, by their modules, where these are imported."""
        self._sent = Sent({}, {}, frozenset(), {})
        self._spare: dict[int, dict[str, Any]] = {}
        self._on_group: Callable[[Restored], None] | None = None

    def begin(self) -> None:
        """Look at the modules that are there, and from now on at each when it is imported."""
        for module in list(sys.modules.values()):
            # A module that is to be loaded at its first use would be loaded for any other question.
            known = object.__getattribute__(module, "__dict__") if isinstance(module, types.ModuleType) else {}
            if is_own(known.get("__file__")):
                self._note(module)
        when_any_imported(lambda spec: is_own(spec.origin), self._note)

    def _note(self, module: types.ModuleType) -> None:
        name = module.__name__
        if sys.modules.get(name) is not module or name == "__main__":
            return
        found = list(_attributes(module))
        if name in self._marks:
            # What its file does not make was there when it was loaded again.
            makes = _names_in_code(module)
            found = [one for one in found if one[0][len(name) + 1 :].partition(".")[0] in makes]
        made = {path[len(name) + 1 :]: value for path, value, _ in found if _is_made_by(value, name)}
        module_objects.note(name, made)
        self._stamps[name] = _stamp(module)
        self._mentions[name] = set()
        self._marks[name] = {
            path: _Mark(value, self._content(name, value) if _may_change(value, is_inner) else None)
            for path, value, is_inner in found
        }
        if name in self._placed:
            # It is loaded again, here: what its file makes now is this process's doing.
            for path in self._placed[name]:
                self._marks[name].pop(path, None)
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            self._put(name, waiting, self._sent, as_came=True)
        self._find_spare()

    def _modules(self) -> Iterator[tuple[str, types.ModuleType]]:
        """Those that are imported, and were looked at."""
        for name in list(self._marks):
            module = sys.modules.get(name)
            if isinstance(module, types.ModuleType):
                yield name, module

    # What leaves

    def values(self) -> dict[str, Any]:
        """All that the modules have, by full names."""
        found = {path: value for values in self._waiting.values() for path, value in values.items()}
        found.update({path: value for _, module in self._modules() for path, value, _ in _attributes(module)})
        return found

    def files(self) -> dict[str, str]:
        """The files of the modules that are imported."""
        return {name: str(module.__file__) for name, module in self._modules()}

    def travelling(self, wanted: Container[str] | None = None, without: Iterable[Any] = ()) -> Travelling:
        """What may travel.

        Args:
            wanted: the modules whose values; None for all.
            without: values that stay here.
        """
        excluded = {id(value) for value in without}
        values: dict[str, Any] = {}
        spare: set[str] = set()
        sent = Sent({}, {}, frozenset(), {})
        rebound: set[str] = set()
        for name, module in self._modules():
            if wanted is not None and name not in wanted:
                continue
            found = list(_attributes(module))
            here: dict[str, Any] = {}
            for path, value, is_inner in found:
                if id(value) in excluded and not isinstance(value, (*_SIMPLE, types.ModuleType)):
                    continue
                mark = self._marks[name].get(path)
                if mark is None or not mark.is_of(value):
                    if is_inner and _is_librarys(value):
                        continue
                    here[path] = value
                    rebound.add(path)
                elif mark.content is not None and mark.content is not _OF_GROUP:
                    content = self._content(name, value)
                    if content == mark.content and type(content) is _Parts:
                        continue  # the file makes another one on the other side
                    here[path] = value
                    if content == mark.content:
                        spare.add(path)
            gone = self._gone(name, {path: value for path, value, _ in found})
            if here:
                sent.values[name] = list(here)
            if gone:
                sent.gone[name] = gone
            values.update(here)
            sent.uses[name] = sorted(self._uses(name, module))
        sent = sent._replace(rebound=frozenset(rebound))
        return Travelling(values, frozenset(spare), sent if sent.values or sent.gone else None)

    def differs(self, path: str) -> bool:
        """Whether a value is not as its module's file made it."""
        module, _, _ = self.place(path)
        if module is None:
            return False
        found = {one: value for one, value, _ in _attributes(sys.modules[module])}
        mark = self._marks[module].get(path)
        if path not in found or mark is None or not mark.is_of(found[path]):
            return True
        return mark.content is not None and self._content(module, found[path]) != mark.content

    def stale(self) -> dict[str, Any]:
        """The modules whose files were changed since they were imported, and what tells the files' changes apart."""
        now = {name: _stamp(module) for name, module in self._modules()}
        return {name: (name, stamp) for name, stamp in now.items() if stamp != self._stamps.get(name)}

    def uses(self) -> dict[str, list[str]]:
        """For each module, which others it uses; in a job, also for those that the kernel has imported."""
        return {**self._sent.uses, **{name: sorted(self._uses(name, module)) for name, module in self._modules()}}

    def has(self, module: str) -> bool:
        """Whether a module is imported, and was looked at."""
        return module in self._marks and module in sys.modules

    def came(self, path: str) -> bool:
        """Whether a full name is that of a value that came with the state."""
        return any(path in paths for paths in self._sent.values.values())

    def names(self, modules: Iterable[str]) -> list[str]:
        """The full names of what came with the state of modules."""
        return [path for module in modules for path in self._sent.values.get(module, ())]

    def _uses(self, name: str, module: types.ModuleType) -> set[str]:
        objects: list[Any] = []
        for _, value, _ in _attributes(module):
            value = getattr(value, "__func__", value)
            objects += [value, type(value), *_code(value)]
        found = module_reach.mentioned(objects) | self._mentions.get(name, set())
        found.update(other for other in self._marks if other.startswith(name + "."))
        return {other for other in found if other in self._marks or other == module_reach.ANY} - {name}

    def _gone(self, name: str, found: dict[str, Any]) -> list[str]:
        """What the file made, and its owner has no more."""
        gone = []
        for path in self._marks[name]:
            owner = path.rpartition(".")[0]
            mark = self._marks[name].get(owner)
            if path not in found and (owner == name or (mark is not None and mark.is_of(found.get(owner, _ABSENT)))):
                gone.append(path)
        return gone

    def _content(self, module: str, value: Any) -> Any:
        """What tells whether a value has changed."""
        content, has_generators = self._look(module, value, _DEPTH)
        # Generators of random numbers travel always, to be moved to the streams of their jobs.
        return _Unknown() if has_generators else content

    def _look(self, module: str, value: Any, depth: int) -> tuple[Any, bool]:
        """The same, and whether it can be pickled and has generators of random numbers."""
        make: Any = snapshot._Pickler if self._limit is None else partial(_Bounded, self._limit)
        try:
            with generators.noted() as found:
                pickler = snapshot.run_pickler({"": value}, self._namespace, make=make)
        except _TooLarge:
            return _Unknown(), False
        except Exception:
            return self._parts(module, value, depth), False
        self._mentions[module] |= module_reach.mentioned(pickler.objects)
        if self._limit is not None and pickler.buffers:
            return _Unknown(), False
        return (pickler.digest(), tuple(content.own_digest() for content in pickler.buffers)), bool(found)

    def _parts(self, module: str, value: Any, depth: int) -> _Parts:
        """The same, of a value that cannot be pickled: of what in it can be, and is not too large."""
        inner: Any = None
        if isinstance(value, dict):
            inner = value
        elif isinstance(value, (list, tuple)):
            inner = dict(enumerate(value))
        elif not isinstance(value, _BY_NAME) and _is_users(type(value)):
            inner = getattr(value, "__dict__", None)
        if not depth or not isinstance(inner, dict):
            return _Parts({})
        looks = {str(key): self._look(module, part, depth - 1)[0] for key, part in list(inner.items())}
        return _Parts({key: content for key, content in looks.items() if type(content) is not _Unknown})

    # What comes

    def expect(self, manifest: dict[str, Any]) -> None:
        """Know by the manifest of a job's state what did not travel, as the modules' files make it here, too."""
        first = sum(len(pack["groups"]) for pack in manifest["packs"])
        self._spare = dict(enumerate(manifest.get("spare", []), first))

    def watch_groups(self, callback: Callable[[Restored], None]) -> None:
        """Call a function with each group of values that did not travel, now or when their modules are imported."""
        self._on_group = callback
        self._find_spare()

    def _find_spare(self) -> None:
        """Take those values for the kernel's that did not travel, where they are as they were there."""
        if self._on_group is None or not self._spare:
            return
        current: dict[str, Any] | None = None
        for number, one in list(self._spare.items()):
            modules = {self.place(path)[0] for path in one["names"]}
            if None in modules:
                continue
            del self._spare[number]
            current = current or self.values()
            values = {path: current.get(path) for path in one["names"]}
            try:
                pickler = snapshot.run_pickler(values, self._namespace)
            except Exception:
                continue  # the file makes something else here
            if pickler.digest() != one["data"] or pickler.buffers:
                continue
            held = _held(values.values())
            memo = {number: value for number, value in pickler.memo.copy().values() if id(value) in held}
            for path, value in values.items():
                self._marks[str(self.place(path)[0])][path] = _Mark(value, _OF_GROUP)
            self._on_group(Restored(number, values, memo, []))

    def receive(self, restored: dict[str, Any]) -> None:
        """Take the modules' values from what a job was sent, and put them in their places when these are there."""
        self._sent = restored.pop(NAME, self._sent)
        for name in {**self._sent.values, **self._sent.gone}:
            paths = self._sent.values.get(name, [])
            values = {path: restored.pop(path) for path in paths if path in restored}
            if self.has(name):
                self._put(name, values, self._sent, as_came=True)
            else:
                self._waiting[name] = values

    def bring_home(self, values: dict[str, Any], sent: Sent) -> list[str]:
        """Put values in their places that came back from a job; returns what could not be done, a sentence each."""
        by_module: dict[str, dict[str, Any]] = collections.defaultdict(dict)
        for path, value in values.items():
            module, _, _ = self.place(path)
            if module is not None:
                by_module[module][path] = value
        failed: list[str] = []
        for module, one in by_module.items():
            failed += self._put(module, one, sent._replace(gone={}), as_came=False)
        return failed

    def forget(self, path: str) -> None:
        """Delete a value."""
        _, owner, attribute = self.place(path)
        if owner is not None:
            _delete(owner, attribute)

    def value(self, path: str) -> Any:
        """What has a full name; raises KeyError where nothing has."""
        _, owner, attribute = self.place(path)
        found = _ABSENT if owner is None else _get(owner, attribute)
        if found is _ABSENT:
            raise KeyError(path)
        return found

    def place(self, path: str) -> tuple[str | None, Any, str]:
        """The module, the owner and the attribute of a full name; None where there is no such place."""
        parts = path.split(".")
        for end in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:end])
            if self.has(module):
                owner: Any = sys.modules[module]
                for part in parts[end:-1]:
                    owner = _get(owner, part)
                    if not _is_owner(owner):
                        return None, None, ""
                return module, owner, parts[-1]
        return None, None, ""

    def _put(self, name: str, values: dict[str, Any], sent: Sent, as_came: bool) -> list[str]:
        """Put values in their places in a module.

        Args:
            as_came: they are the state of this process, and not its doing.
        """
        marks = self._marks[name]
        if as_came:
            self._placed[name] = list(values)
        instead: list[tuple[Any, Any]] = []
        failed: list[str] = []
        for path, value in values.items():
            _, owner, attribute = self.place(path)
            old = _ABSENT if owner is None else _get(owner, attribute)
            try:
                if owner is None:
                    raise AttributeError("there is no such place")
                if old is not value:
                    _set(owner, attribute, value)
            except Exception as error:
                failed.append("%s is as its file makes it: %s" % (path, str(error) or type(error).__name__))
                continue
            if old is not _ABSENT and old is not value and path not in sent.rebound:
                instead.append((old, value))
            if as_came:
                if old is not value:
                    for inner in [one for one in marks if one.startswith(path + ".") and one not in values]:
                        del marks[inner]  # of the class that was there
                marks[path] = _Mark(value, _OF_GROUP)
        for path in sent.gone.get(name, []):
            try:
                self.forget(path)
            except Exception:
                continue  # the file does not make it here
            marks.pop(path, None)
        replace(instead, [module for _, module in self._modules()])
        if as_came:
            for text in failed:
                print("docker-kernel: %s" % text, file=sys.stderr)
        return failed


class _Parts:
    """Of a value that cannot be pickled: the contents of its parts."""

    def __init__(self, parts: dict[Any, Any]) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Parts) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]


class _Unknown:
    """The content of what is too large to be remembered: it equals no other."""


def _attributes(module: types.ModuleType) -> Iterator[tuple[str, Any, bool]]:
    """What a module, its classes and its functions have: full names, values, and whether they are no module's own."""
    yield from _of(module, module.__name__, module.__name__, set())


def _of(owner: Any, path: str, module: str, seen: set[int]) -> Iterator[tuple[str, Any, bool]]:
    for name, value in _items(owner):
        if name == "_abc_impl" or (isinstance(value, types.ModuleType) and value.__name__.startswith(module + ".")):
            continue
        inner = "%s.%s" % (path, name)
        yield inner, value, owner is not sys.modules.get(module)
        if _is_made_by(value, module) and _is_owner(value) and id(value) not in seen:
            seen.add(id(value))
            yield from _of(value, inner, module, seen)


def _items(owner: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of a module, class or function, and what a function's closure has, as `<name>`."""
    for name, value in list(vars(owner).items()):
        if isinstance(name, str) and name.isidentifier() and not (name.startswith("__") and name.endswith("__")):
            yield name, value
    for name, cell in _cells(owner).items():
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # its variable is not bound yet


def _cells(owner: Any) -> dict[str, types.CellType]:
    if not isinstance(owner, types.FunctionType):
        return {}
    named = zip(owner.__code__.co_freevars, owner.__closure__ or ())
    return {"<%s>" % name: cell for name, cell in named if not name.startswith("__")}


def _get(owner: Any, name: str) -> Any:
    cell = _cells(owner).get(name)
    if cell is None:
        return vars(owner).get(name, _ABSENT)
    try:
        return cell.cell_contents
    except ValueError:
        return _ABSENT


def _set(owner: Any, name: str, value: Any) -> None:
    cell = _cells(owner).get(name)
    if cell is None:
        setattr(owner, name, value)
    else:
        cell.cell_contents = value


def _delete(owner: Any, name: str) -> None:
    cell = _cells(owner).get(name)
    if cell is None:
        delattr(owner, name)
    else:
        del cell.cell_contents


def _is_owner(value: Any) -> bool:
    if isinstance(value, type):
        return not issubclass(value, enum.Enum)  # whose attributes are for good
    return isinstance(value, types.FunctionType)


def _is_made_by(value: Any, module: str) -> bool:
    return isinstance(value, (type, types.FunctionType)) and value.__module__ == module


def _may_change(value: Any, is_inner: bool) -> bool:
    """Whether a value can have other content while it is the same object, which is the user's doing."""
    if isinstance(value, (*_SIMPLE, *_BY_NAME, *_DESCRIPTORS, enum.Enum, types.MappingProxyType)):
        return False
    # What a library keeps in a class or function has to stay with what it keeps elsewhere.
    return not is_inner or (type(value).__module__.partition(".")[0] in _CONTAINERS or _is_users(type(value)))


def _is_users(kind: type) -> bool:
    """Whether a class is of the notebook, or of a module of the user's."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__ == "__main__" or is_own(getattr(module, "__file__", None))


def _is_librarys(value: Any) -> bool:
    """Whether a class's attribute is a descriptor that a library has put there."""
    kind = type(value)
    return hasattr(kind, "__get__") and not isinstance(value, _DESCRIPTORS) and not _is_users(kind)


def _code(value: Any) -> list[types.CodeType]:
    """The code of a function or of a property."""
    functions = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
    return [one.__code__ for one in functions if isinstance(one, types.FunctionType)]


def _names_in_code(module: types.ModuleType) -> Collection[str]:
    """The names that a module's own code has, what it binds among them."""
    try:
        code = module.__loader__.get_code(module.__name__)  # type: ignore[union-attr]
    except Exception:
        return ()
    return () if code is None else set(code.co_names)


def _held(values: Iterable[Any]) -> set[int]:
    """The ids of values and of what they hold, as far as objects of other types than plain ones do not hold it.

    Those are made anew from parts that they need whole at once, while what has a key is filled when all has been read.
    """
    waiting = list(values)
    found: set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in found:
            continue
        found.add(id(one))
        kind = type(one)
        if kind in (list, tuple, set, frozenset, collections.deque):
            waiting += one
        elif kind in (dict, collections.defaultdict, collections.OrderedDict):
            waiting += [*one, *one.values()]
        elif all(getattr(kind, name, None) is getattr(object, name, None) for name in _PICKLING):
            waiting += getattr(one, "__dict__", {}).values()
            waiting += [getattr(one, name) for name in copyreg._slotnames(kind) if hasattr(one, name)]  # type: ignore[attr-defined]
    return found


def _stamp(module: types.ModuleType) -> Any:
    try:
        status = os.stat(str(module.__file__))
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
