"""What is taken for a secret, and what is not. No secret here is one: each is put together when the tests run."""

from __future__ import annotations

import base64
import io
import json
import random
import string
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.containerize.scan import (
    BLOCK,
    MOST,
    Finding,
    scan,
    scan_environment,
    scan_file,
    scan_labels,
    scan_notebook,
)
from docker_kernel.guest.credentials import names_credentials
from tests.patience import patient

LOTS = random.Random(7)
LETTERS = string.ascii_letters + string.digits


def some(size: int, letters: str = LETTERS) -> str:
    return "".join(LOTS.choice(letters) for _ in range(size))


def jwt() -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": "somebody", "iat": 1700000000}]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*texts, some(43)])


def key(kind: str = "RSA ", line: str = "\n") -> str:
    return f"-----BEGIN {kind}PRIVATE KEY-----{line}{some(64)}{line}{some(64)}{line}-----END {kind}PRIVATE KEY-----"


AWS = "AKIA" + some(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")

SECRETS = {
    "a private key": [
        key(),
        key("OPENSSH "),
        key(""),
        key("ENCRYPTED "),
        "PuTTY-User-Key-File-3: ssh-ed25519\n",
        json.dumps({"private_key": key("", "\n")}),
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\n" + some(64),
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n" + some(64),
    ],
    "an AWS access key": [f"aws_access_key_id = {AWS}", f"client('s3', '{AWS}')"],
    "an AWS secret key": [f'AWS_SECRET_ACCESS_KEY="{some(40)}"', f"aws_secret_access_key = {some(38)}/+"],
    "a GitHub token": [f"ghp_{some(36)}", f"https://github_pat_{some(22)}_{some(59)}@github.com/a/b"],
    "a GitLab token": [f"glpat-{some(20)}"],
    "a Slack token": [
        f"xoxb-{some(12, string.digits)}-{some(12, string.digits)}-{some(24)}",
        f"https://hooks.slack.com/services/T{some(8)}/B{some(8)}/{some(24)}",
    ],
    "a Google key": [f"AIza{some(35)}", f"GOCSPX-{some(28)}"],
    "an Azure key": [
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={some(86)}==;EndpointSuffix=core.windows.net",
        f"https://a.blob.core.windows.net/b?sv=2023&sig={some(43)}%3D",
    ],
    "a Stripe key": [f"sk_live_{some(24)}"],
    "a key of an AI service": [
        f"sk-ant-api03-{some(93)}AA",
        f"sk-proj-{some(64)}",
        f"sk-{some(48)}",
        "hf_" + some(34, string.ascii_letters),
    ],
    "a token of a package index": [f"npm_{some(36)}", f"pypi-AgEIcHlwaS5vcmc{some(80)}"],
    "a token of a service": [
        f"dapi{some(32, '0123456789abcdef')}",
        f"SG.{some(22)}.{some(43)}",
        f"dckr_pat_{some(27)}",
    ],
    "a JSON web token": [f"Authorization: Bearer {jwt()}"],
    "a password in a URL": [
        "postgresql+psycopg://report:k3ller-7wo@db.internal:5432/x",
        "redis://:s3cr3t9@cache:6379/0",
    ],
    "a token in Jupyter's URL": [f"http://127.0.0.1:8888/lab?token={some(48, '0123456789abcdef')}"],
    "Docker's credentials for a registry": [
        json.dumps({"auths": {"reg.io": {"auth": base64.b64encode(b"me:pa55word").decode()}}}),
    ],
    "the key of a Kubernetes user": [f"users:\n- user:\n    client-key-data: {some(80)}\n"],
    "a password for a host (.netrc)": ["machine api.host.org\n  login me\n  password 7hings\n"],
    "Jupyter's connection file": [
        json.dumps(
            {"shell_port": 1, "iopub_port": 2, "key": f"{some(8)}-{some(20)}", "signature_scheme": "hmac-sha256"}
        ),
        json.dumps({"key": some(32), "signature_scheme": "hmac-sha256", "shell_port": 1}),
    ],
    "a secret in code": [
        'password = "tr0ub4dor&3"',
        "connect(user='me', password='Winter2024!')",
        f'api_key: str = "{some(32)}"',
        f'os.environ["SERVICE_TOKEN"] = "{some(24)}"',
        f'{{"client_secret": "{some(24)}"}}',
        f'DB_PASSWD="{some(12)}!"',
        f'token = os.environ.get("API_TOKEN", "{some(32)}")',
    ],
}


def found(text: str, name: str = "code.py") -> list[Finding]:
    return scan_file(name, io.BytesIO(text.encode()))


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in SECRETS.items() for text in texts])
def test_secrets_are_found_with_their_line_and_never_shown(rule: str, text: str) -> None:
    told = found(f"# first\n\nx = 1\n{text}\n")
    assert [one.rule for one in told] == [rule], text
    assert told[0].where.startswith("code.py line ") and int(told[0].where.rpartition(" ")[2]) >= 4
    shown = repr(told)
    assert not [
        word for word in text.replace("=", " ").replace("/", " ").split('"') if len(word) > 20 and word in shown
    ]
    cell = {"cell_type": "code", "source": f"# first\n{text}\n"}
    (one,) = scan_notebook({"cells": [{"cell_type": "markdown", "source": ""}, cell]}, "report.ipynb")
    assert one.rule == rule and one.where.startswith("report.ipynb cell 2 line ") and one.path == "report.ipynb"


