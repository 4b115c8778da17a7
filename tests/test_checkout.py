"""A checkout says where a notebook comes from, and no more than anybody may know."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from docker_kernel import checkout


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://git.example.org/team/report.git", "https://git.example.org/team/report.git"),
        ("https://bob:p@ss-w0rd@git.example.org:8443/report", "https://git.example.org:8443/report"),
        ("https://git.example.org/report?private_token=SECRET", "https://git.example.org/report"),
        ("git@git.example.org:team/report.git", "git@git.example.org:team/report.git"),
        ("ssh://git@git.example.org:22/report", "ssh://git.example.org:22/report"),
        ("git+https://bob:token@git.example.org/report", ""),
        ("https://bob:pa/ss@git.example.org/report", ""),
        ("/home/alice/clients/acme", ""),
        ("ext::sh -c id", ""),
        ("", ""),
    ],
)
def test_a_remote_is_shown_without_credentials(remote: str, shown: str) -> None:
    assert checkout.public(remote) == shown


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "commit", "-q", "--allow-empty", "-m", "a")
    git(folder, "remote", "add", "origin", "https://user:secret@git.example.org/a")
    return folder


def test_a_checkout_has_its_commit_and_remote(repository: Path, tmp_path: Path) -> None:
    assert asyncio.run(checkout.of(tmp_path)) == checkout.Origin()
    found = asyncio.run(checkout.of(repository))
    assert asyncio.run(checkout.commit(repository)) == found.revision
    assert found == checkout.Origin(git(repository, "rev-parse", "HEAD"), "https://git.example.org/a")


def test_a_folder_beside_the_repository_we_were_started_in_is_none(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert asyncio.run(checkout.of(tmp_path)) == checkout.Origin()


def test_git_ends_with_who_asked_for_it(repository: Path) -> None:
    os.mkfifo(repository / "never")
    with (repository / ".git/config").open("a") as config:
        config.write(f"[include]\n\tpath = {repository}/never\n")

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(checkout.commit(repository), 0.5)
        # Nobody opens it any more to read.
        with pytest.raises(OSError, match="No such device"):
            os.open(repository / "never", os.O_WRONLY | os.O_NONBLOCK)

    asyncio.run(give_up())
