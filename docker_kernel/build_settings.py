"""What the host's package settings pass on to builds and kernels: CA bundle, proxies, package indexes.

They reach only what is thrown away after a build (a Dockerfile's first stage, the environment of an exec) and the
kernel process, so that `%pip install` works as it does on the host: never an image.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
CA_VARIABLES = (
    "PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO",
)  # fmt: skip
"""Each names a file with CAs, for a part of all clients: pip, requests, OpenSSL and Python, curl, S3's, git."""

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
    """All the bundles that are named, as one: a client may be told of a CA that the others are not."""
    named = [path for path in (configured, *map(os.environ.get, CA_VARIABLES)) if path and Path(path).is_file()]
    return b"\n".join(dict.fromkeys(Path(path).read_bytes() for path in named)) or None


def _pip_config() -> dict[str, str]:
    """Pip's settings, in its own order: global files, the user's, the environment's site, PIP_CONFIG_FILE, PIP_*.

    Read here and not asked of `pip config`, which takes longer than a kernel's start (pip's user guide,
    "Configuration").
    """
    named = os.environ.get("PIP_CONFIG_FILE")
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf")]
    if not (named and Path(named).exists()):
        home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
        files += [Path.home() / ".pip/pip.conf", home / "pip/pip.conf"]
    files.append(Path(sys.prefix) / "pip.conf")
    if named:
        files = [] if named == os.devnull else [*files, Path(named)]
    parser = configparser.RawConfigParser()
    with contextlib.suppress(configparser.Error, OSError):
        parser.read(files, encoding="utf-8")
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for name, value in os.environ.items():
        if name.startswith("PIP_"):
            found[name[4:].lower().replace("_", "-")] = value
    return found
