"""What a kernel says while it runs a notebook's cells, put into the notebook as nbclient does.

Plain JSON and no package: it runs in a job, whose image need not have nbclient.
"""

from __future__ import annotations

import base64
from typing import Any, Callable

WIDGETS = "application/vnd.jupyter.widget-state+json"

SendComm = Callable[[dict, dict], None]  # type: ignore[type-arg]
"""Sends the content of a comm message to the kernel, with the header of the message that it answers."""


class NotebookOutputs:
    """The outputs of a notebook that is being executed.

    Args:
        notebook: nbformat 4, as JSON has it; its cells are changed in place.
        send: how an Output widget in the kernel hears of its outputs.
    """

    def __init__(self, notebook: dict[str, Any], send: SendComm) -> None:
        self._notebook, self._send = notebook, send
        self._cells: list[dict[str, Any]] = notebook["cells"]
        self._places: dict[str, dict[int, list[int]]] = {}
        self._clear_next = False
        self._widgets: dict[str, dict[str, Any]] = {}
        self._buffers: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
        self._output_widgets: dict[str, _OutputWidget] = {}
        self._hooks: dict[str, list[_OutputWidget]] = {}
        self._printed: dict[str, Any] | None = None
        self._pieces: list[str] = []

    def begin(self, index: int) -> None:
        """A cell is about to run."""
        self.settle()
        self._cells[index]["outputs"] = []
        self._clear_next = False

    def end(self, index: int) -> None:
        """A cell has run."""
        self.settle()

    def take(self, index: int, message: dict[str, Any]) -> None:
        """Apply a message that a cell's run caused."""
        kind, content, cell = message["header"]["msg_type"], message["content"], self._cells[index]
        if "execution_count" in content:
            cell["execution_count"] = content["execution_count"]
        if kind.startswith("comm"):
            self._comm(message)
            return
        hooks = self._hooks.get(message["parent_header"].get("msg_id", ""))
        if kind == "clear_output":
            if hooks:
                hooks[-1].clear(message)
            elif content.get("wait"):
                self._clear_next = True
            else:
                self._clear(index)
            return
        name = (content.get("transient") or {}).get("display_id")
        if name and kind in ("display_data", "execute_result", "update_display_data"):
            self._update(name, content)
        output = made(kind, content)
        if output is None:
            return
        if hooks:
            hooks[-1].take(output, message)
            return
        if self._clear_next:
            self._clear(index)
            self._clear_next = False
        outputs = cell["outputs"]
        if kind == "stream":
            self._print(outputs, output)
            return
        if name:
            self._places.setdefault(name, {}).setdefault(index, []).append(len(outputs))
        outputs.append(output)

    def _print(self, outputs: list[dict[str, Any]], output: dict[str, Any]) -> None:
        before = self._printed
        if before is None or not outputs or outputs[-1] is not before or before["name"] != output["name"]:
            self.settle()
            outputs.append({**output, "text": ""})
            self._printed = outputs[-1]
        self._pieces.append(output["text"])

    def settle(self) -> None:
        """Put what was printed into its output: many pieces at once, as each copies all before it."""
        if self._printed is not None and self._pieces:
            self._printed["text"] += "".join(self._pieces)
            self._pieces.clear()

    def add_widgets(self) -> None:
        """Keep the widgets as they are now, for a page that shows the notebook."""
        if not self._widgets:
            return
        state = {}
        for name, one in self._widgets.items():
            if "_model_name" not in one:
                continue
            keys = ("_model_name", "_model_module", "_model_module_version")
            state[name] = {**{key[1:]: one.get(key) for key in keys}, "state": one}
            if self._buffers.get(name):
                state[name]["buffers"] = list(self._buffers[name].values())
        self._notebook["metadata"]["widgets"] = {WIDGETS: {"state": state, "version_major": 2, "version_minor": 0}}

    def keep(self, widget: str, outputs: list[dict[str, Any]]) -> None:
        """What an Output widget has now."""
        self._widgets.setdefault(widget, {})["outputs"] = outputs

    def hook(self, request: str, widget: _OutputWidget, on: bool) -> None:
        """Have a widget take what a request causes, or no more."""
        hooks = self._hooks.setdefault(request, [])
        if on:
            hooks.append(widget)
        elif widget in hooks:
            hooks.remove(widget)

    def _clear(self, index: int) -> None:
        self._cells[index]["outputs"][:] = []
        self._printed, self._pieces = None, []
        for places in self._places.values():
            places.pop(index, None)

    def _update(self, name: str, content: dict[str, Any]) -> None:
        for index, numbers in self._places.get(name, {}).items():
            for number in numbers:
                self._cells[index]["outputs"][number].update(data=content["data"], metadata=content["metadata"])

    def _comm(self, message: dict[str, Any]) -> None:
        content = message["content"]
        data, name = content.get("data") or {}, content["comm_id"]
        if "state" in data:
            self._widgets.setdefault(name, {}).update(data["state"])
            if data.get("buffer_paths"):
                self._buffers.setdefault(name, {}).update(
                    {
                        tuple(path): {"data": base64.b64encode(buffer).decode(), "encoding": "base64", "path": path}
                        for path, buffer in zip(data["buffer_paths"], message["buffers"])
                    }
                )
        if message["header"]["msg_type"] == "comm_msg":
            if name in self._output_widgets and "state" in data:
                self._output_widgets[name].set_state(data["state"])
        elif message["header"]["msg_type"] == "comm_open" and content.get("target_name") == "jupyter.widget":
            state = data.get("state") or {}
            if (state.get("_model_module"), state.get("_model_name")) == ("@jupyter-widgets/output", "OutputModel"):
                self._output_widgets[name] = _OutputWidget(name, list(state.get("outputs", [])), self, self._send)


class _OutputWidget:
    """The frontend's side of an Output widget: it takes what is shown while a cell is in its context."""

    def __init__(self, name: str, outputs: list[dict[str, Any]], notebook: NotebookOutputs, send: SendComm) -> None:
        self._name, self._outputs, self._notebook, self._send = name, outputs, notebook, send
        self._request = ""
        self._clear_next = False

    def set_state(self, state: dict[str, Any]) -> None:
        if "msg_id" in state:
            before, self._request = self._request, state["msg_id"] or ""
            self._notebook.hook(self._request or before, self, bool(self._request))

    def take(self, output: dict[str, Any], message: dict[str, Any]) -> None:
        if self._clear_next:
            self._outputs, self._clear_next = [], False
        last = self._outputs[-1] if self._outputs else {}
        if output["output_type"] == last.get("output_type") == "stream" and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            self._outputs.append(output)
        self._tell(message)

    def clear(self, message: dict[str, Any]) -> None:
        if message["content"].get("wait"):
            self._clear_next = True
        else:
            self._outputs = []
            self._tell(message)

    def _tell(self, message: dict[str, Any]) -> None:
        self._notebook.keep(self._name, self._outputs)
        data = {"method": "update", "state": {"outputs": self._outputs}, "buffer_paths": []}
        self._send({"data": data, "comm_id": self._name}, message["parent_header"])


def made(kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """An output from the content of a message; None for what shows nothing."""
    if kind == "stream":
        return {"output_type": kind, "name": content["name"], "text": content["text"]} if content["text"] else None
    if kind == "display_data":
        return {"output_type": kind, "data": content["data"], "metadata": content["metadata"]}
    if kind == "execute_result":
        count = content["execution_count"]
        return {"output_type": kind, "data": content["data"], "metadata": content["metadata"], "execution_count": count}
    if kind == "error":
        return {"output_type": kind, **{name: content[name] for name in ("ename", "evalue", "traceback")}}
    return None
