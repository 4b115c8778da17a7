"""Who waits for a module is told of its import, before anybody can use it, and nobody else sees a difference."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest.imports import said_elsewhere, when_any_imported, when_imported


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    finders = list(sys.meta_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "awaited"
    package.mkdir()
    (package / "__init__.py").write_text("loader = __loader__, __spec__.loader\nvalue = 1\nfrom awaited import part\n")
    (package / "part.py").write_text("")
    yield
    sys.meta_path[:] = finders
    for name in ("awaited", "awaited.part", "broken_one"):
        sys.modules.pop(name, None)


def test_all_who_wait_are_told_in_order_with_the_finished_module() -> None:
    told: list[Any] = []
    when_imported("awaited", lambda module: told.append(("first", module.value, hasattr(module, "part"))))
    when_imported("awaited", lambda module: told.append("second"))
    when_imported("awaited.part", lambda module: told.append("part"))
    importlib.import_module("awaited")
    assert told == ["part", ("first", 1, True), "second"]


def test_the_module_has_its_own_loader_from_its_first_line_on() -> None:
    when_imported("awaited", lambda module: None)
    module = importlib.import_module("awaited")
    assert module.loader == (module.__loader__, module.__spec__.loader)
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert importlib.reload(module) is module


def test_a_failing_import_fails_as_it_does_otherwise(tmp_path: Path) -> None:
    told: list[Any] = []
    when_imported("broken_one", told.append)
    when_imported("not_there_at_all", told.append)
    (tmp_path / "broken_one.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("broken_one")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("not_there_at_all")
    assert not told and "broken_one" not in sys.modules


def test_one_who_fails_keeps_neither_the_import_nor_the_others_from_going_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[Any] = []
    when_imported("awaited", lambda module: 1 / 0)
    when_imported("awaited", told.append)
    assert importlib.import_module("awaited").value == 1
    assert len(told) == 1
    assert "the settings of awaited are not as they were: ZeroDivisionError" in capsys.readouterr().err


def test_who_waits_for_any_module_is_told_of_those_it_wants_each_time() -> None:
    told: list[Any] = []
    when_any_imported(lambda spec: spec.name.startswith("awaited"), lambda module: told.append(module.__name__))
    module = importlib.import_module("awaited")
    sys.modules.pop("colorsys", None)
    importlib.import_module("colorsys")
    assert told == ["awaited.part", "awaited"]
    importlib.reload(module)
    assert told[2:] == ["awaited"] and type(module.__loader__).__name__ == "SourceFileLoader"


def test_what_a_module_says_is_seen_once_and_it_may_keep_the_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "awaited" / "part.py").write_text("import sys\nout = sys.stdout\nprint('imported')\n")
    with said_elsewhere():
        part = importlib.import_module("awaited.part")
        other = threading.Thread(target=print, args=("another thread",))
        other.start()
        other.join()
    print("afterwards", file=part.out)
    assert capsys.readouterr().out == "another thread\nafterwards\n"
    assert part.out is sys.stdout
