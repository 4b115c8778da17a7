"""Whom this host trusts over HTTPS: what requests trusts, the CA bundle of its settings, and a registry's own CA."""

from __future__ import annotations

import contextlib
import functools
import re
import ssl
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from docker_kernel.build_settings import host_settings

CERTIFICATES = ("/etc/docker/certs.d", "~/.config/docker/certs.d")
"""Where an engine, and a rootless one, finds the CA of a registry: HOST[:PORT]/*.crt."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def own_cas(host: str = "") -> str:
    """The certificates, as PEM, that are trusted here besides the public ones, which every client has of its own.

    Args:
        host: a registry's HOST[:PORT], whose own CA is among them.
    """
    named = [path for folder in CERTIFICATES for path in sorted((Path(folder).expanduser() / host).glob("*.crt"))]
    texts = [data.decode("ascii", "ignore") for data in (host_settings().ca or b"", *map(Path.read_bytes, named))]
    own = (one for one in _certificates("\n".join(texts)) if one not in _public())
    return "".join(map(ssl.DER_cert_to_PEM_cert, own))


@functools.cache
def _public() -> frozenset[bytes]:
    return frozenset(_certificates(public_cas()))


def public_cas() -> str:
    """The certificates that requests trusts, as PEM."""
    return Path(DEFAULT_CA_BUNDLE_PATH).read_text()


def _certificates(text: str) -> list[bytes]:
    """The certificates in a PEM text, each once, in their binary form: bundles break their lines differently."""
    found: dict[bytes, None] = {}
    for one in _CERTIFICATE.findall(text):
        with contextlib.suppress(ValueError):
            found[ssl.PEM_cert_to_DER_cert(one)] = None
    return list(found)


class TrustingAdapter(HTTPAdapter):
    """Trusts, besides what requests does, what this host trusts."""

    def __init__(self, host: str) -> None:
        self._context = ssl.create_default_context()
        for one in _certificates(own_cas(host)):
            with contextlib.suppress(ssl.SSLError):
                self._context.load_verify_locations(cadata=one)
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, **settings, ssl_context=self._context)


def is_local(host: str | None) -> bool:
    """Whether a host's name is that of this machine."""
    return host == "localhost" or (host or "").startswith("127.")


def registry_session(host: str, local: bool) -> requests.Session:
    """A session for a registry, and for what it names: its token service, and stores of its blobs.

    Args:
        local: whether it is on this machine. A proxy has another 127.0.0.1.
    """
    session = requests.Session()
    session.trust_env = not local
    session.auth = lambda request: request  # ~/.netrc would take the place of what the registry asked for
    session.mount("https://", TrustingAdapter(host))
    return session


def untrusted(what: str, host: str, reason: str) -> str:
    """What to do about a certificate that is not trusted."""
    return (
        f"{what} has a certificate that is not trusted here ({reason}): put its CA into "
        f"{CERTIFICATES[0]}/{host}/ca.crt, or let REQUESTS_CA_BUNDLE name it."
    )
