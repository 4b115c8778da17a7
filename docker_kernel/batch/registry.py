"""A registry, as far as pushing needs it (OCI distribution spec 1.1): blobs are uploaded as streams, manifests put.

No client library streams uploads: oras-py, the one that is kept, reads a blob from a file and has to know its digest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from docker_kernel.errors import ConfigError, JobError

MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
TIMEOUT = 60
"""Seconds that a registry may say nothing."""

ATTEMPTS = 3

Credentials = Callable[[str], "tuple[str, str] | None"]
"""Finds the user's name and password for a registry's host, None where there are none."""


@dataclass(frozen=True)
class Pulled:
    """A manifest as a registry has it."""

    content: dict[str, Any]
    digest: str
    media_type: str


class Registry:
    """A registry and the prefix of our repositories there. Its methods block.

    Args:
        address: HOST[:PORT]/PREFIX; http:// before it asks for plain HTTP, which the own machine has anyway.
        credentials: for registries that ask for some.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, address: str, credentials: Credentials = lambda host: None) -> None:
        parts = urlsplit(address if "://" in address else f"//{address}")
        prefix = parts.path.strip("/")
        if not parts.netloc or not re.fullmatch(r"([a-z0-9]+([._/-]+[a-z0-9]+)*)?", prefix):
            raise ConfigError(f"registry = {address!r}: write HOST[:PORT]/PREFIX, the prefix in lower case.")
        self.host = parts.netloc
        self.prefix = prefix
        local = parts.hostname == "localhost" or (parts.hostname or "").startswith("127.")
        self.origin = f"{parts.scheme or ('http' if local else 'https')}://{parts.netloc}"
        self._credentials = credentials
        self._session = requests.Session()
        self._tokens: dict[str, str] = {}

    def repository(self, name: str) -> str:
        """The path of a repository of ours."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def check(self) -> str:
        """Say how it answers; raises JobError where it does not."""
        reply = self._ask("GET", f"{self.origin}/v2/", "")
        if not reply.ok:
            raise self._refusal(reply, "answer")
        return "answers"

    def has_blob(self, repository: str, digest: str) -> bool:
        return self._ask("HEAD", self._url(repository, "blobs", digest), repository).ok

    def blob(self, repository: str, digest: str) -> bytes:
        """A small blob, such as an image's config; raises JobError where it is gone."""
        reply = self._ask("GET", self._url(repository, "blobs", digest), repository)
        if not reply.ok:
            raise self._refusal(reply, f"give {digest[:19]} of {repository}")
        return reply.content

    def upload(self, repository: str, digest: str, size: int, open: Callable[[], Iterable[bytes]]) -> None:
        """Upload a blob, in pieces.

        Raises:
            JobError: the registry refuses, or breaks off time after time.
        """
        for attempt in range(ATTEMPTS):
            reply = self._ask("POST", self._url(repository, "blobs", "uploads/"), repository)
            if reply.status_code != 202:
                raise self._refusal(reply, f"take an image layer for {repository}")
            target = urljoin(self.origin, reply.headers["Location"])
            target += f"{'&' if '?' in target else '?'}digest={digest}"
            headers = {"Content-Type": "application/octet-stream", **self._authorization(repository)}
            try:
                reply = self._session.put(target, data=_Body(open(), size), headers=headers, timeout=TIMEOUT)
            except requests.RequestException as error:
                if attempt + 1 < ATTEMPTS:
                    continue
                raise JobError(f"The registry {self.host} broke off while it was sent to: {_reason(error)}.") from None
            if reply.status_code == 201:
                return
            if reply.status_code < 500 or attempt + 1 == ATTEMPTS:
                raise self._refusal(reply, f"keep an image layer for {repository}")

    def manifest(self, repository: str, reference: str) -> Pulled | None:
        """A manifest by its tag or digest; None if there is none."""
        reply = self._ask("GET", self._url(repository, "manifests", reference), repository, Accept=", ".join(MANIFESTS))
        if reply.status_code == 404:
            return None
        if not reply.ok:
            raise self._refusal(reply, f"give {repository}:{reference}")
        return Pulled(reply.json(), reply.headers.get("Docker-Content-Digest", ""), reply.headers["Content-Type"])

    def put_manifest(self, repository: str, reference: str, content: dict[str, Any], media_type: str) -> None:
        """Keep a manifest under a tag."""
        data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        url = self._url(repository, "manifests", reference)
        reply = self._ask("PUT", url, repository, data, Content_Type=media_type)
        if reply.status_code != 201:
            raise self._refusal(reply, f"keep the image {repository}:{reference}")

    def _url(self, repository: str, kind: str, name: str) -> str:
        return f"{self.origin}/v2/{repository}/{kind}/{name}"

    def _ask(
        self, method: str, url: str, repository: str, data: bytes | None = None, **headers: str
    ) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for attempt in range(ATTEMPTS):
            try:
                reply = self._session.request(
                    method, url, data=data, headers={**named, **self._authorization(repository)}, timeout=TIMEOUT
                )
            except requests.RequestException as error:
                if attempt + 1 < ATTEMPTS:
                    continue
                raise JobError(
                    f"The registry {self.host} cannot be reached: {_reason(error)}; is `registry` right, and is it up?"
                ) from None
            if reply.status_code == 401 and self._authorize(repository, reply):
                continue
            if reply.status_code < 500:
                break
        return reply

    def _authorization(self, repository: str) -> dict[str, str]:
        token = self._tokens.get(repository)
        return {"Authorization": token} if token else {}

    def _authorize(self, repository: str, reply: requests.Response) -> bool:
        """Get what a registry asks for; False if there is nothing new to try."""
        challenge = reply.headers.get("WWW-Authenticate", "")
        account = self._credentials(self.host)
        before = self._tokens.pop(repository, None)
        if challenge.lower().startswith("basic") and account is not None:
            prepared = requests.Request("GET", self.origin, auth=account).prepare()
            self._tokens[repository] = prepared.headers["Authorization"]
        elif challenge.lower().startswith("bearer"):
            asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
            params = {"service": asked.get("service", ""), "scope": f"repository:{repository}:pull,push"}
            try:
                answer = self._session.get(asked["realm"], params=params, auth=account, timeout=TIMEOUT)
                found = answer.json()
                self._tokens[repository] = f"Bearer {found.get('token') or found['access_token']}"
            except (KeyError, ValueError, requests.RequestException):
                return False
        return self._tokens.get(repository) not in (None, before)

    def _refusal(self, reply: requests.Response, what: str) -> JobError:
        try:
            detail = "; ".join(str(one.get("message", one.get("code", ""))) for one in reply.json()["errors"])
        except (ValueError, KeyError, AttributeError):
            detail = reply.reason
        login = f"; `docker login {self.host}` first" if reply.status_code in (401, 403) else ""
        return JobError(f"The registry {self.host} did not {what} ({reply.status_code} {detail}){login}.")


class _Body:
    """Pieces of bytes with a known length, as requests takes them for a body that is not held in memory."""

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self._pieces = iter(pieces)
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].rstrip(".")
