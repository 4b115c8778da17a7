"""What looks like a credential, and so travels with a job only when the user names it."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit

_NAME = re.compile(
    r"(^|_)(KEY|KEYS|APIKEY|TOKEN|TOKENS|PAT|SECRET|SECRETS|PASS|PASSWD|PASSWORD|PASSPHRASE|PWD|CRED|CREDS|CREDENTIAL"
    r"|CREDENTIALS|AUTH|COOKIE|SESSION|SIGNATURE|DSN|CONNECTION_STRING|DATABASE_URL)(_|$)|APIKEY|ACCESSKEY|SECRETKEY"
    r"|PRIVATEKEY|^(AWS|AZURE|GOOGLE|GCLOUD)_",
    re.IGNORECASE,
)
_HARMLESS = frozenset(
    {"PWD", "OLDPWD", "JPY_SESSION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION", "SSH_AUTH_SOCK", "DESKTOP_SESSION"}
)
_VALUE = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY-----|^(gh[pousr]_|sk-|AKIA|xox[abp]-|glpat-)"
)

FILES = [
    ".env.*", ".env[-_~]*", "*.env", ".envrc", ".netrc", ".pypirc", ".git-credentials", ".aws", ".azure",
    ".config/gcloud", ".config/gh/hosts.yml", ".kube", ".ssh", ".gnupg", ".docker/config.json", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", "*.pem", "*.pem.*", "*.key", "*.key.bak", "*.key.old", "*.p12", "*.pfx", "*.kdbx",
    "*service-account*.json", "*service_account*.json", "client_secret*.json", "gcloud*key*.json", "*-key.json",
    "credentials.json", "secrets.toml", "token.json", "auth.json", "cookies.txt", ".vault_pass*", "rclone.conf",
    "pip.conf", ".condarc", ".renviron", "terraform.tfstate", "terraform.tfstate.*", ".*_history", ".viminfo",
    "jpserver-*.json", "kernel-*.json",
]  # fmt: skip
"""Files and folders of a workspace, anywhere in it, as patterns in lower case: see SecretFiles."""


class SecretFiles:
    """Tells of paths whether they are files that hold credentials, or in folders that do, by their names in any case.

    Args:
        patterns: of names as .dockerignore has them, in lower case; those with a / have no wildcards.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        self._tails = tuple(f"/{pattern}/" for pattern in patterns if "/" in pattern)
        names = "|".join(fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern)
        self._name = functools.lru_cache(1 << 14)(re.compile(names or r"(?!)").match)

    def __contains__(self, path: str) -> bool:
        path = path.lower()
        if path.endswith(".pub"):
            return False  # a public key, beside a private one
        return any(map(self._name, path.split("/"))) or any(tail in f"/{path}/" for tail in self._tails)


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
