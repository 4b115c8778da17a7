"""What a user sees: how tests read and use a page of the run's JupyterLab (lab.py).

Screenshots are kept in build/screenshots. Those that the docs show go to the folder that DOCKER_KERNEL_SCREENSHOTS
names, too: `DOCKER_KERNEL_SCREENSHOTS=docs/images pytest tests/test_browser*.py`.
"""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Locator, Page, expect

from docker_kernel import kernelspec, labels
from docker_kernel.engine import ContainerState
from tests.lab import ABSENT, CHROMIUM, START_MS, Lab, expect_loaded, keep, load, watch

__all__ = [
    "ABSENT",
    "START_MS",
    "Lab",
    "Notebook",
    "expect_loaded",
    "keep",
    "kernel_of",
    "load",
    "needs_chromium",
    "show_in",
    "watch",
]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


class Notebook:
    """The notebook that a page shows."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.count = 0

    @classmethod
    def open(cls, lab: Lab, page: Page, kernel: str = "Docker Python") -> Notebook:
        """Pick a kernel from the launcher."""
        load(lambda: page.goto(lab.address()))
        card = page.locator(".jp-LauncherCard[data-category=Notebook]")
        label = page.locator(".jp-LauncherCard-label", has_text=re.compile(f"^{re.escape(kernel)}$"))
        expect_loaded(page, card.filter(has=label))
        card.filter(has=label).click()
        return cls(page)

    @classmethod
    def written(cls, lab: Lab, page: Page, name: str) -> Notebook:
        """Open a notebook file that names our kernel."""
        kernel = {"name": kernelspec.NAME, "display_name": kernelspec.DISPLAY_NAME, "language": "python"}
        cell = {
            "cell_type": "code",
            "id": "first",
            "source": "",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        content = {"metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5, "cells": [cell]}
        (lab.workspace / name).write_text(json.dumps(content))
        load(lambda: page.goto(lab.address(f"lab/tree/{name}")))
        return cls(page)

    def ready(self) -> Notebook:
        expect_loaded(self.page, self.page.locator("#jp-main-statusbar"), "| Idle")
        return self

    def cell(self, source: str) -> Locator:
        """Type a cell's source into the last cell, run it, and return its output area."""
        cells = self.page.locator(".jp-Notebook-cell")
        number = self.count
        cells.nth(number).locator(".cm-content").click()
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Shift+Enter")
        self.count += 1
        return cells.nth(number).locator(".jp-Cell-outputWrapper")

    def prompt(self, number: int) -> Locator:
        return self.page.locator(".jp-Notebook-cell").nth(number).locator(".jp-InputArea-prompt")

    def button(self, title: str) -> None:
        self.page.locator(".jp-NotebookPanel-toolbar").get_by_title(title, exact=True).click()


def show_in(page: Page, theme: str) -> None:
    """Have the Lab on a page change its theme to Light or Dark."""
    change = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
    page.evaluate(change, f"JupyterLab {theme}")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}", timeout=START_MS)


def kernel_of(lab: Lab) -> ContainerState:
    [session] = lab.api("sessions")
    [state] = [state for state in lab.containers() if state.labels[labels.KERNEL_ID] == session["kernel"]["id"]]
    return state
