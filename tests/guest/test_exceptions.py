"""Exceptions as they travel: what comes back has the type, the fields and the chain of what was raised."""

from __future__ import annotations

import builtins
import json
import sys
import types
import urllib.error
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import snapshot
from tests.guest.test_snapshot import Notebook
from tests.guest.test_snapshot import notebook as notebook


def sent(error: BaseException, folder: Path) -> tuple[Any, list[snapshot.LeftOut]]:
    """An exception after its way through a snapshot, and what was left out of it."""
    captured = snapshot.capture({"error": error}, {}, str(folder))
    restored, failed = snapshot.restore(str(folder), json.loads(captured.manifest), {})
    assert not failed
    return restored["error"], captured.left_out


def all_builtin() -> Iterator[type[BaseException]]:
    waiting: list[type[BaseException]] = [BaseException]
    while waiting:
        kind = waiting.pop()
        if getattr(builtins, kind.__name__, None) is kind:
            yield kind
            waiting += kind.__subclasses__()


def made(kind: Any) -> Any:
    """An exception of a built-in type, with every field set that can be."""
    if issubclass(kind, UnicodeDecodeError):
        return kind("utf-8", b"\xff\xfe", 0, 1, "invalid start byte")
    if issubclass(kind, UnicodeEncodeError):
        return kind("ascii", "ä", 0, 1, "ordinal not in range")
    if issubclass(kind, UnicodeTranslateError):
        return kind("ä", 0, 1, "no")
    if issubclass(kind, SyntaxError):
        return kind("bad", ("<cell>", 3, 5, "x = = 3\n", 3, 6)[: 6 if sys.version_info >= (3, 10) else 4])
    if issubclass(kind, getattr(builtins, "BaseExceptionGroup", ())):
        return kind("several", [ValueError("one"), OSError(2, "two", "/nowhere")])
    if issubclass(kind, OSError):
        return kind(5, "a sentence", "/from", None, "/to")
    error = kind("a sentence")
    for name in ("name", "path", "obj", "value", "code"):
        if isinstance(getattr(kind, name, None), types.MemberDescriptorType):
            setattr(error, name, ["a value"])
    return error


def content(error: BaseException) -> dict[str, Any]:
    """All that an exception holds, whatever it is kept in."""
    fields = {}
    for name in dir(error):
        value = getattr(error, name, None)
        if not name.startswith("__") and not callable(value):
            fields[name] = repr(value)
    return {"type": type(error), "text": str(error), "repr": repr(error), "args": repr(error.args), **fields}


@pytest.mark.parametrize("kind", list(all_builtin()), ids=lambda kind: kind.__name__)
def test_every_built_in_type_keeps_its_fields(kind: type[BaseException], tmp_path: Path) -> None:
    for error in (made(kind), *([] if "Unicode" in kind.__name__ or "Group" in kind.__name__ else [kind()])):
        error.extra = [1]
        back, left_out = sent(error, tmp_path)
        assert content(back) == content(error) and back.extra == [1] and not left_out


@pytest.mark.parametrize("kind", list(all_builtin()), ids=lambda kind: kind.__name__)
def test_a_child_with_a_constructor_of_its_own_keeps_its_fields(kind: Any, notebook: Notebook) -> None:
    notebook.namespace.update(kind=kind, made=made)
    group = issubclass(kind, getattr(builtins, "BaseExceptionGroup", ()))
    notebook.run(f"""
        class Child(kind):
            __slots__ = ("slot",)
            {"def __new__(cls, parent, *, own): return super().__new__(cls, *parent.args)" if group else ""}
            def __init__(self, parent, *, own):
                super().__init__(*parent.args)
                self.own, self.slot = own, "in a slot"
        error = Child(made(kind), own={{"a": 1}})
    """)
    for name in ("kind", "made"):
        del notebook.namespace[name]
    error, back = notebook["error"], notebook.copy()["error"]
    assert content(back) == content(error)
    assert (back.own, back.slot) == ({"a": 1}, "in a slot")


