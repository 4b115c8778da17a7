"""Which groups of variables a job's cell can reach, and which of them it changed."""

from __future__ import annotations

import shutil
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
    changes = Changes(groups, notebook.namespace, textwrap.dedent(source), notebook.state)
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


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("stored", [True, False], ids=["stored here", "stored no more"])
def test_large_content_is_compared_with_what_was_sent(notebook: Notebook, size: int, stored: bool) -> None:
    pytest.importorskip("numpy")
    notebook.run(f"import numpy as np\nc, d, g = np.zeros({size}), np.zeros({size}), np.zeros({size}); e = d[::-1]")
    changes, names = looked_at(notebook, "c, d, g")
    if not stored:
        shutil.rmtree(f"{notebook.state}/blobs")
    notebook.run("c[-7] = 1; d[7] = 0; g[len(g) // 2] = 1")
    assert {name for changed in changes.changed() for name in names[changed.number]} == {"c", "g"}
