"""Which files are the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import docker_kernel
from docker_kernel.guest.own_files import is_own


def test_files_of_a_workspace_are_the_users_own(tmp_path: Path) -> None:
    assert is_own(str(tmp_path / "config.py")) and is_own("/home/me/lib/python/tools.py")


def test_those_of_python_and_of_packages_are_not() -> None:
    installed = "/home/me/.venv/lib/python3.12/site-packages/tool.py"
    for file in (json.__file__, pytest.__file__, docker_kernel.__file__, installed, "built-in", "frozen", None):
        assert not is_own(file), file


def test_packages_that_were_installed_into_a_folder_are_not(tmp_path: Path) -> None:
    (tmp_path / "lib" / "tool-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "lib" / "tool" / "parts").mkdir(parents=True)
    assert not is_own(str(tmp_path / "lib" / "tool" / "parts" / "one.py")) and not is_own(
        str(tmp_path / "lib" / "six.py")
    )
    assert is_own(str(tmp_path / "config.py")) and not is_own("/inputs/tools/one.py")
