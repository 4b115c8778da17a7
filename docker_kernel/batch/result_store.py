"""Where jobs put results that are too large for their log, and how the host reads them back (guest/deliver.py writes).

A registry (`oci+http://`, `oci+https://`) holds each file as a blob under its own digest, and an artifact, tagged with
the job's id, that keeps them from being collected. Any other store that fsspec knows, and that can sign uploads
(`s3://`), holds one bundle for each job. A job gets a credential for its own upload and nothing else. The host streams
what it reads into files, in pieces: it needs the same little memory for any size.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from docker_kernel import whole_file
from docker_kernel.batch.job_folder import root
from docker_kernel.batch.manifest import MAX_MANIFEST, ResultManifest, parse
from docker_kernel.config import format_size
from docker_kernel.errors import ConfigError, JobError
from docker_kernel.trust import is_local, own_cas, public_cas, registry_session, untrusted

CHUNK = 1 << 20
TIMEOUT = 30
MAX_SIGNED = 7 * 86400
"""Seconds that S3 lets a signed address live."""

MAX_INDEX = 16 << 20
"""Bytes that a bundle's first line may have."""


class ResultFolder:
    """A result's folder on the host. A file is there under its name when all of it is, and has its digest.

    Args:
        limit: bytes that the result may have; None where it is not brought here, only looked at.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path = path
        self._limit = limit
        self._taken = 0

    def file(self, folder: str, digest: str) -> Path:
        return self.path / folder / digest.removeprefix("sha256:")

    def write(self, folder: str, digest: str, pieces: Iterable[bytes], limit: int | None = None) -> None:
        """Keep a file.

        Raises:
            JobError: it is not what its digest says, or larger than it may be.
        """
        path = self.file(folder, digest)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        found, size = hashlib.sha256(), 0
        try:
            with fresh.open("wb") as file:
                for piece in pieces:
                    size += len(piece)
                    if limit is not None and size > limit:
                        raise JobError(f"The result's {digest[:19]} is larger than the {limit >> 20} MiB it may have.")
                    self._taken += len(piece)
                    self._check(self._taken)
                    found.update(piece)
                    file.write(piece)
            if f"sha256:{found.hexdigest()}" != digest:
                raise JobError(f"The result's {digest[:19]} was changed after the job wrote it; it is not used.")
            fresh.replace(path)
        except OSError as error:
            raise JobError(f"The result cannot be written to {self.path}: {error.strerror or error}.") from None
        finally:
            fresh.unlink(missing_ok=True)

    def missing_blobs(self, digest: str) -> list[str]:
        """The blobs that a manifest, which is there, names and that are not there yet.

        Raises:
            JobError: they are more than the folder may have.
        """
        manifest = parse(ResultManifest, self.file("manifests", digest).read_bytes())
        self._check(manifest.size)
        missing, here = [], 0
        for blob in manifest.blobs():
            try:
                here += self.file("blobs", blob).stat().st_size
            except OSError:
                missing.append(blob)
        self._taken = max(self._taken, here)
        return missing

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise JobError(
                f"The result is larger than the {format_size(self._limit)} that may be brought here: raise "
                "`max_result` in the target's settings, or let the job bring back less (--pull NAMES)."
            )

    def complete(self, digest: str) -> bool:
        return self.file("manifests", digest).exists() and not self.missing_blobs(digest)


class ResultStore(ABC):
    """A place for results. Its methods block."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def settings(self, job_id: str, timeout: float | None) -> dict[str, Any]:
        """What a job needs to upload its result, for deliver.py; with a credential that can do only that."""

    @abstractmethod
    def fetch(self, job_id: str, digest: str, folder: ResultFolder) -> None:
        """Bring a result; raises JobError where it is gone, or was changed."""

    @abstractmethod
    def remove(self, job_id: str) -> None:
        """Remove a job's result; no-op if there is none, or the store keeps all it has."""

    @abstractmethod
    def check(self) -> str:
        """Say what is there; raises JobError where nothing answers."""


Credentials = Callable[[str], "tuple[str, str] | None"]
"""Finds the user's name and password for a registry's host, None where there are none."""


def result_store(url: str, credentials: Credentials) -> ResultStore:
    """The store of a `result_url`.

    Raises:
        ConfigError: jobs could not upload there.
    """
    if url.startswith(("oci+http://", "oci+https://")):
        return RegistryStore(url, credentials)
    if url.startswith(("file:", "/")) or "://" not in url:
        raise ConfigError(
            f"result_url = {url!r}: a job has its own files and could not write there; name a registry "
            "(oci+https://HOST/PREFIX) or a store that can sign uploads (s3://BUCKET/PREFIX)."
        )
    return SigningStore(url)


