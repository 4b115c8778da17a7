"""Figures are pickled the same each time, so that nobody takes them for changed who looks at them."""

from __future__ import annotations

import pytest

from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["notebook"]


def test_a_figure_is_not_changed_by_its_capture(notebook: Notebook) -> None:
    pytest.importorskip("matplotlib")
    notebook.run("from matplotlib.figure import Figure; f = Figure(); line, = f.subplots().plot([1, 2])")
    first = notebook.manifest()["packs"]
    assert notebook.manifest()["packs"] == first
    notebook.run("line.set_color('red')")
    assert notebook.manifest()["packs"] != first


def test_a_figures_callbacks_are_numbered_on(notebook: Notebook) -> None:
    pytest.importorskip("matplotlib")
    notebook.run("from matplotlib.figure import Figure; f = Figure(); f.canvas.callbacks.connect('draw_event', print)")
    notebook.capture()
    number = notebook["f"].canvas.callbacks.connect("draw_event", len)
    assert number == notebook.run("g = f.canvas.callbacks.connect('draw_event', repr)")["g"] - 1
