"""Files in the temporary folder that a cell, or what it names, names."""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import temporary_files
from docker_kernel.guest.temporary_files import named_by, named_by_cell, named_in, those_since


@pytest.fixture
def file() -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix="named-", suffix=".csv") as one:
        yield one.name


MADE = """
import pathlib, types
path = {file!r}
module = types.ModuleType("module"); module.__file__ = path
class Own:
    def __init__(self, where): self.where = where
held = {{"all": [pathlib.Path(path)]}}
own = Own(held)
def read(): return open({file!r})
def reads(): return read()
def default(where={file!r}): return where
other = 1
many = list(map(str, range(20_000)))
"""


@pytest.mark.parametrize(
    "cell",
    [
        "path", "module.one", "held", "own.where", "read()", "reads()", "default()", "open(FILE)",
        "print(other); x = [FILE]", "many; path",
        "get_ipython().system('wc -l ' + other); get_ipython().system('wc -l FILE')", "url = 'file://FILE'",
    ],
)  # fmt: skip
def test_what_a_cell_names_is_found(file: str, cell: str) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(MADE.format(file=file), namespace)
    source = cell.replace("'wc -l FILE'", repr(f"wc -l {file}")).replace("'file://FILE'", repr(f"file://{file}"))
    assert named_by_cell(source.replace("FILE", repr(file)), namespace) == [file]
    assert named_by_cell("other + len(others)", namespace) == []


def test_what_is_not_there_or_elsewhere_is_not_found(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        "/tmp/surely-not-there",
        f"/x{file}",
        f"./{file}",
        "/tmp",
        "/etc/hostname",
        f"{file}\0",
        "x" * 20_000 + file,
    ]
    assert named_by(texts) == []
    assert named_in(f"open('{file}')\nopen({file}x)") == [file]
    monkeypatch.setattr(temporary_files, "FOLDERS", ("/dev",))
    assert named_by(["/dev/shm", "/dev/null"]) == ["/dev/null"], "the first is a mount"


def test_temporary_folders_and_paths_are_found_once() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = tempfile.TemporaryDirectory(dir=name)
        path = pathlib.Path(name) / "."
        found = named_by([folder, path, name, {"again": (path,)}])
        assert sorted(found) == sorted([name, folder.name])
        folder.cleanup()
        assert named_by([folder]) == []


def test_what_was_there_before_is_not_since(file: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert those_since([file], str(mark)) == [file]
    time.sleep(0.05)
    mark.touch()
    assert those_since([file, str(mark)], str(mark)) == [str(mark)]
