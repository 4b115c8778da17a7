"""A cell's outputs in bounds: whatever it prints, its notebook can be opened, and who runs it has the memory for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from docker_kernel.guest.notebook_outputs import NotebookOutputs, SendComm

MAX_TEXT = 8 << 20
"""Characters of a cell's printed text that the notebook keeps from its start; the log has all of it."""

TAIL_TEXT = 1 << 20
"""Characters that it keeps from the end."""

MAX_DATA = 128 << 20
"""Characters of a cell's rich outputs that the notebook keeps."""


class BoundedOutputs(NotebookOutputs):
    """The outputs of a notebook that is being executed.

    Args:
        changed: is called with the index of another cell than the one that runs, whose output was updated.
    """

    def __init__(self, notebook: dict[str, Any], send: SendComm, changed: Callable[[int], None]) -> None:
        super().__init__(notebook, send)
        self._changed = changed
        self._index = -1
        self._forget()

    def _forget(self) -> None:
        self._size = self._data = self._dropped = self._tail_size = 0
        self._tail: deque[tuple[str, str]] = deque()

    def begin(self, index: int) -> None:
        super().begin(index)
        self._index = index
        self._forget()

    def take(self, index: int, message: dict[str, Any]) -> None:
        content = message["content"]
        if message["header"]["msg_type"] in ("display_data", "execute_result"):
            self._data += sum(len(value) for value in content["data"].values() if isinstance(value, str))
            if self._data > MAX_DATA:
                note = f"[This output is left out: the cell has more than {MAX_DATA >> 20} MiB of them.]"
                message = {**message, "content": {**content, "data": {"text/plain": note}}}
        super().take(index, message)

    def end(self, index: int) -> None:
        super().end(index)
        if not self._dropped:
            return
        outputs = self._cells[index]["outputs"]
        left_out = self._dropped - self._tail_size
        if left_out > 0:
            note = f"\n[… {left_out} characters are left out here: the log has them …]\n"
            outputs.append({"output_type": "stream", "name": "stderr", "text": note})
        for name, text in self._tail:
            if outputs and outputs[-1]["output_type"] == "stream" and outputs[-1]["name"] == name:
                outputs[-1]["text"] += text
            else:
                outputs.append({"output_type": "stream", "name": name, "text": text})
        self._forget()

    def _print(self, outputs: list[dict[str, Any]], output: dict[str, Any]) -> None:
        text, room = output["text"], max(0, MAX_TEXT - self._size)
        if text[:room]:
            self._size += len(text[:room])
            super()._print(outputs, {**output, "text": text[:room]})
        if text[room:]:
            self._tail.append((output["name"], text[room:][-TAIL_TEXT:]))
            self._dropped += len(text) - room
            self._tail_size += len(self._tail[-1][1])
            while self._tail_size - len(self._tail[0][1]) >= TAIL_TEXT:
                self._tail_size -= len(self._tail.popleft()[1])

    def _clear(self, index: int) -> None:
        super()._clear(index)
        self._forget()

    def _update(self, name: str, content: dict[str, Any]) -> None:
        super()._update(name, content)
        for index in self._places.get(name, {}):
            if index != self._index:
                self._changed(index)
