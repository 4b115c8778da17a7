"""Which notebook has which jobs: after renames, copies, and a new notebook where another one was."""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.notebooks import Notebooks
from docker_kernel.kernel.notebook import Sight, look


def write(path: Path, *sources: str, ids: list[str] | None = None) -> Path:
    """A notebook as Jupyter saves it: into the file that there is."""
    names = ids or [uuid.uuid4().hex[:8] for _ in sources]
    cells: list[dict[str, Any]] = [
        {"id": name, "cell_type": "code", "source": source.splitlines(True), "outputs": []}
        for name, source in zip(names, sources, strict=True)
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return path


def cells_of(path: Path) -> list[str]:
    return [cell["id"] for cell in json.loads(path.read_text())["cells"]]


class Server:
    """Starts kernels for notebooks, and says whose their jobs are."""

    def __init__(self, folder: Path) -> None:
        self.notebooks = Notebooks(Ledger(folder / "jobs.sqlite"))

    def kernel(self, path: Path) -> tuple[Sight, str]:
        """A kernel of a notebook: that as it is now, and the kernel's id."""
        return look(str(path)), uuid.uuid4().hex

    def owner(self, path: Path) -> str:
        return self.notebooks.owner(*self.kernel(path))


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "ledger")


def moved_by_a_copy(old: Path, new: Path) -> None:
    """As `mv` does between file systems, and what synchronizes folders."""
    shutil.copyfile(old, new)
    old.unlink()


@pytest.mark.parametrize("move", [os.rename, moved_by_a_copy], ids=["rename", "copy"])
@pytest.mark.parametrize("where", ["second.ipynb", "elsewhere/second.ipynb"])
def test_a_notebook_that_was_renamed_has_its_jobs(
    server: Server, tmp_path: Path, move: Callable[[Path, Path], None], where: str
) -> None:
    first, second = write(tmp_path / "first.ipynb", "x = 1", "y = x"), tmp_path / where
    second.parent.mkdir(exist_ok=True)
    owner = server.owner(first)
    move(first, second)
    assert server.owner(second) == owner
    assert server.owner(write(first, "x = 1", "y = x + 1")) != owner, "a new one, where it was"
    assert server.owner(second) == owner


