"""A notebook's parameters: what is found, what values they take, and what injection leaves as it was."""

from __future__ import annotations

import ast
import builtins
import copy
import datetime
import io
import json
import math
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

from docker_kernel.guest import cell_source
from docker_kernel.guest.annotations import parse_type
from docker_kernel.guest.parameters import (
    Found,
    Parameter,
    ParameterError,
    Text,
    as_json,
    check,
    find,
    inject,
    schema,
)
from docker_kernel.guest.run_notebook import with_parameters

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOSTILE = [
    '"; import os; os.abort() #',
    "'''\nraise SystemExit\n'''",
    '"""\nraise SystemExit\n"""',
    "\\",
    '\\"',
    "\\N{BULLET}",
    "{__import__('os').abort()}",
    "%run /etc/passwd",
    "!kill 1",
    "a\rb\x0cc\x1cd\x85e\u2028f\u2029g\x00h",
    "\ud800",
    "\U0001f600 ünïcode \u202e",
    "$(reboot) `reboot` ${x}",
    "__import__('os').abort()",
    "None",
    "# comment",
    "",
]


def code(source: str | list[str], *tags: str) -> dict[str, Any]:
    metadata = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def notebook(*cells: dict[str, Any] | str, minor: int = 4, **metadata: Any) -> dict[str, Any]:
    made = [code(cell) if isinstance(cell, str) else copy.deepcopy(cell) for cell in cells]
    if minor >= 5:
        made = [{**cell, "id": f"cell-{number}"} for number, cell in enumerate(made)]
    return {"nbformat": 4, "nbformat_minor": minor, "metadata": metadata, "cells": made}


def tagged(source: str) -> dict[str, Any]:
    return code(source, "parameters")


def run(made: dict[str, Any]) -> dict[str, Any]:
    """The variables after all cells ran, but for magics."""
    variables: dict[str, Any] = {}
    magics = _Magics(variables)
    variables["get_ipython"] = lambda: magics
    for cell in made["cells"]:
        if cell["cell_type"] == "code":
            magics.run(cell_source.source_of(cell))
    return variables


class _Magics:
    """Runs cells as IPython does, with the bodies of cell magics and without lines that are magics."""

    def __init__(self, variables: dict[str, Any]) -> None:
        self._variables = variables

    def run(self, source: str) -> None:
        exec(compile(TransformerManager().transform_cell(source), "<cell>", "exec"), self._variables)

    def run_cell_magic(self, name: str, line: str, body: str) -> None:
        self.run(body)

    def run_line_magic(self, name: str, line: str) -> None:
        pass


def by_name(found: Found) -> dict[str, Parameter]:
    return {one.name: one for one in found.parameters}


def names(*cells: dict[str, Any] | str) -> list[str]:
    return [one.name for one in find(notebook(*cells)).parameters]


def only(source: str) -> Parameter:
    (found,) = find(notebook(source)).parameters
    return found


def give(made: dict[str, Any], **values: Any) -> dict[str, Any]:
    found = find(made).parameters
    return inject(made, found, check(found, values))


def refusal(parameters: Any, given_: dict[str, Any]) -> str:
    with pytest.raises(ParameterError) as raised:
        check(parameters, given_)
    text = str(raised.value)
    assert text.endswith(".") and "\n" not in text
    return text


# Found


