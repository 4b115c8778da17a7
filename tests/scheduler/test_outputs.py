"""What a hostile notebook leaves in its output folder harms nobody; no engine is needed for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scheduler.server import needs_scheduler

pytestmark = needs_scheduler


@pytest.fixture
def staged(tmp_path: Path) -> dict[str, str]:
    """A job's staging paths; its container wrote nothing yet."""
    from docker_kernel.scheduler import outputs

    folder = tmp_path / "job"
    (folder / outputs.FOLDER).mkdir(parents=True)
    (folder / "report.ipynb").write_text("input")
    (folder / outputs.LOCK).touch()
    return {"input": str(folder / "report.ipynb"), "html": str(folder / "report-1.html")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of the user's, which no run has to do with."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "id_rsa").write_text("secret")
    return folder


def test_files_come_and_come_once(staged: dict[str, str]) -> None:
    from docker_kernel.scheduler import outputs

    job = Path(staged["input"]).parent
    written = job / outputs.FOLDER
    (written / "files" / "made").mkdir(parents=True)
    (written / "files" / "made" / "table.csv").write_text("x")
    (written / "files" / "report.ipynb").write_text("another")
    (written / "files" / outputs.LOCK).write_text("another")
    (written / "output.html").write_text("page")
    assert outputs.collect(staged) == ["made/table.csv"]
    assert (job / "made" / "table.csv").read_text() == "x"
    assert Path(staged["html"]).read_text() == "page"
    assert Path(staged["input"]).read_text() == "input"
    assert (job / outputs.LOCK).read_text() == ""
    assert outputs.collect(staged) == []


def test_no_link_is_followed(staged: dict[str, str], home: Path) -> None:
    from docker_kernel.scheduler import outputs

    files = Path(staged["input"]).parent / outputs.FOLDER / "files"
    files.symlink_to(home)
    assert outputs.collect(staged) == []
    assert (home / ".ssh" / "id_rsa").read_text() == "secret"


def test_no_link_below_is_followed(staged: dict[str, str], home: Path) -> None:
    from docker_kernel.scheduler import outputs

    written = Path(staged["input"]).parent / outputs.FOLDER
    (written / "files").mkdir()
    (written / "files" / "below").symlink_to(home)
    (written / "files" / "key").symlink_to(home / ".ssh" / "id_rsa")
    (written / "output.html").symlink_to(home / ".ssh" / "id_rsa")
    assert outputs.collect(staged) == []
    assert (home / ".ssh" / "id_rsa").read_text() == "secret"
    assert not Path(staged["html"]).exists()


def test_nothing_is_written_where_a_link_leads(staged: dict[str, str], home: Path) -> None:
    from docker_kernel.scheduler import outputs

    job = Path(staged["input"]).parent
    (job / "data").symlink_to(home)
    (job / outputs.FOLDER / "files" / "data").mkdir(parents=True)
    (job / outputs.FOLDER / "files" / "data" / "authorized_keys").write_text("evil")
    (job / outputs.FOLDER / "files" / "report.ipynb").mkdir()
    (job / outputs.FOLDER / "files" / "report.ipynb" / "x").write_text("in a file's place")
    assert outputs.collect(staged) == []
    assert not (home / "authorized_keys").exists()
