"""How matches of regular expressions are pickled: they are found again, by what found them."""

from __future__ import annotations

import pickle
import re
from typing import Any

_WAYS = ("search", "match", "fullmatch")


def reduce(match: Any) -> Any:
    """What makes an equal match of the same text.

    Raises:
        pickle.PicklingError: nothing does.
    """
    spans, last = match.regs, match.endpos
    # One of several that were found (`finditer`) is the first from its own place on, as far as what is before is seen.
    for start in (match.pos, match.start()):
        for way in _WAYS:
            arguments = (match.re, way, match.string, start, last)
            found = _find(*arguments)
            if found is not None and found.regs == spans:
                return _find, arguments
    raise pickle.PicklingError("nothing finds it again")


def _find(pattern: re.Pattern[Any], way: str, text: Any, start: int, last: int) -> Any:
    return getattr(pattern, way)(text, start, last)
