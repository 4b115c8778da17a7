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
import datetime
import decimal
import os
import pathlib
import sys
import types
import uuid
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from typing import Any, NamedTuple

from docker_kernel.guest import large_packages, module_attributes, module_objects, module_reach, snapshot
from docker_kernel.guest.imports import when_any_imported
from docker_kernel.guest.merge import Restored
from docker_kernel.guest.module_attributes import ABSENT, Attribute, attributes, is_made_by, is_owner
from docker_kernel.guest.module_links import replace
from docker_kernel.guest.module_marks import (
    MAX_OBJECTS,
    OF_GROUP,
    SIMPLE,
    Contents,
    Mark,
    Parts,
    Unknown,
    is_librarys,
    may_change,
)
from docker_kernel.guest.own_files import is_own

NAME = "__docker_kernel_modules__"
"""Under which name it travels among the variables which values are of modules."""

_PICKLING = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")


class Sent(NamedTuple):
    """What the other side is told of the modules.

    Attributes:
        values: for each module, the full names of its values that may travel.
        gone: those of what its file made, and is no more.
        rebound: those of what stands in the place of what the file made there.
        uses: for each module that is imported, which others it uses.
        constants: for each module, values by their names that cannot change, and that its file may make otherwise on
            the other side: a time, a random number, what it reads.
    """

    values: dict[str, list[str]]
    gone: dict[str, list[str]]
    rebound: frozenset[str]
    uses: dict[str, list[str]]
    constants: dict[str, dict[str, Any]]


class Travelling(NamedTuple):
    """Values that may travel, by their full names.

    Attributes:
        spare: the names of those that need not, unless they share objects with others.
        sent: None where there is nothing to tell.
    """

    values: dict[str, Any]
    spare: frozenset[str]
    sent: Sent | None


NO_MODULES = Travelling({}, frozenset(), None)


