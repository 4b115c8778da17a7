"""papermill as the reference: the same notebooks and parameters give the same executed cells and variables."""

from __future__ import annotations

import ast
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_kernel.guest.parameters import ParameterError, check, find, inject

VALUES: dict[str, Any] = {
    "alpha": 0.25,
    "count": -7,
    "name": 'a "quoted" \\ text\nof two lines\t\x01',
    "flag": False,
    "items": [1, [2.5, None], "x", {"k": True}],
    "options": {"a": {"b": [1]}, "quote'\"": "$x"},
    "nothing": None,
}
TAGGED = """\
alpha = 0.5
count = 10  # how many
name = "report"
flag = True
items = [1, 2]
options = {"a": 1}
nothing = None
"""
USE = "used = (alpha, count, name, flag, items, options, nothing)"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """papermill warns of each notebook without a tagged cell."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def code(source: str | list[str], *tags: str) -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def notebook(*cells: dict[str, Any], minor: int = 5, name: str = "python3", language: str = "python") -> dict[str, Any]:
    made = [copy.deepcopy(cell) for cell in cells]
    if minor >= 5:
        made = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(made)]
    spec = {"name": name, "language": language, "display_name": name}
    return {"nbformat": 4, "nbformat_minor": minor, "metadata": {"kernelspec": spec}, "cells": made}


def by_papermill(made: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """As papermill itself calls it: with a notebook that has its metadata."""
    import nbformat
    from papermill.parameterize import parameterize_notebook

    node = nbformat.from_dict(copy.deepcopy(made))
    node.metadata.setdefault("papermill", nbformat.NotebookNode())
    for cell in node.cells:
        cell.metadata.setdefault("tags", [])
    found: dict[str, Any] = parameterize_notebook(node, copy.deepcopy(values))
    return found


def by_us(made: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    found = find(made).parameters
    return inject(made, found, check(found, values))


def sources(made: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]


def run(made: dict[str, Any]) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for source in sources(made):
        exec(compile(source, "<cell>", "exec"), variables)
    return {name: value for name, value in variables.items() if not name.startswith("__") and not callable(value)}


TAGGED_SHAPES = {
    "first cell": notebook(code(TAGGED, "parameters"), code(USE)),
    "last cell": notebook(code("used = 1"), code(TAGGED, "parameters")),
    "after Markdown and imports": notebook(
        markdown("# Report"), code("import math"), code(TAGGED, "parameters"), markdown("then"), code(USE)
    ),
    "several tags": notebook(code(TAGGED, "hide", "parameters", "x"), code(USE)),
    "two tagged cells": notebook(code(TAGGED, "parameters"), code(TAGGED, "parameters")),
    "lines": notebook(code(TAGGED.splitlines(keepends=True), "parameters"), code([USE])),
    "derived in the same cell": notebook(code(TAGGED + "twice = count * 2", "parameters"), code("thrice = count * 3")),
    "derived in the next cell": notebook(code(TAGGED, "parameters"), code("alpha = alpha * 2\n" + USE)),
    "annotations": notebook(
        code(TAGGED.replace("alpha =", "alpha: float =").replace("count =", "count: 'int' ="), "parameters"), code(USE)
    ),
    "computed defaults": notebook(code(TAGGED + "count = len(name)\nitems = list(items)", "parameters"), code(USE)),
    "injected before": notebook(
        code(TAGGED, "parameters"), code("# Parameters\ncount = 99\nalpha = 3\n", "injected-parameters"), code(USE)
    ),
    "injected elsewhere": notebook(
        code(TAGGED, "parameters"), code("a = 1"), code("count = 99", "injected-parameters"), code(USE)
    ),
    "unicode": notebook(code("# ünïcode 😀\n" + TAGGED + "größe = 'ä'", "parameters"), code(USE)),
}  # fmt: skip
UNTAGGED_SHAPES = {
    "one cell": notebook(code(TAGGED + USE)),
    "several cells": notebook(code("import math"), markdown("x"), code(TAGGED), code(USE)),
    "one line": notebook(code(TAGGED.replace("\n", ";").replace("  # how many", "")), code(USE)),
    "after a function": notebook(code("def f(count=1):\n    alpha = 2\n    return count"), code(TAGGED), code(USE)),
}


@pytest.mark.parametrize("minor", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", TAGGED_SHAPES)
def test_a_tagged_notebook_has_the_same_cells(shape: str, minor: int) -> None:
    import nbformat

    made = copy.deepcopy(TAGGED_SHAPES[shape])
    made["nbformat_minor"] = minor
    if minor < 5:
        for cell in made["cells"]:
            cell.pop("id", None)
    nbformat.validate(made)
    for values in (VALUES, {"count": 3}, {"name": "plain", "alpha": 1.5}):
        ours, theirs = by_us(made, values), by_papermill(made, values)
        nbformat.validate(ours)
        # Byte for byte; papermill escapes all that is not ASCII, though.
        assert [cell["cell_type"] for cell in ours["cells"]] == [cell["cell_type"] for cell in theirs["cells"]]
        assert [cell["metadata"].get("tags", []) for cell in ours["cells"]] == [
            cell["metadata"]["tags"] for cell in theirs["cells"]
        ]
        assert sources(ours) == sources(theirs)
        assert run(ours) == run(theirs)
        # papermill makes all notebooks 4.5; ours keep their version, and their cells the ids.
        assert ours["nbformat_minor"] == minor
        assert [cell["id"] for cell in ours["cells"] if cell in made["cells"] and minor == 5] == [
            cell["id"] for cell in made["cells"] if cell in ours["cells"] and minor == 5
        ]


@pytest.mark.parametrize("shape", [*TAGGED_SHAPES, *UNTAGGED_SHAPES])
def test_nothing_given_leaves_all_as_it_is(shape: str) -> None:
    made = {**TAGGED_SHAPES, **UNTAGGED_SHAPES}[shape]
    assert by_us(made, {}) == made


@pytest.mark.parametrize("shape", UNTAGGED_SHAPES)
def test_without_a_tagged_cell_ours_have_an_effect(shape: str) -> None:
    """papermill puts the values first, where the notebook's own assignments come after them."""
    made = UNTAGGED_SHAPES[shape]
    ours, theirs = run(by_us(made, VALUES)), run(by_papermill(made, VALUES))
    assert theirs == run(made) and ours["used"] == tuple(VALUES.values())
    # Where a user had the assignments taken out for papermill, the same comes of it.
    bare = copy.deepcopy(made)
    for cell in bare["cells"]:
        for line in TAGGED.splitlines():
            cell["source"] = cell["source"].replace(line.replace("  # how many", ""), "pass")
    assert run(by_papermill(bare, VALUES)) == ours