@pytest.mark.parametrize(
    ("source", "kind", "default"),
    [
        ("x = 5", "int", 5),
        ("x = -5", "int", -5),
        ("x = 0.5", "float", 0.5),
        ("x = -1e-3", "float", -0.001),
        ("x = True", "bool", True),
        ("x = 'é'", "str", "é"),
        ("x = ('a'\n     'b')", "str", "ab"),
        ("x = '''a\nb'''", "str", "a\nb"),
        ("x = f'plain'", "str", "plain"),
        ("x = None", "any", None),
        ("x = [1, 'a', [None]]", "list", [1, "a", [None]]),
        ("x = {'a': {'b': [1.5]}}", "dict", {"a": {"b": [1.5]}}),
        ("x = {1: 'a'}", "dict[int, any]", {"1": "a"}),
        ("x = (1, 2)", "tuple", [1, 2]),
        ("x = 1, 2", "tuple", [1, 2]),
        ("x = [(1, 2), (3, 4)]", "list[tuple]", [[1, 2], [3, 4]]),
        ("x = {1}", "set", [1]),
        ("x = 60 * 60", "int", 3600),
        ("x = 10 ** 6", "int", 1000000),
        ("x = 1 / 4", "float", 0.25),
        ("x = float('inf')", "float", "inf"),
        ("x = date(2026, 1, 31)", "date", "2026-01-31"),
        ("x = date(year=2026, month=1, day=31)", "date", "2026-01-31"),
        ("x = datetime.date(2026, 1, 31)", "date", "2026-01-31"),
        ("x = datetime.date.fromisoformat('2026-01-31')", "date", "2026-01-31"),
        ("x = datetime(2026, 1, 31)", "datetime", "2026-01-31T00:00:00"),
        ("x = datetime.datetime(2026, 1, 31, 18)", "datetime", "2026-01-31T18:00:00"),
        ("x = datetime(2026, 1, 31, tzinfo=timezone.utc)", "datetime", "2026-01-31T00:00:00+00:00"),
        ("x = [date(2026, 1, 31)]", "list[date]", ["2026-01-31"]),
        ("x = {'a': date(2026, 1, 31)}", "dict[str, date]", {"a": "2026-01-31"}),
        ("x = Path('a/b')", "Path", "a/b"),
        ("x = pathlib.Path('a/b')", "Path", "a/b"),
        ("x: float = 5", "float", 5),
        ("x: 'float' = 5", "float", 5),
        ("x: int = None", "int | None", None),
        ("x: Optional[int] = 5", "int | None", 5),
        ("x: int | str = 5", "int | str", 5),
        ("x: int = 1.5", "int | float", 1.5),
        ("x: date = '2026-01-31'", "date", "2026-01-31"),
        ("x: date = ''", "date | str", ""),
        ("x: typing.Union[int, None, str] = 5", "int | None | str", 5),
        ("x: list[int] = []", "list[int]", []),
        ("x: List[Optional[float]] = [1]", "list[float | None]", [1]),
        ("x: tuple[int, ...] = (1,)", "tuple[int, ...]", [1]),
        ("x: dict[str, list[date]] = {}", "dict[str, list[date]]", {}),
        ("x: Literal['a', 'b'] = 'a'", "Literal['a', 'b']", "a"),
        ("x: Annotated[int, 'rows'] = 1", "int", 1),
        ("x: Final = 1", "int", 1),
        ("x: np.float64 = 1.0", "float", 1.0),
        ("x = 5  # type: float How many", "float", 5),
        ("x = 5  # type: ignore", "int", 5),
        ("x = {}  # type: dict[str, int] Sizes", "dict[str, int]", {}),
        ("x: None = None", "any", None),
    ],
)
def test_literals_are_found_with_type_and_default(source: str, kind: str, default: Any) -> None:
    found = only(source)
    assert (found.type, found.default, found.required) == (kind, default, False)
    assert str(parse_type(found.type)) == found.type
    assert by_name(find(notebook(tagged(source))))["x"] == found


@pytest.mark.parametrize(
    "source",
    [
        "x = f()", "x = y", "x = f'{y}'", "x = b'bytes'", "x = 1j", "x = ...", "x = [y]", "x = [*y]", "x = {**y}",
        "x = 9 ** 9 ** 9", "x = 1 / 0", "x = 'a' * 9", "x = date(2026, 13, 1)", "x = date(*y)", "x = lambda: 1",
        "x += 1", "x.y = 1", "x[0] = 1", "x, *y = 1, 2", "for x in (1, 2): pass", "import x", "def x(): pass",
        "if True:\n    x = 1", "_x = 1", "def f():\n    x = 1", "class A:\n    x = 1", "[(x := 1)]",
        "x = 1\nx = 2", "x = 1\nif y:\n    x = 2", "x = 0\nfor i in y:\n    x = x + i", "x = 1\nx = f()",
        "x = 1\ndef f():\n    global x\n    x = 2", "x = 1\nx = !ls", "x = []\nx.append(1)", "x = {}\nx['a'] = 1",
        "x = 1\nimport y as x", "x = 1\nwith y as x: pass", "x: np.ndarray", "x: int\nx = f()", "x = 1\nx: int = 2",
        "x = " + repr("long" * 5000), "from z import Path\nx = Path('a')", "def date(*a): pass\nx = date(2026, 1, 1)",
    ],
)  # fmt: skip
def test_what_is_computed_or_overwritten_is_no_parameter(source: str) -> None:
    assert "x" not in names(source)


@pytest.mark.parametrize(
    "rest",
    ["x = str(x)", "x += 1", "if x:\n    x = x * 2", "def f():\n    x = 1", "[x for x in y]", "class A:\n    x = 2",
     "f(x=2)", "lambda x: 1", "del x", "print(x)"],
)  # fmt: skip
def test_a_parameter_may_be_made_something_else_of(rest: str) -> None:
    assert names("x = 1", rest) == ["x"]


def test_an_annotation_without_a_value_is_required() -> None:
    found = only("x: int  # How many")
    assert found == Parameter("x", "int", None, True, "How many", (), 0, "")
    assert only("x: date\nx = str(x)").required
    assert run(give(notebook("x: date\ny = x"), x="2026-02-03"))["y"] == datetime.date(2026, 2, 3)
    assert run(give(notebook("x: (int); z = 3"), x=4))["x"] == 4
    assert refusal([found], {}) == "x (int) is required."


def test_names_are_read_as_they_were_imported() -> None:
    found = by_name(
        find(
            notebook(
                "import datetime as dt, pathlib as p\nfrom datetime import date as D\nfrom typing import Optional as O",
                "a = dt.date(2026, 1, 1)\nb = D(2026, 1, 1)\nc = p.Path('x')\nd: O[dt.datetime] = None",
            )
        )
    )
    assert {name: one.type for name, one in found.items()} == {
        "a": "date", "b": "date", "c": "Path", "d": "datetime | None",
    }  # fmt: skip


