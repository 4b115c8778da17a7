"""A checkout says where a notebook comes from, and no more than anybody may know."""

from __future__ import annotations

import asyncio
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


def test_a_checkout_has_its_commit_and_remote(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert asyncio.run(checkout.of(tmp_path)) == checkout.Origin()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "a")
    git("remote", "add", "origin", "https://user:secret@git.example.org/a")
    found = asyncio.run(checkout.of(tmp_path))
    assert asyncio.run(checkout.commit(tmp_path)) == found.revision
    assert found == checkout.Origin(git("rev-parse", "HEAD"), "https://git.example.org/a")
