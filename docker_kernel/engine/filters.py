"""The filters with which an engine is asked for some of what it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def having_labels(values: Mapping[str, str]) -> dict[str, Any]:
    """For what has labels with all the given values; an empty value asks for the label alone."""
    return {"label": [f"{key}={value}" if value else key for key, value in values.items()]}
