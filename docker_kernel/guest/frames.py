"""How pandas' frames and series are pickled: with the attributes that a user set on them, which pandas leaves out."""

from __future__ import annotations

import sys
from typing import Any


def kinds() -> tuple[type, ...]:
    kind = getattr(sys.modules.get("pandas.core.generic"), "NDFrame", None)
    return (kind,) if isinstance(kind, type) else ()


def reduce(value: Any) -> Any:
    make, arguments, *more = reduced = value.__reduce_ex__(5)
    state = more[0] if more else None
    if not isinstance(state, dict) or "_typ" not in state:
        return reduced
    own = {"_attrs", "_flags", *type(value)._internal_names, *type(value)._metadata}
    added = {name: part for name, part in vars(value).items() if name not in own and name not in state}
    # What pandas does not know, it sets as it is.
    return make, arguments, {**state, **added}, *more[1:]
