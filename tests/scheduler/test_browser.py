"""A notebook job through jupyter-scheduler's user interface: a real JupyterLab in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import BrowserContext, Page, expect

from docker_kernel import background, images
from docker_kernel.engine import Engine
from docker_kernel.kernelspec import install
from tests.browser import START_MS, expect_loaded, keep, load, needs_chromium, watch
from tests.scheduler.server import SECONDS, Server, needs_scheduler
from tests.scheduler.test_backend import printed, written

pytestmark = [needs_chromium, needs_scheduler]

run = background.run_blocking


@pytest.fixture
def server(engine: Engine, python_image: str, tmp_path: Path) -> Iterator[Server]:
    """A JupyterLab with a notebook that has two parameters."""
    one = Server(tmp_path, "jupyterlab")
    run(install(engine, tmp_path / "data" / "kernels", {"image": python_image}, progress=images.silent))
    written(
        one.root / "report.ipynb",
        "rows: int = 3\ntitle = 'weekly'",
        "from pathlib import Path\nPath('table.csv').write_text('x\\n' * rows)\nprint(title, rows)",
    )
    notices = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notices.parent.mkdir(parents=True)
    notices.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    one.start("--LabApp.extension_manager=readonly")
    yield one
    for job in one.api("jobs")["jobs"]:
        one.api(f"jobs/{job['job_id']}", "DELETE")
    one.end()


@pytest.fixture
def page(server: Server, window: BrowserContext) -> Iterator[Page]:
    """The notebook, opened."""
    page = window.new_page()
    watch(page)
    load(lambda: page.goto(f"{server.url}lab/tree/report.ipynb?token={server.token}&reset"))
    expect_loaded(page, page.locator(".jp-NotebookPanel-toolbar").get_by_title("Create a job", exact=True))
    yield page
    keep(page, "scheduled-run-end")
    page.close()


def test_a_job_is_created_seen_complete_and_downloaded(server: Server, page: Page) -> None:
    page.locator(".jp-NotebookPanel-toolbar").get_by_title("Create a job", exact=True).click()
    form = page.locator("form", has_text="Create Job")
    expect(form.locator("#jp-create-job-environment")).to_have_text("Container: docker-python")
    form.locator("#jp-create-job-environment").click()
    page.get_by_role("option", name="Container: docker-python").click()
    for number, (name, value) in enumerate([("rows", "12"), ("title", "monthly report")]):
        form.get_by_title("Add new parameter").click()
        form.locator(f"[name='parameter-{number}-name']").fill(name)
        form.locator(f"[name='parameter-{number}-value']").fill(value)
        page.keyboard.press("Tab")  # the form checks a field that is left, and is drawn anew for it
    page.get_by_role("button", name="Create", exact=True).click()

    row = page.locator("tr", has_text="report.ipynb")
    for _ in range(int(SECONDS / 2)):
        if row.get_by_text("Completed").count():
            break
        page.wait_for_timeout(2000)
        page.get_by_role("button", name="Reload").click()
    expect(row).to_contain_text("Completed")
    row.get_by_title("Download").click()
    expect(row.get_by_text("Notebook")).to_be_visible(timeout=START_MS)  # it looks again after 5 s
    keep(page, "scheduled-run")

    (job,) = server.api("jobs")["jobs"]
    found = {one["file_format"]: server.root / one["file_path"] for one in job["job_files"]}
    assert printed(found["ipynb"]) == "monthly report 12\n"
    assert (found["files"] / "table.csv").read_text() == "x\n" * 12
