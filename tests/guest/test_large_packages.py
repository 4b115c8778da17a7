"""Packages of many files in the workspace, such as a library's copy: what was set in them travels, and nothing else."""

from __future__ import annotations

import time

import pytest

from tests.guest.test_merge import Kernel, kernel

__all__ = ["kernel"]

FILES = 120
PACKAGE = {
    "lib__": "from . import registry\n" + "".join(f"from . import m{number}\n" for number in range(FILES)),
    "lib__registry": "import random\nplugins = {}\nopts = {'a': {'b': 1}}\nalpha = 1\nrng = random.Random(1)\n"
    "class Settings:\n    level = 1\n    def __init__(self): self.size = 1\n    def up(self): Settings.level += 1\n"
    "settings = Settings()\ndef load(): return alpha, opts['a']['b'], settings.size, Settings.level\n",
}
PACKAGE |= {
    f"lib__m{number}": f"from .registry import plugins, Settings\nclass C{number}(Settings): names = [{number}]\n"
    f"plugins[{number}] = C{number}\ndef f{number}(x, known=plugins): return len(known)\n"
    for number in range(FILES)
}
CELLS = {
    "names, and parts of values": (
        "lib.registry.alpha = 5; lib.registry.opts['a']['b'] = 6; lib.registry.settings.size = 7; Settings.level = 8",
        "y = lib.registry.load(); lib.registry.opts['new'] = 1; lib.registry.settings.up(); del lib.registry.alpha",
        "y == (5, 6, 7, 8) and lib.registry.opts == {'a': {'b': 6}, 'new': 1} and Settings.level == 9 "
        "and not hasattr(lib.registry, 'alpha')",
    ),
    "a variable that is one of its values": (
        "opts = lib.registry.opts; settings = lib.registry.settings",
        "opts['a']['b'] = 2; y = lib.registry.load(), settings is lib.registry.settings; lib.registry.opts['c'] = 3",
        "y == ((1, 2, 1, 1), True) and opts is lib.registry.opts == {'a': {'b': 2}, 'c': 3}",
    ),
    "what is patched": (
        "old = lib.m1.f1; lib.m1.f1 = lambda x: -old(x); lib.m2.f2.calls = 1; lib.m3.C3.names.append(0)",
        "y = lib.m1.f1(0), lib.m2.f2.calls, lib.m3.C3.names; lib.registry.plugins[0] = 0",
        "y == (-120, 1, [3, 0]) and lib.m4.f4(0) == 120 and lib.registry.plugins[0] == 0 and lib.m1.plugins[0] == 0",
    ),
    "random numbers": (
        "import random; expected = random.Random(1)",
        "y = lib.registry.rng.random()",
        "y == expected.random() and lib.registry.rng.random() == expected.random()",
    ),
    "what only the job imports": (
        "import sys\n"
        "for name in [one for one in sys.modules if one.partition('.')[0] == 'lib']: del sys.modules[name]\n"
        "del lib, Settings",
        "import lib; lib.registry.opts['new'] = 1",
        "__import__('lib').registry.opts['new'] == 1",
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_what_was_set_in_it_travels_both_ways(kernel: Kernel, kind: str) -> None:
    before, cell, expected = CELLS[kind]
    assert kernel.does_the_same("import lib; from lib.registry import Settings\n" + before, cell, expected, **PACKAGE)


def test_as_its_files_made_it_it_is_neither_sent_nor_takes_time(kernel: Kernel) -> None:
    kernel.files(**PACKAGE)
    kernel.restart()
    kernel.run("import lib")
    began = time.process_time()
    values = kernel.modules.travelling().values
    assert time.process_time() - began < 0.2
    assert set(values) == {"lib.registry.rng"}, "it is to draw from the job's own stream"
    kernel.run("lib.registry.plugins['mine'] = 1")
    changed = {name for name in kernel.modules.travelling().values if name.endswith("registry.plugins")}
    assert changed == {"lib.registry.plugins"}
