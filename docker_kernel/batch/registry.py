"""A registry, as far as pushing needs it (OCI distribution spec 1.1): blobs are uploaded as streams, manifests put.

No client library streams uploads: oras-py, the one that is kept, reads a blob from a file and has to know its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from docker_kernel.errors import ConfigError, JobError
from docker_kernel.trust import is_local, registry_session, untrusted

MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
TIMEOUT = 60
"""Seconds that a registry may say nothing."""

KEEP_TIMEOUT = 600
"""Seconds that it may take to put away a blob that it has got."""

PAUSES = (0.5, 2.0)
"""Seconds before a second and a third attempt."""

MAX_DOCUMENT = 8 << 20
"""Bytes that a manifest or an image's config may have."""

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
        local = is_local(parts.hostname)
        self.origin = f"{parts.scheme or ('http' if local else 'https')}://{parts.netloc}"
        self._credentials = credentials
        self._session = registry_session(self.host, local)
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
        """A small blob, such as an image's config; raises JobError where it is gone, or was changed."""
        reply = self._ask("GET", self._url(repository, "blobs", digest), repository)
        if not reply.ok:
            raise self._refusal(reply, f"give {digest[:19]} of {repository}")
        data = self._document(reply)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise JobError(f"The registry {self.host} gave something else for {digest[:19]} of {repository}.")
        return data

    def upload(self, repository: str, digest: str, size: int, open: Callable[[], Iterable[bytes]]) -> None:
        """Upload a blob, in pieces. What is raised where they are made ends the upload, and is raised here.

        Of an upload that broke off, a registry keeps a part until it purges it (docker/distribution: after a week, by
        default); it refuses to delete it (2.8: "upload resumed at wrong offest").

        Raises:
            JobError: the registry refuses, or breaks off time after time.
        """
        for pause in (*PAUSES, None):
            reply = self._ask("POST", self._url(repository, "blobs", "uploads/"), repository)
            if reply.status_code != 202:
                raise self._refusal(reply, f"take an image layer for {repository}")
            place = urljoin(self.origin, reply.headers["Location"])
            with contextlib.closing(_each(open())) as pieces:
                try:
                    reply = self._session.put(
                        f"{place}{'&' if '?' in place else '?'}digest={digest}",
                        data=_Body(pieces, size),
                        headers={"Content-Type": "application/octet-stream", **self._authorization(repository, place)},
                        timeout=(TIMEOUT, KEEP_TIMEOUT),
                    )
                except requests.RequestException as error:
                    if pause is None:
                        raise JobError(
                            f"The registry {self.host} broke off while it was sent to: {_reason(error)}; is it still "
                            "up, and is there space on its disk?"
                        ) from None
                else:
                    if reply.status_code == 201:
                        return
                    if reply.status_code == 401 and pause is not None and self._authorize(repository, reply):
                        continue  # its token had ended by then
                    if reply.status_code < 500 or pause is None:
                        raise self._refusal(reply, f"keep an image layer for {repository}")
            time.sleep(pause)

    def manifest(self, repository: str, reference: str) -> Pulled | None:
        """A manifest by its tag or digest; None if there is none."""
        reply = self._ask("GET", self._url(repository, "manifests", reference), repository, Accept=", ".join(MANIFESTS))
        if reply.status_code == 404:
            return None
        if not reply.ok:
            raise self._refusal(reply, f"give {repository}:{reference}")
        data, media_type = self._document(reply), reply.headers.get("Content-Type", "")
        if media_type not in MANIFESTS:
            raise JobError(
                f"The registry {self.host} has no plain image at {repository}:{reference} but {media_type}: does the "
                "engine keep its images in containerd's store? Such images cannot be built upon yet."
            )
        return Pulled(json.loads(data), f"sha256:{hashlib.sha256(data).hexdigest()}", media_type)

    def _document(self, reply: requests.Response) -> bytes:
        found = b""
        try:
            for piece in reply.iter_content(1 << 16):
                found += piece
                if len(found) > MAX_DOCUMENT:
                    raise JobError(f"The registry {self.host} sent more than a manifest or config may have.")
        except requests.RequestException as error:
            raise JobError(f"The registry {self.host} broke off while it was read: {_reason(error)}.") from None
        finally:
            reply.close()
        return found

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
        for pause in (*PAUSES, None):
            try:
                reply = self._session.request(
                    method,
                    url,
                    data=data,
                    headers={**named, **self._authorization(repository, url)},
                    timeout=TIMEOUT,
                    stream=method == "GET",
                )
            except requests.exceptions.SSLError as error:
                raise JobError(untrusted(f"The registry {self.host}", self.host, _reason(error))) from None
            except requests.RequestException as error:
                if pause is None:
                    raise JobError(
                        f"The registry {self.host} cannot be reached: {_reason(error)}; is `registry` right, and is it "
                        "up?"
                    ) from None
                time.sleep(pause)
                continue
            if reply.status_code == 401 and pause is not None and self._authorize(repository, reply):
                continue
            if reply.status_code < 500 or pause is None:
                break
            time.sleep(pause)
        return reply

    def _authorization(self, repository: str, url: str) -> dict[str, str]:
        """What the registry asked for; a store that it names for an upload gets none of it."""
        token = self._tokens.get(repository)
        return {"Authorization": token} if token and url.startswith(f"{self.origin}/") else {}

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
            params = {"service": asked.get("service", "")}
            if repository:
                params["scope"] = f"repository:{repository}:pull,push"
            try:
                answer = self._session.get(asked["realm"], params=params, auth=account, timeout=TIMEOUT)
                found = answer.json()
                self._tokens[repository] = f"Bearer {found.get('token') or found['access_token']}"
            except (KeyError, ValueError, requests.RequestException):
                return False
        return self._tokens.get(repository) not in (None, before)

    def _refusal(self, reply: requests.Response, what: str) -> JobError:
        try:
            text = reply.text
        except requests.RequestException:
            text = ""
        # A registry of its own puts the system's error number there, 28 for ENOSPC.
        if reply.status_code == 507 or "no space left" in text or re.search(r'"Err":\s*28\b', text):
            return JobError(f"The registry {self.host} did not {what}, as its disk is full: free space there.")
        try:
            detail = "; ".join(str(one.get("message", one.get("code", ""))) for one in json.loads(text)["errors"])
        except (ValueError, KeyError, AttributeError, TypeError):
            detail = reply.reason
        login = f"; `docker login {self.host}` first" if reply.status_code in (401, 403) else ""
        return JobError(f"The registry {self.host} did not {what} ({reply.status_code} {detail}){login}.")


def _each(pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Pieces that can be closed, and with them what makes them."""
    yield from pieces


class _Body:
    """Pieces of bytes with a known length, as requests takes them for a body that is not held in memory."""

    def __init__(self, pieces: Iterable[bytes], size: int) -> None:
        self._pieces = pieces
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        for piece in self._pieces:
            left -= len(piece)
            if left < 0:
                break  # a registry would take the rest for another request
            yield piece
        if left:
            raise JobError("An image layer is not as large as it was said to be; it is not sent.")


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].rstrip(".")
