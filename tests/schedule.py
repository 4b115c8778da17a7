"""What each test needs, which tests share it, and in what order they run.

A run in several workers (`pytest -n 4`) gives whole groups to them, the longest first, so that no worker has a long one
for itself at the end. tests/seconds.json says how long each took; `pytest --write-seconds` renews it.
"""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pytest

SECONDS = Path(__file__).with_name("seconds.json")

NEEDS = {
    "browser": {"browser", "lab", "page", "window"},
    "cluster": {"two_nodes", "second_engine", "own_registry"},
    "engine": {"engine"},
    "memory": {"shared_memory"},
}
"""By marker: the fixtures whose tests need it. What a test needs without a fixture, its own markers say."""

SHARED = {"two_nodes": "swarm", "second_engine": "second engine"}
"""The group of the tests that have a fixture which is dear to make. A registry of its own costs a worker nothing."""

BEHIND = {"tests/test_layers.py": "tests/test_jupyter_client_suite.py"}
"""Quick modules that go with a long test. A worker is given its next group when it has two tests left: one that comes
behind a group of a single test would wait for that."""

SPLIT = {"tests/guest/test_run_notebook.py": 3}
"""Modules whose tests share nothing and take long one after the other, and how many groups they make."""

GROUP = pytest.StashKey[str]()
_taken: collections.Counter[str] = collections.Counter()
_marked: collections.Counter[str] = collections.Counter()
_group_of: dict[str, str] = {}


def mark(item: pytest.Item) -> None:
    """Mark a test with what it needs, and with its group: what shares a kernel, a second engine, a Swarm, a Lab.

    As soon as it is collected: pytest-xdist's workers read the groups before any conftest may change the collection.
    """
    fixtures = set(getattr(item, "fixturenames", ()))
    for marker, names in NEEDS.items():
        if fixtures & names:
            item.add_marker(marker)
    if item.get_closest_marker("cluster") or item.get_closest_marker("browser"):
        item.add_marker("engine")
    module = item.nodeid.partition("::")[0]
    group = BEHIND.get(module, module)
    if module in SPLIT:
        _marked[module] += 1
        group = f"{module} {_marked[module] % SPLIT[module] + 1}"
    cluster = item.get_closest_marker("cluster")
    shared = {SHARED[name] for name in fixtures & set(SHARED)} | set(cluster.args if cluster else ())
    if item.get_closest_marker("browser"):
        group = "browser"
    elif shared:
        group = "swarm" if "swarm" in shared else "second engine"
    item.stash[GROUP] = _group_of[item.nodeid] = group
    item.add_marker(pytest.mark.xdist_group(group))


def order(item: pytest.Item) -> tuple[float, str]:
    """Sorts tests: those of the group that takes longest come first; within a group, as they stand."""
    group = item.stash[GROUP]
    return -_known().get(group, 0.0), group


def _known() -> dict[str, float]:
    if not _cache:
        _cache.update(json.loads(SECONDS.read_text()) if SECONDS.exists() else {})
        _cache.setdefault("", 0.0)
    return _cache


_cache: dict[str, float] = {}


def add(report: pytest.TestReport) -> None:
    """Count what a test took."""
    group = report.nodeid.rpartition("@")[2] if "@" in report.nodeid else _group_of.get(report.nodeid, "")
    _taken[group] += report.duration


def write() -> None:
    """Keep how long each group took."""
    seconds = {group: round(taken, 1) for group, taken in sorted(_taken.items()) if group}
    SECONDS.write_text(json.dumps(seconds, indent=2) + "\n")
