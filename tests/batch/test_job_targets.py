"""Which target a job has: one instance for the same settings, and the settings that its dispatch was sent with."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_kernel.batch.job_targets import JobTargets
from docker_kernel.config import read_target
from docker_kernel.errors import ConfigError


def test_the_same_settings_make_one_target_and_others_another() -> None:
    known = JobTargets()
    one = known.get("there", read_target("there", {"kind": "local"}))
    assert known.get("there", read_target("there", {"kind": "local"})) is one
    assert known.get("there", read_target("there", {"kind": "local", "max_jobs": 1})) is not one
    assert known.get("elsewhere", read_target("elsewhere", {"kind": "local"})) is not one


def test_as_many_jobs_run_at_once_as_the_settings_say() -> None:
    known = JobTargets()
    two = known.get("two", read_target("two", {"kind": "local", "max_jobs": 2}))
    slot = known.slot(two)
    assert slot._value == 2 and known.slot(two) is slot
    assert known.slot(known.get("own", read_target("own", {"kind": "local"})))._value == two.default_max_jobs


def test_a_dispatch_has_the_target_that_it_was_sent_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = JobTargets()
    sent = known.get("gone", read_target("gone", {"kind": "docker", "engine": "unix:///nowhere.sock", "memory": "1g"}))
    kept = {"config": known.settings(sent)}
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("DOCKER_KERNEL_CONFIG", str(tmp_path / "config.toml"))
    assert known.of_dispatch("gone", kept) is sent
    assert JobTargets().of_dispatch("gone", kept).config == sent.config
    with pytest.raises(ConfigError, match="gone"):
        known.of_dispatch("gone", None)