def test_a_tagged_cell_wins_and_may_compute() -> None:
    made = notebook(
        "before = 1", tagged("a = 1\nb = a * 2\nc: int = len('x')\nif a:\n    d = 3\nimport os\nfor i in []: pass")
    )
    found = find(made)
    assert found.tagged and found.notes == ()
    assert [(one.name, one.type, one.default, one.default_source, one.required) for one in found.parameters] == [
        ("a", "int", 1, "1", False),
        ("b", "any", None, "a * 2", False),
        ("c", "int", None, "len('x')", False),
        ("d", "any", None, "3", False),
    ]
    assert {one.cell for one in found.parameters} == {1}


def test_help_comes_from_comments_or_markdown() -> None:
    found = by_name(
        find(
            notebook(
                markdown("# Report\n\n- **alpha**: how *fast*\n- `beta` (int): how many\n\n| gamma | how deep |\n"),
                "alpha = 1\nbeta = 2\ngamma = 3\n\n# First line\n# and second\n# -----\n# zeta = 0\n"
                "delta = [  # not this\n 1]\nepsilon = '# no comment'\nzeta = 5; eta = 6  # both\n\n"
                "# apart\n\ntheta = 7 # type: int Rows",
                markdown("## Settings\n\nHow many days\nto look at."),
                "iota = 1",
                markdown("## Number of rows"),
                "kappa = 1",
                markdown("Some text."),
                "lamda = 1\nmy = 2",
                markdown("# Parameters"),
                "nu = 1",
                markdown("Long. " * 50),
                "xi = 1  # type: dict[str, int] Sizes",
                markdown("Long. " * 50),
                "omicron = 1",
            )
        )
    )
    assert {name: one.help for name, one in found.items()} == {
        "alpha": "how *fast*", "beta": "how many", "gamma": "how deep", "delta": "First line and second",
        "epsilon": "", "zeta": "", "eta": "both", "theta": "Rows", "iota": "How many days to look at.",
        "kappa": "Number of rows", "lamda": "", "my": "", "nu": "", "xi": "Sizes", "omicron": "",
    }  # fmt: skip


def test_what_is_not_python_is_reported_and_the_rest_is_read() -> None:
    found = find(
        notebook(
            "%matplotlib inline\na = 1\n!pip install \\\n   x\nif a:\n    !ls\nb = 2\nc?\nfiles = !ls\n"
            "d = '''\n%no magic\n'''\ne = (1,\n2)",
            "%%time\n\nf = 1",
            "%%capture out\n%%time\ng = 1",
            "%%bash\nh=1",
            "i = = 1",
            "   j = 1\n   k = 2",
            "\n\n%%javascript\nl = 1",
            "m = await f()\nn = 4",
            "%%timeit\no = 1",
            code("p = 1", "skip-execution"),
            "q = 1\0",
            "print 'a'",
        )
    )
    assert [one.name for one in found.parameters] == ["a", "b", "d", "e", "f", "g", "j", "k", "n"]
    assert found.notes[:5] == (
        "Cell 1 has lines that are not Python and are not read: 1 (%matplotlib), 3 (!pip), 6 (!ls), 8 (?), 9 (!ls).",
        "Cell 2 has lines that are not Python and are not read: 1 (%%time).",
        "Cell 3 has lines that are not Python and are not read: 1 (%%capture), 2 (%%time).",
        "Cell 4 begins with %%bash, whose body is not read.",
        "Cell 5 has an error in line 1: invalid syntax.",
    )
    assert [note.split()[1] for note in found.notes[5:]] == ["7", "9", "11", "12"]
    assert not any("?." in note for note in found.notes)


def test_other_notebooks_are_reported() -> None:
    assert find({}).parameters == () and find({"cells": None, "metadata": []}).notes == ()
    assert "format 3" in find({"worksheets": [], "nbformat": 3}).notes[0]
    odd = [{"cell_type": "code"}, {}, None, {"cell_type": "code", "metadata": None, "source": ["x = 1", None]}]
    assert [one.name for one in find({"cells": odd}).parameters] == ["x"]
    assert find(notebook("x = 1", language_info={"name": "haskell"})).notes == (
        "The notebook is in haskell: parameters are read in Python, R and Julia only.",
    )
    assert "only a cell tagged" in find(notebook("x = 1", kernelspec={"name": "ir", "language": "R"})).notes[0]
    twice = find(notebook(tagged("a = 1"), tagged("b = 1")))
    assert [one.name for one in twice.parameters] == ["a"] and twice.notes[0].startswith("Cell 2 is tagged")


# Checked

