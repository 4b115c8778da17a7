"""What other processes find by a module's name and its own name there, as pickle has functions and classes."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def by_name(module: str, name: str) -> Any:
    """What a module has under a name, with dots for what is within a class."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def is_by_name(module: str, value: Any) -> bool:
    """Whether a function or class is what an imported module has under its name."""
    found: Any = sys.modules.get(module)
    for part in str(getattr(value, "__qualname__", "")).split("."):
        found = getattr(found, part, None)
    return found is value
