"""Random numbers: one job draws its kernel's, several draw their own, and the same notebook draws the same again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.processes import Job, needs, run_kernel

SEED = """
import random
random.seed(7)
own = random.Random(8)
from random import random as draw
"""
NUMPY = """
import numpy as np
np.random.seed(7)
rng = np.random.default_rng(8)
old = np.random.RandomState(9)
"""
DRAW = "drawn = [random.random(), own.random(), draw()]\n"
DRAW_NUMPY = (
    "drawn = [np.random.random(), float(rng.random()), old.standard_normal(), float(rng.spawn(1)[0].random())]\n"
)


def drawn(folder: Path, seed: str, draw: str, *jobs: Job, after: str = "") -> list[list[float]]:
    """What each job has drawn, in order, and last what the kernel draws then."""
    folder.mkdir()
    save = "import json; open('drawn.json', 'w').write(json.dumps([*(one['drawn'] for one in results), drawn]))"
    run_kernel(folder, seed, *jobs, after=f"results = globals().get('results', [])\n{draw}\n{save}\n{after}")
    found: list[list[float]] = json.loads((folder / "drawn.json").read_text())
    return found


BOTH = pytest.mark.parametrize(("seed", "draw"), [(SEED, DRAW), (NUMPY, DRAW_NUMPY)], ids=["random", "numpy"])


def all_differ(found: list[list[float]]) -> bool:
    numbers = [number for one in found for number in one]
    return len(set(numbers)) == len(numbers)


@BOTH
def test_one_job_draws_what_its_kernel_would_have_drawn_and_the_kernel_goes_on_from_there(
    seed: str, draw: str, tmp_path: Path
) -> None:
    if seed is NUMPY:
        needs("numpy")
    here = drawn(tmp_path / "here", seed + draw + "first = drawn\n", draw, after="assert drawn != first")
    expected = drawn(tmp_path / "only", seed, draw)[0]
    there = drawn(tmp_path / "there", seed, draw, Job(draw))
    assert there == [expected, here[0]]


@BOTH
def test_jobs_of_one_dispatch_and_the_kernel_and_its_next_dispatch_draw_different_numbers_and_the_same_again(
    seed: str, draw: str, tmp_path: Path
) -> None:
    if seed is NUMPY:
        needs("numpy")
    jobs = [Job(draw, ((0, 0), (0, 1), (1, 0)), live=False), Job(draw, live=False), Job(draw, live=False)]
    found = drawn(tmp_path / "once", seed, draw, *jobs)
    assert len(found) == 6 and all_differ(found), found
    assert drawn(tmp_path / "again", seed, draw, *jobs) == found


def test_a_single_dispatch_draws_what_its_kernel_would_have_drawn(tmp_path: Path) -> None:
    found = drawn(tmp_path / "there", SEED, DRAW, Job(DRAW, live=False))
    assert found[0] == drawn(tmp_path / "here", SEED, DRAW)[0] and all_differ(found)


def test_a_retry_draws_the_same_again(tmp_path: Path) -> None:
    found = drawn(tmp_path / "there", SEED, DRAW, Job(DRAW, ((3,), (3,)), live=False))
    assert found[0] == found[1]


def test_an_unseeded_kernels_jobs_draw_different_numbers(tmp_path: Path) -> None:
    found = drawn(
        tmp_path / "there",
        "import random",
        "drawn = [random.random()]",
        *[Job("drawn = [random.random()]", live=live) for live in (True, True, False, False)],
        Job("drawn = [random.random()]", ((0,), (1,)), live=False),
    )
    assert len(found) == 7 and all_differ(found)


def test_generators_that_share_a_source_still_do_in_a_job_with_a_stream_of_its_own(tmp_path: Path) -> None:
    needs("numpy")
    run_kernel(
        tmp_path,
        "import numpy as np; a = np.random.default_rng(1); b = np.random.Generator(a.bit_generator); same = [a]",
        Job(
            "assert a.bit_generator is b.bit_generator and same[0] is a\n"
            "again = np.random.default_rng(1); assert a.random() != again.random()",
            ((1,),),
            live=False,
        ),
    )


def test_torchs_generators_draw_different_numbers_in_the_jobs_of_one_dispatch(tmp_path: Path) -> None:
    needs("torch")
    seed = "import torch; torch.manual_seed(1)\n"
    draw = "drawn = [torch.rand(1).item()]\n"
    found = drawn(tmp_path / "there", seed, draw, Job(draw, ((0,), (1,)), live=False))
    assert len(found) == 3 and all_differ(found)


def test_a_generator_that_is_not_as_its_library_makes_them_is_named(tmp_path: Path) -> None:
    said = run_kernel(
        tmp_path,
        """
        import random
        class Fixed(random.Random):
            def __init__(self): super().__init__(1)
            def getstate(self): raise NotImplementedError("it has no state")
            def __reduce__(self): return Fixed, ()
        fixed = Fixed()
        """,
        Job("fixed.random()", ((1,),), live=False),
    )
    assert (
        "not here: a random generator (Fixed): it cannot be moved to a stream of its own (it has no state); "
        "make it in the cell." in said
    )
