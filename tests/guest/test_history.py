"""What IPython keeps of the cells before travels as far as a cell names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from docker_kernel.guest import history


class _Shell(InteractiveShell):
    def enable_gui(self, gui: Any = None) -> None:
        pass


@pytest.fixture
def shells() -> Iterator[tuple[InteractiveShell, InteractiveShell]]:
    """A kernel's that has run two cells, and a job's."""
    config = Config(HistoryManager={"hist_file": ":memory:"})
    kernel, job = _Shell(config=config), _Shell(config=config)
    for code in ("[1]", "'two'", "%pass_on"):
        kernel.run_cell(code, store_history=True)
    yield kernel, job
    for one in (kernel, job):
        one.history_manager.end_session()
        one.restore_sys_module_state()


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("x = 1", ""),
        ("print(_)", "_"),
        ("_1, ___", "_1"),
        ("Out[1]", "_1 _2"),
        ("In[1]", ""),
        ("for _ in range(3): print(_)", ""),
        ("text = '_'", ""),
    ],
)
def test_what_a_cell_reads_travels(shells: tuple[InteractiveShell, InteractiveShell], cell: str, names: str) -> None:
    found = history.named(cell, shells[0])
    assert sorted(name for name in found if name != history.NAME) == names.split()
    assert (history.NAME in found) is bool(names or "In" in cell)


def test_a_jobs_shell_goes_on_where_the_kernels_is(shells: tuple[InteractiveShell, InteractiveShell]) -> None:
    kernel, job = shells
    sent = history.named("_, __, Out, In, _i", kernel)
    history.give(job, sent)
    assert history.NAME not in sent
    cell = "[_, __, Out, In[1:-1], _i, _ii, _i1, _oh is Out]"
    found = job.run_cell(cell, store_history=True).result
    assert found[:2] == ["two", [1]] and found[2] == {1: [1], 2: "two", 3: found}
    assert found[3:] == [["[1]", "'two'"], "'two'", "[1]", "[1]", True]
    assert job.run_cell("_ is __ or _[0] == 'two'", store_history=True).result is True
