"""What looks like a credential, in a URL."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docker_kernel.guest.credentials import (
    FILES,
    file_holds_credentials,
    hide_credentials,
    is_private_key,
    names_credentials,
    without_credentials,
)

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/data/x", "/data/x"),
        ("volume", "volume"),
        ("s3://bucket/key?versionId=Kx7", "s3://bucket/key?versionId=Kx7"),
        ("https://host:99/x?page=3&raw", "https://host:99/x?page=3&raw"),
        ("https://ada:s3cret@host/x.csv", "https://***@host/x.csv"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("https://host/x?X-Amz-Signature=dead&page=3#beef", "https://host/x?X-Amz-Signature=***&page=3"),
        ("https://host/x?key=12345", "https://host/x?key=***"),
        ("https://host/x?abcdefghijklmnop", "https://host/x?=***"),
        ("zip://a.csv::https://u:p4ss@host/z.zip?sig=aa%2F", "zip://a.csv::https://***@host/z.zip?sig=***"),
    ],
)
def test_a_url_is_shown_without_what_lets_somebody_in(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


SECRET_FILES = [
    ".env", ".ENV", "prod.env", "a/.env.local", ".env-prod", ".envrc", "id_rsa", "id_rsa.bak", "id_rsa.old", "ID_RSA",
    "id_ed25519_work", "server.PEM", "key.pem.bak", "secrets.toml", ".streamlit/secrets.toml", "client_secret.json",
    "client_secret_12.apps.json", "gcloud-key.json", "token.json", ".Renviron", ".vault_pass", ".config/gh/hosts.yml",
    "rclone.conf", "pip.conf", ".condarc", "auth.json", "cookies.txt", "terraform.tfstate", ".bash_history",
    ".viminfo", ".Rhistory_history", "jpserver-12.json", "kernel-12.json", "a/.AWS/config", "x/.config/gcloud/a",
    ".npmrc", "ui/.npmrc", ".yarnrc.yml", ".pgpass", ".my.cnf", ".mylogin.cnf", "kubeconfig", "prod.kubeconfig",
    ".dockercfg", "_netrc", ".s3cfg", ".boto", ".cargo/credentials.toml", ".gem/credentials", ".terraformrc",
    "state/prod.tfstate", ".vault-token", "keys.JKS", "team.kdbx", ".kaggle/kaggle.json", ".snowsql/config",
    ".snowflake/connections.toml", ".dbt/profiles.yml", ".htpasswd", ".databrickscfg", ".huggingface/token",
    ".cache/huggingface/token", ".config/op/config", ".config/heroku/x", "application_default_credentials.json",
    ".config/wandb/settings", ".m2/settings.xml", ".password-store/a.gpg", "etc/host.keytab", ".git-credentials",
]  # fmt: skip


@pytest.mark.parametrize("path", SECRET_FILES)
def test_a_file_that_holds_credentials_is_known_by_its_name(path: str) -> None:
    assert names_credentials(path)


@pytest.mark.parametrize(
    "path",
    [
        "id_rsa.pub", "keys/id_ed25519_work.pub", "share/kernels/x/kernel.json", "tokenizer.json", "environment.yml",
        "keys.csv", "src/env.py", ".venv", "history.csv", "config/gh.yml", "monkey.json", "auth.py", "answer_key.json",
        "src/credentials/__init__.py", "secrets.py", "settings.xml", "config", ".config/app.toml", "dbt/profiles.yml",
        "package.json", ".docker/Dockerfile", ".cargo/config.toml", "token.py", "connections.csv", "tfstate.md",
    ],
)  # fmt: skip
def test_other_files_are_none(path: str) -> None:
    assert not names_credentials(path)


def test_the_documentation_lists_what_holds_credentials() -> None:
    listed = (DOCS / "security.md").read_text()
    for what, patterns in FILES.items():
        assert f"| {what} | {', '.join(f'`{one}`' for one in patterns)} |" in listed, what


@pytest.mark.parametrize(
    ("head", "is_key"),
    [
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn", True),
        (b"\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4", True),
        (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n", True),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", True),
        (b'{"type": "service_account", "private_key_id": "1", "private_key": "-----BEGIN PRIVATE KEY-----\\nMII', True),
        (b"-----BEGIN CERTIFICATE-----\nMIIB", False),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n", True),
        (b"Bag Attributes\n    friendlyName: x\n-----BEGIN ENCRYPTED PRIVATE KEY-----\n", True),
        (b"-----BEGIN PUBLIC KEY-----\nMIIB", False),
        (b'"""Reads what begins with -----BEGIN PRIVATE KEY-----."""\n', False),
        (b'{"a": {"b": 1}, "private_key": "none"}', False),
        (b"", False),
    ],
)
def test_a_private_key_is_known_by_how_it_begins(head: bytes, is_key: bool) -> None:
    assert is_private_key(head) is is_key


CERTIFICATE = "# Issuer: CN=Root\n-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("path", "content", "holds"),
    [
        ("certs/cacert.pem", CERTIFICATE * 2000, False),
        ("CA.PEM", CERTIFICATE + "-----BEGIN PUBLIC KEY-----\nMIIB\n", False),
        ("ca.pem.bak", CERTIFICATE, False),
        ("ca-bundle.crt", CERTIFICATE, False),
        ("server.pem", CERTIFICATE + KEY, True),
        ("server.pem", KEY, True),
        ("odd.pem", "-----BEGIN SOMETHING-----\n", True),
        ("empty.pem", "", True),
        ("id_rsa.pem", CERTIFICATE, True),
        (".ssh/ca.pem", CERTIFICATE, True),
        ("keys.pem/ca.pem", CERTIFICATE, True),
        (".env", CERTIFICATE, True),
    ],
)
def test_certificates_are_no_credentials(tmp_path: Path, path: str, content: str, holds: bool) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(content)
    assert file_holds_credentials(str(tmp_path), path) is holds


def test_a_link_or_a_pipe_is_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(CERTIFICATE)
    (tmp_path / "link.pem").symlink_to("real")
    os.mkfifo(tmp_path / "pipe.pem")
    assert file_holds_credentials(str(tmp_path), "link.pem") and file_holds_credentials(str(tmp_path), "pipe.pem")


def test_an_error_that_quotes_a_part_of_a_url_is_shown_without_it() -> None:
    uri = "https://ada:s3cret@host/x?token=hunter2"
    text = hide_credentials(f"nonnumeric port: 's3cret@host', at {uri}, token hunter2", uri)
    assert text == "nonnumeric port: '***@host', at https://***@host/x?token=***, token ***"
