"""A library's function that others register implementations with."""

from __future__ import annotations

import functools


@functools.singledispatch
def describe(value: object) -> str:
    return "anything"
