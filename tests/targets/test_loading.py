"""How a table of the config file becomes a target."""

from __future__ import annotations

import re

import pytest

from docker_kernel import targets
from docker_kernel.config import TargetTable, UserConfig, read_target
from docker_kernel.errors import ConfigError
from docker_kernel.targets.engine.docker import DockerTarget
from docker_kernel.targets.engine.local import LocalTarget
from docker_kernel.targets.swarm.target import SwarmTarget


def test_each_kind_has_its_own_settings() -> None:
    table = read_target("there", {"kind": "docker", "engine": "ssh://host", "memory": "2g"})
    made = targets.load("there", table)
    assert isinstance(made, DockerTarget) and made.name == "there"
    assert (made.config.engine, made.config.memory, made.config.registry) == ("ssh://host", 2 << 30, None)
    swarm = targets.load("cluster", read_target("cluster", {"kind": "swarm", "registry": "host:5000/team"}))
    assert isinstance(swarm, SwarmTarget) and swarm.config.constraints == []
    assert isinstance(targets.load("local", UserConfig().target("local")), LocalTarget)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "docker", "engin": "x"}, "[targets.there]: engine: field required"),
        ({"kind": "docker", "engin": "x"}, "there is no setting 'engin' (did you mean 'engine'?)"),
        ({"kind": "local", "engine": "x"}, "[targets.there]: there is no setting 'engine'"),
        ({"kind": "swarm", "registry": 5}, "[targets.there]: registry (it is 5): input should be a valid string"),
        ({"kind": "rocket"}, "[targets.there]: there is no kind 'rocket' of target"),
    ],
)
def test_a_mistake_is_told_when_the_target_is_used_and_not_before(settings: dict[str, object], sentence: str) -> None:
    table = UserConfig.model_validate({"targets": {"there": settings}}).target("there")
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        targets.load("there", table)


def test_what_all_kinds_have_is_checked_at_once() -> None:
    with pytest.raises(ConfigError, match=r"\[targets.there\]: memory: 'much' is no size"):
        read_target("there", {"kind": "rocket", "memory": "much"})


def test_a_table_that_was_kept_with_a_dispatch_is_the_same_again() -> None:
    table = read_target("there", {"kind": "docker", "engine": "x", "memory": "2g", "inputs": ["/data"]})
    kept = {**table.model_dump(mode="json", exclude_defaults=True), "kind": table.kind}
    assert read_target("there", kept) == table
    assert read_target("local", {"kind": "local"}) == TargetTable()
