"""Makes a kernel's messages cost less than ipykernel's own settings do, which pays for their way out of the container.

What is sent stays the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any

LONG = 1 << 14
"""Characters from which on a text is packed in pieces."""

PIECE = 1 << 16
"""Characters of a piece: Python's encoder makes several copies of a whole text, for each of which Linux must find fresh
pages, while what is as small as this is found in the processor's cache."""

ESCAPED = {code: encode_basestring(chr(code))[1:-1].encode() for code in [*range(0x20), ord('"'), ord("\\")]}
OTHERS = bytes(code for code in range(256) if code not in ESCAPED)
FEW = 32
"""Where only one of so many bytes is to be escaped, replacing them is faster than Python's look at each character."""

REPLY_PAUSE = 0.0002
"""Seconds from a cell's last output to its reply, which ipykernel lets wait so that clients see them in this order. Its
own 0.5 ms keep it no more often on a busy machine; clients that have to know wait for the kernel's `idle`."""

Packer = Callable[[Any], bytes]


def tune(shell: Any) -> None:
    """Set what the user's own configuration leaves as it is."""
    kernel = shell.kernel
    # Other packers are faster than json's, or not even JSON.
    if kernel.session.packer == "json":
        kernel.session.pack = packer(kernel.session.pack)
    if kernel._execute_sleep == type(kernel)._execute_sleep.default_value:
        kernel._execute_sleep = REPLY_PAUSE


def packer(plain: Packer) -> Packer:
    """What packs messages as another packer does, and is faster for long texts.

    Args:
        plain: the other one. It gets all else, and what turns out to be no JSON.
    """

    def pack(content: Any) -> bytes:
        try:
            if _has_long(content):
                return b"".join(parts(content))
        except (TypeError, ValueError, RecursionError):
            pass
        return plain(content)

    def parts(content: dict[str, Any]) -> list[bytes]:
        found: list[bytes] = []
        for key, value in content.items():
            found += [b", " if found else b"{", plain(str.__str__(key)), b": "]
            if type(value) is str and len(value) >= LONG:
                found += quoted(value)
            elif _has_long(value):
                found += parts(value)
            else:
                found.append(plain(value))
        found.append(b"}")
        return found

    return pack


def quoted(text: str) -> list[bytes]:
    """A text as JSON has it, in pieces; raises ValueError for what is no UTF-8."""
    found = [b'"']
    for start in range(0, len(text), PIECE):
        piece = text[start : start + PIECE]
        data = piece.encode("utf8", "surrogateescape")
        special = data.translate(None, OTHERS)
        if len(special) * FEW > len(data):
            data = encode_basestring(piece)[1:-1].encode("utf8", "surrogateescape")
        else:
            # The backslash first: it is in what the others become.
            for code in sorted(set(special), key=lambda code: code != ord("\\")):
                data = data.replace(bytes([code]), ESCAPED[code])
        found.append(data)
    found.append(b'"')
    return found


def _has_long(content: Any) -> bool:
    """Whether this is an object that has a long text, or another such object."""
    if type(content) is dict:
        for value in content.values():
            if (type(value) is str and len(value) >= LONG) or (type(value) is dict and _has_long(value)):
                return True
    return False
