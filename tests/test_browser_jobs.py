"""Jobs' live displays as a user sees them: a real JupyterLab in a real browser."""

from __future__ import annotations

import json
import re
import time

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Locator, Page, expect

from tests.browser import (
    START_MS,
    Lab,
    Notebook,
    expect_loaded,
    keep,
    load,
    needs_chromium,
    show_in,
)

pytestmark = needs_chromium

TRAIN = """\
%%dispatch --name train
import time
for epoch in range(1, 61):
    loss = 1.8 * 0.93 ** epoch
    job.progress(epoch / 60, f"epoch {epoch} of 60", loss=loss, accuracy=1 - loss / 2)
    print(f"epoch {epoch:2}  loss {loss:.4f}")
    time.sleep(0.5)"""

SWEEP = """\
%%dispatch --name rates --sweep rate=0.001,0.01,0.1,1.0,10.0 --sweep width=8,16
import time
for step in range(1, 21):
    job.progress(step / 20, loss=rate / step + 1 / width)
    time.sleep(0.1)
assert rate < 10, "the loss is not finite\""""


def opened(lab: Lab, page: Page, name: str) -> Notebook:
    notebook = Notebook.written(lab, page, name).ready()
    expect(notebook.cell("from docker_kernel import job, jobs\nprint('ready')")).to_contain_text(
        "ready", timeout=START_MS
    )
    return notebook


def keep_in_both_themes(page: Page, name: str) -> None:
    keep(page, name)
    show_in(page, "Dark")
    keep(page, f"{name}_dark")
    show_in(page, "Light")


def bar(output: Locator) -> float:
    """How far the bar is drawn, from 0 to 1."""
    found = output.locator(".widget-hprogress .progress-bar")
    expect(found).to_be_visible(timeout=START_MS)
    return float(found.evaluate("bar => bar.offsetWidth / bar.parentElement.clientWidth"))


def moves(output: Locator) -> None:
    """The bar goes on, in the browser."""
    before = bar(output)
    deadline = time.monotonic() + 20
    while bar(output) < before + 0.05:
        assert time.monotonic() < deadline, f"the bar stays at {before}"
        output.page.wait_for_timeout(100)


def button(output: Locator, text: str) -> Locator:
    """The buttons to be seen that say something."""
    return output.locator("button", has_text=re.compile(f"^{text}$")).filter(visible=True)


def saved_and_reloaded(page: Page) -> None:
    """Save the notebook, so that its outputs are there again, and load the page anew."""
    with page.expect_response(lambda answer: "/api/contents/" in answer.url and answer.request.method == "PUT"):
        page.keyboard.press("Control+s")
    page.wait_for_timeout(500)
    load(page.reload)
    Notebook(page).ready()


def output_of(page: Page, number: int) -> Locator:
    return page.locator(".jp-Notebook-cell").nth(number).locator(".jp-Cell-outputWrapper")


def test_a_job_goes_on_after_its_cell_and_after_a_reload(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "train.ipynb")
    output = notebook.cell(TRAIN)
    expect(notebook.cell("print('the notebook goes on')")).to_contain_text("goes on", timeout=START_MS)
    moves(output)
    expect(output).to_contain_text("left")
    expect(output).to_contain_text(re.compile(r"epoch [1-4]\d of 60"), timeout=START_MS)
    keep_in_both_themes(page, "job")
    saved_and_reloaded(page)
    output = output_of(page, 1)
    expect(output.locator(".widget-hprogress")).to_be_visible(timeout=START_MS)
    moves(output)
    keep(page, "job_reloaded")
    button(output, "Cancel").click()
    expect(output).to_contain_text("cancelled", timeout=START_MS)
    expect(button(output, "Cancel")).to_have_count(0)


def test_a_job_that_ends_needs_no_kernel_to_be_read(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "short.ipynb")
    output = notebook.cell(TRAIN.replace("0.5)", "0.03)"))
    expect(output).to_contain_text("succeeded", timeout=START_MS)
    expect(output.locator(".jp-RenderedHTMLCommon")).to_contain_text("epoch 60  loss")
    expect(output.locator("button")).to_have_count(0)
    with page.expect_response(lambda answer: "/api/contents/" in answer.url and answer.request.method == "PUT"):
        page.keyboard.press("Control+s")
    lab.end_sessions()
    load(page.reload)
    expect_loaded(page, output_of(page, 1), "epoch 60  loss")


def test_a_failed_job_is_retried_by_its_button(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "failed.ipynb")
    output = notebook.cell(
        "%%dispatch --name careless\nimport time\nprint('reading', 20, 'files')\ntime.sleep(3)\n"
        "raise ValueError('a row has no label')"
    )
    expect(output).to_contain_text("ValueError: a row has no label", timeout=START_MS)
    expect(button(output, "Retry")).to_be_visible(timeout=START_MS)
    keep(page, "job_failed")
    button(output, "Retry").click()
    expect(output).to_contain_text("running", timeout=START_MS)
    expect(button(output, "Retry")).to_have_count(0)
    expect(button(output, "Retry")).to_be_visible(timeout=START_MS)


