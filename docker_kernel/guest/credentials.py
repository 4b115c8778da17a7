"""What looks like a credential, and so travels with a job only when the user names it."""

from __future__ import annotations

import re

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
    ".env", ".env.*", ".netrc", ".pypirc", ".git-credentials", ".aws", ".azure", ".config/gcloud", ".kube", ".ssh",
    ".gnupg", ".docker/config.json", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.key", "*.p12", "*.pfx",
    "*.kdbx", "*service-account*.json", "credentials.json",
]  # fmt: skip
"""Files and folders of a workspace, anywhere in it, as .dockerignore patterns without their leading `**/`."""


def looks_secret(name: str, value: str) -> bool:
    """Whether an environment variable looks like a credential, by its name or its value."""
    return name not in _HARMLESS and bool(_NAME.search(name) or _VALUE.search(value))
