"""Mocks travel with what was set on them, and with their calls."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from docker_kernel.guest import temporary_files
from tests.guest.test_merge import Kernel, kernel

__all__ = ["kernel"]

CELLS = {
    "answers, and calls": (
        "m = Mock(return_value=3); k = MagicMock(); k.f.return_value = 4; k.__len__.return_value = 7; held = [m]",
        "x = m(1), k.f(2), len(k)",
        "x == (3, 4, 7) and m.call_args == call(1) and m.mock_calls == [call(1)] and k.f.call_count == 1 "
        "and held[0] is m",
    ),
    "what they stand for": (
        "class A:\n    def f(self, a): return a\ndef plain(a, b): pass\n"
        "m = Mock(spec=A, side_effect=ValueError); k = create_autospec(A); i = k(); g = create_autospec(plain)\n"
        "g.return_value = 5; o = Mock(spec=open(os.devnull)); o.read.return_value = 'text'",
        "i.f(2); y = isinstance(m, A), g(1, 2), o.read()\ntry: g(1)\nexcept TypeError: y += 'no',\n"
        "try: m.none\nexcept AttributeError: y += 'none',",
        "y == (True, 5, 'text', 'no', 'none') and i.f.call_args == call(2) and g.call_count == 1",
    ),
    "those to be awaited, and those of the notebook's classes": (
        "class M(MagicMock):\n    def hi(self): return self.name_of\na = AsyncMock(return_value=2); m = M(); "
        "m.name_of = [1]; n = NonCallableMock(); p = PropertyMock(return_value=6)\nclass C:\n    p = p\nc = C()",
        "import asyncio\nx = asyncio.run(a()), m.hi(), c.p; m.name_of.append(2); n.y = 5",
        "x == (2, [1, 2], 6) and a.await_count == 1 and isinstance(m, M) and n.y == 5 and p.called",
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_mocks_do_in_a_job_what_they_do_here(kernel: Kernel, kind: str) -> None:
    before, cell, expected = CELLS[kind]
    names = "AsyncMock, MagicMock, Mock, NonCallableMock, PropertyMock, call, create_autospec"
    assert kernel.does_the_same(f"import os\nfrom unittest.mock import {names}\n{before}", cell, expected)


def test_looking_for_the_paths_that_values_are_is_no_call_of_a_mock() -> None:
    asked = MagicMock()
    assert temporary_files.named_by([asked, [asked]]) == [] and asked.mock_calls == []
