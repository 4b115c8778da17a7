"""Python's garbage collector pauses, and goes on as it was."""

from __future__ import annotations

import gc

import pytest

from docker_kernel.guest import collector


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_afterwards_what_it_was_before(enabled: bool) -> None:
    before = gc.isenabled()
    gc.enable() if enabled else gc.disable()
    try:
        with pytest.raises(KeyError), collector.paused():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if before else gc.disable()
