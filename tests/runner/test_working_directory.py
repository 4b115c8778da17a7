"""The private copy of a workspace that cannot be written: what cannot be copied is said, not left out in silence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docker_kernel.runner.places import Scratch, _private_copy, working_directory


def test_what_cannot_be_copied_is_said(tmp_path: Path) -> None:
    workspace, room = tmp_path / "workspace", tmp_path / "room"
    workspace.mkdir()
    room.mkdir()
    (workspace / "open.txt").write_text("x")
    os.mkfifo(workspace / "pipe")  # unlike a file without permissions, nobody can copy it, root included
    said: list[str] = []
    copy = _private_copy(workspace, Scratch(room, True), said.append)
    assert [path.name for path in copy.iterdir()] == ["open.txt"]
    (sentence,) = said
    assert sentence.startswith("1 of the notebook's files cannot be used") and "'pipe' is one of them" in sentence


def test_nothing_is_said_of_a_workspace_that_can_be_written(tmp_path: Path) -> None:
    assert working_directory(tmp_path, Scratch(tmp_path, True), pytest.fail) == tmp_path