VALUES: list[tuple[str, Any, Any]] = [
    ("int", "5", 5), ("int", " -5 ", -5), ("int", 5, 5), ("int", "9" * 400, int("9" * 400)),
    ("int", 10**5000, 10**5000),
    ("float", "0.5", 0.5), ("float", 5, 5.0), ("float", "-inf", -math.inf), ("float", "1e-3", 0.001),
    ("bool", "true", True), ("bool", "No", False), ("bool", "1", True), ("bool", "0", False), ("bool", True, True),
    ("str", "5", "5"), ("str", "null", "null"), ("str", Text("null"), "null"), ("str", "é\n", "é\n"),
    ("str", datetime.date(2026, 1, 2), "2026-01-02"),
    ("date", "2026-01-02", datetime.date(2026, 1, 2)), ("date", datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)),
    ("datetime", "2026-01-02", datetime.datetime(2026, 1, 2)),
    ("datetime", "2026-01-02T03:04:05.5", datetime.datetime(2026, 1, 2, 3, 4, 5, 500000)),
    ("datetime", "2026-01-02 03:04Z", datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)),
    ("datetime", "2026-01-02T03:04-0130", datetime.datetime(
        2026, 1, 2, 3, 4, tzinfo=datetime.timezone(-datetime.timedelta(minutes=90)))),
    ("Path", "/a b/ü", Path("/a b/ü")),
    ("list", "[1, null]", [1, None]), ("list", "[1, None, 'a']", [1, None, "a"]), ("list", [1], [1]),
    ("list[int]", '["1", 2]', [1, 2]), ("list[date]", ["2026-01-02"], [datetime.date(2026, 1, 2)]),
    ("dict", '{"a": NaN}', {"a": math.nan}), ("dict", "{'a': (1,)}", {"a": (1,)}),
    ("dict[int, float]", {"1": 2}, {1: 2.0}),
    ("tuple", [1, 2], (1, 2)), ("tuple[int, str]", '[1, "a"]', (1, "a")), ("tuple[int, ...]", "(1, 2)", (1, 2)),
    ("set", [1, 1], {1}), ("list[tuple]", [[1]], [(1,)]),
    ("int | None", "null", None), ("int | None", "None", None), ("int | None", "5", 5), ("int | None", None, None),
    ("str | None", "null", "null"), ("str | None", Text("null"), None), ("str | None", Text("x"), "x"),
    ("int | str", "5", "5"), ("int | str", Text("5"), 5), ("float | int", 5, 5), ("int | float", "5.5", 5.5),
    ("Literal['a', 'b']", "a", "a"), ("Literal[1, 2]", "1", 1), ("Literal[True, None]", "yes", True),
    ("Literal['a'] | None", None, None), ("Literal['a', 1]", 1, 1),
    ("any", "5", "5"), ("any", Text("5"), 5), ("any", Text("abc"), "abc"), ("any", Text("[1, {}]"), [1, {}]),
    ("any", Text("true"), True), ("any", None, None), ("any", {"a": [1]}, {"a": [1]}),
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@pytest.mark.parametrize(("kind", "value", "wanted"), VALUES, ids=map(str, range(len(VALUES))))
def test_values_become_those_of_their_type_and_arrive(kind: str, value: Any, wanted: Any) -> None:
    parameter = Parameter("x", kind)
    made = check([parameter], {"x": value})["x"]
    assert same(made, wanted)
    for shape in (notebook("x = 0"), notebook(tagged("x = 0")), notebook("y = x = 0"), notebook("x: int")):
        assert same(run(inject(shape, [parameter], {"x": made}))["x"], wanted)
    # JSON has neither tuples nor NaN; the type says what is one.
    if kind != "dict":
        assert same(check([parameter], {"x": as_json(made)})["x"], wanted)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("int", "5.0", "a whole number (int), not '5.0'"), ("int", 5.0, "a whole number (int), not 5.0"),
        ("int", True, "a whole number"), ("int", None, "not None"), ("int", "", "not ''"),
        ("int", "9" * 5000, "digits"),
        ("float", "abc", "a number (float), not 'abc'"), ("float", True, "a number"), ("float", 10**400, "1.7e308"),
        ("bool", "maybe", "true or false (bool)"), ("bool", 2, "true or false"), ("bool", None, "true or false"),
        ("str", 5, "a text (str), not 5"), ("str", None, "a text"),
        ("date", "2026-02-30", "a date (as 2026-01-31)"), ("date", "20260102", "a date"), ("date", 5, "a date"),
        ("date", datetime.datetime(2026, 1, 1), "a date"), ("date", "٢٠٢٦-01-01", "a date"),
        ("datetime", "2026-01-01T25:00", "a date and time"), ("datetime", "now", "a date and time"),
        ("Path", 5, "a path"), ("list", "[1", "a list, as [1, 2] (list), not '[1'"), ("list", "5", "a list"),
        ("list", {"a": 1}, "a list"), ("list", "(" * 10000, "a list"),
        ("list[int]", "[1, 'b']", "member 2 must be a whole number (int), not 'b'"),
        ("list", "[b'x']", "member 1 must be a value that JSON has, not bytes"), ("dict", "[]", "a dict"),
        ("dict[str, int]", {"a": "b"}, "the value of 'a' must be a whole number"), ("dict", "{1j: 1}", "JSON has"),
        ("tuple[int, str]", "[1]", "of 2 members, not of 1"), ("set", "[[1]]", "whose members are no lists"),
        ("int | None", "x", "a whole number (int) or null (None), not 'x'"),
        ("Literal['a', 'b']", "c", "one of 'a', 'b', not 'c'"), ("Literal[1]", True, "one of 1"),
        ("any", b"x", "a value that JSON has, not bytes"), ("int", "x" * 999, "xxx..."),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(kind: str, value: Any, said: str) -> None:
    text = refusal([Parameter("x", kind)], {"x": value})
    assert text.startswith("x must be ") and said in text and len(text) < 300


