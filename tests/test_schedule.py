"""What shares something stays in one worker, and each test is marked with what it needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_leftovers import pytest_run

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(6))
def test_{name}(number):
    pass
"""


def test_a_module_stays_in_one_worker(tmp_path: Path) -> None:
    names = ("first", "second", "third")
    paths = [tmp_path / f"test_{name}.py" for name in names]
    for name, path in zip(names, paths, strict=True):
        path.write_text(TESTS.format(name=name))
    run = pytest_run(tmp_path, "-v", *map(str, paths))
    text, _ = run.communicate()
    assert run.returncode == 0, text
    for name in names:
        workers = re.findall(rf"\[(gw\d)\].* PASSED .*test_{name}\[", text)
        assert len(workers) == 6 and len(set(workers)) == 1, text


def test_what_a_test_asks_for_is_what_it_is_marked_with(request: pytest.FixtureRequest) -> None:
    for item in request.session.items:
        marked, asked = {one.name for one in item.iter_markers()}, set(getattr(item, "fixturenames", ()))
        assert "engine" in marked or "engine" not in asked, item
        assert "cluster" in marked or not asked & {"two_nodes", "second_engine", "own_registry"}, item
