"""In a job: which groups of variables its cell can reach, and which of them it changed."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

from docker_kernel.guest import blob_files, classes, collector, mapped_files, snapshot
from docker_kernel.guest.merge import Bases, Restored, ReturnPickler, owners
from docker_kernel.guest.module_reach import reached
from docker_kernel.guest.plain import are_plain, unchanged
from docker_kernel.guest.reach import cell_code, read_names, runs_text
from docker_kernel.guest.workspace_modules import NAME as MODULES
from docker_kernel.guest.workspace_modules import NO_MODULES, WorkspaceModules

AS_BASE = snapshot.OUT_OF_BAND
"""Bytes of a pickle from which it is worth while to send only what has changed in it."""


class _Fingerprint(NamedTuple):
    """Of a group: the digest of its pickle, and the sizes and digests of its buffers.

    Attributes:
        plain: where its pickle can be read again, as it may be pickled otherwise than it was sent.
    """

    data: str
    sizes: list[int]
    digests: list[str]
    plain: snapshot.Place | None = None


class Outcome(NamedTuple):
    """What a cell did.

    Attributes:
        values: what it assigned and changed, by name, and what tells of modules' values.
        changed: the numbers of the groups that are not as they were.
        gone: the full names of values of modules that are no more.
        spare: those of values that need not go back.
    """

    values: dict[str, Any]
    changed: list[int]
    gone: list[str]
    spare: frozenset[str]


class Changes:
    """Looks at what a cell can reach before it runs, and again when it has run.

    Args:
        groups: the groups as they were restored.
        namespace: the notebook's.
        source: the cell as Python, magics transformed.
        state: the folder that the groups were read from: large content is compared with what is there, which is faster
            than to make a digest.
        modules: the user's, whose values are in the groups, too.

    Attributes:
        reached: for the number of each group that the cell can reach, what tells whether it changes.
    """

    def __init__(
        self,
        groups: Iterable[Restored],
        namespace: dict[str, Any],
        source: str,
        state: str,
        modules: WorkspaceModules | None = None,
    ) -> None:
        self._namespace, self._state = namespace, state
        self._modules = modules
        self._uses = {} if modules is None else modules.uses()
        self._groups = {group.number: group for group in groups}
        self.reached: dict[int, _Fingerprint] = {}
        self._classes: dict[type, tuple[int, Any]] = {}
        self._containers: dict[int, tuple[dict[int, Any], dict[int, Any]]] = {}
        self._reach(source)
        if modules is not None:
            modules.watch_groups(self._add)

    def _reach(self, source: str) -> None:
        """Take the fingerprints of what the cell can reach: what it names, what shares objects with that, and what the
        functions, classes and modules in there name; all groups where code runs text."""
        of_name = {name: group for group in self._groups.values() for name in group.values}
        code = cell_code(source)
        waiting = list(of_name) if code is None else self._named([code], of_name)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or (name not in self._namespace and name not in of_name):
                continue
            seen.add(name)
            group = of_name.get(name)
            if group is None:
                waiting += self._named(snapshot.objects_in(self._namespace[name], self._namespace), of_name)
            elif group.number not in self.reached:
                waiting += self._named(self._look(group), of_name)

    def _named(self, objects: list[Any], of_name: Iterable[str]) -> list[str]:
        """The names by which objects reach variables, and values of the user's modules."""
        found: list[str] = []
        for code in [one for one in objects if type(one) is types.CodeType]:
            found += of_name if runs_text(code) else read_names(code)
        if self._modules is not None and self._uses:
            found += self._modules.names(reached(objects, self._uses))
        return found

    def _add(self, group: Restored) -> None:
        """Look at values that a module has just been imported with."""
        self._groups[group.number] = group
        self._look(group)

    def _look(self, group: Restored) -> list[Any]:
        sent = [digest for digest, _ in group.buffers]
        if group.place is not None and are_plain(group.memo.copy().values()):
            sizes = [size for _, size in group.buffers]
            self.reached[group.number] = _Fingerprint(group.place.digest, sizes, sent, group.place)
            return []
        pickler = snapshot.scan(group.values, self._namespace)
        if pickler is None:
            # It was restored, and cannot be pickled: there is no telling whether it changes.
            return []
        sizes, digests = [content.size for content in pickler.buffers], sent
        if sizes != [size for _, size in group.buffers] or _may_have_another_order(pickler, sizes):
            digests = [content.own_digest() for content in pickler.buffers]
        self.reached[group.number] = _Fingerprint(pickler.digest(), sizes, digests)
        for cls in pickler.classes:
            if cls not in self._classes:
                self._classes[cls] = group.number, _attributes(cls)
        return pickler.objects

    def outcome(self, before: dict[str, Any], variables: dict[str, Any]) -> Outcome:
        """What the cell did: what it changed in place (model.fit, list.append) is its result as what it assigned is.

        Args:
            before, variables: the variables before it ran, and now.
        """
        values = {name: value for name, value in variables.items() if before.get(name, before) is not value}
        changed = self.changed()
        own, spare, sent = NO_MODULES if self._modules is None else self._modules.travelling()
        current = {**({} if self._modules is None else self._modules.values()), **variables}
        for group in changed:
            values.update({name: value for name, value in group.values.items() if current.get(name) is value})
        values.update(own)
        gone: list[str] = []
        if sent:
            values[MODULES] = sent
            gone = [name for names in sent.gone.values() for name in names]
        return Outcome(values, [group.number for group in changed], gone, spare)

    def changed(self) -> list[Restored]:
        """The groups that are not as they were."""
        with collector.paused():
            return [self._groups[number] for number, before in self.reached.items() if self._differs(number, before)]

    def _differs(self, number: int, before: _Fingerprint) -> bool:
        pickler = snapshot.scan(self._groups[number].values, self._namespace)
        if pickler is None or (
            pickler.digest() != before.data and not self._is_pickled_so(pickler.digest(), number, before)
        ):
            return True
        if [one.size for one in pickler.buffers] != before.sizes:
            return True
        return not all(self._has(one, was) for one, was in zip(pickler.buffers, before.digests))

    def _is_pickled_so(self, digest: str, number: int, before: _Fingerprint) -> bool:
        """Whether a group of plain values has a digest when nothing has changed: equal texts may have become one."""
        if before.plain is None:
            return False
        try:
            values, memo = snapshot.read_again(before.plain)
        except blob_files.SnapshotError:
            return False
        now, sent = _containers(self._groups[number].memo.copy()), _containers(memo)
        if before.plain.size >= AS_BASE and not before.plain.buffers:
            self._containers[number] = now, sent
        if [*map(len, now.values())] != [*map(len, sent.values())]:
            return False
        pickler = snapshot.scan(values, self._namespace)
        return pickler is not None and pickler.digest() == digest

    def _has(self, content: blob_files.Content, digest: str) -> bool:
        """Whether content is that of a digest, by what is quickest to tell."""
        return (
            mapped_files.is_untouched(digest, content.raw)
            or blob_files.is_stored(self._state, digest, content)
            or content.own_digest() == digest
        )

    def pickler(self, result: dict[str, Any]) -> snapshot.MakePickler:
        """What pickles the cell's result, with references to what the kernel has."""
        if _PLAIN.issuperset(map(type, result.values())):
            return snapshot._Pickler  # nothing in there is the kernel's
        with collector.paused():
            return self._return_pickler()

    def _return_pickler(self) -> snapshot.MakePickler:
        keys: dict[int, tuple[int, int]] = {}
        found: list[Any] = []
        for number in self.reached:
            own, shown = self._groups[number].known(self._namespace)
            if not own.keys().isdisjoint(keys):
                own = {one: key for one, key in own.items() if one not in keys}
            keys.update(own)
            found += shown
        # Only a class that the cell changed is brought up to date there: the kernel may have changed it meanwhile.
        updates = {
            id(cls): number if not _are_same(before, _attributes(cls)) else False
            for cls, (number, before) in self._classes.items()
        }
        bases = Bases()
        for number, (now, sent) in self._containers.items():
            place = self.reached[number].plain
            assert place is not None
            bases.add(number, place, {own: now[own] for own in unchanged(now, sent)})
        self._containers.clear()
        return functools.partial(ReturnPickler, keys, owners(found), updates, bases)


