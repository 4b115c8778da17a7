"""Random graphs of objects with aliases, changed by cells here and by the same cells in jobs, in a real kernel.

tests/guest/test_merge.py does this much more often, between processes without containers.
"""

from __future__ import annotations

import inspect

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.guest.test_merge import EXAMPLES, MAKE, NAMES, graph_and_changes, shape
from tests.notebook import Notebook


@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(1, 8), st.sampled_from(["local", "local", "dispatch"]))
@settings(
    max_examples=max(8, EXAMPLES // 5),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example would take minutes to find
)
def test_cells_change_random_graphs_in_jobs_as_they_do_here(
    notebook: Notebook, seed: int, objects: int, changes: int, how: str
) -> None:
    made, done = graph_and_changes(seed, objects, changes)
    begin = f"import itertools\nfrom typing import Any\n{MAKE}\n{inspect.getsource(shape)}"
    look = (
        f"shape({{'a': held, **{{name: globals()[name] for name in {NAMES!r}[1:] if name in globals()}}}}, {NAMES!r})"
    )
    seen = f"[shape(globals(), {NAMES!r}), {look}]"

    def prepared() -> None:
        forget = f"for name in {NAMES!r}: globals().pop(name, None)"
        reply = notebook.run(f"{begin}\n{forget}\n{made}\nheld = everything()")
        assert reply.status == "ok", reply.traceback

    prepared()
    assert notebook.run(done).status == "ok"
    expected = notebook.value(seen)
    prepared()
    if how == "local":
        reply = notebook.run(f"%%local\n{done}")
    else:
        notebook.run(f"%%dispatch\n{done}")
        reply = notebook.run("_.result()")
    assert reply.status == "ok", reply.traceback
    assert notebook.value(seen) == expected
