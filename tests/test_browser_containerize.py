"""One click: the Containerize button and its wizard, in a real JupyterLab and Notebook 7, to an image that runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Locator, Page, Route, expect

from docker_kernel import background
from docker_kernel.engine import Engine
from docker_kernel.errors import EngineError
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

BUILD_MS = 90_000
"""For a review or a build, on a busy machine: the first one fetches what runs notebooks."""

IN_DOCS = "DOCKER_KERNEL_SCREENSHOTS" in os.environ
REGISTRY = "registry.example.com" if IN_DOCS else "127.0.0.1:1"
"""Nobody answers there."""

REPORT = {
    "intro": "# Sales by region\nHow much each region sold on a day.",
    "given": """\
from datetime import date

day = date(2026, 1, 31)  # the day to report
alpha: float = 0.5  # weight of the day before
regions = ["north", "south"]
verbose = False""",
    "body": """print(f"{day}: {', '.join(regions)} with alpha {alpha}")""",
}


@pytest.fixture(scope="module", autouse=True)
def registries(own_folders: Path) -> Iterator[None]:
    """A registry in the config."""
    config = own_folders / "config.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[registries]\nteam = "{REGISTRY}/team"\n')
    yield
    config.write_text(before)


@pytest.fixture(name="image")
def image_fixture(engine: Engine) -> Iterator[str]:
    """A name for an image, which is removed after the test."""
    name = "sales-report" if IN_DOCS else f"sales-{uuid.uuid4().hex[:6]}"
    yield name
    for tag in ("latest", "two"):
        with contextlib.suppress(EngineError):
            background.run_blocking(engine.images.remove(f"{name}:{tag}"))


def write_report(lab: Lab, name: str) -> None:
    """A notebook with parameters, in the workspace, with a file beside it and a credential in another."""
    made = [
        {"cell_type": "markdown" if key == "intro" else "code", "id": key, "metadata": {}, "source": source}
        for key, source in REPORT.items()
    ]
    for cell in made[1:]:
        cell |= {"outputs": [], "execution_count": None}
    kernel = {"name": "docker-python", "display_name": "Docker Python", "language": "python"}
    content = {"metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5, "cells": made}
    (lab.workspace / name).write_text(json.dumps(content))
    (lab.workspace / "regions.csv").write_text("region,share\nnorth,0.4\nsouth,0.6\n")
    (lab.workspace / "settings.py").write_text('TOKEN = "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"\n')
    (lab.workspace / ".env").write_text("PASSWORD=correct-horse\n")


def opened(lab: Lab, page: Page, name: str = "sales report.ipynb") -> None:
    write_report(lab, name)
    load(lambda: page.goto(lab.address(f"lab/tree/{name}")))
    Notebook(page).ready()


def button(page: Page) -> Locator:
    """The one in the notebook's toolbar."""
    return page.locator(".jp-NotebookPanel-toolbar").get_by_role("button", name=re.compile("^Containeriz"))


