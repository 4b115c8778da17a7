"""tqdm's bars of all kinds are text in a job (tests/test_dispatch.py has those of a kernel with ipywidgets)."""

from __future__ import annotations

import subprocess
import sys

import pytest

BARS = """
import sys
from docker_kernel.guest import text_bars
if sys.argv[1] == "before": import tqdm.auto, tqdm.notebook
text_bars.begin()
from tqdm.notebook import tqdm, trange
from tqdm.auto import tqdm as auto
for _ in tqdm(range(3), display=False, colour="green"): pass
for _ in trange(2): pass
for _ in auto(range(5)): pass
with tqdm(total=4, desc="x") as bar:
    bar.update(2); bar.reset(6); bar.set_description("y"); bar.update(6); bar.clear(); bar.refresh()
print(tqdm.__module__, tqdm.__qualname__)
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_bars_are_text_and_their_class_stays_what_it_is(imported: str) -> None:
    done = subprocess.run([sys.executable, "-c", BARS, imported], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for shown in ("3/3 [", "2/2 [", "5/5 [", "y: 100%|"):
        assert shown in done.stderr
    assert done.stdout == "tqdm.notebook tqdm_notebook\n"
