"""What the host's package settings pass on to builds: CA bundle, proxies, package indexes.

They reach only what is thrown away after a build (a Dockerfile's first stage, the environment of an exec), never an
image.
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
PIP_KEYS = (
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
)


@dataclass(frozen=True)
class BuildSettings:
    """Settings of the host for a build.

    Args:
        env: environment variables, without those that name the CA bundle.
        ca: the CA bundle, PEM; None if the host names none.
    """

    env: Mapping[str, str]
    ca: bytes | None

    def variables(self, ca_path: str) -> dict[str, str]:
        """All the environment variables, for a build that finds the CA bundle at `ca_path`."""
        named = dict.fromkeys(CA_VARIABLES, ca_path) if self.ca else {}
        return {**self.env, **named}

    def script(self, ca_path: str) -> str:
        """The same as a shell script to be sourced."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.variables(ca_path).items())]
        return "".join(lines)


def host_settings() -> BuildSettings:
    """The settings of this process's environment and of pip's own configuration.

    Indexes and link folders on this host's disk (file:// URLs, paths) mean nothing in a build and are left out.
    """
    pip = _pip_config()
    env = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in pip.items() if key in PIP_KEYS}
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        if name in env:
            env[name] = " ".join(url for url in env[name].split() if url.startswith(("http://", "https://")))
    for name in PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            env[name] = env[name.upper()] = value
    return BuildSettings({name: value for name, value in env.items() if value}, _ca_bundle(pip.get("cert")))


def _ca_bundle(configured: str | None) -> bytes | None:
    for path in (configured, *(os.environ.get(name) for name in CA_VARIABLES)):
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    return None


def _pip_config() -> dict[str, str]:
    """Pip's settings, the environment's before its `install` section's before its `global` ones."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in found and value:
            try:
                found[section][key.replace("_", "-")] = str(ast.literal_eval(value))
            except (SyntaxError, ValueError):
                continue
    environment = {
        name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name.startswith("PIP_")
    }
    return {**found["global"], **found["install"], **found[":env:"], **environment}