def test_what_is_nested_too_deeply_is_refused_and_the_rest_compiles() -> None:
    deep: Any = 1
    for _ in range(90):
        deep = [deep]
    assert same(run(give(notebook("x = []"), x=deep))["x"], deep)
    assert "90 levels" in refusal([Parameter("x", "list")], {"x": [deep]})
    loop: list[Any] = []
    loop.append(loop)
    assert "90 levels" in refusal([Parameter("x", "any")], {"x": loop})


def test_all_problems_are_in_one_sentence() -> None:
    found = find(notebook("alpha = 1\nbeta: str\nt = 2.5\nd = date(2026, 1, 1)")).parameters
    assert refusal(found, {"alhpa": 1, "t": "x", "d": "soon", "Alpha": 1}) == (
        "There is no parameter alhpa (did you mean alpha?); t must be a number (float), not 'x'; "
        "d must be a date (as 2026-01-31), not 'soon'; there is no parameter Alpha (did you mean alpha?); "
        "beta (str) is required."
    )
    assert refusal(found, {"beta": "", "zzz": 1}) == "There is no parameter zzz (there are alpha, beta, t, d)."
    assert refusal(found, {"t": "x", "beta": ""}) == "t must be a number (float), not 'x'."
    assert refusal([], {"x": 1}) == "There is no parameter x: the notebook has none."
    assert refusal(found, {"beta": "", "x = 1; import os": 1}).startswith("There is no parameter 'x = 1; import os'")


def test_names_are_normalised_as_python_does() -> None:
    made = notebook("ﬁle = 'a'\nµ = 1")
    assert [one.name for one in find(made).parameters] == ["file", "μ"]
    assert run(give(made, **{"ﬁle": "b", "µ": 2}))["file"] == "b"


# Injected


def test_a_value_takes_the_place_of_the_old_one() -> None:
    source = (
        "# ünïcode\ns = 'ä€😀'; n = 5  # rows\n"
        "m = [  # several\n    1,\n]  # end\n"
        "a = b = 1; print(a)  # twice\n"
        "c, (d, e) = 'é', [(1), -2]\n"
        "p = (3)\nday = dt.date(2026, 1, 1)\n"
        "f: 'float | None' = None\n%time q = 1\nr = '''\nx = 5\n'''\nlast = m[0] + n"
    )
    made = notebook("import datetime as dt", source)
    new = give(made, s='"', n=6, m=[2], a=3, b=4, c="", d=7, e=8, p=9, day="2027-02-03", f=0.5, r="r", **{})
    assert new["cells"][1]["source"] == (
        '# ünïcode\ns = "\\""; n = 6  # rows\n'
        "m = [2]  # end\n"
        "a = b = 1; a = 3; b = 4; print(a)  # twice\n"
        'c, (d, e) = "", [(7), 8]\n'
        "p = (9)\n"
        "day = dt.date(2027, 2, 3)\nf: 'float | None' = 0.5\n%time q = 1\nr = \"r\"\nlast = m[0] + n"
    )
    variables = run(new)
    assert variables["last"] == 8 and variables["day"] == datetime.date(2027, 2, 3)
    assert new["cells"][0] == made["cells"][0] and {**new, "cells": []} == {**made, "cells": []}


def test_lines_and_indentation_stay_as_they_are() -> None:
    made = notebook(
        code(["%%time\n", "  x = 1\r\n", "  y = 'a\\\n", "b'\r", "  z = 3\n", "\n"]), "   a = 'é'; b = 1\n   c = 2"
    )
    new = give(made, x=5, z=6, b=7, c=8)
    assert new["cells"][0]["source"] == ["%%time\n", "  x = 5\r\n", "  y = 'a\\\n", "b'\r  z = 6\n", "\n"]
    assert new["cells"][1]["source"] == "   a = 'é'; b = 7\n   c = 8"
    assert run({**new, "cells": new["cells"][1:]})["b"] == 7
    assert run(give(notebook("%%time\n  x = 1\n  z = x"), x=5))["z"] == 5


def test_dates_and_paths_need_no_import() -> None:
    kinds = "a: date = None\nb: datetime\nc: Path\nd: list[date] = []"
    for made in (notebook(kinds), notebook(tagged(kinds))):
        # The annotations themselves do want their names.
        made["cells"].insert(0, code("date = datetime = Path = None"))
        values = {"a": "2026-01-02", "b": "2026-01-02T03:04+01:00", "c": "x", "d": ["2026-01-02"]}
        variables = run(give(made, **values))
        assert variables["a"] == datetime.date(2026, 1, 2) == variables["d"][0] and variables["c"] == Path("x")
        assert variables["b"].utcoffset() == datetime.timedelta(hours=1)