def wizard(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Containerize ")


def palette(page: Page) -> Locator:
    """Open the command palette; Lab passes over the keys while it still restores its layout."""
    found = page.locator(".lm-CommandPalette-input")
    for _ in range(20):
        page.keyboard.press("Control+Shift+C")
        with contextlib.suppress(AssertionError):
            expect(found).to_be_visible(timeout=2000)
            return found
    raise AssertionError("the command palette did not open")


def press(where: Locator, name: str) -> None:
    """Press one of the wizard's buttons, as soon as it can be."""
    found = where.get_by_role("button", name=name, exact=True)
    expect(found).not_to_have_attribute("aria-disabled", "true", timeout=BUILD_MS)
    found.click()


def at(where: Locator, step: str) -> None:
    """Wait for one of the wizard's pages."""
    expect(where.locator("[aria-current=step]")).to_have_text(step, timeout=START_MS)


def go(page: Page, image: str, tag: str = "latest") -> Locator:
    """Click through the wizard, up to the start of the build."""
    button(page).click()
    shown = wizard(page)
    expect(shown.get_by_label("Name", exact=True)).not_to_have_value("", timeout=START_MS)
    shown.get_by_label("Name", exact=True).fill(image)
    shown.get_by_label("Tag").fill(tag)
    press(shown, "Next")
    at(shown, "Parameters")
    press(shown, "Next")
    press(shown, "Build")
    at(shown, "Build")
    return shown


def test_the_button_is_there_for_our_kernels_only(lab: Lab, page: Page) -> None:
    opened(lab, page)
    expect(button(page)).to_be_visible()
    keep(page, "containerize-button")
    for kernel, ours in (("Python 3 (ipykernel)", False), ("Docker Python, small", True)):
        page.locator(".jp-NotebookPanel-toolbar .jp-KernelName").click()
        dialog = page.locator(".jp-Dialog")
        dialog.locator("select").select_option(label=kernel)
        dialog.get_by_role("button", name="Select").click()
        expect(button(page)).to_be_visible(visible=ours, timeout=START_MS)
    for name in ("Containerize Notebook…", "Notebook Images…"):
        page.get_by_role("menuitem", name="File", exact=True).click()
        expect(page.locator(".lm-Menu").get_by_text(name)).to_be_visible()
        page.keyboard.press("Escape")
        palette(page).fill(name)
        expect(page.locator(".lm-CommandPalette-content").get_by_text(name)).to_be_visible()
        page.keyboard.press("Escape")


def test_from_the_button_to_a_run(lab: Lab, page: Page, image: str, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(lab, page)
    # Typed and not saved: the wizard saves it.
    page.locator(".jp-Notebook-cell").nth(2).locator(".cm-content").click()
    page.keyboard.press("Control+End")
    page.keyboard.insert_text("; print('typed')")
    button(page).click()
    shown = wizard(page)

    name = shown.get_by_label("Name", exact=True)
    expect(name).to_have_value("sales-report")
    expect(name).to_be_focused()
    name.fill("Sales Report")
    expect(shown.get_by_role("alert").first).to_contain_text("'Sales Report:latest' cannot be an image's name")
    press(shown, "Next")
    at(shown, "Name")
    expect(name).to_be_focused()
    name.fill(image)
    expect(shown.get_by_role("option")).to_have_count(2)
    shown.get_by_label("Registry").select_option("team")
    expect(shown.get_by_text(f"{REGISTRY}/team/{image}:latest")).to_be_visible()
    keep(page, "containerize-name")
    press(shown, "Next")

    at(shown, "Parameters")
    default = shown.get_by_label("Default of alpha")
    default.fill("lots")
    problem = shown.get_by_text("The default of alpha must be a number (float), not 'lots'.")
    expect(problem).to_be_visible()
    expect(default).to_have_attribute("aria-invalid", "true")
    keep(page, "containerize-parameters")
    press(shown, "Next")
    expect(default).to_be_focused()
    default.fill("0.75")
    expect(problem).to_be_hidden()
    shown.get_by_label("Help of regions").fill("which to report")
    shown.get_by_label("Make verbose a parameter").uncheck()
    press(shown, "Next")

    at(shown, "Review")
    expect(shown.get_by_text("One thing may be a secret")).to_be_visible(timeout=BUILD_MS)
    build = shown.get_by_role("button", name="Build and push")
    expect(build).to_have_attribute("aria-disabled", "true")
    shown.locator("summary", has_text="left out").click()
    expect(shown.get_by_text("it looks like a credential by its name")).to_be_visible()
    keep(page, "containerize-review")
    shown.get_by_label("settings.py line 1").check()
    expect(build).to_have_attribute("aria-disabled", "false")
    # Leaving the file out does as well.
    shown.locator("summary", has_text="files,").click()
    shown.get_by_role("button", name="Leave out settings.py").click()
    expect(shown.get_by_text("One thing may be a secret")).to_be_hidden(timeout=BUILD_MS)
    expect(shown.get_by_role("button", name="Put back settings.py")).to_be_visible()
    expect(shown.get_by_text("day, alpha, regions", exact=True)).to_be_visible()
    press(shown, "Back")
    press(shown, "Back")
    shown.get_by_label("Registry").select_option("")
    press(shown, "Next")
    at(shown, "Parameters")
    expect(default).to_have_value("0.75")
    press(shown, "Next")
    press(shown, "Build")

    at(shown, "Build")
    copy = shown.get_by_role("button", name="Copy")
    expect(copy).to_be_visible(timeout=BUILD_MS)
    expect(copy).to_be_focused()
    expect(shown.get_by_text(re.compile(rf"^Made {image}:latest in \d+ s\.$"))).to_be_visible()
    copy.click()
    expect(shown.get_by_role("button", name="Copied")).to_be_visible()
    keep(page, "containerize-build")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command == shown.get_by_label("Run it in a terminal").input_value()
    press(shown, "Close")
    expect(shown).to_be_hidden()

    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    ran = subprocess.run(
        f"{command} -p regions='[\"east\"]'",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2026-01-31: east with alpha 0.75\ntyped\n" in ran.stdout + ran.stderr
    assert {"output.ipynb", "output.html"} <= {one.name for one in (tmp_path / "out").iterdir()}


def test_the_wizard_with_the_keyboard_alone(lab: Lab, page: Page, image: str) -> None:
    opened(lab, page)
    keyboard = page.keyboard
    palette(page)
    keyboard.type("Containerize Notebook")
    expect(page.locator(".lm-CommandPalette-item.lm-mod-active")).to_contain_text("Containerize")
    keyboard.press("Enter")
    shown = wizard(page)
    name = shown.get_by_label("Name", exact=True)
    expect(name).to_be_focused()
    expect(name).to_have_value("sales-report")
    # Escape closes, and what was entered is there when it is opened again.
    keyboard.press("Control+a")
    keyboard.type(image)
    keyboard.press("Escape")
    keyboard.press("Escape")
    expect(shown).to_be_hidden()
    page.locator(".jp-NotebookPanel-toolbar jp-button").first.focus()
    for _ in range(20):
        keyboard.press("ArrowRight")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Containerize":
            break
    keyboard.press("Enter")
    expect(name).to_have_value(image)
    expect(name).to_be_focused()
    order = []
    for _ in range(5):
        keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    fields = [f"docker-kernel-{one}" for one in ("tag", "registry", "keep-outputs")]
    assert order == [*fields, "Close", "Next"]
    keyboard.press("Enter")
    at(shown, "Parameters")
    heading = shown.get_by_role("heading", name="Step 2 of 4: Parameters")
    expect(heading).to_be_focused()
    keyboard.press("Tab")
    expect(shown.get_by_label("Make day a parameter")).to_be_focused()
    keyboard.press("Tab")
    keyboard.press("Tab")
    keyboard.press("Control+a")
    keyboard.type("2026-02-28")
    # Enter in a field goes on, as in any form.
    keyboard.press("Enter")
    at(shown, "Review")
    expect(shown.get_by_role("button", name="Build")).to_have_attribute("aria-disabled", "false", timeout=BUILD_MS)
    shown.get_by_label("settings.py line 1").focus()
    keyboard.press("Space")
    expect(shown.get_by_label("settings.py line 1")).to_be_checked()
    shown.get_by_role("button", name="Build").focus()
    keyboard.press("Enter")
    at(shown, "Build")
    expect(shown.get_by_role("button", name="Copy")).to_be_focused(timeout=BUILD_MS)
    keyboard.press("Enter")
    expect(shown.get_by_role("button", name="Copied")).to_be_focused()
    keyboard.press("Escape")
    expect(shown).to_be_hidden()
    expect(button(page)).to_be_focused()


def test_builds_go_on_without_their_window(lab: Lab, page: Page, image: str) -> None:
    opened(lab, page)
    with (lab.workspace / "large.bin").open("wb") as file:
        file.truncate(300 << 20)
    shown = go(page, image)
    press(shown, "Close")
    expect(page.locator("jp-button", has_text="Containerizing…")).to_be_visible()
    status = page.locator("#jp-main-statusbar").get_by_role("button", name="1 image in the making")
    expect(status).to_be_visible()
    # Another one at once, of another notebook.
    opened(lab, page, "other.ipynb")
    shown = go(page, image, "two")
    expect(shown.get_by_role("progressbar")).to_be_visible()
    press(shown, "Close")
    page.get_by_role("button", name="2 images in the making").click()
    images = page.get_by_role("dialog", name="Notebook images")
    item = images.locator("details", has_text=f"{image}:two")
    expect(images.locator("details", has_text=f"{image}:latest").first).to_be_visible()
    keep(page, "containerize-images")
    if item.get_attribute("open") is None:
        item.locator("summary").click()
    press(item, "Cancel the build")
    expect(item).to_contain_text("was cancelled: nothing of it is left", timeout=BUILD_MS)
    press(images, "Close")
    # The page that started the first build is gone; whoever looks finds it.
    load(page.reload)
    Notebook(page).ready()
    palette(page).fill("Notebook Images")
    page.keyboard.press("Enter")
    first = images.locator("details", has_text=f"{image}:latest").first
    expect(first).to_contain_text(f"Made {image}:latest in", timeout=BUILD_MS)
    if first.get_attribute("open") is None:
        first.locator("summary").click()
    expect(first.get_by_role("button", name="Copy")).to_be_visible()


def test_a_build_that_ends_unseen_is_told(lab: Lab, page: Page, image: str) -> None:
    opened(lab, page)
    shown = go(page, image)
    page.keyboard.press("Escape")
    expect(shown).to_be_hidden()
    toast = page.locator(".Toastify__toast")
    expect(toast).to_contain_text(f"Made {image}:latest in", timeout=BUILD_MS)
    toast.get_by_role("button", name="Show").click()
    images = page.get_by_role("dialog", name="Notebook images")
    expect(images.get_by_role("button", name="Copy")).to_be_visible()


def test_a_failure_is_one_sentence_and_can_be_mended(lab: Lab, page: Page, image: str) -> None:
    opened(lab, page)
    (lab.workspace / "settings.py").unlink()
    button(page).click()
    shown = wizard(page)
    shown.get_by_label("Name", exact=True).fill(image)
    shown.get_by_label("Registry").select_option("team")
    press(shown, "Next")
    at(shown, "Parameters")
    press(shown, "Next")
    press(shown, "Build and push")
    failed = shown.get_by_role("alert").filter(has_text=f"{REGISTRY} did not take it")
    expect(failed).to_be_visible(timeout=BUILD_MS)
    press(shown, "Back")
    at(shown, "Review")
    press(shown, "Back")
    press(shown, "Back")
    shown.get_by_label("Push the image when it is made").uncheck()
    press(shown, "Next")
    at(shown, "Parameters")
    press(shown, "Next")
    press(shown, "Build")
    expect(shown.get_by_role("button", name="Copy")).to_be_visible(timeout=BUILD_MS)
    subprocess.run(["docker", "rmi", f"{REGISTRY}/team/{image}:latest"], capture_output=True, check=True)


def test_axe_finds_nothing(lab: Lab, page: Page, image: str) -> None:
    """The rules of axe-core for WCAG 2.1 A and AA, for what is ours on each page, in both themes."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}

    def check(picture: str = "") -> None:
        for theme in ("Dark", "Light"):
            show_in(page, theme)
            if picture:
                keep(page, f"containerize-{picture}-{theme.lower()}")
            found = axe.run(page, context=".jp-dockerKernel-Modal", options=rules).response["violations"]
            told = [(one["id"], one["help"], [node["html"] for node in one["nodes"]]) for one in found]
            assert not told, theme + json.dumps(told, indent=1)

    opened(lab, page)
    button(page).click()
    shown = wizard(page)
    shown.get_by_label("Name", exact=True).fill("Wrong")
    expect(shown.get_by_role("alert").first).to_contain_text("cannot be")
    shown.get_by_label("Registry").select_option("team")
    check()
    shown.get_by_label("Name", exact=True).fill(image)
    press(shown, "Next")
    at(shown, "Parameters")
    shown.get_by_label("Default of alpha").fill("lots")
    expect(shown.get_by_text("must be a number")).to_be_visible()
    check()
    shown.get_by_label("Default of alpha").fill("1")
    press(shown, "Next")
    expect(shown.get_by_text("One thing may be a secret")).to_be_visible(timeout=BUILD_MS)
    for section in shown.locator("summary").all():
        section.click()
    check("review")
    press(shown, "Back")
    press(shown, "Back")
    shown.get_by_label("Registry").select_option("")
    press(shown, "Next")
    at(shown, "Parameters")
    press(shown, "Next")
    press(shown, "Build")
    at(shown, "Build")
    check()
    expect(shown.get_by_role("button", name="Copy")).to_be_visible(timeout=BUILD_MS)
    check("build")


def test_what_the_browser_gives_up_is_asked_again(lab: Lab, page: Page) -> None:
    given_up: list[str] = []

    def give_up_first(route: Route) -> None:
        address = route.request.url.partition("?")[0]
        if address in given_up:
            return route.continue_()
        given_up.append(address)
        return route.abort("failed")

    opened(lab, page)
    page.route("**/docker-kernel/*", give_up_first)
    button(page).click()
    expect(wizard(page).get_by_label("Name", exact=True)).to_have_value("sales-report")
    assert any(url.endswith("docker-kernel/notebook") for url in given_up)
    page.unroute("**/docker-kernel/*")


def test_in_notebook_7(lab: Lab, page: Page, image: str) -> None:
    write_report(lab, "seven.ipynb")
    load(lambda: page.goto(lab.address("notebooks/seven.ipynb")))
    expect_loaded(page, button(page))
    shown = go(page, image)
    expect(shown.get_by_role("button", name="Copy")).to_be_visible(timeout=BUILD_MS)
    keep(page, "containerize-notebook-7")
    press(shown, "Close")
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.locator(".lm-Menu").get_by_text("Notebook Images…").click()
    expect(page.get_by_role("dialog", name="Notebook images")).to_contain_text(f"Made {image}:latest")