def test_names_that_the_notebook_has_not_are_refused_where_papermill_adds_them() -> None:
    made = TAGGED_SHAPES["first cell"]
    assert run(by_papermill(made, {"cuont": 1}))["count"] == 10
    with pytest.raises(ParameterError, match=r"no parameter cuont \(did you mean count\?\)"):
        by_us(made, {"cuont": 1})


def test_an_untagged_notebook_that_papermill_ran_before() -> None:
    """papermill puts its cell in place of the earlier one, and what is not given again is lost with it."""
    made = notebook(code("# Parameters\ncount = 99\nalpha = 3\n", "injected-parameters"), code("used = (alpha, count)"))
    assert run(by_us(made, {"count": 1, "alpha": 2})) == run(by_papermill(made, {"count": 1, "alpha": 2}))
    assert run(by_us(made, {"count": 1}))["used"] == (3, 1)
    with pytest.raises(NameError):
        run(by_papermill(made, {"count": 1}))


def test_dates_arrive_as_dates_where_papermill_has_texts() -> None:
    import datetime

    made = notebook(code("from datetime import date\nday = date(2026, 1, 1)", "parameters"), code("year = day.year"))
    day = datetime.date(2027, 2, 3)
    assert run(by_us(made, {"day": "2027-02-03"}))["day"] == run(by_us(made, {"day": day}))["day"] == day
    # As YAML and its command line give it.
    for value in ("2027-02-03", day):
        with pytest.raises(AttributeError):
            run(by_papermill(made, {"day": value}))


def test_types_are_checked_where_papermill_has_none() -> None:
    made = TAGGED_SHAPES["first cell"]
    assert run(by_papermill(made, {"count": "many"}))["count"] == "many"
    with pytest.raises(ParameterError, match="count must be a whole number"):
        by_us(made, {"count": "many"})


def test_the_same_comes_of_a_run_in_a_kernel(tmp_path: Path) -> None:
    """With papermill's own executor, and with nbclient."""
    import nbformat
    import papermill
    from nbclient import NotebookClient

    made = notebook(code("%%time\nimport math\n" + TAGGED, "parameters"), code("!true\n" + USE + "\nprint(used)\nused"))
    (tmp_path / "in.ipynb").write_text(json.dumps(made))
    values = {**VALUES, "count": 10**30}
    theirs = papermill.execute_notebook(
        tmp_path / "in.ipynb", None, values, kernel_name="python3", progress_bar=False, cwd=tmp_path
    )
    ours = nbformat.from_dict(by_us(made, values))
    NotebookClient(ours, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(ours.cells) == len(theirs.cells) == 3
    for one, other in zip(ours.cells[1:], theirs.cells[1:], strict=True):
        assert (one.outputs, one.execution_count) == (other.outputs, other.execution_count)
    assert ast.literal_eval(ours.cells[2].outputs[1]["data"]["text/plain"]) == tuple(values.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
def test_any_value_becomes_what_papermill_makes_of_it(value: Any) -> None:
    made = notebook(code("x = None", "parameters"))
    assert run(by_us(made, {"x": value})) == run(by_papermill(made, {"x": value}))


@pytest.mark.parametrize(("name", "language"), [("ir", "R"), ("julia-1.10", "julia")])
def test_r_and_julia_have_the_same_cells(name: str, language: str) -> None:
    from papermill.translators import papermill_translators

    made = notebook(code('n = 5\nx = 1.5\ns = "a"\nb = true\nv = f(1)', "parameters"), name=name, language=language)
    made["cells"][0]["source"] = made["cells"][0]["source"].replace("true", "TRUE" if language == "R" else "true")
    for values in (
        {"x": 2.5, "s": 'a "b" \\ c'}, {"b": False, "v": [1, "a", None, True]}, {"v": {"k": [1.5, {"l": "m"}]}},
    ):  # fmt: skip
        assert sources(by_us(made, values)) == sources(by_papermill(made, values))
    assert papermill_translators.find_translator(name, language) is not None


@pytest.mark.parametrize("shape", TAGGED_SHAPES)
def test_what_papermill_finds_is_found(shape: str) -> None:
    from papermill.translators import papermill_translators

    made = TAGGED_SHAPES[shape]
    first = next(cell for cell in made["cells"] if "parameters" in cell["metadata"].get("tags", []))
    source = "".join(first["source"])
    theirs = papermill_translators.find_translator("python3", "python").inspect({"source": source})
    ours = {one.name: one for one in find(made).parameters}
    assert set(ours) >= {one.name for one in theirs}
    for one in theirs:
        if one.inferred_type_name != "None":
            assert ours[one.name].type == one.inferred_type_name
        if one.help:
            assert ours[one.name].help == one.help