class WorkspaceModules:
    """This process's.

    Args:
        namespace: the notebook's, in which functions run that travel.
        limit: of how many objects a value may be for its content to be remembered, without large buffers; None for any.
    """

    def __init__(self, namespace: dict[str, Any], limit: int | None = MAX_OBJECTS) -> None:
        self._namespace, self._contents = namespace, Contents(namespace, limit)
        self._marks: dict[str, dict[str, Mark]] = {}
        self._stamps: dict[str, Any] = {}
        self._mentions: dict[str, set[str]] = {}
        self._objects = large_packages.Objects()
        self._walks: dict[str, large_packages.Walk] = {}
        """Of the modules of large packages."""
        self._noted: dict[str, list[Attribute]] = {}
        """What these have, as long as nothing was set there since they were looked at."""
        self._inside: dict[str, list[types.ModuleType]] = collections.defaultdict(list)
        """Modules of large packages whose own import has not ended."""
        self._waiting: dict[str, dict[str, Any]] = {}
        self._placed: dict[str, list[str]] = {}
        """The full names of what came with the state, by their modules, where these are imported."""
        self._sent = Sent({}, {}, frozenset(), {}, {})
        self._coming: frozenset[str] = frozenset()
        self._spare: dict[int, dict[str, Any]] = {}
        self._on_group: Callable[[Restored], None] | None = None

    def begin(self) -> None:
        """Look at the modules that are there, and from now on at each when it is imported."""
        for module in list(sys.modules.values()):
            # A module that is to be loaded at its first use would be loaded for any other question.
            known = object.__getattribute__(module, "__dict__") if issubclass(type(module), types.ModuleType) else {}
            if is_own(known.get("__file__")):
                self._note(module)
        when_any_imported(lambda spec: is_own(spec.origin), self._note)

    def _note(self, module: types.ModuleType, waits: bool = True) -> None:
        """Look at a module whose import has ended.

        Args:
            waits: for the end of its package's import, where that is a large one, whose modules change each other.
        """
        name = module.__name__
        if sys.modules.get(name) is not module or name == "__main__":
            return
        package = name.partition(".")[0]
        is_large = large_packages.is_part(module)
        if is_large and waits and name != package and _is_being_imported(package):
            self._inside[package].append(module)
            return
        for one in self._inside.pop(name, ()):
            self._note(one, waits=False)
        if is_large:
            self._walks[name] = large_packages.Walk(module)
        if name not in self._marks:
            self._take_constants(name, module)
        self._noted[name] = found = self._attributes(name, module)
        if name in self._marks:
            # What its file does not make was there when it was loaded again.
            makes = _names_in_code(module)
            found = [one for one in found if one.path[len(name) + 1 :].partition(".")[0] in makes]
        made = {path[len(name) + 1 :]: value for path, value, _ in found if is_made_by(value, name)}
        module_objects.note(name, made)
        self._stamps[name] = _stamp(module)
        self._mentions[name] = set()
        marks = self._marks[name] = {}
        for path, value, inner in found:
            # What comes with the state takes the place of what the file made.
            looks = may_change(value, inner) and path not in self._coming
            marks[path] = Mark(value, self._content(name, value) if looks else None)
        if name in self._placed:
            # It is loaded again, here: what its file makes now is this process's doing.
            for path in self._placed[name]:
                self._marks[name].pop(path, None)
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            self._put(name, waiting, self._sent, as_came=True)
        self._find_spare()

    def _attributes(self, name: str, module: types.ModuleType) -> list[Attribute]:
        return self._walks[name].attributes() if name in self._walks else list(attributes(module))

    def _content(self, name: str, value: Any) -> Any:
        """The content of a value of a module."""
        if name in self._walks and not large_packages.is_hidden(value):
            return self._objects.shape(value)
        return self._contents.of(value, self._mentions[name])

    def _take_constants(self, name: str, module: types.ModuleType) -> list[str]:
        """Give a module the constants that it has on the other side; returns the names of those that were others."""
        taken = []
        for attribute, value in self._sent.constants.get(name, {}).items():
            own = module_attributes.get(module, attribute)
            path = "%s.%s" % (name, attribute)
            if own is ABSENT or path in self._coming or (type(own) is type(value) and repr(own) == repr(value)):
                continue
            module_attributes.put(module, attribute, value)
            taken.append(attribute)
        return taken

    def _modules(self) -> Iterator[tuple[str, types.ModuleType]]:
        """Those that are imported, and were looked at."""
        for name in list(self._marks):
            module = sys.modules.get(name)
            if module is not None and issubclass(type(module), types.ModuleType):
                yield name, module

    # What leaves

    def values(self) -> dict[str, Any]:
        """All that the modules have, by full names."""
        found = {path: value for values in self._waiting.values() for path, value in values.items()}
        for name, module in self._modules():
            found.update({path: value for path, value, _ in self._attributes(name, module)})
        return found

    def files(self) -> dict[str, str]:
        """The files of the modules that are imported."""
        return {name: str(module.__file__) for name, module in self._modules()}

    def travelling(
        self,
        wanted: Container[str] | None = None,
        without: Iterable[Any] = (),
        constants: bool = False,
        beside: Iterable[Any] = (),
    ) -> Travelling:
        """What may travel.

        Args:
            beside: the variables that travel, too.
            constants: those of the files, too.
            wanted: the modules whose values; None for all.
            without: values that stay here.
        """
        excluded = {id(value) for value in without}
        held = {id(value) for value in beside}
        look = self._objects.look()
        values: dict[str, Any] = {}
        spare: set[str] = set()
        sent = Sent({}, {}, frozenset(), {}, {})
        rebound: set[str] = set()
        for name, module in self._modules():
            if wanted is not None and name not in wanted:
                continue
            found = self._attributes(name, module)
            here: dict[str, Any] = {}
            is_as_noted = name in self._walks and found is self._noted[name]
            for path, value, inner in found if not is_as_noted else self._changeable(name, found, constants):
                if id(value) in excluded and not issubclass(type(value), (*SIMPLE, types.ModuleType)):
                    continue
                mark = self._marks[name].get(path)
                if mark is not None and mark.is_of(value) and constants and not inner and _is_constant(value):
                    sent.constants.setdefault(name, {})[path[len(name) + 1 :]] = value
                if mark is None or not mark.is_of(value):
                    if inner and is_librarys(value):
                        continue
                    here[path] = value
                    rebound.add(path)
                elif mark.content is not None and mark.content is not OF_GROUP:
                    if type(mark.content) is large_packages.Shape:
                        is_same, needless = look.is_as_it_was(value, mark.content), id(value) not in held
                    else:
                        content = self._content(name, value)
                        # Of what cannot be pickled, the file makes another one on the other side.
                        is_same, needless = content == mark.content, type(content) is Parts
                    if is_same and needless:
                        continue
                    here[path] = value
                    if is_same:
                        spare.add(path)
            gone = [] if is_as_noted else self._gone(name, {path: value for path, value, _ in found})
            if here:
                sent.values[name] = list(here)
            if gone:
                sent.gone[name] = gone
            values.update(here)
            if here or gone or name not in self._walks:
                sent.uses[name] = sorted(self._uses(name, module))
        sent = sent._replace(rebound=frozenset(rebound))
        return Travelling(values, frozenset(spare), sent if sent.values or sent.gone or sent.constants else None)

    def _changeable(self, name: str, found: list[Attribute], constants: bool) -> Iterator[Attribute]:
        """Of what a module has as it was noted, that which can have changed, and its constants if they are wanted."""
        marks = self._marks[name]
        for one in found:
            mark = marks.get(one.path)
            if mark is None or mark.content is not None or (constants and not one.inner and _is_constant(one.value)):
                yield one

    def differs(self, path: str) -> bool:
        """Whether a value is not as its module's file made it."""
        module, _, _ = self.place(path)
        if module is None:
            return False
        found = {one: value for one, value, _ in self._attributes(module, sys.modules[module])}
        mark = self._marks[module].get(path)
        if path not in found or mark is None or not mark.is_of(found[path]):
            return True
        if type(mark.content) is large_packages.Shape:
            return not self._objects.look().is_as_it_was(found[path], mark.content)
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
        if name in self._walks:
            return {module_reach.ANY}
        objects: list[Any] = []
        for _, value, _ in attributes(module):
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
            if path not in found and (owner == name or (mark is not None and mark.is_of(found.get(owner, ABSENT)))):
                gone.append(path)
        return gone

    # What comes

    def expect(self, manifest: dict[str, Any]) -> None:
        """Know by the manifest of a job's state what will come, and what not, as the modules' files make it, too."""
        self._coming = frozenset(name for pack in manifest["packs"] for names in pack["groups"] for name in names)
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
                self._marks[str(self.place(path)[0])][path] = Mark(value, OF_GROUP)
            self._on_group(Restored(number, values, memo, []))

    def receive(self, restored: dict[str, Any]) -> None:
        """Take the modules' values from what a job was sent, and put them in their places when these are there."""
        self._sent = restored.pop(NAME, self._sent)
        for name in self._sent.constants:
            # What was restored has imported it already.
            if self.has(name):
                for attribute in self._take_constants(name, sys.modules[name]):
                    value, path = vars(sys.modules[name])[attribute], "%s.%s" % (name, attribute)
                    content = self._content(name, value) if may_change(value, False) else None
                    self._marks[name][path] = Mark(value, content)
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
            module_attributes.delete(owner, attribute)

    def value(self, path: str) -> Any:
        """What has a full name; raises KeyError where nothing has."""
        _, owner, attribute = self.place(path)
        found = ABSENT if owner is None else module_attributes.get(owner, attribute)
        if found is ABSENT:
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
                    owner = module_attributes.get(owner, part)
                    if not is_owner(owner):
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
            old = ABSENT if owner is None else module_attributes.get(owner, attribute)
            try:
                if owner is None:
                    raise AttributeError("there is no such place")
                if old is not value:
                    module_attributes.put(owner, attribute, value)
            except Exception as error:
                failed.append("%s cannot be set: %s" % (path, str(error) or type(error).__name__))
                continue
            if old is not ABSENT and old is not value and path not in sent.rebound:
                instead.append((old, value))
                if path in marks:
                    marks[path] = Mark(value, Unknown())  # still in the place of what the file made
            if as_came:
                if old is not value:
                    for below in [one for one in marks if one.startswith(path + ".") and one not in values]:
                        del marks[below]  # of the class that was there
                marks[path] = Mark(value, OF_GROUP)
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


_CONSTANTS = (datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal, pathlib.PurePath)
_MAX_CONSTANT = 1000
"""Characters or bytes."""


def _is_being_imported(name: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))


def _is_constant(value: Any) -> bool:
    if type(value) in (str, bytes):
        return len(value) <= _MAX_CONSTANT
    return type(value) in SIMPLE or issubclass(type(value), _CONSTANTS)


def _code(value: Any) -> list[types.CodeType]:
    """The code of a function, of one that a class has in its own way, or of a property."""
    kind = type(value)
    if kind in (classmethod, staticmethod):
        value = value.__func__
    functions = (value.fget, value.fset, value.fdel) if kind is property else (value,)
    return [one.__code__ for one in functions if type(one) is types.FunctionType]


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