def test_an_os_error_is_of_the_class_that_its_number_chose(tmp_path: Path) -> None:
    error = OSError(2, "No such file or directory", "/nowhere")
    back, _ = sent(error, tmp_path)
    assert type(back) is FileNotFoundError and (back.errno, back.filename) == (2, "/nowhere")
    assert str(back) == str(error)


@pytest.mark.parametrize(
    "source",
    [
        "import json; json.loads('{')",
        "import subprocess; subprocess.run(['sh', '-c', 'echo out; exit 3'], check=True, capture_output=True)",
        "import subprocess; subprocess.run(['sleep', '9'], timeout=0.01)",
        "import configparser; configparser.ConfigParser().get('a', 'b')",
        "import asyncio; raise asyncio.IncompleteReadError(b'a', 2)",
        "import sqlite3; sqlite3.connect(':memory:').execute('no')",
        "import zipfile; zipfile.ZipFile('/etc/passwd')",
        "import re; re.compile('(')",
        "import xml.etree.ElementTree as tree; tree.fromstring('<a>')",
        "import ast; ast.literal_eval('x =')",
        "import socket; socket.gethostbyname('no.invalid')",
        "import numpy; numpy.zeros((2, 3)) @ numpy.zeros((2, 3))",
        "import numpy; numpy.zeros(3).sum(axis=5)",
        "import pandas; pandas.DataFrame({'a': [1]})['b']",
        "import concurrent.futures as f; f.Future().result(timeout=0)",
    ],
)
def test_what_libraries_raise_keeps_its_fields(source: str, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        exec(source, {})
    error = caught.value
    error.extra = "kept"  # type: ignore[attr-defined]
    back, left_out = sent(error, tmp_path)
    assert content(back) == content(error) and not left_out


def test_causes_contexts_and_notes_are_kept(notebook: Notebook) -> None:
    notebook.run("""
        def fail():
            try:
                try: 1 / 0
                except ZeroDivisionError: {}['key']
            except KeyError as error:
                raise ValueError('bad') from error
        try: fail()
        except ValueError as one: error, cause = one, one.__cause__
        error.__notes__ = ['read this']
        try:
            try: int('x')
            except ValueError: raise OSError(5, 'quiet') from None
        except OSError as one: quiet = one
    """)
    copy = notebook.copy()
    error = copy["error"]
    assert error.__notes__ == ["read this"] and error.__suppress_context__
    assert error.__cause__ is error.__context__ is copy["cause"]
    assert type(error.__cause__) is KeyError and type(error.__cause__.__context__) is ZeroDivisionError
    assert not error.__cause__.__suppress_context__
    assert copy["quiet"].__cause__ is None and copy["quiet"].__suppress_context__
    assert type(copy["quiet"].__context__) is ValueError


def test_a_chain_may_be_long_or_lead_back_to_itself(tmp_path: Path) -> None:
    first = error = ValueError(0)
    for number in range(1, 5000):
        error.__context__ = ValueError(number)
        error = error.__context__
    error.__context__ = first
    back, left_out = sent(first, tmp_path)
    found, seen = back, 0
    while found.args == (seen,):
        found, seen = found.__context__, seen + 1
    assert seen == 5000 and found is back and not left_out


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no groups of exceptions")
def test_groups_keep_their_members_and_those_their_chains(notebook: Notebook) -> None:
    notebook.run("""
        class Own(ExceptionGroup):
            def __new__(cls, errors, code): return super().__new__(cls, 'own', errors)
            def __init__(self, errors, code): self.code = code
            def derive(self, errors): return Own(errors, self.code)
        inner = ExceptionGroup('inner', [OSError(2, 'gone', '/a')])
        one = ValueError('x'); one.__cause__ = KeyError('k')
        error = Own([inner, one], 7)
        one.__context__ = error
    """)
    copy = notebook.copy()
    error = copy["error"]
    assert type(error).__name__ == "Own" and (error.message, error.code) == ("own", 7)
    assert error.exceptions == (copy["inner"], copy["one"])
    assert error.exceptions[0].exceptions[0].filename == "/a"
    assert copy["one"].__context__ is error and str(copy["one"].__cause__) == "'k'"
    assert error.subgroup(OSError).code == 7


def test_what_cannot_travel_is_dropped_and_named_and_never_the_type(notebook: Notebook) -> None:
    notebook.run("""
        import socket, threading
        class Refused(ConnectionError):
            def __init__(self, host, sock):
                super().__init__(111, 'refused', host)
                self.sock, self.lock, self.tries = sock, threading.Lock(), 3
        sock = socket.socket()
        error = Refused('example.org', sock)
        error.self = [error]
        error.__cause__ = ValueError('about', sock)
        listed = [AttributeError('no attribute', name='x', obj=(n for n in [])), 7]
        sock.close(); del sock
    """)
    captured = notebook.capture()
    names = {one.name for one in captured.left_out}
    assert names == {"error.sock", "error.lock", "ValueError.args[1]", "AttributeError.obj"}
    assert all(one.reason and one.hint and one.type for one in captured.left_out)
    copy = notebook.copy()
    error = copy["error"]
    assert type(error) is copy["Refused"] and str(error) == str(notebook["error"])
    assert (error.errno, error.filename, error.tries, error.self) == (111, "example.org", 3, [error])
    assert error.__cause__.args[0] == "about" and "socket" in error.__cause__.args[1]
    assert (copy["listed"][0].name, copy["listed"][0].obj, copy["listed"][1]) == ("x", None, 7)


def test_a_class_that_cannot_travel_leaves_the_nearest_above_it(notebook: Notebook) -> None:
    notebook.run("""
        import threading
        class Guarded(KeyError):
            lock = threading.Lock()
        error = Guarded('k')
        del Guarded
    """)
    captured = notebook.capture()
    assert [one.name for one in captured.left_out] == ["error.__class__"]
    assert repr(notebook.copy()["error"]) == "KeyError('k')"


def test_a_class_that_says_how_it_travels_is_believed(notebook: Notebook) -> None:
    notebook.run("""
        import threading, json
        class Own(Exception):
            def __init__(self, code): self.code, self.lock = code, threading.Lock()
            def __reduce__(self): return Own, (self.code,)
        class Child(json.JSONDecodeError):
            def __init__(self, where, parent):
                super().__init__(parent.msg, parent.doc, parent.pos)
                self.where = where
        error = Own(4)
        error.__notes__ = ['a note']
        error.__cause__ = KeyError('k')
        child = Child('here', json.JSONDecodeError('bad', '{', 1))
    """)
    assert not notebook.capture().left_out
    copy = notebook.copy()
    assert copy["error"].code == 4 and copy["error"].lock.acquire(False)
    assert copy["error"].__notes__ == ["a note"] and type(copy["error"].__cause__) is KeyError
    assert (copy["child"].where, copy["child"].pos, copy["child"].lineno) == ("here", 1, 1)


def test_a_frozen_dataclass_that_is_raised(notebook: Notebook) -> None:
    notebook.run("""
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class Frozen(Exception):
            code: int
        try: raise Frozen(3)
        except Frozen as one: error = one
    """)
    assert notebook.copy()["error"] == notebook["error"]


def test_an_http_error_keeps_its_status_and_headers(tmp_path: Path) -> None:
    headers = Message()
    headers["Retry-After"] = "3"
    with Path("/etc/hostname").open("rb") as body:
        error = urllib.error.HTTPError("http://here/", 429, "Too Many", headers, body)
        back, left_out = sent(error, tmp_path)
    assert (back.code, back.reason, back.filename, back.headers["Retry-After"]) == (
        429,
        "Too Many",
        "http://here/",
        "3",
    )
    assert str(back) == str(error) and back.read() == b"" and not hasattr(back, "other")
    assert "error.fp" in {one.name for one in left_out}
