"""What of a kernel's container and workspace a job gets."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import pytest

from docker_kernel.batch.package import (
    _credentials,
    environment_changes,
    installed_packages,
    workspace_files,
    write_workspace,
)
from docker_kernel.containerize.files import choose
from docker_kernel.errors import JobError
from docker_kernel.guest.credentials import FILES

CHANGED, ADDED, DELETED = 0, 1, 2


def test_only_what_was_installed_is_environment() -> None:
    diff = [
        ("/home", CHANGED), ("/home/me", ADDED), ("/home/me/.cache", ADDED), ("/home/me/.cache/pip", ADDED),
        ("/home/me/.local", ADDED), ("/home/me/.local/tool", ADDED),
        ("/opt", CHANGED), ("/opt/docker-kernel", ADDED), ("/opt/docker-kernel/lib", ADDED),
        ("/opt/docker-kernel/lib/docker_kernel", ADDED), ("/opt/docker-kernel/run", ADDED),
        ("/opt/docker-kernel/run/start.json", ADDED), ("/opt/docker-kernel/user", ADDED),
        ("/opt/docker-kernel/user/lib", ADDED), ("/opt/docker-kernel/user/lib/shade.py", ADDED),
        ("/usr", CHANGED), ("/usr/lib", CHANGED), ("/usr/lib/old.py", DELETED), ("/usr/lib/new", ADDED),
        ("/usr/lib/new/a.py", ADDED), ("/usr/lib/changed.py", CHANGED), ("/usr/lib/__pycache__", ADDED),
        ("/work", ADDED), ("/work/data.csv", ADDED), ("/tmp", CHANGED), ("/tmp/x", ADDED),
    ]  # fmt: skip
    changes = environment_changes(
        diff,
        ["/home/me/.cache", "/opt/docker-kernel/lib", "/opt/docker-kernel/run", "/work", "/tmp"],
        ["/home/me", "/opt/docker-kernel", "/opt/docker-kernel/user", "/opt/docker-kernel/user/lib"],
    )
    assert sorted(changes.copied) == [
        "/home/me/.local", "/opt/docker-kernel/user/lib/shade.py", "/usr/lib/changed.py", "/usr/lib/new",
    ]  # fmt: skip
    assert changes.folders == [
        "/home/me", "/opt/docker-kernel", "/opt/docker-kernel/user", "/opt/docker-kernel/user/lib",
    ]  # fmt: skip
    assert changes.deleted == ["/usr/lib/old.py"]


def test_nothing_installed_is_no_change() -> None:
    diff = [("/tmp", CHANGED), ("/tmp/x", ADDED), ("/home", CHANGED), ("/home/me", ADDED)]
    assert environment_changes(diff, ["/tmp"], ["/home/me"]).none


def test_a_folder_that_holds_a_mount_is_never_copied_whole() -> None:
    diff = [("/work", ADDED), ("/work/project", ADDED), ("/work/tool", ADDED), ("/work/tool/a", ADDED)]
    assert environment_changes(diff, ["/work/project"], []).copied == ["/work/tool"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path = tmp_path / "workspace"
    for name in ("a.py", "sub/b.csv", ".git/HEAD", "sub/__pycache__/b.pyc", "build/out", "keep.log", "drop.log"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / ".dockerignore").write_text("# comment\nbuild\n*.log\n!keep.log\n")
    (tmp_path / "link").symlink_to("a.py")
    (tmp_path / "outside").symlink_to("/etc/passwd")
    (tmp_path / "script").write_text("")
    (tmp_path / "script").chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def names(folder: Path, budget: int = 1 << 20) -> dict[str, tarfile.TarInfo]:
    archive = folder.parent / "copy" / "workspace.tar"
    write_workspace(str(folder), workspace_files(str(folder), budget).names, 7, 8, archive)
    with tarfile.open(archive) as tar:
        return {"/" + member.name: member for member in tar}


def test_a_workspace_is_copied_as_it_is_but_for_what_is_ignored(folder: Path) -> None:
    found = names(folder)
    files = {name.removeprefix(str(folder) + "/") for name, member in found.items() if not member.isdir()}
    assert files == {"a.py", "sub/b.csv", "keep.log", ".dockerignore", "link", "outside", "script"}
    assert found[f"{folder}/outside"].issym(), "a link is a link, not what it points to"
    assert found[f"{folder}/script"].mode & 0o111 and {(one.uid, one.gid) for one in found.values()} == {(7, 8)}


def test_a_workspace_over_its_budget_is_refused_with_its_largest_file(folder: Path) -> None:
    (folder / "sub" / "large.bin").write_bytes(bytes(2000))
    with pytest.raises(JobError, match=r"larger than the .* largest file so far is sub/large.bin"):
        names(folder, budget=1000)


def test_what_looks_like_a_credential_is_held_back_unless_it_is_named(folder: Path) -> None:
    for name in (".env", "sub/.env.local", "sub/.aws/credentials", "id_rsa", "server.key", "config/app.toml"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    found = workspace_files(str(folder))
    assert {".env", "sub/.env.local", "id_rsa", "server.key"} <= set(found.held_back)
    assert "sub/.aws/credentials" in found.held_back and "config/app.toml" in found.names
    (folder / ".dockerignore").write_text("!.env\n")
    again = workspace_files(str(folder))
    assert ".env" in again.names and ".env" not in again.held_back and "id_rsa" in again.held_back
    (folder / "odd.pub").mkdir()
    for name in ("PROD.ENV", "sub/Token.json", "id_rsa.pub", "sub/id_ed25519_work", "odd.pub/id_rsa"):
        (folder / name).write_text("")
    more = workspace_files(str(folder))
    assert {"PROD.ENV", "sub/Token.json", "sub/id_ed25519_work", "odd.pub/id_rsa"} <= set(more.held_back)
    assert "id_rsa.pub" in more.names


def test_a_folder_that_is_brought_back_brings_no_credential_of_it(folder: Path) -> None:
    (folder / ".dockerignore").write_text("*\n!src\n!.aws\n")
    for path in ("src/.env", "src/code.py", ".aws/credentials", "other.py"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("x")
    found = workspace_files(str(folder))
    assert "src/code.py" in found.names and ".aws/credentials" in found.names, "one of them was named"
    assert found.held_back == ["src/.env"]


def test_jobs_and_images_leave_out_the_same_files(folder: Path) -> None:
    patterns = [pattern for patterns in FILES.values() for pattern in patterns]
    made = [re.sub(r"\[.*\]", "-", pattern).replace("*", "x") for pattern in patterns]
    secret = set()
    for number, name in enumerate(made):
        place = folder / ("" if number % 2 else "deep/er") / (name.upper() if number % 3 else name)
        path = place if "." in place.name[1:] else place / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        secret.add(str(path.relative_to(folder)))
    (folder / "report.ipynb").write_text("{}")
    jobs = set(workspace_files(str(folder)).names)
    images = {name for name, _ in choose(folder / "report.ipynb", (), (), 1 << 30).files}
    assert jobs & secret == images & secret == set() and "report.ipynb" in jobs & images


def test_bundles_of_certificates_travel_in_jobs_and_in_images(folder: Path) -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    (folder / "cacert.pem").write_text(certificate * 3)
    for name in ("server.pem", "server.crt"):
        (folder / name).write_text(certificate + "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n")
    (folder / "report.ipynb").write_text("{}")
    found = workspace_files(str(folder))
    assert "cacert.pem" in found.names and {"server.pem", "server.crt"} == set(found.held_back)
    images = {name for name, _ in choose(folder / "report.ipynb", (), (), 1 << 30).files}
    assert "cacert.pem" in images and "server.pem" not in images


def test_private_keys_are_held_back_whatever_they_are_called(folder: Path) -> None:
    (folder / "sub" / "deploy").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n")
    (folder / "robot.json").write_text('{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nM"}')
    (folder / "other").symlink_to("robot.json")
    found = workspace_files(str(folder))
    assert {"sub/deploy", "robot.json"} <= set(found.held_back) and "other" in found.names
    (folder / ".dockerignore").write_text("!sub/deploy\n")
    again = workspace_files(str(folder))
    assert "sub/deploy" in again.names and "robot.json" in again.held_back


def test_credentials_in_a_home_folder_are_held_back_whatever_they_are_called() -> None:
    diff = [
        (f"/home/ada/{name}", ADDED)
        for name in (".fly", ".fly/config.yml", ".cargo", ".cargo/credentials.toml", ".npmrc", ".PGPASS", "tool/x.py",
                     ".local/lib/python3.11/site-packages/certifi/cacert.pem")
    ]  # fmt: skip
    diff.append(("/etc/.npmrc", ADDED))
    assert sorted(_credentials(diff, "/home/ada")) == [
        "/home/ada/.PGPASS", "/home/ada/.cargo/credentials.toml", "/home/ada/.fly", "/home/ada/.npmrc",
    ]  # fmt: skip
    changes = environment_changes(diff, ["/home/ada/.fly", "/home/ada/.cargo/credentials.toml"], [])
    assert "/home/ada/tool/x.py" in changes.copied and "/home/ada/.cargo" not in changes.copied
    assert not [path for path in changes.copied if ".fly" in path or path.endswith("credentials.toml")]


def test_installed_packages_are_read_off_a_diff() -> None:
    site = "/opt/docker-kernel/user/lib/python3.11/site-packages"
    diff = [(f"{site}/shade", ADDED), (f"{site}/shade-1.0.dist-info", ADDED), ("/usr/x/old-2.1.dist-info", DELETED)]
    assert installed_packages(diff) == ["-old 2.1", "shade 1.0"]


def test_what_jobs_left_in_a_home_folder_is_no_part_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / ".local" / "share"))
    kept = folder / ".local" / "share" / "docker-kernel" / "jobs"
    kept.mkdir(parents=True)
    (kept / "large").write_text("")
    found = workspace_files(str(folder))
    assert not [name for name in found.names + found.held_back if "docker-kernel" in name]


def test_a_hostile_dockerignore_holds_nothing_up(folder: Path) -> None:
    rules = folder / ".dockerignore"
    for text in ("*a*a*a*a*a*b\n", "x\n" * 40_000):
        rules.write_text(text)
        with pytest.raises(JobError, match="cannot be used: it may have 64 KiB"):
            workspace_files(str(folder))
    rules.unlink()
    os.mkfifo(rules)
    assert "a.py" in workspace_files(str(folder)).names
    rules.unlink()
    rules.symlink_to("/dev/zero")
    assert "a.py" in workspace_files(str(folder)).names


def test_a_link_that_is_swapped_in_leads_to_nothing_of_the_hosts(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.csv").write_text("the host's")
    found = workspace_files(str(folder)).names
    assert "sub/b.csv" in found
    (folder / "sub").rename(folder / "moved")
    (folder / "sub").symlink_to(outside)
    archive = tmp_path / "copy.tar"
    write_workspace(str(folder), found, 7, 8, archive)
    with tarfile.open(archive) as tar:
        assert not [one for one in tar if one.name.endswith("b.csv")]
