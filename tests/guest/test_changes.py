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
        mapped=True,
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


@pytest.mark.parametrize("size", [7_000, 10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("stored", [True, False], ids=["stored here", "stored no more"])
def test_large_content_is_compared_with_what_was_sent(notebook: Notebook, size: int, stored: bool) -> None:
    pytest.importorskip("numpy")
    notebook.run(f"import numpy as np\nc, d, g = np.zeros({size}), np.zeros({size}), np.zeros({size}); e = d[::-1]")
    changes, names = looked_at(notebook, "c, d, g")
    if not stored:
        shutil.rmtree(f"{notebook.state}/blobs")
    notebook.run("c[-7] = 1; d[7] = 0; g[len(g) // 2] = 1")
    assert {name for changed in changes.changed() for name in names[changed.number]} == {"c", "g"}


def test_what_changes_places_in_a_set_has_changed(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("""
        import numpy as np
        class Part:
            def __init__(self, number):
                self.number, self.array = number, np.full(10_000, float(number))
        parts = {Part(number) for number in range(20)}
    """)
    sent = [part.number for part in notebook["parts"]]
    changes, _ = looked_at(notebook, "parts")
    # Its objects are elsewhere in memory, and so its order is another one.
    assert [part.number for part in notebook["parts"]] != sent
    assert not changes.changed()
    for part, number in zip(notebook["parts"], sent, strict=True):
        part.array[:] = number
    assert changes.changed()


PLAIN = """
from itertools import chain
plain = [set(range(1000)), {'a': 1.5, 'b': [None, True, 2j]}, ('x', b'y', range(3)), 'long ' * 1000, 1 << 70]
plain += [plain, [{'number': number} for number in range(3000)]]
for number in {*range(1000)} - {1, 8}:
    plain[0].discard(number)
"""


@pytest.mark.parametrize(
    ("cell", "is_changed"),
    [
        ("plain", False),
        ("plain[0].add(7); plain[0].discard(7)", False),
        ("plain[-1][2999]['number'] = 2999", False),
        ("plain[-1][2999]['number'] = 2999.0", True),
        ("plain[0].add(70)", True),
        ("plain[1]['b'][2] = 3j", True),
        ("plain[1]['a'], plain[1]['c'] = plain[1].pop('b'), plain[1].pop('a')", True),
        ("plain[-2] = list(plain)", True),
        ("plain.append(chain)", True),
    ],
)
def test_plain_values_are_looked_at_when_the_cell_has_run_only(notebook: Notebook, cell: str, is_changed: bool) -> None:
    # A set's order, and so its pickle, depends on what was in it once.
    changes, names = looked_at(notebook.run(PLAIN), cell)
    (number,) = (number for number, group in names.items() if group == {"plain"})
    assert changes.reached[number].plain
    notebook.run(cell)
    assert [group.number for group in changes.changed()] == ([number] if is_changed else [])


def test_arrays_are_plain_values_too_and_large_bytes_are_not(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    notebook.run("""
        import numpy as np
        held = [np.arange(3), np.zeros((300, 300), order='F'), np.array(['a', 'b']), np.zeros(2, [('x', 'f4')])]
        held += [np.ones(20_000), bytearray(5), np.array([1, None], object)]
        other = [np.random.default_rng(0), np.ones(20_000)]; texts = np.array(['text'] * 2000, object)
        masked = np.ma.ones(3); large = {bytes(100_000), b'a' * 100_000}
    """)
    changes, names = looked_at(notebook, "held, other, texts, masked, large")
    plain = {name for number, one in changes.reached.items() if one.plain for name in names[number]}
    assert plain == {"held"} and not changes.changed()
    notebook["held"][1][7, 7] = 1
    assert [names[group.number] for group in changes.changed()] == [{"held"}]
    notebook["held"][1][7, 7] = 0
    notebook["held"][4] = np.zeros(20_000)
    assert [names[group.number] for group in changes.changed()] == [{"held"}]


def test_plain_values_whose_pickle_is_gone_count_as_changed_where_they_are_pickled_otherwise(
    notebook: Notebook,
) -> None:
    changes, names = looked_at(notebook.run(PLAIN), "plain")
    shutil.rmtree(f"{notebook.state}/blobs")
    assert [names[group.number] for group in changes.changed()] == [{"plain"}]
