"""How matplotlib's registries of callbacks are pickled, which count each time that they are: so every figure would seem
changed as soon as somebody looks at it."""

from __future__ import annotations

import itertools
import sys
from typing import Any


def kinds() -> tuple[type, ...]:
    kind = getattr(sys.modules.get("matplotlib.cbook"), "CallbackRegistry", None)
    return (kind,) if isinstance(kind, type) else ()


def reduce(registry: Any) -> Any:
    reduced = registry.__reduce_ex__(5)
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, dict) and type(state.get("_cid_gen")) is int:
        registry._cid_gen = itertools.count(state["_cid_gen"])  # as it was before
    return reduced
