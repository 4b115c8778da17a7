"""What a user sees: a real JupyterLab in a real browser, with kernels in containers."""

from __future__ import annotations

import os
import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, expect

from tests.browser import (
    ABSENT,
    START_MS,
    Lab,
    Notebook,
    keep,
    kernel_of,
    needs_chromium,
)
from tests.engines import paused

pytestmark = needs_chromium


def test_a_notebook_runs_in_a_container_on_the_files_beside_it(lab: Lab, page: Page) -> None:
    notebook = Notebook.open(lab, page).ready()
    state = kernel_of(lab)
    output = notebook.cell("import os, socket\nprint(socket.gethostname(), os.getcwd())")
    expect(output).to_contain_text(f"{state.id[:12]} {lab.workspace}", timeout=START_MS)
    output = notebook.cell("open('made.txt', 'w').write('by the kernel')")
    expect(output).to_contain_text("13", timeout=START_MS)
    made = lab.workspace / "made.txt"
    assert made.read_text() == "by the kernel"
    assert made.stat().st_uid == os.getuid()


PLOT = """\
import matplotlib.pyplot as plt, numpy as np, socket, time

x = np.linspace(0, 10, 400)
plt.figure(figsize=(7, 1.5))
plt.plot(x, np.sin(x) * np.exp(-x / 8));"""

LOCAL = """\
%%local
where = socket.gethostname()
total = float(np.sum(x))
print("computed in", where)"""

DISPATCH = """\
%%dispatch --name sweep
for epoch in range(1, 9):
    score = 1 - 0.5 ** epoch
    print(f"epoch {epoch}  score {score:.3f}")
    time.sleep(0.5)"""


def test_a_tour_of_plots_local_cells_and_jobs(lab: Lab, page: Page) -> None:
    """As the docs show it."""
    notebook = Notebook.written(lab, page, "tour.ipynb").ready()
    plot = notebook.cell(PLOT).locator("img")
    expect(plot).to_be_visible(timeout=START_MS)
    assert plot.evaluate("image => image.naturalWidth") > 300
    expect(notebook.cell(LOCAL)).to_contain_text("computed in", timeout=START_MS)
    output = notebook.cell(DISPATCH)
    # The notebook goes on while the job runs.
    goes_on = notebook.cell("int(total), where != socket.gethostname()")
    expect(goes_on).to_contain_text("(2000, True)", timeout=START_MS)
    expect(output).to_contain_text("epoch 3 ", timeout=START_MS)
    keep(page, "lab")
    assert "epoch 8 " not in output.inner_text(), "the output came at the end, not live"
    expect(output).to_contain_text("epoch 8 ", timeout=START_MS)
    expect(output).to_contain_text("succeeded", timeout=START_MS)


def test_interrupting_a_cell_keeps_the_kernel(lab: Lab, page: Page) -> None:
    notebook = Notebook.open(lab, page).ready()
    expect(notebook.cell("kept = 41 + 1\nkept")).to_contain_text("42", timeout=START_MS)
    output = notebook.cell("import time\nprint('sleeping')\ntime.sleep(600)")
    expect(output).to_contain_text("sleeping", timeout=START_MS)
    notebook.button("Interrupt the kernel")
    expect(output).to_contain_text("KeyboardInterrupt", timeout=START_MS)
    expect(notebook.cell("print('kept is', kept)")).to_contain_text("kept is 42", timeout=START_MS)


def test_an_interrupt_that_does_not_reach_the_kernel_is_told(lab: Lab, page: Page) -> None:
    notebook = Notebook.open(lab, page).ready()
    output = notebook.cell("import time\nprint('sleeping')\ntime.sleep(600)")
    expect(output).to_contain_text("sleeping", timeout=START_MS)
    with paused(kernel_of(lab).id):
        notebook.button("Interrupt the kernel")
        expect(page.locator(".Toastify__toast")).to_contain_text(
            "The interrupt did not reach the kernel.", timeout=3 * START_MS
        )
        keep(page, "interrupt-failed")


def test_a_restart_keeps_the_container(lab: Lab, page: Page) -> None:
    notebook = Notebook.open(lab, page).ready()
    before = kernel_of(lab)
    expect(notebook.cell("gone = 1; print('made')")).to_contain_text("made", timeout=START_MS)
    notebook.button("Restart the kernel")
    with page.expect_response(re.compile("/restart")):
        page.locator(".jp-Dialog button", has_text="Restart").click()
    notebook.ready()
    expect(notebook.cell("gone")).to_contain_text("NameError", timeout=START_MS)
    expect(notebook.prompt(1)).to_have_text("[1]:")
    assert kernel_of(lab).id == before.id


def test_a_kernel_out_of_memory_says_so_in_its_cell(lab: Lab, page: Page) -> None:
    notebook = Notebook.open(lab, page, "Docker Python, small").ready()
    output = notebook.cell("print('filling')\nblob = bytearray(1 << 30)")
    expect(output).to_contain_text("out of memory: the kernel used more than its 256 MiB", timeout=START_MS)
    expect(output).to_contain_text("raise `memory` in the kernelspec")
    keep(page, "out_of_memory")
    # Jupyter restarts the kernel by itself, and says so; its status is that of the dead one until the next cell.
    page.locator(".jp-Dialog button", has_text="Ok").click()
    expect(notebook.cell("print('alive')")).to_contain_text("alive", timeout=START_MS)


def test_a_missing_image_is_told_in_one_sentence(lab: Lab, page: Page) -> None:
    Notebook.open(lab, page, "Docker Python, absent")
    dialog = page.locator(".jp-Dialog-content")
    message = dialog.locator("pre").first
    expect(message).to_contain_text(f"The kernel image {ABSENT} is not on this engine", timeout=START_MS)
    expect(message).to_contain_text("docker-kernel")
    assert message.evaluate("element => element.scrollWidth <= element.clientWidth"), "the sentence is cut off"
    assert lab.containers() == []
