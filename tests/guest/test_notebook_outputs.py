"""What a kernel's messages make of a notebook, message by message."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from docker_kernel.guest.notebook_outputs import WIDGETS, NotebookOutputs, made

OUTPUT = {"_model_module": "@jupyter-widgets/output", "_model_name": "OutputModel", "_model_module_version": "1.0.0"}


class Kernel:
    """Says things while the cells of a notebook run; `told` is what its Output widgets hear."""

    def __init__(self, cells: int = 2) -> None:
        self.notebook: dict[str, Any] = {"metadata": {}, "cells": [{"outputs": []} for _ in range(cells)]}
        self.told: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.outputs = NotebookOutputs(self.notebook, lambda content, parent: self.told.append((content, parent)))
        self.index = -1
        self.begin()

    def begin(self) -> None:
        self.index += 1
        self.outputs.begin(self.index)

    def says(self, kind: str, request: str = "", buffers: tuple[bytes, ...] = (), **content: Any) -> None:
        parent = {"msg_id": request or f"cell {self.index}"}
        message = {"header": {"msg_type": kind}, "parent_header": parent, "content": content, "buffers": buffers}
        self.outputs.take(self.index, message)

    def prints(self, text: str, name: str = "stdout") -> None:
        self.says("stream", name=name, text=text)

    def shows(self, text: str, display_id: str = "", kind: str = "display_data") -> None:
        transient = {"display_id": display_id} if display_id else {}
        self.says(kind, data={"text/plain": text}, metadata={}, transient=transient)

    def widget(self, name: str, kind: str = "comm_msg", buffers: tuple[bytes, ...] = (), **data: Any) -> None:
        more = {"target_name": "jupyter.widget"} if kind == "comm_open" else {}
        self.says(kind, buffers=buffers, comm_id=name, data=data, **more)

    def texts(self, index: int = 0) -> list[str]:
        self.outputs.settle()
        return [one.get("text") or one["data"]["text/plain"] for one in self.notebook["cells"][index]["outputs"]]

    @property
    def widgets(self) -> dict[str, Any]:
        self.outputs.add_widgets()
        found: dict[str, Any] = self.notebook["metadata"]["widgets"][WIDGETS]["state"]
        return found


def test_printed_text_is_one_output_until_something_else_comes() -> None:
    kernel = Kernel()
    for text, name in (("a", "stdout"), ("b\n", "stdout"), ("c", "stderr"), ("", "stdout"), ("d", "stdout")):
        kernel.prints(text, name)
    kernel.shows("x")
    kernel.prints("e")
    assert kernel.texts() == ["ab\n", "c", "d", "x", "e"]


def test_a_display_is_updated_in_all_cells_that_show_it_and_not_where_it_was_cleared() -> None:
    kernel = Kernel(3)
    kernel.shows("old", "d")
    kernel.shows("other", "e")
    kernel.begin()
    kernel.shows("newer", "d")
    kernel.says("clear_output", wait=False)
    kernel.shows("kept")
    kernel.begin()
    kernel.shows("newest", "d", "update_display_data")
    assert [kernel.texts(0), kernel.texts(1), kernel.texts(2)] == [["newest", "other"], ["kept"], []]


def test_outputs_are_cleared_at_once_or_when_the_next_one_comes() -> None:
    kernel = Kernel()
    kernel.prints("gone")
    kernel.says("clear_output", wait=False)
    kernel.prints("first")
    kernel.says("clear_output", wait=True)
    assert kernel.texts() == ["first"]
    kernel.prints("second")
    assert kernel.texts() == ["second"]
    kernel.says("clear_output", wait=True)
    kernel.begin()
    kernel.prints("of the next cell")
    assert [kernel.texts(0), kernel.texts(1)] == [["second"], ["of the next cell"]]


def test_an_output_widget_takes_what_is_shown_in_its_context_and_its_kernel_hears_of_it() -> None:
    kernel = Kernel()
    for name in ("outer", "inner"):
        kernel.widget(name, "comm_open", state={**OUTPUT, "outputs": []})
    kernel.widget("outer", state={"msg_id": "cell 0"})
    kernel.prints("a")
    kernel.prints("b")
    kernel.widget("inner", state={"msg_id": "cell 0"})
    kernel.shows("x")
    kernel.says("clear_output", wait=True)
    kernel.shows("y")
    kernel.widget("inner", state={"msg_id": ""})
    kernel.prints("c")
    kernel.widget("outer", state={"msg_id": ""})
    kernel.prints("outside")
    assert kernel.texts() == ["outside"]
    states = {name: one["state"]["outputs"] for name, one in kernel.widgets.items()}
    assert [one["text"] for one in states["outer"]] == ["abc"]
    assert [one["data"]["text/plain"] for one in states["inner"]] == ["y"]
    content, parent = kernel.told[-1]
    assert (content["comm_id"], content["data"]["method"], parent) == ("outer", "update", {"msg_id": "cell 0"})
    assert content["data"]["state"]["outputs"] == states["outer"]


def test_widgets_are_kept_as_they_are_at_the_end_with_their_buffers() -> None:
    kernel = Kernel()
    slider = {"_model_module": "@jupyter-widgets/controls", "_model_name": "IntSliderModel", "value": 1}
    kernel.widget("slider", "comm_open", state=slider)
    kernel.widget("slider", state={"value": 2})
    image = {"_model_module": "@jupyter-widgets/controls", "_model_name": "ImageModel"}
    kernel.widget("image", "comm_open", (b"old",), state=image, buffer_paths=[["value"]])
    kernel.widget("image", "comm_msg", (b"new",), state={}, buffer_paths=[["value"]])
    kernel.widget("image", "comm_msg", method="custom", content={"event": "click"})
    kernel.says("comm_open", comm_id="no widget", target_name="other", data={"state": {"x": 1}})
    found = kernel.widgets
    assert set(found) == {"slider", "image"} and found["slider"]["state"]["value"] == 2
    encoded = base64.b64encode(b"new").decode()
    assert found["image"]["buffers"] == [{"data": encoded, "encoding": "base64", "path": ["value"]}]
    empty = Kernel()
    empty.outputs.add_widgets()
    assert empty.notebook["metadata"] == {}


@pytest.mark.parametrize("kind", ["status", "execute_input", "update_display_data", "debug_event"])
def test_what_shows_nothing_is_no_output(kind: str) -> None:
    assert made(kind, {"execution_state": "busy", "data": {}, "metadata": {}}) is None


def test_an_error_and_a_result_are_kept_without_more_than_a_notebook_has_of_them() -> None:
    error = {"ename": "E", "evalue": "v", "traceback": ["t"]}
    assert made("error", {**error, "engine_info": 1}) == {"output_type": "error", **error}
    result = {"data": {"text/plain": "1"}, "metadata": {}, "execution_count": 3}
    assert made("execute_result", {**result, "transient": {}}) == {"output_type": "execute_result", **result}
