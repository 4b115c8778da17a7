"""Makes HTML of notebooks, in a process of its own: it shares neither the notebook's time nor, should one output be
too much for it, its fate.

Requests are a line of JSON with the number of bytes of a notebook and then those; replies are whether a page could be
made, the number of bytes, and then those of the page, or of the reason why not.
"""

from __future__ import annotations

import html
import json
import os
import re
import struct
import sys
import types
from typing import Any, BinaryIO

LIB = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = os.path.join(os.path.dirname(LIB), "runner")

MAX_TEXT = 1 << 20
"""Characters of one text output that a page shows; output.ipynb has more."""

MAX_DATA = 32 << 20
"""Characters of one rich output that a page shows."""


def serve(no_input: bool, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    _load()
    exporter = _exporter(no_input)
    # An empty page makes it compile its templates, while the kernel starts.
    _page(exporter, b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "", "")
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["size"])
        try:
            made = True
            page = _page(exporter, content, request["title"], request["note"])
        except Exception as error:
            made = False
            page = f"{type(error).__name__}: {error}".encode(errors="replace")
        replies.write(struct.pack(">?Q", made, len(page)) + page)
        replies.flush()


def _load() -> None:
    """Let nbconvert find its templates, and the lexer for magics, which is here without the rest of IPython."""
    import ipython_pygments_lexers

    os.environ["JUPYTER_PATH"] = os.path.join(PACKAGES, "share", "jupyter")
    for name in ("IPython", "IPython.lib"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["IPython.lib.lexers"] = ipython_pygments_lexers


def _exporter(no_input: bool) -> Any:
    from nbconvert.exporters import HTMLExporter

    share = os.path.join(PACKAGES, "share", "jupyter", "nbconvert", "templates")
    return HTMLExporter(
        extra_template_basedirs=[share] if os.path.isdir(share) else [],
        exclude_input=no_input,
        exclude_input_prompt=no_input,
        exclude_output_prompt=no_input,
    )


def _page(exporter: Any, content: bytes, title: str, note: str) -> bytes:
    from nbformat import v4

    notebook = v4.reads(content.decode())
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            _bound(output)
    made, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title, "path": "/notebook"}})
    text = str(made)
    if note:
        text = re.sub(r"(<main\b[^>]*>|<body\b[^>]*>(?![\s\S]*<main\b))", lambda m: m[0] + _note(note), text, count=1)
    return text.encode(errors="replace")


def _note(text: str) -> str:
    style = "margin:1em;padding:.6em 1em;border-left:4px solid #c62828;background:#fdecea;color:#611a15"
    return f'<div role="alert" style="{style};font-family:sans-serif">{html.escape(text)}</div>'


def _bound(output: dict[str, Any]) -> None:
    """Cut what no browser would show well, and show a line that was written over as a terminal leaves it."""
    if output["output_type"] == "stream":
        output["text"] = _cut(_overwritten(_text(output["text"])))
    elif output["output_type"] == "error":
        output["traceback"] = [_cut(line) for line in output["traceback"]]
    else:
        for kind, value in list(output["data"].items()):
            text = _text(value) if kind.startswith(("text/", "image/")) else ""
            if kind == "text/plain":
                output["data"][kind] = _cut(text)
            elif len(text) > MAX_DATA:
                del output["data"][kind]
                size = f"{len(text) >> 20} MiB"
                output["data"]["text/plain"] = f"[An output of {size} ({kind}) is left out here: output.ipynb has it.]"


def _overwritten(text: str) -> str:
    """A text as a terminal leaves it where its lines were written over, as bars of progress do."""
    if "\r" not in text:
        return text
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return "\n".join(line[line.rfind("\r") + 1 :] for line in lines)


def _text(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out} characters are left out here: output.ipynb has more …]\n{text[-half:]}"


if __name__ == "__main__":
    sys.path[:0] = [LIB, PACKAGES]
    serve("--no-input" in sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)
