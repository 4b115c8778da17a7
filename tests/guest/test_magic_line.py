"""The line of %local and %dispatch: code stays as it was written, and options and a notebook's path are words."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from docker_kernel.guest.magic_line import Line, Parser
from docker_kernel.guest.magics import DispatchMagics, help_without_a_body


def read(line: str, **variables: object) -> Line:
    return Parser("dispatch").read(line, variables)


@pytest.mark.parametrize(
    "code",
    [
        r're.findall(r"\d{4}", s)', "f'{a} $b {{c}}'", "{a}", "'it\\'s'", 's.count("\'")', '"""x"""', "a  # b --name c",
        "-x", "x --name y", "'a.ipynb' + b", "open('a.ipynb')", "a if b else 'c?'", "x != 1", "-h + 1", "'# c'",
    ],
)  # fmt: skip
def test_code_is_what_was_written(code: str) -> None:
    for options in ("", "--cpus 1 ", "--name 'two words' --param 'q=\"'  ", "-- " if code else ""):
        found = read(options + code, a=1, b=2)
        assert (found.code, found.notebook) == (code, False)


def test_code_may_begin_as_an_option_does() -> None:
    assert read("-- --x").code == "--x"
    assert read("--name n -- --name").code == "--name"


def test_values_are_words_with_quotes_and_escapes() -> None:
    found = read(r"""--name "two words" --param 'x="{a}"' --param=y=two\ words --timeout 5 --param z=-1 f(x)""", a=1)
    assert found.options.name == "two words" and found.code == "f(x)"
    assert found.options.param == {"x": "{a}", "y": "two words", "z": -1}


def test_options_are_filled_in_only_where_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--name run_{i} f({i})", i=3).options.name == "run_{i}"
    assert "--name run_{i} is taken as it is written; with --expand, {i} is filled in." in capsys.readouterr().err
    found = read("--expand --name run_{i} --param x=$i --sweep 'y={i},{i + 1}' f({i}, '$i')", i=3)
    assert (found.options.name, found.options.param, found.options.sweep) == ("run_3", {"x": 3}, {"y": [3, 4]})
    assert found.code == "f({i}, '$i')"
    assert read("report_{i}.ipynb --expand", i=3).code == "report_3.ipynb"
    assert read("--name run_{j} f()", i=3).options.name == "run_{j}" and capsys.readouterr().err == ""
    with pytest.raises(UsageError, match=r"--expand cannot fill in --name run_\{j\}"):
        read("--expand --name run_{j} f()", i=3)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.ipynb", "a.ipynb"),
        ('"two words.ipynb"', "two words.ipynb"),
        ("'it''s.ipynb'", "its.ipynb"),
        (r"two\ words.ipynb --name n", "two words.ipynb"),
        ("two words.ipynb --name n", "two words.ipynb"),
        ('--cpus 2 "a --b.ipynb" --name n', "a --b.ipynb"),
        ("{x}/$y.ipynb", "{x}/$y.ipynb"),
    ],
)
def test_a_notebook_is_found_by_its_path(line: str, path: str) -> None:
    found = read(line, x=1, y=2)
    assert (found.code, found.notebook) == (path, True)
    assert found.options.name == ("n" if "--name" in line else "")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--nmae x f()", r"there is no option --nmae \(did you mean --name\?\)"),
        ("--name", "--name wants a value"),
        ("--wait=yes f()", "--wait takes no value"),
        ("--name 'a f()", 'no closing quotation in "\'a f\\(\\)"'),
        ("a.ipynb --name n f()", "'f\\(\\)' is no option: nothing but options can follow the notebook a.ipynb"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(line: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read(line)


def test_help_is_shown_and_nothing_else_happens(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    shell.register_magics(DispatchMagics)
    shell.input_transformers_cleanup.append(help_without_a_body)
    lines = ("%%dispatch --help", "%%dispatch -h\n", "%dispatch --help", "%dispatch -h", "%dispatch a.ipynb --help")
    more = ("%%dispatch --name x --help\n\n", "%%dispatch --help\n1 / 0", "%%local --help", "%local -h")
    for asked in lines + more:
        assert shell.run_cell(asked).success, asked
        shown = capsys.readouterr().out
        assert "Run a cell" in shown if "local" in asked else "Send a cell" in shown
        assert "--timeout S " in shown and "--expand" in shown
    for asked in ("%jobs --help", "%jobs -h"):
        assert shell.run_cell(asked).success and "%jobs compare NAME [METRIC]" in capsys.readouterr().out
