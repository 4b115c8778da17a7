"""What looks like a credential, and so travels with a job only when the user names it."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import stat
from urllib.parse import urlsplit, urlunsplit

_NAME = re.compile(
    r"(^|_)(KEY|KEYS|APIKEY|TOKEN|TOKENS|PAT|SECRET|SECRETS|PASS|PASSWD|PASSWORD|PASSPHRASE|PWD|CRED|CREDS|CREDENTIAL"
    r"|CREDENTIALS|AUTH|COOKIE|SESSION|SIGNATURE|DSN|CONNECTION_STRING|DATABASE_URL)(_|$)|APIKEY|ACCESSKEY|SECRETKEY"
    r"|PRIVATEKEY|^(AWS|AZURE|GOOGLE|GCLOUD)_",
    re.IGNORECASE,
)
_HARMLESS = frozenset(
    {
        "PWD",
        "OLDPWD",
        "JPY_SESSION_NAME",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_CA_BUNDLE",
        "SSH_AUTH_SOCK",
        "DESKTOP_SESSION",
    }
)
_VALUE = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY-----|^(gh[pousr]_|sk-|AKIA|xox[abp]-|glpat-)"
)

FILES = {
    "settings with secrets": (
        ".env.*", ".env[-_~]*", "*.env", ".envrc", "secrets.toml", "secrets.json", "secrets.yaml", "secrets.yml",
        ".secrets", ".secrets.*", "credentials.json", "credentials.toml", "credentials.yaml", "credentials.yml",
        ".credentials", ".credentials.*", "token.json", "token.pickle", "auth.json", "auth.toml", "cookies.txt",
        "kaggle.json", "api_key.txt", "apikey.txt", ".renviron",
    ),
    "keys": (
        ".ssh", ".gnupg", ".putty", ".pki", ".password-store", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
        "ssh_host_*_key", "*.pem", "*.pem.*", "*.key", "*.key.bak", "*.key.old", "*.ppk", "*.p12", "*.pfx", "*.jks",
        "*.keystore", "*.kdb", "*.kdbx", "*.keytab", "krb5cc_*", "*.ovpn", "secring.*", "cwallet.sso", "wallet.dat",
        ".vault-token", ".vault_pass*", ".vault-pass*", ".local/share/keyrings", ".config/sops",
    ),
    "logins to hosts, registries and package indexes": (
        ".netrc", "_netrc", ".authinfo", ".authinfo.gpg", ".git-credentials", ".gitcookies", ".config/git/credentials",
        ".config/gh", ".config/hub", ".config/glab-cli", ".docker/config.json", ".dockercfg", ".pypirc", "pip.conf",
        ".condarc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".cargo/credentials", ".cargo/credentials.toml",
        ".gem/credentials", "nuget.config", ".m2/settings.xml", ".m2/settings-security.xml",
        ".gradle/gradle.properties", ".ivy2/.credentials", ".subversion/auth", ".s3cfg", ".htpasswd", "htpasswd",
        ".fetchmailrc", ".msmtprc",
    ),
    "clouds and their tools": (
        ".aws", "rootkey.csv", "*_accesskeys.csv", ".azure", ".config/gcloud", ".boto", ".gsutil", "gcloud*key*.json",
        "*-key.json", "*service-account*.json", "*service_account*.json", "client_secret*.json",
        "application_default_credentials.json", ".oci", ".bluemix", ".aliyun", ".tccli", ".config/doctl",
        ".config/hcloud", ".config/linode-cli", ".config/scw", ".config/heroku", ".config/op", ".config/netlify",
        ".config/configstore", ".fly", ".kube", "kubeconfig", "*.kubeconfig", "rclone.conf", ".passwd-s3fs", ".mc",
        ".terraformrc", "terraform.rc", ".terraform.d", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json",
        ".pulumi", ".config/argocd",
    ),
    "databases and services for data": (
        ".pgpass", "pgpass.conf", ".pg_service.conf", ".my.cnf", ".mylogin.cnf", ".odbc.ini", ".cqlshrc", ".cassandra",
        ".rediscli_auth", ".databrickscfg", ".snowsql", ".snowflake", "connections.toml", ".dbt", ".kaggle",
        ".huggingface", ".cache/huggingface/token", ".cache/huggingface/stored_tokens", ".config/wandb",
        ".comet.config", ".mlflow/credentials",
    ),
    "what programs remember": (
        ".*_history", ".viminfo", ".mozilla", ".config/google-chrome", ".config/chromium", ".jupyter",
        ".local/share/jupyter/runtime", "jupyter_server_config.json", "jpserver-*.json", "nbserver-*.json",
        "kernel-*.json",
    ),
}  # fmt: skip
"""Files and folders that hold credentials, wherever they lie, as patterns of .dockerignore's in lower case; those with
a / have no wildcards. docs/security.md lists them."""

_PATTERNS = [pattern for patterns in FILES.values() for pattern in patterns]
_TAILS = tuple(f"/{pattern}/" for pattern in _PATTERNS if "/" in pattern)
_is_secret_name = functools.lru_cache(1 << 14)(
    re.compile("|".join(fnmatch.translate(pattern) for pattern in _PATTERNS if "/" not in pattern)).match
)

IN_HOME = tuple(
    one
    for one in _PATTERNS
    if one.startswith(".") and not re.search(r"[*[]", one) and one not in (".jupyter", ".local/share/jupyter/runtime")
)
"""Where credentials usually are in a home folder, but for what a kernel itself may put there."""

_PRIVATE_KEY = re.compile(
    rb"\s*(?:-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-"
    rb"|\{[^{}]*\"private_key\"\s*:\s*\"-----BEGIN )"
)
_CERTIFICATE = re.compile(rb"\s*(?:-----BEGIN [A-Z0-9 ]{0,40}CERTIFICATE-----|Bag Attributes|subject ?=)")
_KEY_AMONG_THEM = re.compile(rb"^-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----", re.MULTILINE)

PEM = ("*.pem", "*.pem.*")
"""Of the patterns, those of files that have keys or only certificates, which their content tells."""

_is_pem_name = re.compile("|".join(map(fnmatch.translate, PEM))).match
_is_other_secret_name = re.compile(
    "|".join(fnmatch.translate(pattern) for pattern in _PATTERNS if "/" not in pattern and pattern not in PEM)
).match
_PEM_PART = re.compile(rb"-----BEGIN ([^-\r\n]*)-----")
_PUBLIC_PARTS = frozenset(
    {b"CERTIFICATE", b"TRUSTED CERTIFICATE", b"X509 CERTIFICATE", b"X509 CRL", b"PUBLIC KEY", b"RSA PUBLIC KEY",
     b"EC PUBLIC KEY", b"DH PARAMETERS", b"EC PARAMETERS"}
)  # fmt: skip

CERTIFICATES = 4 << 20
"""Bytes of a bundle of certificates that is looked at; the one of all public authorities has 0.3 MB."""

KEY_FILE = 64 << 10
"""Bytes that a file which is nothing but a private key has at most."""


def names_credentials(path: str) -> bool:
    """Whether a path (with /) is that of a file or folder which holds credentials, or of something in one.

    By its names, in any case, and in the same way for images and for jobs.
    """
    path = path.lower()
    if path.endswith(".pub"):
        return False  # a public key, beside a private one
    return any(map(_is_secret_name, path.split("/"))) or any(tail in f"/{path}/" for tail in _TAILS)


def file_holds_credentials(root: str, path: str) -> bool:
    """As `names_credentials`, for a path in a folder of this machine; but a file of certificates alone, which only its
    ending would make one of keys, holds none."""
    return names_credentials(path) and not (_may_be_public(path.lower()) and _is_public(os.path.join(root, path)))


def _may_be_public(path: str) -> bool:
    *folders, name = path.split("/")
    return (
        _is_pem_name(name) is not None
        and not any(map(_is_other_secret_name, [*folders, name]))
        and not any(map(_is_pem_name, folders))
        and not any(tail in f"/{path}/" for tail in _TAILS)
    )


def _is_public(path: str) -> bool:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > CERTIFICATES:
                return False
            return is_public(file.read(CERTIFICATES))
    except OSError:
        return False


def is_public(content: bytes) -> bool:
    """Whether a file with this content has certificates, or other public parts of that form, and no key."""
    parts = set(_PEM_PART.findall(content))
    return bool(parts) and parts <= _PUBLIC_PARTS and b"PRIVATE KEY" not in content


def is_private_key(head: bytes) -> bool:
    """Whether a file that begins so is a private key, as OpenSSL, OpenSSH, PGP, PuTTY or Google's accounts have it, or
    has one behind its certificates."""
    if _PRIVATE_KEY.match(head):
        return True
    return _CERTIFICATE.match(head) is not None and _KEY_AMONG_THEM.search(head) is not None


def looks_secret(name: str, value: str) -> bool:
    """Whether an environment variable looks like a credential, by its name or its value."""
    return name not in _HARMLESS and bool(_NAME.search(name) or _VALUE.search(value))


_SAYS_WHICH = re.compile(
    r"(version_?id|version|rev|ref|branch|format|page|year|date)=.*|[^=]*=(\d{1,10}|true|false)?", re.I
)
"""What in a URL's query says which data it is, and lets nobody in."""


