"""The process in a job: what it makes of the files that the job wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from docker_kernel.guest.worker import output_files


def kept(tmp_path: Path) -> list[str]:
    files = output_files(str(tmp_path / "outputs"), str(tmp_path / "state"))
    json.dumps(files, ensure_ascii=False).encode()
    return [file["path"] for file in files]


def test_a_name_that_is_no_text_is_kept_as_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "new\nline").mkdir(parents=True)
    for name in (b"\xff.txt", b"\xfe.txt", "ü.txt".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path / "outputs" / "new\nline") + b"/" + name)).write_text("x")
    assert sorted(kept(tmp_path)) == ["new\nline/\\xfe.txt", "new\nline/\\xff.txt", "new\nline/ü.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_file_that_is_closed_to_us_costs_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "closed").touch(mode=0o000)
    (tmp_path / "outputs" / "open").touch()
    assert kept(tmp_path) == ["open"]
    assert "closed is left out: Permission denied" in capfd.readouterr().err


def test_what_is_no_file_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "outputs" / "fifo")
    assert kept(tmp_path) == []
