"""The doctor: all is well on this engine, and each fault is found with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from docker_kernel import background, cli, doctor
from tests.conftest import SpecMaker


def checks() -> dict[str, doctor.Check]:
    return {check.name: check for check in background.run_blocking(doctor.diagnose())}


def test_all_is_well_here(spec: str) -> None:
    found = checks()
    for name in ("docker-kernel", "engine", "config file", "disk", "files and ports", f"kernelspec {spec}", "ports"):
        assert found[name].ok, found[name]


def test_faulty_kernelspecs_are_found_with_their_fix(make_spec: SpecMaker, tmp_path: Path) -> None:
    missing = make_spec(image="docker-kernel-test/none:1")
    typo = make_spec(memroy="2g")
    unit = make_spec(memory="2 gigs")
    mount = make_spec(mounts=[f"{tmp_path}/nowhere:/data"])
    found = checks()
    assert "docker-kernel install --image docker-kernel-test/none:1" in found[f"kernelspec {missing}"].fix
    assert "did you mean 'memory'?" in found[f"kernelspec {typo}"].fix
    assert "write a number with a unit" in found[f"kernelspec {unit}"].fix
    assert "does not exist here" in found[f"kernelspec {mount}"].fix
    assert doctor.failed(found.values())


def test_a_broken_config_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("[kernel\n")
    monkeypatch.setenv("DOCKER_KERNEL_CONFIG", str(tmp_path / "config.toml"))
    assert "is not valid TOML" in checks()["config file"].fix
    assert cli.main(["doctor"]) == 1
    assert "is not valid TOML" in " ".join(capsys.readouterr().out.split())


def test_an_engine_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    found = checks()["engine"]
    assert found.fix.startswith("No engine answers at unix://") and "systemctl start docker" in found.fix


def test_a_remote_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert "No engine answers at tcp://127.0.0.1:1" in checks()["engine"].fix
