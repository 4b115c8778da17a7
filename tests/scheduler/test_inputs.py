"""What of a notebook's folder is sent along with its job; no engine is needed for that."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from docker_kernel.containerize import plan
from tests.scheduler.server import needs_scheduler

pytestmark = needs_scheduler


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    import nbformat

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "private.txt").write_text("secret")
    work = tmp_path / "work"
    (work / "data" / "deep").mkdir(parents=True)
    (work / "data" / "deep" / "table.csv").write_text("x")
    nbformat.write(nbformat.v4.new_notebook(), work / "report.ipynb")
    return work / "report.ipynb"


def test_the_folder_goes_along_without_what_links_lead_to(notebook: Path, tmp_path: Path) -> None:
    from docker_kernel.scheduler import inputs
    from docker_kernel.scheduler.outputs import FOLDER, LOCK

    work, job = notebook.parent, tmp_path / "staging" / "job"
    (work / "home").symlink_to(tmp_path / "home")
    (work / "private.txt").symlink_to(tmp_path / "home" / "private.txt")
    (work / "data" / "up.txt").symlink_to("../../home/private.txt")
    (work / "latest.csv").symlink_to("data/deep/table.csv")
    (work / FOLDER).mkdir()
    (work / FOLDER / "x").write_text("another's")
    (work / LOCK).write_text("another's")
    (work / ".env").write_text("TOKEN=1")
    assert inputs.copy(notebook, job) == ["data/deep/table.csv"]
    assert (job / "data" / "deep" / "table.csv").read_text() == (job / "latest.csv").read_text() == "x"
    assert sorted(path.name for path in job.iterdir()) == ["data", "latest.csv"]
    assert not (job / "data" / "up.txt").is_symlink()


@pytest.mark.parametrize(
    ("path", "link", "stays"),
    [
        ("a", "b/c", True),
        ("x/a", "../b", True),
        ("a", "../b", False),
        ("x/a", "../../b", False),
        ("x/a", "b/../c", False),  # b may lead upwards
        ("a", "/etc/passwd", False),
    ],
)
def test_links_that_stay(path: str, link: str, stays: bool) -> None:
    from docker_kernel.scheduler import inputs

    assert inputs._stays(PurePosixPath(path), link) is stays


def test_a_folder_too_large_leaves_no_job(notebook: Path, tmp_path: Path) -> None:
    from jupyter_scheduler.exceptions import SchedulerError
    from jupyter_scheduler.models import CreateJob
    from jupyter_scheduler.orm import Job, create_tables

    from docker_kernel.scheduler.backend import DockerScheduler
    from docker_kernel.scheduler.environments import DockerEnvironments

    with (notebook.parent / "large.bin").open("wb") as file:
        file.truncate(plan.BUDGET + 1)
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    create_tables(url)
    scheduler = DockerScheduler(
        root_dir=str(notebook.parent),
        environments_manager=DockerEnvironments(),
        db_url=url,
        staging_path=str(tmp_path / "staging"),
    )
    asked = CreateJob(
        input_uri="report.ipynb",
        input_filename="report.ipynb",
        runtime_environment_name="Container: any",
        name="large",
        package_input_folder=True,
    )
    with pytest.raises(SchedulerError, match=r"large\.bin"):
        scheduler.create_job(asked)
    with scheduler.db_session() as session:
        assert session.query(Job).count() == 0
    assert not list((tmp_path / "staging").glob("*"))
