"""What of a notebook's folder goes into its image, and the notebook itself."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.containerize.files import CREDENTIAL, IGNORED, NOTEBOOK, Chosen, Rule, choose, clean, digest
from docker_kernel.errors import ContainerizeError
from tests.patience import patient

BUDGET = 1 << 20


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work space"
    write(made, "report.ipynb", "lib/tool.py", "data/a b.csv", "data/größe.csv")
    return made


def chosen(folder: Path, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Chosen:
    return choose(folder / "report.ipynb", include, exclude, BUDGET)


def names(found: Chosen) -> set[str]:
    return {name for name, _ in found.files}


def test_a_notebook_takes_its_folder_along(folder: Path) -> None:
    (folder / "plots").mkdir()
    found = chosen(folder)
    assert dict(found.files) == {
        "report.ipynb": 12, "lib/tool.py": 11, "data/a b.csv": 12, "data/größe.csv": 16, "plots": 0,
    }  # fmt: skip
    assert found.root == folder and found.left_out == []


def test_what_is_no_part_of_the_work_stays_out_with_its_reason(folder: Path) -> None:
    write(folder, ".git/HEAD", "lib/__pycache__/tool.pyc", ".ipynb_checkpoints/report-checkpoint.ipynb")
    write(folder, "ui/node_modules/a/index.js", "py/pyvenv.cfg", "py/bin/python", "other.ipynb")
    write(folder, "out/output.ipynb", "out/output.html", "out/plot.png", "miniforge/conda-meta/history", "sub/.svn/x")
    found = chosen(folder)
    assert names(found) == {"report.ipynb", "lib/tool.py", "data/a b.csv", "data/größe.csv"}
    reasons = dict(found.left_out)
    assert set(reasons) == {
        ".git/", "lib/__pycache__/", ".ipynb_checkpoints/", "ui/node_modules/", "py/", "other.ipynb", "out/",
        "miniforge/", "sub/.svn/",
    }  # fmt: skip
    assert reasons["other.ipynb"] == NOTEBOOK and "virtual environment" in reasons["py/"]
    assert reasons["out/"] == "results of an earlier run" and reasons[".git/"] == "version control"


CREDENTIALS = [
    ".env", ".env.production", "deploy/.env", ".aws/credentials", ".netrc", "id_ed25519", "certs/server.key",
    "certs/server.pem", ".pypirc", ".pgpass", ".config/gcloud/credentials.db", ".kube/config", ".docker/config.json",
    ".local/share/jupyter/runtime/kernel-1.json", "kernel-0fe3c5d2-33b9-4f9c-8f50-0123456789ab.json",
    "credentials.json", ".ENV", "prod.env", "id_rsa.bak", "server.PEM", ".Renviron", ".config/gh/hosts.yml",
    ".python_history", "jpserver-7.json", "kernel-7.json", "sub/.AWS/config",
]  # fmt: skip


def test_credentials_stay_out_whatever_is_ignored_or_included_by_a_pattern(folder: Path) -> None:
    write(folder, *CREDENTIALS, "id_rsa.pub")
    (folder / ".dockerignore").write_text("!.env\n!**/*.pem\n")
    for found in (chosen(folder), chosen(folder, include=("**/*", ".*"))):
        assert names(found) & {*CREDENTIALS, "id_rsa.pub"} == {"id_rsa.pub"}
        assert {reason for _, reason in found.left_out} == {CREDENTIAL}


def test_a_credential_goes_in_when_it_is_named_in_full(folder: Path) -> None:
    write(folder, *CREDENTIALS)
    assert names(chosen(folder, include=("certs/server.pem", ".env"))) & set(CREDENTIALS) == {
        "certs/server.pem",
        ".env",
    }


def test_dockerignore_is_followed(folder: Path) -> None:
    write(
        folder,
        "big/a.bin",
        "big/keep/b.bin",
        "x.log",
        "sub/y.log",
        "keep.log",
        "deep/tmp/z",
        "deep/other/tmp/z",
        "a1.t",
    )
    (folder / ".dockerignore").write_text(
        "# none\nbig\n!big/keep\n**/*.log\n!keep.log\n/deep/*/tmp\ndeep/tmp\na[0-9].t\n"
    )
    found = chosen(folder)
    assert names(found) - {".dockerignore", "report.ipynb", "lib/tool.py", "data/a b.csv", "data/größe.csv"} == {
        "big/keep/b.bin", "keep.log",
    }  # fmt: skip
    assert dict(found.left_out) == dict.fromkeys(
        ("big/", "x.log", "sub/y.log", "deep/tmp/", "deep/other/tmp/", "a1.t"), IGNORED
    )


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**/x", "x", True), ("**/x", "a/b/x", True), ("**/x", "a/bx", False), ("**/x", "a/x/below", True),
        ("a/**", "a", False), ("a/**", "a/b", True), ("a/**", "a/b/c", True), ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True), ("a/**/b", "a/x/y", False), ("**", "a/b", True), ("**/**", "a", True),
        (".", "a/b", True), ("**.log", "a/b/x.log", True), ("**.log", "x.log", True), ("**.log", "x.logs", False),
        ("a**", "abc/d", True), ("a**b", "a/x/b", True), ("a**b", "axb", True), ("a**b", "ax/y/zb", True),
        ("a**b", "ax/y/z", False), ("d/a**b/c", "d/a1/b/c", True), ("d/a**b/c", "d/ab/x", False),
        ("*a*b*", "xaxbx", True), ("*a*b*", "xbxa", False), ("a*b", "a/b", False), ("*.?", "x.y", True),
        ("[a-c]*[!d]", "bx", False), ("[a-c]*[^d]", "bd", False), ("[a-c]*[^d]", "be/f", True), ("\\*a", "*a", True),
        ("\\*a", "ba", False), ("\\**a", "*xa", True), ("*\n", "x\n", True), ("a?c", "a\nc", True), ("[", "[", True),
    ],
)  # fmt: skip
def test_a_pattern_matches_as_in_dockerignore(pattern: str, path: str, matches: bool) -> None:
    assert Rule(pattern).matches(path) == matches


def test_no_pattern_takes_long(folder: Path) -> None:
    long = "a" * 2000
    began = time.perf_counter()
    for pattern in ("**a**a**a**b", "*a*a*a*b", "**/**/**/**/b", "**/*a*a*a*b"):
        for path in (long, "a/" * 1000 + "a", f"{long[:250]}/" * 8 + "a"):
            assert not Rule(pattern).matches(path)
    assert time.perf_counter() - began < patient(5)
    (folder / ".dockerignore").write_text("a\n" * 30_000)
    with pytest.raises(ContainerizeError, match="1,000 patterns"):
        chosen(folder)


def test_the_notebook_goes_in_though_it_is_ignored(folder: Path) -> None:
    (folder / ".dockerignore").write_text("*\n!lib\n")
    assert names(chosen(folder)) == {"report.ipynb", "lib/tool.py"}


def test_include_brings_back_and_exclude_takes_out(folder: Path) -> None:
    write(folder, "other.ipynb", "py/pyvenv.cfg", "py/lib/x.py", "data/b.csv", ".git/HEAD", ".git/config")
    found = chosen(folder, include=("other.ipynb", "py/lib", "data/b.csv", ".git/HEAD"), exclude=("data/*.csv",))
    assert names(found) == {"report.ipynb", "lib/tool.py", "other.ipynb", "py/lib/x.py", "data/b.csv", ".git/HEAD"}
    assert dict(found.left_out)["data/a b.csv"] == "--exclude names it"


def test_patterns_that_cannot_be_are_refused(folder: Path) -> None:
    for include, text in (("../up.csv", "leads out"), ("data/*.cvs", "no such file"), ("[b-a]", "no pattern")):
        with pytest.raises(ContainerizeError, match=text):
            chosen(folder, include=(include,))
    with pytest.raises(ContainerizeError, match="4 wildcards"):
        chosen(folder, exclude=("*a*a*a*a*a*b",))


def test_odd_files_stay_out_and_break_nothing(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, "outside.csv")
    os.mkfifo(folder / "pipe")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # the address of a socket has 108 bytes at most
    try:
        server.bind("socket")
    finally:
        os.chdir(here)
    (folder / "link.py").symlink_to("lib/tool.py")
    (folder / "folder").symlink_to("lib")
    (folder / "up").symlink_to("../outside.csv")
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "nowhere").symlink_to("gone")
    (folder / "loop").symlink_to("loop")
    write(folder, ".env")
    (folder / "secret").symlink_to(".env")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")).write_text("x")
    (folder / "new\nline").write_text("x")
    found = chosen(folder)
    server.close()
    assert names(found) == {
        "report.ipynb", "lib/tool.py", "data/a b.csv", "data/größe.csv", "link.py", "folder", "new\nline",
    }  # fmt: skip
    reasons = dict(found.left_out)
    assert {"pipe", "socket", "up", "absolute", "nowhere", "loop", ".env", "secret", "bad\\xff"} == set(reasons)
    assert "out of the folder" in reasons["up"] and "is left out" in reasons["secret"]
    assert "no file" in reasons["pipe"] and "UTF-8" in reasons["bad\\xff"]
    json.dumps(found.left_out).encode()


def test_links_go_in_only_if_they_lead_somewhere_in_the_image_too(folder: Path) -> None:
    write(folder, "..dots/x.csv", "sub/deep/y.csv")
    links = {
        "out and in": f"../{folder.name}/data/a b.csv", "sub/out and in": f"../../{folder.name}/lib",
        "over": "out and in", "over all": "./over", "fine": "..dots/x.csv", "sub/up": "../data/a b.csv",
        "whole": ".", "lib too": "lib", "twice": "lib too/tool.py", "absolute": str(folder / "lib"),
        "over absolute": "absolute/tool.py",
    }  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
    found = chosen(folder)
    assert names(found) & set(links) == {"fine", "sub/up", "whole", "lib too", "twice"}
    reasons = dict(found.left_out)
    assert "out of the folder" in reasons["out and in"] and "out of the folder" in reasons["sub/out and in"]
    assert all("link that is left out" in reasons[name] for name in ("over", "over all", "over absolute"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read_stays_out(folder: Path) -> None:
    (folder / "data").chmod(0)
    (folder / "lib/tool.py").chmod(0)
    try:
        reasons = dict(chosen(folder).left_out)
    finally:
        (folder / "data").chmod(0o755)
    assert reasons["lib/tool.py"] == "you may not read it" and reasons["data/"] == "Permission denied"


def test_a_workspace_of_5_GB_is_refused_at_once_with_what_makes_it_large(folder: Path) -> None:
    for number in range(5):
        path = folder / "raw" / f"part{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(1 << 30)  # sparse: nothing is read
    began = time.perf_counter()
    with pytest.raises(ContainerizeError) as refused:
        choose(folder / "report.ipynb", (), (), 1 << 30)
    assert time.perf_counter() - began < patient(2)
    assert "raw/ (5.0 GiB)" in str(refused.value) or "raw/ (5 GiB)" in str(refused.value)
    assert ".dockerignore" in str(refused.value) and "raw/part0.parquet" in str(refused.value)
    assert names(choose(folder / "report.ipynb", (), ("raw",), 1 << 30))


def test_a_folder_of_very_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docker_kernel.containerize.files.MAX_FILES", 100)
    write(folder, *(f"many/{number}" for number in range(200)))
    with pytest.raises(ContainerizeError, match=r"more than 100 files.*many/"):
        chosen(folder)


def notebook(**more: Any) -> dict[str, Any]:
    code = {
        "cell_type": "code",
        "id": "one",
        "source": ["x = 1\n", "print(x)"],
        "execution_count": 7,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "1\n"}],
        "metadata": {"tags": ["parameters"], "trusted": True, "execution": {"iopub.status.busy": "2026-01-01"}},
    }
    return {
        "cells": [code, {"cell_type": "markdown", "id": "two", "source": "# Hé", "metadata": {}}],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "P"},
            "widgets": {"state": {}},
            "signature": "x",
        },
        "nbformat": 4,
        "nbformat_minor": 5,
        **more,
    }


def validate(made: dict[str, Any]) -> None:
    """Raises for what the notebook format does not allow."""
    import nbformat

    nbformat.validate(nbformat.from_dict(made))


def test_a_cleaned_notebook_has_no_outputs_and_keeps_ids_and_tags() -> None:
    given = notebook()
    made = clean(given, keep_outputs=False)
    validate(made)
    assert made["cells"][0] == {
        "cell_type": "code", "id": "one", "source": "x = 1\nprint(x)", "execution_count": None, "outputs": [],
        "metadata": {"tags": ["parameters"]},
    }  # fmt: skip
    assert made["metadata"] == {"kernelspec": {"name": "python3", "display_name": "P"}}
    assert given == notebook(), "what was given is as it was"
    kept = clean(given, keep_outputs=True)
    assert kept["cells"][0]["outputs"] and kept["cells"][0]["execution_count"] == 7 and "widgets" in kept["metadata"]
    assert "trusted" not in kept["cells"][0]["metadata"]


def test_notebooks_of_older_formats_are_brought_up_the_same_each_time() -> None:
    old = {
        "metadata": {"name": "old"},
        "nbformat": 3,
        "nbformat_minor": 0,
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "level": 2, "source": ["Title"], "metadata": {}},
                    {
                        "cell_type": "code", "input": ["a = 1\n", "a"], "language": "python", "prompt_number": 3,
                        "outputs": [], "collapsed": False, "metadata": {},
                    },
                ]
            }
        ],
    }  # fmt: skip
    made = clean(old, keep_outputs=False)
    validate(made)
    assert [cell["source"] for cell in made["cells"]] == ["## Title", "a = 1\na"]
    assert made == clean(old, keep_outputs=False)
    four = notebook(nbformat_minor=0)
    for cell in four["cells"]:
        del cell["id"]
    made = clean(four, keep_outputs=False)
    validate(made)
    assert made["nbformat_minor"] == 0 and "id" not in made["cells"][0]


@pytest.mark.parametrize("kernelspec", [{"language": "python"}, {"name": None, "display_name": "P"}, "python3"])
def test_metadata_that_is_not_valid_is_made_so(kernelspec: object) -> None:
    given = notebook(metadata={"kernelspec": kernelspec, "language_info": {"version": "3"}, "title": "kept"})
    made = clean(given, keep_outputs=False)
    validate(made)
    assert made["metadata"]["title"] == "kept" and made["metadata"]["kernelspec"]["name"] == ""
    if isinstance(kernelspec, dict):
        assert {**made["metadata"]["kernelspec"], **kernelspec} == {"name": "", "display_name": "", **kernelspec}
    assert digest(made) == digest(clean(made, keep_outputs=False))


@pytest.mark.parametrize(
    ("tags", "kept"), [([1, "a"], ["a"]), (5, []), ([{}, {}], []), ("parameters", []), (["b", None, "a"], ["b", "a"])]
)
def test_tags_that_are_no_texts_are_dropped(tags: object, kept: list[str]) -> None:
    given = notebook()
    given["cells"][0]["metadata"]["tags"] = tags
    made = clean(given, keep_outputs=False)
    validate(made)
    assert made["cells"][0]["metadata"]["tags"] == kept and digest(made) == digest(given)


def test_missing_and_repeated_ids_are_made_good() -> None:
    given = notebook()
    given["cells"][1]["id"] = "one"
    given["cells"].append({"cell_type": "code", "source": "", "metadata": {}})
    made = clean(given, keep_outputs=False)
    validate(made)
    assert made == clean(given, keep_outputs=False) and len({cell["id"] for cell in made["cells"]}) == 3


@pytest.mark.parametrize(
    "given",
    [
        {"nbformat": 5, "cells": []}, {"nbformat": 4}, notebook(cells=[1]), notebook(cells=[{"cell_type": "poem"}]),
        notebook(cells=[{"cell_type": "code", "source": [1]}]), {"nbformat": 3, "worksheets": 7}, {"nbformat": "x"},
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_refused_in_a_sentence(given: dict[str, Any]) -> None:
    with pytest.raises(ContainerizeError):
        clean(given, keep_outputs=False)


def test_a_digest_is_of_what_a_notebook_says() -> None:
    whole = notebook()
    assert digest(whole) == digest(clean(whole, keep_outputs=False)) and digest(whole).startswith("sha256:")
    other = notebook()
    other["cells"][0]["source"] = "x = 2"
    untagged = notebook()
    untagged["cells"][0]["metadata"] = {}
    assert len({digest(whole), digest(other), digest(untagged)}) == 3