class RegistryStore(ResultStore):
    """A registry. Jobs get no credential where it asks for none, else a token for pushing to one repository."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        super().__init__(url)
        parts = urlsplit(url.removeprefix("oci+"))
        if not re.fullmatch(r"[a-z0-9._/-]*", parts.path):
            raise ConfigError(f"result_url = {url!r}: what follows the host has to be lower-case, as in /team/results.")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.netloc
        self.repository = "/".join(filter(None, [*parts.path.split("/"), "results"]))
        self._credentials = credentials
        self._session = registry_session(self.host, is_local(parts.hostname))
        self._base = f"{self.origin}/v2/{self.repository}"

    def settings(self, job_id: str, timeout: float | None) -> dict[str, Any]:
        store = {"kind": "oci", "url": self.origin, "repository": self.repository, "tag": job_id}
        if self.origin.startswith("https:"):
            store["ca"] = own_cas(self.host)
        token, seconds = self._token("pull,push")
        if token:
            if timeout is not None and timeout > seconds:
                raise JobError(
                    f"The registry {self.host} lets its tokens live for {seconds:.0f} s, and this job may take "
                    f"{timeout:.0f} s: its result could not be sent. Let result_url name a store that signs uploads."
                )
            store["token"] = token
        return store

    def fetch(self, job_id: str, digest: str, folder: ResultFolder) -> None:
        headers = self._auth("pull")
        if not folder.file("manifests", digest).exists():
            folder.write("manifests", digest, self._blob(digest, headers), MAX_MANIFEST)
        for blob in folder.missing_blobs(digest):
            folder.write("blobs", blob, self._blob(blob, headers))

    def _blob(self, digest: str, headers: dict[str, str]) -> Iterator[bytes]:
        with self._get(f"{self._base}/blobs/{digest}", headers) as reply:
            if reply.status_code == 404:
                raise JobError(f"The result's {digest[:19]} is not in {self.url} any more: run the job again.")
            self._refused(reply)
            try:
                yield from reply.iter_content(CHUNK)
            except requests.RequestException as error:
                raise JobError(f"The result store {self.url} broke off: {_reason(error)}.") from None

    def remove(self, job_id: str) -> None:
        headers = {**self._auth("pull,push,delete"), "Accept": "application/vnd.oci.image.manifest.v1+json"}
        with contextlib.suppress(requests.RequestException):
            reply = self._session.head(f"{self._base}/manifests/{job_id}", headers=headers, timeout=TIMEOUT)
            if reply.ok and (digest := reply.headers.get("Docker-Content-Digest")):
                self._session.delete(f"{self._base}/manifests/{digest}", headers=headers, timeout=TIMEOUT)

    def check(self) -> str:
        token, seconds = self._token("pull,push")
        return f"answers, with tokens that live {seconds:.0f} s" if token else "answers, and asks for no credential"

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        try:
            return self._session.get(url, headers=headers, timeout=TIMEOUT, stream=True)
        except requests.exceptions.SSLError as error:
            raise JobError(untrusted(f"The result store {self.url}", self.host, _reason(error))) from None
        except requests.RequestException as error:
            raise JobError(
                f"The result store {self.url} cannot be reached from here: {_reason(error)}; is result_url right?"
            ) from None

    def _refused(self, reply: requests.Response) -> None:
        if not reply.ok:
            raise JobError(f"The result store {self.url} refused ({reply.status_code} {reply.reason}).")

    def _auth(self, actions: str) -> dict[str, str]:
        token, _ = self._token(actions)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _token(self, actions: str) -> tuple[str, float]:
        """A token for one repository and the seconds it lives; "" where the registry wants none."""
        with self._get(f"{self.origin}/v2/", {}) as reply:
            if reply.ok:
                return "", 0
            if reply.status_code != 401:
                self._refused(reply)
            challenge = reply.headers.get("WWW-Authenticate", "")
        if not challenge.lower().startswith("bearer "):
            raise JobError(
                f"The result store {self.url} takes nothing but passwords, which a job must not have: let result_url "
                "name a registry with a token service, or a store that signs uploads (s3://BUCKET/PREFIX)."
            )
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        scope = f"repository:{self.repository}:{actions}"
        try:
            reply = self._session.get(
                asked["realm"],
                params={"service": asked.get("service", ""), "scope": scope},
                auth=self._credentials(self.host),
                timeout=TIMEOUT,
            )
        except (KeyError, requests.RequestException) as error:
            raise JobError(f"The token service of {self.url} cannot be reached: {_reason(error)}.") from None
        self._refused(reply)
        answer = reply.json()
        return str(answer.get("token") or answer["access_token"]), float(answer.get("expires_in", 60))


class SigningStore(ResultStore):
    """A store of fsspec's that can sign an upload's address, such as S3: the address is all that a job gets."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        try:
            import fsspec

            self._files, place = fsspec.core.url_to_fs(
                url, skip_instance_cache=True, use_listings_cache=False, **_trusting(url, fsspec.config.conf)
            )
        except ImportError as error:
            raise ConfigError(
                f"result_url = {url!r} needs a package that is not installed here ({error}): "
                "`pip install docker-kernel[stores]` has fsspec, and the store's own package, such as s3fs, beside it."
            ) from None
        except ValueError as error:
            raise ConfigError(f"result_url = {url!r}: {error}.") from None
        self._root = place.rstrip("/")

    def _path(self, job_id: str) -> str:
        return f"{self._root}/{job_id}.result"

    def settings(self, job_id: str, timeout: float | None) -> dict[str, Any]:
        seconds = 86400 if timeout is None else int(timeout) + 3600
        try:
            signed = self._files.sign(
                self._path(job_id), expiration=min(seconds, MAX_SIGNED), client_method="put_object"
            )
        except Exception as error:  # whatever a store's own package raises
            raise JobError(f"The result store {self.url} cannot sign an upload for a job: {_reason(error)}.") from None
        return {"kind": "put", "url": signed, "ca": own_cas()}

    def fetch(self, job_id: str, digest: str, folder: ResultFolder) -> None:
        try:
            with self._files.open(self._path(job_id), "rb", block_size=8 << 20, cache_type="readahead") as bundle:
                unpack(io.BufferedReader(bundle, CHUNK), digest, folder)
        except FileNotFoundError:
            raise JobError(f"The result is not in {self.url} any more: run the job again.") from None
        except JobError:
            raise
        except Exception as error:
            raise JobError(f"The result store {self.url} cannot be read: {_reason(error)}.") from None

    def remove(self, job_id: str) -> None:
        with contextlib.suppress(Exception):
            self._files.rm_file(self._path(job_id))

    def check(self) -> str:
        self.settings("check", 60)
        try:
            self._files.ls(self._root)
        except FileNotFoundError:
            pass
        except Exception as error:
            raise JobError(f"The result store {self.url} cannot be read: {_reason(error)}.") from None
        return "answers, and signs uploads"


