"""What a process has besides its variables: settings of Python, of IPython and of libraries, and random states.

A job starts with what its kernel changed of it, and what the job's cell changed comes home. What there is to read and
to set stands in process_parts.py. What belongs to a library travels as bytes that only a process opens which has
imported it: nobody else needs it, and to open it would import the library.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from docker_kernel.guest import generators, snapshot
from docker_kernel.guest.imports import when_imported
from docker_kernel.guest.process_parts import PARTS, Part, Unable
from docker_kernel.guest.snapshot import LeftOut

NAME = "__docker_kernel_process__"
"""Under which name it travels among the variables."""

if TYPE_CHECKING:
    State = dict[str, dict[str, Any]]
    """By the part's name: `set`, the settings by name, each with the module that has to be imported first and the
    pickled value; and `gone`, the names of those that are no more."""

    Settings = dict[str, dict[str, Any]]
    """By the part's name: settings by name, in a form that tells whether they are the same."""

_HINT = "set it in the cell"
_SIMPLE = (bool, int, float, str, bytes, type(None))


class Changes(NamedTuple):
    """What differs from the beginning.

    Args:
        state: what travels; left_out: what cannot; settings: all that there is now.
    """

    state: State
    left_out: list[LeftOut]
    settings: Settings


class ProcessState:
    """This process's.

    Args:
        namespace: the notebook's, in which functions run that travel.
        stream: which stream of random numbers this process is to draw from; () for the one of the state itself.
    """

    def __init__(self, namespace: dict[str, Any], stream: generators.Key = (), parts: Iterable[Part] = PARTS) -> None:
        self._namespace = namespace
        self._stream = stream
        self._parts = list(parts)
        self._before: Settings = {}
        self._waiting: dict[str, dict[str, Any]] = {}
        self._sent_here: dict[str, dict[str, Any]] = {}
        self._awaited: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """From here on, settings that are changed are this process's own doing; a library's, from its import on."""
        self._sent_here = {name: dict(settings) for name, settings in self._waiting.items()}
        for part in self._parts:
            module = _imported(part.library)
            if module is not None:
                self._note(part, module)
            when_imported(part.library, partial(self._note, part))

    def _note(self, part: Part, module: Any) -> None:
        try:
            found = part.read(module)
        except Exception:
            found = {}  # who asks for the changes is told
        self._before[part.name] = {name: self._frozen(value) for name, value in found.items()}

    def changes(self, all_random: bool = False, only_random: bool = False) -> Changes:
        """What was changed since the beginning.

        Args:
            all_random: as a kernel sends it: random states, too, from which nothing was drawn, and not what has
                another way there.
            only_random: nothing else.
        """
        state: State = {}
        left_out: list[LeftOut] = []
        settings: Settings = {}
        for part in self._parts:
            if only_random and not part.generators:
                continue
            given = self._sent_here.get(part.name, {})
            waiting = self._waiting.get(part.name, {})
            new = {name: one for name, one in waiting.items() if given.get(name) is not one}
            gone: list[str] = []
            module = _imported(part.library)
            if module is not None:
                try:
                    found = part.read(module)
                except Exception as error:
                    left_out.append(LeftOut(part.name, "settings", _reason(error), _HINT))
                    continue
                before = self._before.get(part.name, {})
                now = settings[part.name] = {name: self._frozen(value) for name, value in found.items()}
                if part.only_home and all_random:
                    continue
                gone = [name for name in before if name not in now]
                for name, value in found.items():
                    if name in before and before[name] == now[name] and not (all_random and part.generators):
                        continue
                    label = "%s: %s" % (part.name, name)
                    if isinstance(value, Unable):
                        left_out.append(LeftOut(label, value.kind, value.reason, value.hint))
                        continue
                    try:
                        new[name] = (part.needs(name) or part.library, snapshot.dumps(value, self._namespace))
                    except Exception as error:
                        left_out.append(LeftOut(label, type(value).__qualname__, _reason(error), _HINT))
            if new or gone:
                state[part.name] = {"set": new, "gone": gone}
        return Changes(state, left_out, settings)

    def apply(self, state: State) -> list[LeftOut]:
        """Set what another process changed; what belongs to a library that is not here, when it is imported.

        Returns:
            What could not be set, and why.
        """
        failed: list[LeftOut] = []
        for part in self._parts:
            changed = state.get(part.name, {"set": {}, "gone": []})
            for name in sorted(changed["gone"], key=lambda name: (len(name), name), reverse=True):
                module = _imported(part.library)
                if module is not None and part.forget is not None:
                    try:
                        part.forget(module, name)
                    except Exception as error:
                        failed.append(LeftOut("%s: %s" % (part.name, name), "setting", _reason(error), _HINT))
            later: set[str] = set()
            for name, one in changed["set"].items():
                if _imported(one[0]) is None or _imported(part.library) is None:
                    self._waiting.setdefault(part.name, {})[name] = one
                    later.add(one[0])
                else:
                    self._waiting.get(part.name, {}).pop(name, None)
                    failed += self._set(part, name, one[1])
            if part.generators is not None and changed["set"] and not later:
                failed += self.give_stream(part.generators(_imported(part.library)))
            for library in later:
                if (part.name, library) not in self._awaited:
                    self._awaited.add((part.name, library))
                    when_imported(library, partial(self._arrived, part, library))
        return failed

    def _arrived(self, part: Part, library: str, module: Any) -> None:
        """Set what has waited for a library."""
        waiting = self._waiting.get(part.name, {})
        failed: list[LeftOut] = []
        for name in [name for name, one in waiting.items() if one[0] == library]:
            failed += self._set(part, name, waiting.pop(name)[1])
        if part.generators is not None:
            failed += self.give_stream(part.generators(_imported(part.library)))
        for one in failed:
            print("docker-kernel: %s is not as it was: %s" % (one.name, one.reason), file=sys.stderr)

    def give_stream(self, found: list[Any]) -> list[LeftOut]:
        """Move generators that came with the state to this process's stream."""
        return self._move(found, self._stream) if self._stream else []

    def move_on(self, sent: list[Any]) -> list[LeftOut]:
        """Have this process draw other numbers from here on than the job that has its state.

        Args:
            sent: the generators that went with variables.

        Returns:
            Those that do not.
        """
        found = list(sent)
        for part in self._parts:
            module = _imported(part.library)
            if part.generators is not None and module is not None:
                found += part.generators(module)
        return self._move(found, generators.AFTER_DISPATCH)

    def _move(self, found: list[Any], key: generators.Key) -> list[LeftOut]:
        failed = []
        for one, error in generators.move(found, key):
            reason = "it cannot be moved to a stream of its own (%s)" % _reason(error)
            failed.append(LeftOut("a random generator", type(one).__qualname__, reason, "make it in the cell"))
        return failed

    def _set(self, part: Part, name: str, data: bytes) -> list[LeftOut]:
        try:
            part.set(_imported(part.library), name, snapshot.loads(data, self._namespace))
        except Exception as error:
            return [LeftOut("%s: %s" % (part.name, name), "setting", _reason(error), _HINT)]
        return []

    def bring_home(self, state: State, sent: Settings | None, with_random: bool) -> tuple[list[str], list[LeftOut]]:
        """Set what a job changed.

        Args:
            sent: what there was when the job was sent, where this process has gone on since: what was changed here
                meanwhile stays.
            with_random: random states, too.

        Returns:
            The names of what stays, and what could not be set.
        """
        kept: list[str] = []
        taken: State = {}
        for part in self._parts:
            changed = state.get(part.name)
            if changed is None or (part.generators and not with_random):
                continue
            stays: set[str] = set()
            if sent is not None and _imported(part.library) is not None:
                stays = self._changed_here(part, changed, sent.get(part.name, {}))
            kept += ["%s: %s" % (part.name, name) for name in sorted(stays)]
            taken[part.name] = {
                "set": {name: one for name, one in changed["set"].items() if name not in stays},
                "gone": [name for name in changed["gone"] if name not in stays],
            }
        return kept, self.apply(taken)

    def _changed_here(self, part: Part, changed: dict[str, Any], sent: Mapping[str, Any]) -> set[str]:
        """Which settings are neither what was sent nor what comes back."""
        try:
            found = part.read(_imported(part.library))
        except Exception:
            return set()
        stays = set()
        for name in [*changed["set"], *changed["gone"]]:
            now = self._frozen(found[name]) if name in found else None
            if now == sent.get(name):
                continue
            if name in changed["set"]:
                try:
                    if now == self._frozen(snapshot.loads(changed["set"][name][1], self._namespace)):
                        continue
                except Exception:
                    pass  # to set it tells why not
            stays.add(name)
        return stays

    def _frozen(self, value: Any) -> Any:
        """What equals that of the same setting, and no change of the value reaches."""
        if isinstance(value, Unable):
            return Unable, value.kind, value.of
        if type(value) in _SIMPLE:
            return type(value), repr(value)
        if isinstance(value, (type, re.Pattern)):
            return value
        if type(value) in (tuple, list):
            return type(value), [self._frozen(part) for part in value]
        if type(value) is dict:
            return dict, [(self._frozen(name), self._frozen(part)) for name, part in value.items()]
        try:
            return snapshot.dumps(value, self._namespace)
        except Exception:
            return value  # that it is the same object is all that can be told


def _imported(name: str) -> Any:
    return sys.modules.get(name)


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