def without_credentials(uri: str) -> str:
    """A URL for people to read: without user, password, fragment, and the values of its query that may be a token.

    URLs that are chained, as fsspec has them (`zip://a.csv::https://…`), are each done so.
    """
    return "::".join(map(_without, uri.split("::")))


def _without(uri: str) -> str:
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.partition("://")[0] + "://***"
    place = parts.netloc.rpartition("@")
    query = "&".join(
        pair if _plain(pair) else pair.partition("=")[0][:100] * ("=" in pair) + "=***" for pair in _pairs(uri)
    )
    return urlunsplit(parts._replace(netloc=("***@" if place[1] else "") + place[2], query=query, fragment=""))


def hide_credentials(text: str, uri: str) -> str:
    """A text that may quote a URL, or a part of it, without what lets somebody in."""
    text = text.replace(uri, without_credentials(uri))
    for one in uri.split("::"):
        found = re.findall(r"://([^/@]*)@", one) + [
            pair.partition("=")[2] or pair for pair in _pairs(one) if not _plain(pair)
        ]
        for secret in [*found, *(part for pair in found for part in pair.split(":"))]:
            text = text.replace(secret, "***") if len(secret) > 3 else text
    return text


def _pairs(uri: str) -> list[str]:
    """The parts of a URL's query."""
    return uri.partition("?")[2].partition("#")[0].split("&")


def _plain(pair: str) -> bool:
    name = pair.partition("=")[0].replace("-", "_")
    if "=" not in pair:
        return len(pair) <= 12
    return bool(_SAYS_WHICH.fullmatch(pair)) and not _NAME.search(name)