def test_a_tagged_cell_is_followed_by_the_values() -> None:
    made = notebook("first = 1", tagged("a = 1; b = 'x'"), "c = (a, b)", minor=5)
    new = give(made, b="y", a=2)
    assert new["cells"][:2] == made["cells"][:2] and new["cells"][3:] == made["cells"][2:]
    assert new["cells"][2] == {
        **code('# Parameters\nb = "y"\na = 2\n', "injected-parameters"),
        "id": "injected-parameters",
    }
    assert give(new, b="y", a=2) == new
    again = give(new, a=3)
    assert len(again["cells"]) == 4 and run(again)["c"] == (3, "x")
    assert "values of an earlier run" in find(new).notes[0]
    assert give(new) == new and give(made) == made
    assert "id" not in give(notebook(tagged("a = 1")), a=2)["cells"][1]
    taken = notebook(tagged("a = 1"), minor=5)
    taken["cells"][0]["id"] = "injected-parameters"
    assert give(taken, a=2)["cells"][1]["id"] == "injected-parameters-2"


def test_an_edited_default_is_put_in() -> None:
    made = notebook("a = 1\nb = 'x'\nc: int\nd = None\ne = 1")
    found = by_name(find(made))
    edited = [
        Parameter("a", "float", 2.5), Parameter("b", "str", "x", help="new"), Parameter("c", "int", 7),
        Parameter("d", "any", None), Parameter("e", "int | None", None),
    ]  # fmt: skip
    variables = run(inject(made, edited, {}))
    assert [variables[name] for name in "abcde"] == [2.5, "x", 7, None, None]
    assert run(inject(made, edited, {"a": 3.0}))["a"] == 3.0
    assert inject(made, found.values(), {}) == made
    assert inject(made, [], {}) == made
    with pytest.raises(ParameterError, match="default of a must be a whole number"):
        inject(made, [Parameter("a", "int", "x")], {})


def test_only_what_is_assigned_can_be_given() -> None:
    made = notebook("a = 1")
    for name in ("b", "a = 1; import os", "a\nimport os", "__import__('os').abort()"):
        with pytest.raises(ParameterError, match="assigns no parameter"):
            inject(made, [Parameter(name)], {name: 1})
    with pytest.raises(ParameterError, match="type object"):
        inject(made, [Parameter("a")], {"a": object()})


class _Evil(str):
    def __str__(self) -> str:
        return "1); raise SystemExit"

    __repr__ = __str__


class _EvilInt(int):
    def __repr__(self) -> str:
        return "raise SystemExit"

    __str__ = __repr__


@pytest.mark.parametrize("text", [*HOSTILE, _Evil("a")])
def test_a_text_that_looks_like_code_stays_a_text(text: str) -> None:
    plain = "".join(text)
    for source in ("x = 0", "x = y = 0", "x: int", "x, y = 0, 1"):
        for made in (notebook(source), notebook(tagged(source))):
            for kind, value in (("str", text), ("any", [text]), ("dict", {text: {text: text}}), ("Path", text)):
                if kind == "Path" and "\0" in text:
                    continue
                parameters = [Parameter("x", kind)]
                variables = run(inject(made, parameters, check(parameters, {"x": value})))
                wanted = {"str": plain, "any": [plain], "dict": {plain: {plain: plain}}, "Path": Path(plain)}[kind]
                assert same(variables["x"], wanted)
                assert set(variables) <= {"x", "y", "get_ipython", "__builtins__", "__annotations__"}


def test_a_number_of_a_class_of_its_own_stays_a_number() -> None:
    assert run(inject(notebook("x = 1"), [Parameter("x")], {"x": _EvilInt(5)}))["x"] == 5


def test_real_cells_with_magics_run(tmp_path: Path) -> None:
    shell = InteractiveShell()
    made = notebook("%%time\nn = 1; m = n + 1\n", "%%capture out\n%time k = 2\nq = [3]\nprint(n, q)", "!true\nz = 4")
    for cell in give(made, n=10, q=[5], z=6)["cells"]:
        assert shell.run_cell(cell["source"]).success
    assert [shell.user_ns[name] for name in "nmqz"] == [10, 11, [5], 6]
    assert shell.user_ns["out"].stdout.endswith("10 [5]\n")


def test_dispatch_follows_the_same_rules() -> None:
    made = notebook("x = 1", "y = x + 1")
    assert run(with_parameters(made, {"x": 5}))["y"] == 6
    with pytest.raises(ParameterError, match="did you mean x"):
        with_parameters(made, {"X": 5})
    assert with_parameters(made, {}) == made


# R and Julia


