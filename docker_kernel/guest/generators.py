"""Random generators: noted as they travel with variables, and moved to streams of their own.

One job draws what its kernel would have drawn. Several jobs that start from one state, and the kernel that goes on
while they run, must not draw the same numbers: each moves its generators to a stream that follows from a generator's
state and a key, as numpy's `SeedSequence.spawn` does it. So the same notebook from the same seed draws the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import pickle
import random
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from docker_kernel.guest import instances

if TYPE_CHECKING:
    Key = tuple[int | str, ...]

AFTER_DISPATCH: Key = ("kernel",)
"""The stream of a kernel that has sent off its state."""

_noted: list[list[Any]] = []


@contextlib.contextmanager
def noted() -> Iterator[list[Any]]:
    """Collect the generators that are pickled or restored meanwhile."""
    found: list[Any] = []
    _noted.append(found)
    try:
        yield found
    finally:
        _noted.pop()


def kinds() -> tuple[type, ...]:
    """The types of generators that this process may have."""
    found: list[Any] = [random.Random]
    numpy_random = sys.modules.get("numpy.random")
    found += [getattr(numpy_random, name, None) for name in ("BitGenerator", "Generator", "RandomState")]
    found.append(getattr(sys.modules.get("torch"), "Generator", None))
    return tuple(kind for kind in found if isinstance(kind, type))


def reduce(generator: Any) -> Any:
    """How a generator is pickled: a library's own one (behind `random.random`, `numpy.random.normal`) as that of the
    other side, whose state travels apart; others as they are, to be noted where they are restored."""
    for name, own in _OWN.items():
        if name in sys.modules and own() is generator:
            return _library_own, (name,)
    if isinstance(generator, random.SystemRandom):
        return type(generator), ()
    reduced = generator.__reduce_ex__(5)
    if isinstance(generator, random.Random):
        reduced = instances.with_attributes(generator, reduced)
    elif type(generator).__module__.partition(".")[0] not in ("numpy", "torch"):
        raise pickle.PicklingError("it would be of the class above its own")
    if _noted:
        _noted[-1].append(generator)
    return (_restored, reduced[:2], *reduced[2:])


def is_library_own(generator: Any) -> bool:
    return any(name in sys.modules and own() is generator for name, own in _OWN.items())


def _library_own(name: str) -> Any:
    importlib.import_module(name)
    return _OWN[name]()


def _restored(make: Any, arguments: tuple[Any, ...]) -> Any:
    generator = make(*arguments)
    if _noted:
        _noted[-1].append(generator)
    return generator


_OWN: Any = {
    "random": lambda: random._inst,
    "numpy.random": lambda: getattr(getattr(sys.modules["numpy.random"], "mtrand", None), "_rand", None),
    "torch": lambda: getattr(sys.modules["torch"], "default_generator", None),
}
"""The one generator that a library's own functions draw from, by the library."""


def move(generators: Iterable[Any], key: Key) -> list[tuple[Any, Exception]]:
    """Move generators to the streams that follow from the state of each and a key.

    Returns:
        Those that are not as their libraries make them, and so stay where they are.
    """
    moved: dict[int, Any] = {}
    failed: list[tuple[Any, Exception]] = []
    for generator in generators:
        source = _source(generator)
        try:
            if id(source) not in moved:
                moved[id(source)] = source
                _move(source, key)
            if source is not generator and hasattr(generator, "get_state"):
                # numpy's RandomState draws normal numbers in pairs, and keeps the second.
                generator.set_state({**generator.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})
        except Exception as error:
            failed.append((generator, error))
    return failed


def _source(generator: Any) -> Any:
    """Where a generator's numbers come from: of numpy's, several may share one."""
    for name in ("bit_generator", "_bit_generator"):
        found = getattr(generator, name, None)
        if found is not None:
            return found
    return generator


def _move(generator: Any, key: Key) -> None:
    if isinstance(generator, random.Random):
        random.Random.seed(generator, _seed(generator.getstate(), key))
    elif type(generator).__module__.startswith("torch"):
        generator.manual_seed(_seed(generator.get_state(), key) >> 193)
    else:
        sequence = importlib.import_module("numpy.random").SeedSequence(_seed(generator.state, key))
        # With the sequence, from which more may be spawned, where this numpy has it in the state.
        generator.__setstate__(type(generator)(sequence).__reduce__()[2])


def _seed(state: Any, key: Key) -> int:
    """A number of 256 bits that follows from a state and a key."""
    return int.from_bytes(hashlib.sha256(repr((_plain(state), key)).encode()).digest(), "big")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((name, _plain(part)) for name, part in value.items())
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