def _containers(memo: dict[int, Any]) -> dict[int, Any]:
    """A memo's lists and dicts."""
    return {number: one for number, one in memo.items() if type(one) is dict or type(one) is list}


_WITHOUT_BUFFERS = frozenset({str, int, float, complex, bool, type(None)})


def _may_have_another_order(pickler: snapshot._Pickler, sizes: list[int]) -> bool:
    """Whether large content may be in another order here than where it came from, as the same set may be."""
    if len(set(sizes)) == len(sizes):
        return False  # the sizes would show it
    kinds = {kind for kind in set(map(type, pickler.objects)) if issubclass(kind, (set, frozenset))}
    return bool(kinds) and any(
        not _WITHOUT_BUFFERS.issuperset(map(type, _items(one))) for one in pickler.objects if type(one) in kinds
    )


def _items(one: Any) -> Iterable[Any]:
    return set.__iter__(one) if isinstance(one, set) else frozenset.__iter__(one)


def _attributes(cls: type) -> list[dict[str, Any]]:
    """What a class has, and who registered with it; what members of an enumeration have."""
    members = classes.member_attributes(cls) or {}
    registered = {one.__qualname__: one for one in classes.registered(cls)}
    return [{name: value for name, value in vars(cls).items() if name not in _CHANGING}, registered, *members.values()]


_PLAIN = frozenset({str, bytes, int, float, complex, bool, type(None)})

_CHANGING = frozenset({"_abc_impl", "__slotnames__"})


def _are_same(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Whether all names stand for the very same objects."""
    if len(before) != len(now):
        return False
    missing = object()
    return all(
        one.keys() == other.keys() and all(value is other.get(name, missing) for name, value in one.items())
        for one, other in zip(before, now)
    )