def test_a_notebook_in_a_folder_that_was_renamed_has_its_jobs(server: Server, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    owner = server.owner(write(tmp_path / "project" / "study.ipynb", "x = 1"))
    (tmp_path / "project").rename(tmp_path / "paper")
    assert server.owner(tmp_path / "paper" / "study.ipynb") == owner


def test_a_copy_has_no_jobs_of_the_original(server: Server, tmp_path: Path) -> None:
    first, copy = write(tmp_path / "first.ipynb", "x = 1", "y = x"), tmp_path / "copy.ipynb"
    owner = server.owner(first)
    shutil.copyfile(first, copy)
    other = server.owner(copy)
    assert other != owner and server.owner(first) == owner
    first.rename(tmp_path / "renamed.ipynb")
    assert [server.owner(copy), server.owner(tmp_path / "renamed.ipynb")] == [other, owner]


@pytest.mark.parametrize("copied_to", ["first.ipynb", "other.ipynb"])
def test_a_copy_of_a_renamed_notebook_has_none_though_it_is_opened_first(
    server: Server, tmp_path: Path, copied_to: str
) -> None:
    first, renamed = write(tmp_path / "first.ipynb", "x = 1", "y = x"), tmp_path / "renamed.ipynb"
    owner = server.owner(first)
    first.rename(renamed)
    copy = shutil.copyfile(renamed, tmp_path / copied_to)
    assert server.owner(copy) != owner
    assert server.owner(renamed) == owner


def test_a_second_name_of_a_file_is_no_way_to_its_jobs_but_one_through_a_link_to_its_folder_is(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    owner = server.owner(write(tmp_path / "folder" / "study.ipynb", "x = 1"))
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert server.owner(tmp_path / "link" / "study.ipynb") == owner
    (tmp_path / "other.ipynb").hardlink_to(tmp_path / "folder" / "study.ipynb")
    assert server.owner(tmp_path / "other.ipynb") != owner


def test_what_code_in_a_kernel_does_to_files_gives_it_no_other_notebooks_jobs(server: Server, tmp_path: Path) -> None:
    own, other = write(tmp_path / "own.ipynb", "x = 1"), write(tmp_path / "other.ipynb", "y = 2")
    running, owner = server.kernel(own), server.owner(other)
    other.rename(own)
    assert server.notebooks.owner(*running) != owner


@pytest.mark.parametrize("untitled", [[], ["import numpy as np"]], ids=["empty", "with a cell"])
def test_a_new_notebook_called_as_one_before_has_none_of_its_jobs(
    server: Server, tmp_path: Path, untitled: list[str]
) -> None:
    path = write(tmp_path / "Untitled.ipynb", "import numpy as np", "x = np.ones(3)", "x.sum()")
    inode, owner = path.stat().st_ino, server.owner(path)
    write(path, *untitled)
    assert path.stat().st_ino == inode, "as a file system gives a number again"
    assert server.owner(path) != owner
    path.unlink()
    (tmp_path / "takes the number").touch()
    assert server.owner(write(path, *untitled)) != owner


def test_a_kernel_knows_its_notebook_that_is_renamed_before_its_first_job(server: Server, tmp_path: Path) -> None:
    untitled = write(tmp_path / "Untitled.ipynb")
    running = server.kernel(untitled)
    untitled.rename(tmp_path / "study.ipynb")
    other = server.owner(write(untitled, "1"))
    owner = server.notebooks.owner(*running)
    assert owner != other and server.owner(tmp_path / "study.ipynb") == owner
    assert server.notebooks.note(owner) == str(tmp_path / "study.ipynb")


def test_a_kernel_keeps_its_jobs_while_its_notebook_is_renamed_and_its_server_replaced(
    server: Server, tmp_path: Path
) -> None:
    path, renamed = write(tmp_path / "Untitled.ipynb"), tmp_path / "study.ipynb"
    running = server.kernel(path)
    owner = server.notebooks.owner(*running)
    write(path, "x = 1", "y = 2")
    path.rename(renamed)
    other = server.owner(write(path))
    assert Server(tmp_path / "ledger").notebooks.owner(look(str(path)), running[1]) == owner != other
    assert server.notebooks.note(owner) == str(renamed)
    moved = renamed.rename(tmp_path / "ledger" / "study.ipynb")
    assert server.owner(moved) == owner


def test_a_notebook_stays_the_same_however_it_is_saved(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "study.ipynb", "x = 1", "y = 2", "z = 3")
    owner, ids = server.owner(path), cells_of(path)
    new = write(tmp_path / "new", "x = 5", "other = 1", ids=[ids[0], "new"])
    path.rename(tmp_path / "study.ipynb~")
    new.replace(path)
    assert server.owner(path) == owner, "as an editor saves it, with the old file beside it"
    assert server.notebooks.note(owner) == str(path)
    path.unlink()
    assert server.owner(write(path, "x = 5", "other = 1")) == owner, "made anew from a script, with other ids"


def test_a_notebook_that_was_empty_at_its_first_job_is_known_by_its_file(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "Untitled.ipynb")
    owner = server.owner(path)
    write(path, "x = 1")
    path.rename(tmp_path / "study.ipynb")
    assert server.owner(tmp_path / "study.ipynb") == owner


def test_a_notebook_without_a_file_is_known_by_its_path(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "in a store" / "study.ipynb"
    owner = server.owner(path)
    assert owner == f"notebook:{path}" == server.owner(path), "as in ledgers from before"
    assert server.owner(tmp_path / "in a store" / "other.ipynb") != owner
    assert server.notebooks.note(owner) == str(path)


def test_scripts_and_what_cannot_be_read_are_known_by_path_and_file(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text("# %%\nx = 1\n\n# %%\ny = 2\n")
    conflict = tmp_path / "conflict.ipynb"
    conflict.write_text('{"cells": [\n<<<<<<< ours\n')
    owners = [server.owner(script), server.owner(conflict)]
    script.rename(tmp_path / "paper.py")
    assert [server.owner(tmp_path / "paper.py"), server.owner(conflict)] == owners


def test_a_notebook_that_is_being_written_is_waited_for(server: Server, tmp_path: Path) -> None:
    path = write(tmp_path / "study.ipynb", "x = 1")
    owner, whole = server.owner(path), path.read_text()
    path.write_text(whole[:40])
    rest = threading.Timer(0.1, path.write_text, [whole])
    rest.start()
    assert look(str(path)).ids
    rest.join()
    assert server.owner(path) == owner


def test_a_ledger_that_cannot_be_written_costs_no_job(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lost = Notebooks(Ledger(tmp_path / "file" / "jobs.sqlite"))
    assert lost.owner(Sight("/w/study.ipynb"), "1") == "notebook:/w/study.ipynb"
    assert lost.note("notebook:/w/study.ipynb") == ""
