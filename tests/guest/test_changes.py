"""Which groups of variables a job's cell can reach, and which of them it changed."""

from __future__ import annotations

import textwrap

import pytest

from docker_kernel.guest import snapshot
from docker_kernel.guest.changes import Changes
from docker_kernel.guest.merge import Restored
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["notebook"]

SETUP = """
a, b, c = [1], [2], [3]
shared = [b]
def uses_a(): a.append(1)
class Uses:
    def b(self): b.append(1)
uses = Uses()
"""


def looked_at(notebook: Notebook, source: str) -> tuple[Changes, dict[int, set[str]]]:
    groups: list[Restored] = []
    found, _ = snapshot.restore(
        notebook.state,
        notebook.manifest(),
        notebook.namespace,
        on_group=lambda *group: groups.append(Restored(*group)),
    )
    notebook.namespace.update(found)
    changes = Changes(groups, notebook.namespace, textwrap.dedent(source))
    return changes, {group.number: set(group.values) for group in groups}


@pytest.mark.parametrize(
    ("cell", "changed"),
    [
        ("a.append(2)", "a"),
        ("uses_a()", "a"),
        ("uses.b()", "b shared"),
        ("exec('c.append(1)')", "c"),
        ("globals()['c' * 1].append(1)", "c"),
        ("import sys; sys.modules['__main__'].c.append(1)", "c"),
        ("len(a), b, c", ""),
        ("a.append(2); a.pop()", ""),
        ("b = 5", ""),
        ("shared[0].append(4); b = 5", "b shared"),
    ],
)
def test_changes_are_found_by_content(notebook: Notebook, cell: str, changed: str) -> None:
    changes, names = looked_at(notebook.run(SETUP), cell)
    notebook.run(cell)
    assert set().union(*(names[group.number] for group in changes.changed())) == set(changed.split())


def test_what_a_cell_cannot_reach_is_not_looked_at(notebook: Notebook) -> None:
    changes, names = looked_at(notebook.run(SETUP), "uses_a()")
    seen = set().union(*(names[number] for number in changes.reached))
    assert seen == {"a", "uses_a"}


def test_large_content_is_compared_with_what_was_sent(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\nc = np.zeros(100_000); d = np.zeros(100_000); e = d[::-1]")
    changes, names = looked_at(notebook, "c, d")
    notebook.run("c[5] = 1; d[7] = 0")
    (changed,) = changes.changed()
    assert names[changed.number] == {"c"}
