"""Widgets as values (tests/test_dispatch.py has those of a kernel with a frontend)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.guest.test_merge import Kernel, kernel

__all__ = ["kernel"]

pytest.importorskip("ipywidgets")

MADE = """
import ipywidgets as widgets
slider, text, heard, clicks = widgets.IntSlider(3), widgets.IntText(0), [], []
def hear(change): heard.append(change["new"])
slider.observe(hear, "value")
link = widgets.link((slider, "value"), (text, "value"))
box = widgets.VBox([slider, widgets.Label("label")])
tab = widgets.Tab([box], titles=["first"])
button = widgets.Button(description="Go"); button.on_click(lambda _: clicks.append("clicked"))
"""


@pytest.fixture
def made(kernel: Kernel) -> Kernel:
    kernel.restart()
    return kernel.run(MADE)


def sent_by(widget: Any) -> list[dict[str, Any]]:
    """What its frontend hears of from now on."""
    sent: list[dict[str, Any]] = []
    widget.comm.publish_msg = lambda kind, data=None, **_: sent.append(data["state"])
    return sent


def test_the_kernels_own_widget_takes_over_what_a_job_did_and_its_observers_heard_there(made: Kernel) -> None:
    slider, sent = made["slider"], sent_by(made["slider"])
    made.local("slider.value = 7")
    assert made["slider"] is slider and [slider.value, made["text"].value, made["heard"]] == [7, 7, [7]]
    assert sent == [{"value": 7}]
    slider.value = 8
    assert [made["text"].value, made["heard"]] == [8, [7, 8]]
    made.local("button.click(); slider.unobserve(hear, 'value')")
    assert made["clicks"] == ["clicked"]
    slider.value = 9
    assert [made["text"].value, made["heard"]] == [9, [7, 8]]


def test_a_widget_made_in_a_job_is_live_at_home(made: Kernel) -> None:
    box = made["box"]
    made.local("new = widgets.VBox([widgets.Text('deep')]); box.children += (new,); name = new.model_id")
    assert made["box"] is box and box.children[2] is made["new"] and box.children[0] is made["slider"]
    assert made["new"].model_id == made["name"] and made["new"].children[0].comm is not None


def test_a_closed_widget_stays_closed_and_one_that_a_job_closes_is_so_at_home(made: Kernel) -> None:
    made["button"].close()
    made.local("button.description = 'Gone'; box.close()")
    assert [made["button"].description, made["button"].comm, made["box"].comm] == ["Gone", None, None]
    assert made["box"].children[0].comm is not None and made["box"]._repr_mimebundle_ is None


def test_what_a_job_only_reads_does_not_change(made: Kernel) -> None:
    assert sorted(made.local("seen = [repr(tab), slider.style.handle_color, tab.get_title(0)]")) == ["seen"]


def test_the_values_of_a_job_that_are_not_assigned_are_widgets_of_their_own(made: Kernel) -> None:
    slider = made["slider"]
    found = made.local("slider.value = 1", fresh=True)["slider"]
    assert [found.value, slider.value] == [1, 3] and found.model_id != slider.model_id
    found = made.local("tab.set_title(0, 'second')", fresh=True)["tab"]
    assert found.children[0].children[1].value == "label" and found.children[0] is not made["box"]


def test_a_widget_of_the_notebooks_own_class_travels_with_its_attributes(made: Kernel) -> None:
    made.run("""
class Panel(widgets.HBox):
    def __init__(self, title):
        self.title, self.parts = title, {"title": widgets.Label(title)}
        super().__init__(list(self.parts.values()))
    def rename(self, title):
        self.title = self.parts["title"].value = title
panel = Panel("old")
""")
    panel = made["panel"]
    made.local("panel.rename('new')")
    assert made["panel"] is panel and [panel.title, panel.children[0].value] == ["new", "new"]
    assert panel.children[0] is panel.parts["title"]
