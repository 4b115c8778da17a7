"""What is known of a notebook image, and what of it is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from docker_kernel import background
from docker_kernel.batch.image_origin import ImageOrigin, entry_point
from docker_kernel.config import KernelConfig
from docker_kernel.engine import Engine
from docker_kernel.errors import JobError


@pytest.mark.parametrize("about", [{}, {"Entrypoint": None}, {"Entrypoint": []}, {"Entrypoint": ["/bin/sh", "x"]}])
def test_an_image_with_another_entry_point_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="keep the ENTRYPOINT"):
        entry_point(about)
    assert entry_point({"Entrypoint": ["/usr/bin/python3.12", "-I", "main.py"]})[0] == "/usr/bin/python3.12"


def test_a_kernelspecs_variables_are_not_kept(engine: Engine) -> None:
    settings = KernelConfig(env={"API_TOKEN": "a1b2c3"}, memory=1 << 30)
    kept = ImageOrigin(engine, "sha256:1", "/usr/bin/python3", "1000:0", settings).to_dict()
    assert "a1b2c3" not in json.dumps(kept)
    assert ImageOrigin.from_dict(engine, json.loads(json.dumps(kept))).config.memory == 1 << 30


def test_an_image_s_user_may_be_a_name(engine: Engine, python_image: str) -> None:
    from docker_kernel.kernel.accounts import own_user

    image = str(background.run_blocking(engine.images.inspect(python_image))["Id"])
    assert background.run_blocking(own_user(engine, image, "root")) == "0:0"
    with pytest.raises(JobError, match="no account"):
        background.run_blocking(own_user(engine, image, "no-such-user"))