def _trusting(url: str, configured: dict[str, Any]) -> dict[str, Any]:
    """Options with which S3's client trusts whom this host does; botocore knows but the public CAs by itself.

    Args:
        configured: what fsspec's own configuration has for each protocol.
    """
    if not url.startswith(("s3:", "s3a:")) or os.environ.get("AWS_CA_BUNDLE") or not (own := own_cas()):
        return {}
    path = root() / "trusted-cas.pem"
    whole_file.keep(path, public_cas() + own)
    client = configured.get(url.partition(":")[0], {}).get("client_kwargs") or {}
    return {"client_kwargs": {"verify": str(path), **client}}


def unpack(bundle: io.BufferedReader, digest: str, folder: ResultFolder) -> None:
    """Keep the files of a bundle (deliver.Bundle); raises JobError where it is not what the job wrote."""
    try:
        head = bundle.readline(MAX_INDEX)
        index = json.loads(head)["files"]
        files = [(str(kind), str(name), int(size)) for kind, name, size in index]
    except (ValueError, KeyError, TypeError):
        raise JobError("The result's bundle was changed after the job wrote it; it is not used.") from None
    for kind, name, size in files:
        if kind not in ("manifests", "blobs") or not re.fullmatch("sha256:[0-9a-f]{64}", name) or size < 0:
            raise JobError("The result's bundle was changed after the job wrote it; it is not used.")
        if kind == "manifests" and name != digest:
            raise JobError("The result's bundle is another result's than the job's log says; it is not used.")
        if folder.file(kind, name).exists():
            bundle.seek(size, os.SEEK_CUR)
        else:
            folder.write(kind, name, _pieces(bundle, size), MAX_MANIFEST if kind == "manifests" else None)
    if not folder.complete(digest):
        raise JobError("The result's bundle lacks a part of the result; it is not used.")


def _pieces(file: io.BufferedReader, size: int) -> Iterator[bytes]:
    while size:
        data = file.read(min(size, CHUNK))
        if not data:
            return
        size -= len(data)
        yield data


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].rstrip(".")
