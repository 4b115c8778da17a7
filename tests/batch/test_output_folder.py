"""The folder that a job's files are brought to, which what ran may have prepared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from docker_kernel.batch.output_folder import bring_files, make_folder
from docker_kernel.batch.result_store import ResultFolder
from docker_kernel.errors import JobError


def a_result(folder: Path, files: dict[str, bytes]) -> str:
    """A result with files, as a job writes it; returns its digest."""
    entries = []
    for name in ("blobs", "manifests"):
        (folder / name).mkdir(parents=True)
    for path, content in files.items():
        blob = hashlib.sha256(content).hexdigest()
        (folder / "blobs" / blob).write_bytes(content)
        entries.append({"path": path, "size": len(content), "blob": f"sha256:{blob}"})
    empty = {"version": 1, "python": "", "cloudpickle": "", "packs": [], "modules": {}, "left_out": []}
    text = json.dumps({**empty, "files": entries}).encode()
    digest = hashlib.sha256(text).hexdigest()
    (folder / "manifests" / digest).write_bytes(text)
    return f"sha256:{digest}"


def test_files_are_brought_and_no_link_is_followed(tmp_path: Path) -> None:
    digest = a_result(tmp_path / "result", {"good.txt": b"good", "link/held.txt": b"held"})
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    # Of an earlier run: what is written goes not where a link leads.
    (out / "good.txt").symlink_to(other / "target.txt")
    (out / "link").symlink_to(other)
    assert bring_files(ResultFolder(tmp_path / "result"), digest, out) == ["good.txt", "link/held.txt"]
    assert (out / "good.txt").read_text() == "good" and not (out / "good.txt").is_symlink()
    assert (out / "link" / "held.txt").read_text() == "held" and not list(other.iterdir())
    assert sorted(path.name for path in out.iterdir()) == ["good.txt", "link"]


@pytest.mark.parametrize("path", ["../evil.txt", "/absolute.txt", "a/../../evil.txt", "."])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    digest = a_result(tmp_path / "result", {path: b"evil"})
    with pytest.raises(JobError, match="leads out of its folder"):
        bring_files(ResultFolder(tmp_path / "result"), digest, tmp_path / "out")
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("output", ["out", "linked/out", "/absolute/out"])
def test_an_output_folder_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    (work / output.replace("/absolute/", "").partition("/")[0]).symlink_to(home)
    before = home.stat()
    place = Path(output.replace("/absolute", str(work)))
    with pytest.raises(JobError, match="is a link to"):
        make_folder(place)
    assert not list(home.iterdir()) and home.stat().st_uid == before.st_uid


def test_an_output_folder_by_a_link_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "shared").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "work")
    make_folder(tmp_path / "shared" / "out")
    assert (tmp_path / "disk" / "out").is_dir()


def test_a_folder_takes_the_place_of_a_file(tmp_path: Path) -> None:
    digest = a_result(tmp_path / "result", {"made/good.txt": b"good"})
    out = tmp_path / "out"
    out.mkdir()
    (out / "made").write_text("of an earlier run")
    bring_files(ResultFolder(tmp_path / "result"), digest, out)
    assert (out / "made" / "good.txt").read_text() == "good"


def test_files_are_not_brought_to_a_folder_that_became_a_link(tmp_path: Path) -> None:
    digest = a_result(tmp_path / "result", {"good.txt": b"good"})
    (tmp_path / "other").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "other")
    with pytest.raises(JobError, match="has become a link"):
        bring_files(ResultFolder(tmp_path / "result"), digest, tmp_path / "out")
    assert not list((tmp_path / "other").iterdir())


def test_a_file_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    digest = a_result(tmp_path / "result", {"good.txt": b"good"})
    (tmp_path / "out" / "good.txt").mkdir(parents=True)
    with pytest.raises(JobError, match=r"cannot be written to .*good\.txt: Is a directory"):
        bring_files(ResultFolder(tmp_path / "result"), digest, tmp_path / "out")


def test_an_output_folder_whose_path_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="not UTF-8"):
        make_folder(tmp_path / "\udcff")


def test_no_current_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(JobError, match="The folder out cannot be made: No such file"):
        make_folder(Path("out"))
