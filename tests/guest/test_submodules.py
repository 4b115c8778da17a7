"""Which modules within packages travel with the package."""

from __future__ import annotations

import xml.dom.minidom
import xml.etree.ElementTree as Tree

import pytest

from docker_kernel.guest.submodules import used, variables

CELL = """
def parse(text): return xml.etree.ElementTree.XML(text)
class Reader:
    @classmethod
    def read(cls, text): return [xml.dom.minidom.parseString(one) for one in text]
"""


@pytest.mark.parametrize(
    ("cell", "names", "found"),
    [
        ("xml.etree.ElementTree.XML('<a/>')", "xml", "xml.etree xml.etree.ElementTree"),
        ("1", "xml parse", "xml.etree xml.etree.ElementTree"),
        ("1", "xml Reader", "xml.dom xml.dom.minidom"),
        ("xml.never", "xml", ""),
        ("etree.ElementTree", "Tree", ""),
    ],
)
def test_those_travel_that_the_cell_or_a_variable_names(cell: str, names: str, found: str) -> None:
    namespace = {"xml": xml, "Tree": Tree}
    exec(CELL, namespace)
    assert sorted(used(cell, {name: namespace[name] for name in names.split()})) == found.split()


def test_no_variable_has_such_a_module_but_one_may_have_a_dot_in_its_name() -> None:
    others = {"xml": xml, "config.alpha": 5, "config.parser": xml.dom.minidom, "a.b": 1}
    assert variables({**others, "xml.dom.minidom": xml.dom.minidom}) == others