def test_r_and_julia_get_a_cell_of_values() -> None:
    source = "n <- 5L # rows\nrate = 0.5\nname <- \"a\"\nok <- TRUE\nf(a = 1,\n  b = 2)\nv <- c(1, 2)\nmy.name <- 'b'"
    made = notebook(tagged(source), kernelspec={"name": "ir", "language": "R"})
    found = find(made)
    assert [(one.name, one.type, one.default, one.help) for one in found.parameters] == [
        ("n", "int", 5, "rows"), ("rate", "float", 0.5, ""), ("name", "str", "a", ""), ("ok", "bool", True, ""),
        ("v", "any", None, ""), ("my.name", "str", "b", ""),
    ]  # fmt: skip
    assert [Parameter.from_dict(one.to_dict()) for one in found.parameters] == list(found.parameters)
    values = {"n": "7", "rate": "inf", "name": '"; q() #\n\x01é$x', "ok": "no", "v": [1, None, {"a": "b"}]}
    assert give(made, **values)["cells"][1]["source"] == (
        '# Parameters\nn = 7\nrate = Inf\nname = "\\"; q() #\\n\\u0001é$x"\nok = FALSE\n'
        'v = list(1, NULL, list("a" = "b"))\n'
    )
    with pytest.raises(ParameterError, match="U\\+0000"):
        give(made, name="\0")
    made = notebook(tagged('n = 5\ns = "a"\nd = nothing\na == 1'), language_info={"name": "julia"})
    assert [(one.name, one.type) for one in find(made).parameters] == [("n", "int"), ("s", "str"), ("d", "any")]
    assert give(made, s='$(run(`x`))"', d={"k": [True]})["cells"][1]["source"] == (
        '# Parameters\ns = "\\$(run(`x`))\\""\nd = Dict("k" => [true])\n'
    )


# The schema


@pytest.mark.parametrize(("kind", "value", "wanted"), VALUES, ids=map(str, range(len(VALUES))))
def test_the_schema_takes_what_is_a_value_of_the_type(kind: str, value: Any, wanted: Any) -> None:
    import jsonschema

    made = schema([Parameter("x", kind)])
    jsonschema.Draft202012Validator.check_schema(made)
    if wanted != -math.inf:
        jsonschema.validate({"x": as_json(wanted)}, made)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 0.5), ("int", "5"), ("float", "a"), ("bool", 1), ("str", None), ("date", "2026-1-1"),
        ("datetime", "now"), ("list", {}), ("list[int]", ["a"]), ("dict", []), ("dict[str, int]", {"a": "b"}),
        ("tuple[int, str]", [1]), ("tuple[int, str]", ["a", 1]),
        ("int | None", "a"), ("Literal['a']", "b"), ("set", [1, 1]),
    ],
)  # fmt: skip
def test_the_schema_refuses_other_values(kind: str, value: Any) -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"x": value}, schema([Parameter("x", kind)]))


def test_the_schema_describes_a_notebook() -> None:
    import jsonschema

    found = find(
        notebook("a: int  # How many\nb = date(2026, 1, 1)\nc: Optional[Literal['x']] = None\nd = f()")
    ).parameters
    assert schema(found) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "a": {"type": "integer", "x-type": "int", "description": "How many"},
            "b": {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "x-type": "date",
                  "default": "2026-01-01"},
            "c": {"anyOf": [{"enum": ["x"]}, {"type": "null"}], "x-type": "Literal['x'] | None", "enum": ["x", None],
                  "default": None},
        },
        "required": ["a"],
        "additionalProperties": False,
    }  # fmt: skip
    for bad in ({}, {"a": 1, "z": 2}, {"a": 1, "c": "y"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema(found))
    jsonschema.validate({"a": 1, "c": None}, schema(found))


def test_a_parameter_survives_json_and_edits_are_checked() -> None:
    for one in find(
        notebook("a: int\nb = (1, 2)\nc: Literal['x', 2] = 2\nd = float('nan')\ne = {1: date(2026,1,1)}")
    ).parameters:
        assert Parameter.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False))) == one
    assert Parameter.from_dict({"name": "a", "later": 1}) == Parameter("a")
    for bad in (
        {}, {"name": "a b"}, {"name": 5}, {"name": "a;b"}, {"name": "a", "type": "os.system"}, {"name": "a", "type": 5},
        {"name": "a", "type": "int", "default": "x"}, {"name": "a", "help": None}, {"name": "a", "required": "no"},
        {"name": "a\n", "type": "int"}, {"name": "a", "type": "(" * 9999, "default": 1},
    ):  # fmt: skip
        with pytest.raises(ParameterError):
            Parameter.from_dict(bad)


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(HOSTILE),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(HOSTILE), inner, max_size=4)
    ),
    max_leaves=12,
)
LINES = st.sampled_from(
    [
        "x = 1", "x = 'é'  # é", "y, z = (1, 'a'), [2]", "a = b = None", "x: int", "s = '''", "'''", "%time q = 1",
        "!ls \\", "%%time", "%%bash", "if x:", "    w = 2", "  w = 2", "v = [", "]", "(", ")", "f?",
        "w = date(2026, 1, 1); u = 5", "t = !ls", "def f():", "    global x", "\tx = 1",
        "async with a as b: pass", "match x:", "x += 1", "\\", "\x0c",
        "w = f'{x!r:>{y}}'", "é = 'ü'", '"""', "k = {1: 2,", "}", "#", "# type: int", "w = -5;", "for x in y: pass",
    ]
)  # fmt: skip
SOURCES = (
    st.text(max_size=60) | st.lists(LINES, max_size=8).map("\n".join) | st.lists(LINES, max_size=8).map("\r\n".join)
)


