"""Closed files travel, and open ones do not."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import snapshot


def there(value: Any) -> Any:
    return snapshot.loads(snapshot.dumps({"": value}, {}), {})[""]


@pytest.mark.parametrize("mode", ["r", "w", "a", "x", "r+", "rb", "wb", "ab", "xb", "r+b", "w+b"])
def test_a_closed_file_is_one_there_and_nothing_is_done_to_what_it_names(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "data"
    if "x" not in mode:
        path.write_text("kept")
    with path.open(mode) as file:
        pass
    path.write_text("kept")
    found = there(file)
    assert (type(found), found.name, found.closed, path.read_text()) == (type(file), str(path), True, "kept")
    with pytest.raises(ValueError, match="closed file"):
        found.tell()


def test_those_without_a_name_of_their_own_and_temporary_ones_are_closed_there_too() -> None:
    with tempfile.TemporaryFile() as unnamed, tempfile.NamedTemporaryFile("w") as temporary:
        pass
    with Path("/dev/null").open("rb", buffering=0) as raw:
        pass
    assert [there(one).closed for one in (unnamed, temporary, raw)] == [True] * 3
    assert there(temporary).name == temporary.name


def test_an_open_file_does_not_travel() -> None:
    with Path("/dev/null").open() as file, pytest.raises(pickle.PicklingError, match="it is an open file"):
        there(file)
