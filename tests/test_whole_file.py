"""Files that are written whole or not at all."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import whole_file


def broken() -> Iterator[bytes]:
    yield b"new"
    raise OSError("the source is gone")


def test_what_is_there_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file"
    for text in (b"old", b"new"):
        whole_file.write(path, [text, b"!"])
        assert path.read_bytes() == text + b"!" and stat.S_IMODE(path.stat().st_mode) == 0o644
    whole_file.keep(path, "äöü")
    assert path.read_text("utf-8") == "äöü" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="gone"):
        whole_file.write(path, broken())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"kept")
    (tmp_path / "file").symlink_to("other")
    whole_file.write(tmp_path / "file", [b"new"])
    assert (tmp_path / "other").read_bytes() == b"kept" and not (tmp_path / "file").is_symlink()
