"""Warm containers for a server's first kernels."""

from __future__ import annotations

from pathlib import Path

from docker_kernel import background, labels
from docker_kernel.engine import Engine
from docker_kernel.kernel import running
from tests.conftest import SpecMaker
from tests.kernel.test_spares import of_spec, until, warm
from tests.server.conftest import Server


def test_a_server_that_is_told_to_has_a_spare_for_its_first_kernel(
    engine: Engine, make_spec: SpecMaker, tmp_path: Path
) -> None:
    at_once, later = make_spec(warm_spares=1, warm_at_once=True, grace=2), make_spec(warm_spares=1)
    server = Server(tmp_path)
    try:
        (spare,) = until(lambda: warm(engine, at_once), 60)
        assert not of_spec(engine, later)
        (server.root / "below").mkdir()
        wish = {"name": at_once, "path": "below/notebook.ipynb"}
        kernel = server.ask("api/kernels", wish).json()
        found = background.run_blocking(running.find(engine, kernel["id"]))
        assert found.container.id == spare.id and found.container.labels[labels.SPARE]
    finally:
        server.close()
    assert until(lambda: not of_spec(engine, at_once), 60), [one.container.name for one in of_spec(engine, at_once)]
