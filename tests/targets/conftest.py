"""The targets that tests of all of them run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.targets.places import NEEDS, PLACES, Place


@pytest.fixture(scope="module", params=[pytest.param(name, marks=NEEDS[name]) for name in sorted(PLACES)])
def place(request: pytest.FixtureRequest, own_folders: Path) -> Iterator[Place]:
    """A target of each kind, in the config file under the name `there`."""
    config = own_folders / "config.toml"
    before = config.read_text()
    with PLACES[request.param](request) as found:
        config.write_text(f"{before}\n[targets.there]\n{found.settings}\n")
        try:
            yield found
        finally:
            config.write_text(before)
