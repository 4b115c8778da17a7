"""Which of the user's modules code can reach."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from docker_kernel.guest.module_reach import ANY, imports, reached

USES = {
    "a": ["b"],
    "b": ["a"],
    "pkg": ["pkg.part"],
    "pkg.part": [],
    "dynamic": [ANY],
    "alone": [],
    "space.part": ["alone"],
}


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("1", ""),
        ("import alone", "alone"),
        ("from b import x", "a b"),
        ("def f():\n    class C:\n        import alone", "alone"),
        ("import pkg.part", "pkg pkg.part"),
        ("import space", "alone space.part"),
        ("import json, no_such_module", ""),
        ("import new_one", " ".join(USES)),
        ("from . import x", " ".join(USES)),
        ("import dynamic", " ".join(USES)),
        ("eval('a')", " ".join(USES)),
    ],
)
def test_code_reaches_what_it_imports_and_what_that_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, modules: str
) -> None:
    (tmp_path / "new_one.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reached([compile(textwrap.dedent(code), "<cell>", "exec")], USES) == set(modules.split())


def test_objects_reach_the_modules_that_define_them() -> None:
    assert reached([json.JSONDecoder, 5], {"json.decoder": ["b"], "b": [], "json": []}) == {"json.decoder", "json", "b"}
    assert reached([json, json.dumps], {"json": []}) == {"json"}


def test_imports_are_found_wherever_they_stand_in_long_code() -> None:
    names = "\n".join(f"name_{number} = {number}.5" for number in range(400))
    code = compile(
        f"{names}\nimport one.two\nfrom .. import x\nfrom three import (y, z)\nimport four as f", "<cell>", "exec"
    )
    assert list(imports(code)) == ["one.two", ANY, "three", "four"]
