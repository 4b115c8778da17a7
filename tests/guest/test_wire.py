"""The packer of messages: what it makes is what jupyter_client's own packer makes."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from jupyter_client.session import json_packer

from docker_kernel.guest.wire import LONG, PIECE, packer
from tests.notebook import Notebook

TEXTS = {
    "lines": ("x" * 99 + "\n") * 2_000,
    "nothing to escape": "QUJD" * 50_000,
    "much to escape": '"\\\n\t\r\b\f' * 20_000,
    "all that is escaped, seldom": "".join(chr(code) + "-" * 100 for code in [*range(0x20), 0x22, 0x5C]) * 20,
    "escapes of a terminal": "\x1b[31mred\x1b[0m\r\n" * 10_000,
    "not ASCII": "é漢字😀 and a \n" * 10_000,
    "across a piece's end": "-" * (PIECE - 1) + '"\\' + "-" * PIECE,
    "bytes that were no UTF-8": "\udce9\udcff\n" * 10_000,
    "other line ends": "\x7f\u2028\u2029\x85" * 10_000,
    "short": "x" * (LONG - 1),
    "just long": "\\" * LONG,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_is_packed_as_ever(text: str) -> None:
    pack = packer(json_packer)
    for content in (
        {"name": "stdout", "text": text},
        {
            "data": {"text/html": text, "text/plain": "a", "application/json": {"list": [text], "": text}},
            "n": [1, None],
        },
        {text: {}, "in": {"in": {"in": text}}, "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)},
        [text],
        text,
    ):
        assert pack(content) == json_packer(content)


def failure(pack: Any, content: Any) -> str:
    try:
        pack(content)
    except Exception as error:
        return repr(error)[:200]
    return ""


@pytest.mark.filterwarnings("ignore:Message serialization failed")
def test_what_is_no_json_is_left_to_the_other_packer() -> None:
    text = "x" * LONG
    pack = packer(json_packer)
    for content in ({"text": text, 1: 2}, {"text": text, "set": {1}}, {"data": {"text": text, "nan": float("nan")}}):
        assert pack(content) == json_packer(content)
    content = {"text": "\ud800" * LONG}
    assert failure(pack, content) == failure(json_packer, content) != ""


def test_what_is_nested_deeply_is_left_to_the_other_packer() -> None:
    # Where Python's limit is not the encoder's (from 3.12 on), that one packs it.
    content: dict[str, Any] = {"text": "x" * LONG}
    for _ in range(1200):
        content = {"in": content}
    assert (failure(packer(json_packer), content) == "") == (failure(json_packer, content) == "")


def test_long_output_arrives_as_it_was_printed(notebook: Notebook) -> None:
    code = "text = ''.join(map(chr, range(1, 0x500))) * 500\nprint(text)\nfrom IPython.display import HTML\nHTML(text)"
    reply = notebook.run(code)
    text = "".join(map(chr, range(1, 0x500))) * 500
    assert reply.text == text + "\n"
    assert reply.displays[-1]["text/html"] == text


def test_a_users_own_settings_win(notebook: Notebook) -> None:
    assert notebook.value("get_ipython().kernel._execute_sleep") == 0.0002
    notebook.run(
        "from docker_kernel.guest import wire; shell = get_ipython(); kernel = shell.kernel; session = kernel.session\n"
        "kernel._execute_sleep = 0; session.packer = 'pickle'; wire.tune(shell)\n"
        "kept = kernel._execute_sleep, session.pack.__module__; session.packer = 'json'; wire.tune(shell)"
    )
    modules = notebook.value("[*kept, session.pack.__module__]")
    assert modules == [0.0, "jupyter_client.session", "docker_kernel.guest.wire"]