@QUICK
@given(value=JSON, is_tagged=st.booleans())
def test_any_value_of_json_arrives(value: Any, is_tagged: bool) -> None:
    source = "x = None\nfollows = [x]"
    made = notebook(tagged("x = None") if is_tagged else source)
    assert same(run(give(made, x=value))["x"], value)
    if not is_tagged:
        assert same(run(give(made, x=value))["follows"], [value])


@QUICK
@given(sources=st.lists(SOURCES, max_size=3), tag=st.sampled_from([None, 0, 1]), value=JSON)
def test_no_cell_makes_finding_or_injection_fail(sources: list[str], tag: int | None, value: Any) -> None:
    import jsonschema

    made = notebook(*[code(one, *(["parameters"] if number == tag else [])) for number, one in enumerate(sources)])
    before = copy.deepcopy(made)
    found = find(made)
    assert all(note.endswith(".") for note in found.notes)
    for one in found.parameters:
        assert Parameter.from_dict(one.to_dict()) == one
        new = inject(made, found.parameters, {one.name: value})
        assert made == before
        if found.tagged:
            assert new["cells"][: tag + 1] + new["cells"][tag + 2 :] == made["cells"]  # type: ignore[operator]
            continue
        changed = [index for index, cell in enumerate(new["cells"]) if cell != made["cells"][index]]
        assert changed in ([one.cell], [])
        assert_only_the_value_changed(made["cells"][one.cell]["source"], new["cells"][one.cell]["source"], one.name)
        assert {**new, "cells": []} == {**made, "cells": []}
    jsonschema.Draft202012Validator.check_schema(schema(found.parameters))


def assert_only_the_value_changed(before: str, after: str, name: str) -> None:
    """Compares two sources by their trees, with the values that were assigned to a name left out."""
    trees = [cell_source.read(text).tree for text in (before, after)]
    for tree in trees:
        tree.body = [one for one in map(_Hollow(name).visit, tree.body) if one is not None]
    assert ast.dump(trees[0]) == ast.dump(trees[1])


class _Hollow(ast.NodeTransformer):
    def __init__(self, name: str) -> None:
        self.name = name

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if ast.unparse(node.target) == self.name:
            node.value = None
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and node.targets[0].id == self.name:
            return None
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for index, one in enumerate(target.elts):
                    if isinstance(one, ast.Name) and one.id == self.name:
                        node.value.elts[index] = ast.Constant(0)
        return node


WHOLE = st.lists(
    st.tuples(
        st.sampled_from(["{0} = {1}", "{0}: 'int' = {1}", "{0} = ({1})", "{0}, = [{1}]", "{0} = (\n{1}\n)"]),
        st.sampled_from(["5", "-5", "'é'", "'''a\n%b\n'''", "[1,\n 2]", "{'a': (1, 2)}", "1, 2", "date(2026, 1, 1)"]),
        st.sampled_from(["", "  # ünï", "; other()", " # x = 5"]),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@QUICK
@given(parts=WHOLE, data=st.data(), magic=st.sampled_from(["", "%matplotlib inline\n", "%%time\n", "!ls 'it\n"]))
def test_only_the_value_changes(parts: Any, data: st.DataObject, magic: str) -> None:
    lines = [shape.format(f"v{index}", value) + rest for index, (shape, value, rest) in enumerate(parts)]
    source = magic + "\n".join(lines)
    found = {one.name: one for one in find(notebook(source)).parameters}
    assert sorted(found) == sorted(
        f"v{index}" for index, (shape, value, _) in enumerate(parts) if (shape, value) != ("{0}, = [{1}]", "1, 2")
    )
    assume(found)
    name = data.draw(st.sampled_from(sorted(found)))
    value = data.draw(JSON)
    after = inject(notebook(source), found.values(), {name: value})["cells"][0]["source"]
    at = int(name[1:])
    rest = parts[at][2]
    before_it = magic + "".join(line + "\n" for line in lines[:at])
    behind_it = rest + "".join("\n" + line for line in lines[at + 1 :])
    assert after.startswith(before_it) and after.endswith(behind_it)
    middle = after[len(before_it) : len(after) - len(behind_it)]
    scope: dict[str, Any] = {}
    exec(middle, scope)
    assert same(scope[name], value)


def comments(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_comments_stay() -> None:
    source = "# one\nx = (  # two\n    1  # three\n)  # four\n# five"
    after = give(notebook(source), x=5)["cells"][0]["source"]
    assert list(comments(after)) == ["# one", "# two", "# three", "# four", "# five"]


def test_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **known: Any) -> Any:
        raise AssertionError("ran")

    made = notebook("import os\nos.abort()\nx = 1\n", tagged("a = print('hello')\nb: exit() = 1"))
    for name in ("exec", "eval", "print", "open"):
        monkeypatch.setattr(builtins, name, refuse)
    found = find(made)
    new = inject(made, found.parameters, {"a": 1})
    monkeypatch.undo()
    assert [one.name for one in found.parameters] == ["a", "b"] and len(new["cells"]) == 3
