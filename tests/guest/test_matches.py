"""Matches of regular expressions travel: they are found again in the same text."""

from __future__ import annotations

import re

import pytest

from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["notebook"]


@pytest.mark.parametrize(
    "code",
    [
        r"re.search(r'(\d+)-(?P<name>\w)?', 'ab 12-c 3')",
        r"re.match('a|ab', 'abc')",
        r"re.fullmatch('a|ab', 'ab')",
        r"re.search(r'b(x)?', 'abab')",
        r"list(re.finditer(r'\d', '1 2 3'))[2]",
        r"list(re.finditer(r'(?<=a)b', 'ab ab'))[1]",
        r"list(re.finditer(r'$', 'ab\n'))[1]",
        r"re.compile('b').search('abab', 2, 4)",
        r"re.search(rb'\d', b'a1')",
        r"re.search('', '')",
    ],
)
def test_a_match_is_the_same_there(notebook: Notebook, code: str) -> None:
    found = notebook.run(f"import re; found = {code}").copy()["found"]
    match = notebook["found"]
    assert isinstance(found, re.Match)
    assert (found.regs, found.groups(), found.groupdict(), found.string, found.re, found.endpos, found.lastgroup) == (
        match.regs, match.groups(), match.groupdict(), match.string, match.re, match.endpos, match.lastgroup,
    )  # fmt: skip


def test_a_match_in_another_variable_is_one_there(notebook: Notebook) -> None:
    copy = notebook.run("import re; one = re.match('a', 'a'); all = [one]").copy()
    assert copy["all"][0] is copy["one"]