def test_a_sweep_is_a_table(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "sweep.ipynb")
    output = notebook.cell(SWEEP)
    expect(output).to_contain_text("rate=10.0, width=16", timeout=START_MS)
    expect(output).to_contain_text("loss = ", timeout=START_MS)
    expect(output).to_contain_text(re.compile(r"[2-7] succeeded"), timeout=START_MS)
    keep_in_both_themes(page, "sweep")
    saved_and_reloaded(page)
    output = output_of(page, 1)
    expect(output).to_contain_text("8 succeeded", timeout=START_MS)
    expect(output).to_contain_text("2 failed", timeout=START_MS)
    expect(output).to_contain_text("the loss is not finite", timeout=START_MS)
    expect(button(output, "Retry failed")).to_be_visible()
    notebook.count = 2
    expect(notebook.cell("jobs").locator("table")).to_contain_text("rates", timeout=START_MS)
    keep_in_both_themes(page, "jobs")


def test_a_display_is_attached_again_after_a_restart(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "restart.ipynb")
    output = notebook.cell(TRAIN)
    moves(output)
    notebook.button("Restart the kernel")
    with page.expect_response(re.compile("/restart")):
        page.locator(".jp-Dialog button", has_text="Restart").click()
    notebook.ready()
    expect(output).to_contain_text("The kernel that showed this has gone", timeout=START_MS)
    expect(output).to_contain_text(re.compile(r"epoch \d+ of 60"))
    expect(button(output, "Cancel")).to_have_count(0)
    signs = "all => all.map(one => getComputedStyle(one, '::before').content).filter(one => one != 'none')"
    assert output.locator(".jupyter-widgets-disconnected").evaluate_all(signs) == [], "no broken chains"
    keep(page, "job_after_restart")
    saved_and_reloaded(page)
    output = output_of(page, 1)
    moves(output)
    expect(output.locator(".docker-kernel-away")).to_be_hidden()
    keep(page, "job_after_restart_and_reload")
    notebook.count = 2
    again = notebook.cell("from docker_kernel import jobs\njobs['train']")
    moves(again)
    button(again, "Cancel").click()
    expect(again).to_contain_text("cancelled", timeout=START_MS)


def test_a_renamed_notebooks_next_kernel_has_its_display(lab: Lab, page: Page) -> None:
    notebook = opened(lab, page, "before.ipynb")
    output = notebook.cell(TRAIN.replace("0.5)", "1)"))
    expect(output).to_contain_text(re.compile(r"epoch \d+ of 60"), timeout=START_MS)
    with page.expect_response(lambda answer: "/api/contents/" in answer.url and answer.request.method == "PUT"):
        page.keyboard.press("Control+s")
    page.goto("about:blank")
    lab.end_sessions()
    (lab.workspace / "before.ipynb").rename(lab.workspace / "after.ipynb")
    page.goto(lab.address("lab/tree/after.ipynb"))
    notebook.ready()
    output = output_of(page, 1)
    moves(output)
    expect(output.locator(".docker-kernel-away")).to_be_hidden()
    button(output, "Cancel").click()
    expect(output).to_contain_text("cancelled", timeout=START_MS)


def test_two_hundred_jobs_are_light(lab: Lab, page: Page) -> None:
    """Buttons and other cells answer while a big sweep runs; its jobs can all be cancelled."""
    notebook = opened(lab, page, "many.ipynb")
    output = notebook.cell("%%dispatch --sweep n=range(200)\nimport time\ntime.sleep(600)")
    expect(output).to_contain_text("200 jobs on local", timeout=START_MS)
    expect(notebook.cell("print(6 * 7)")).to_contain_text("42", timeout=START_MS)
    button(output, "Cancel all").click()
    expect(output).to_contain_text("200 cancelled", timeout=2 * START_MS)


def test_a_lab_without_widgets_shows_html(lab: Lab, page: Page) -> None:
    config = lab.folder / "config" / "labconfig" / "page_config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"disabledExtensions": {"@jupyter-widgets/jupyterlab-manager": True}}))
    try:
        notebook = opened(lab, page, "plain.ipynb")
        output = notebook.cell(TRAIN.replace("0.5)", "0.2)"))
        drawn = output.locator("progress")
        expect(drawn).to_be_visible(timeout=START_MS)
        expect(notebook.cell("print('the notebook goes on')")).to_contain_text("goes on", timeout=START_MS)
        expect(output).to_contain_text(re.compile(r"epoch [2-5]\d of 60"), timeout=START_MS)
        assert float(drawn.get_attribute("value") or 0) >= 0.3
        expect(output.locator("button")).to_have_count(0)
        expect(output).to_contain_text("succeeded", timeout=START_MS)
    finally:
        config.unlink()