HARMLESS = [
    'password = "password"',
    "password = getpass.getpass()",
    'password = os.environ["DB_PASSWORD"]',
    "password = ''",
    'parser.add_argument("--password", help="the password for login1")',
    'token = "<your-token-here>"',
    'secret = "changeme"',
    'api_key = "YOUR_API_KEY_0123456789"',
    "token: str = Field(default='unset')",
    'PASSWORD_FIELD = "user_password"',
    "postgresql://user:password@localhost/db",
    "https://user:{password}@host/",
    "https://<user>:<password>@host/",
    "http://a.org:8080/x@1",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN CERTIFICATE-----\nMIIB" + "a0" * 40,
    "-----BEGIN PUBLIC KEY-----\n" + "aB3" * 20,
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "eyJhbGciOiJIUzI1NiJ9.not-json.at-all-here-is-a-signature",
    'if token == "abcdefgh12345678901":',
    "token = tokens[0]",
    '"auth": "required"',
    "sha256:" + "0123456789abcdef" * 4,
    'cache_key = "f3a9c1d2e4b5a6978810"',
    "keyboard_token=12",
    "tokenizer = 'bert-base-uncased-v2'",
    'secret_name = "projects/a/secrets/b12/versions/3"',
    "machine learning password",
    'PASS = "3 of 4"',
    'token_url = "https://host/oauth2/v1/token"',
    "sk-learn-is-a-library-for-machine-learning-in-python3",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_one_is_no_secret(text: str) -> None:
    assert found(text) == [] and found(text, "settings.yaml") == []


def test_settings_need_no_quotes() -> None:
    for name in ("app.ini", "deploy/values.yaml", ".env.sh", "x.properties"):
        told = found("[db]\nhost = db\nDB_PASSWORD = k3ller-7wo!\n", name)
        assert {one.rule for one in told} >= {"a secret in a setting"} and told[-1].where == f"{name} line 3"
    assert found("DB_PASSWORD = k3ller-7wo\n", "notes.txt") == []
    (one,) = scan_notebook({"cells": [{"cell_type": "code", "source": f"%env SERVICE_TOKEN={some(30)}"}]}, "a.ipynb")
    assert one.rule == "a secret in a setting"
    assert found("db_password: ${DB_PASSWORD}\ntoken: !secret api\nsecretName: app-secret-v2\n", "v.yaml") == []


def test_outputs_and_attachments_and_metadata_are_looked_into() -> None:
    token = f"ghp_{some(36)}"
    stream = {"output_type": "stream", "name": "stdout", "text": ["fine\n", f"using {token[:9]}", f"{token[9:]}\n"]}
    shown = {"output_type": "execute_result", "data": {"text/html": [f"<b>{key()}</b>"]}, "metadata": {}}
    notebook = {
        "cells": [{"cell_type": "code", "source": "x", "outputs": [stream, shown]}],
        "metadata": {"api": {"password": "tr0ub4dor&3"}},
    }
    told = scan_notebook(notebook, "report.ipynb")
    assert {(one.rule, one.where) for one in told} == {
        ("a GitHub token", "report.ipynb cell 1 outputs"), ("a private key", "report.ipynb cell 1 outputs"),
        ("a secret in code", "report.ipynb metadata"),
    }  # fmt: skip


def test_ids_stay_when_lines_move_and_tell_findings_apart() -> None:
    one, other = some(24), some(24)
    (first,) = found(f'service_token = "{one}"')
    (moved,) = found(f'\n\nimport os\nservice_token = "{one}"')
    (renewed,) = found(f'service_token = "{other}"')
    assert first.id == moved.id == renewed.id, "it says nothing of the value"
    assert len({first.id, found(f'x_token = "{one}"')[0].id, found(f'service_token = "{one}"', "b.py")[0].id}) == 3


def test_a_secret_across_the_border_of_two_blocks_is_found_once() -> None:
    token = f"ghp_{some(36)}".encode()
    for before in (BLOCK - 20, BLOCK - 1, BLOCK + 5, 2 * BLOCK - 30):
        lines = (b"x" * 99 + b"\n") * (before // 100)
        data = lines + b" " * (before - len(lines)) + token + b" " + b"y\n" * 100
        told = scan_file("large.txt", io.BytesIO(data))
        assert [one.where for one in told] == [f"large.txt line {before // 100 + 1}"], before


def test_files_that_are_no_text_are_looked_into_for_what_is_sure() -> None:
    data = bytes(range(256)) * 50 + f"ghp_{some(36)}".encode() + b"\0" + b'password="tr0ub4dor&3"' + key().encode()
    assert [one.rule for one in scan_file("model.bin", io.BytesIO(data))] == ["a private key", "a GitHub token"]
    (one,) = scan_file("windows.txt", io.BytesIO('password = "tr0ub4dor&3"\r\n'.encode("utf-16")))
    assert one.rule == "a secret in code"


def test_a_file_of_very_many_tells_some() -> None:
    assert len(found("\n".join(f"ghp_{some(36)}" for _ in range(200)))) == MOST


def test_a_hostile_file_holds_nothing_up() -> None:
    began = time.perf_counter()
    for text in (
        "-----BEGIN PRIVATE KEY-----" + "\\n" * 200_000,
        "password=" * 100_000,
        "://" + "a:" * 200_000,
        "_" * 10**6,
        "token" + " " * 10**6,
        "eyJ" + "a" * 10**6,
        "eyJaaaaaaaaaaaa." * 50_000,
        "machine a login " * 50_000,
        '"shell_port" hmac-sha256' * 20_000,
        "aws secret " * 50_000,
        "export " * 100_000 + "token",
    ):
        found(text, "a.yaml")
    assert time.perf_counter() - began < patient(30)
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    assert scan_notebook({"cells": [{"source": deep}, 7, None], "metadata": {"x": deep}}, "a.ipynb") == []
    assert (
        scan_file("broken.ipynb", io.BytesIO(b'{"cells": [' + f'"ghp_{some(36)}'.encode()))[0].rule == "a GitHub token"
    )


def test_files_that_hold_credentials_by_name_are_told_of() -> None:
    assert (
        found("A=1", "deploy/.env")[0].where == "deploy/.env" and found("x", "keys/id_rsa") and found("", ".aws/config")
    )
    assert found("-----BEGIN CERTIFICATE-----\nMIIB", "ca.pem") == [] and names_credentials("ca.pem")
    assert [one.rule for one in found(key(), "server.key")] == ["a private key"]
    assert not names_credentials("src/environment.py") and not names_credentials("data/keys.csv")


def test_environment_and_labels() -> None:
    told = scan_environment({"LANG": "C", "API_TOKEN": "x", "URL": "https://me:s3cr3t9@host/", "EMPTY_TOKEN": ""})
    assert [one.where for one in told] == ["env API_TOKEN", "env URL"]
    (one,) = scan_labels({"a": "fine", "b": json.dumps({"default": f"glpat-{some(20)}"})})
    assert one.where == "label b" and one.rule == "a GitLab token"


def test_all_that_goes_in_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('password = "tr0ub4dor&3"')
    (tmp_path / "report.ipynb").write_text('password = "tr0ub4dor&3"')
    (tmp_path / "other.ipynb").write_text(json.dumps({"cells": [{"source": f"x = 'glpat-{some(20)}'"}]}))
    (tmp_path / "link").symlink_to("a.py")
    (tmp_path / "folder").mkdir()
    names = ["a.py", "report.ipynb", "other.ipynb", "link", "folder", "gone"]
    told = scan(tmp_path, names, "report.ipynb", {"cells": []}, {"X_SECRET": "1"})
    assert [one.where for one in told] == ["a.py line 1", "other.ipynb cell 1 line 1", "env X_SECRET"]


@pytest.mark.parametrize(
    "folder", [Path(__file__).parents[2] / "docs", Path(json.__file__).parents[1]], ids=["docs", "stdlib"]
)
def test_real_texts_have_none(folder: Path) -> None:
    """This project's own pages, and Python's standard library: a few MB of code that is about passwords, too."""
    told, size = [], 0
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".md", ".rst", ".txt", ".svg")]
    for path in paths:
        if {"site-packages", "dist-packages", "test", "tests", "_build"} & set(path.parts) or size > 30 << 20:
            continue
        size += path.stat().st_size
        with path.open("rb") as file:
            told += scan_file(str(path.relative_to(folder)), file)
    assert told == [], f"of {size >> 20} MiB with {sys.version_info}"
