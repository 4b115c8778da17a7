"""Labels of an image are anybody's: what a schedule makes of hostile ones; no engine is needed for that."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from docker_kernel.containerize import schedule
from docker_kernel.containerize.inspect import Described
from docker_kernel.containerize.run import image_parameters
from docker_kernel.containerize.schedule import ScheduleRequest, documents
from docker_kernel.errors import ContainerizeError

DIGEST = "registry.example/report@sha256:" + "a" * 64


def described(**changed: Any) -> Described:
    values: dict[str, Any] = {one.name: "" for one in dataclasses.fields(Described)}
    values |= {"reference": "registry.example/report:1", "user": "1000:0", "notebook": "report.ipynb"}
    return Described(**{**values, "size": 1, "kernel": {}, "schema": {}, **changed})


def request(image: Described, **changed: Any) -> ScheduleRequest:
    return ScheduleRequest(**{"image": image, "cron": "@daily", "parameters": {}, "output": "/srv/out", **changed})


def printed(image: Described, form: str, root: bool = True) -> list[str]:
    output = "" if form == "kubernetes" else "/srv/out"
    return [one.text for one in documents(request(image, output=output), form, root)]


@pytest.mark.parametrize("form", schedule.FORMS)
@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\0"])
def test_a_notebooks_name_adds_no_line(form: str, end: str) -> None:
    evil = f"a.ipynb{end}[Service]{end}ExecStartPre=/bin/touch /evil"
    made = printed(described(notebook=evil), form)
    plain = printed(described(), form)
    assert [len(text.splitlines()) for text in made] == [len(text.splitlines()) for text in plain]
    assert not any(end in text for text in made) or end == "\n"


@pytest.mark.parametrize("form", schedule.FORMS)
@pytest.mark.parametrize(
    "user", ["0;touch /evil", "root", "jovyan", "", "0", "00:5", "1000:", "1000:x", "\u0661", "1\n"]
)
def test_an_image_s_user_is_a_number_and_not_root(form: str, user: str) -> None:
    with pytest.raises(ContainerizeError, match="a schedule needs the number of one"):
        printed(described(user=user), form)


@pytest.mark.parametrize("form", schedule.FORMS)
@pytest.mark.parametrize("changed", [{"secret": "a\nb"}, {"namespace": "a\nb"}])
def test_no_line_breaks(form: str, changed: dict[str, str]) -> None:
    with pytest.raises(ContainerizeError, match="has a line break"):
        documents(request(described(), **changed), form, True)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 1e300, -1.0])
def test_a_timeout_is_bounded(timeout: float) -> None:
    with pytest.raises(ContainerizeError, match="--timeout must be"):
        documents(request(described(), timeout=timeout), "systemd", True)


def test_a_long_timeout_keeps_its_digits() -> None:
    (service, _) = documents(request(described(), timeout=1234567), "systemd", True)
    assert "--timeout 1234567 " in service.text.replace('"', " ")


@pytest.mark.parametrize("form", schedule.FORMS)
def test_a_run_is_of_the_digest_and_the_tag_is_said(form: str) -> None:
    text = printed(described(digest=DIGEST), form)[0]
    assert DIGEST in text and "report.ipynb in registry.example/report:1\n" in text
    other = printed(described(digest=DIGEST.replace("report@", "other@")), form)[0]
    assert "sha256" not in other


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": [1]},
        {"properties": {"a": 5}},
        {"properties": {"a": {"enum": 5}}},
        {"properties": {"a": {"x-type": "no type"}}},
        {"properties": {"a b\n": {}}},
        {"properties": {"a": {"x-type": "list[" * 100_000}}},
        {"required": 5},
        {"required": [["a"]]},
        [],
        5,
    ],
)
def test_a_damaged_schema_is_one_sentence(schema: Any) -> None:
    with pytest.raises(ContainerizeError, match="label of parameters is damaged"):
        image_parameters(schema)
    with pytest.raises(ContainerizeError, match="label of parameters is damaged"):
        documents(request(described(schema=schema)), "systemd", True)
