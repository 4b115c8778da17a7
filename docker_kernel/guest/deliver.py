"""How a job's result leaves its machine: in the job's log where it is small, through a store where it is not.

Everything is named by its sha256, and the digest of the result's manifest goes another way (the log's last marker), so
that neither a log nor a store can change a result unnoticed.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import time
from collections.abc import Iterator
from typing import Any, Callable

from docker_kernel.guest.blob_files import SnapshotError
from docker_kernel.guest.snapshot import read_manifest

PIECE = 48 << 10
"""Bytes of a file that one marker carries: 64 KiB in base64."""

MAX_PUT = 5 << 30
"""Bytes that stores take in one upload (S3's limit)."""

EMPTY = b"{}"
EMPTY_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
"""The config that an artifact must have."""

ARTIFACT = "application/vnd.oci.image.manifest.v1+json"

ATTEMPTS = 4
TIMEOUT = 60
CHUNK = 1 << 20

Emit = Callable[[dict[str, Any]], None]


class DeliveryFailed(SnapshotError):
    """The result cannot leave this machine; the message says what to do."""


class _File:
    """One file of a result: `folder` is manifests or blobs."""

    def __init__(self, state: str, folder: str, digest: str) -> None:
        self.folder = folder
        self.digest = digest
        self.path = os.path.join(state, folder, digest[7:])
        self.size = os.path.getsize(self.path)


def result_files(state: str, digest: str) -> list[_File]:
    """The files of a result, its manifest first."""
    manifest = read_manifest(state, digest)
    blobs = [blob for pack in manifest["packs"] for blob in (pack["blob"], *(one for one, _ in pack["buffers"]))]
    blobs += [one["blob"] for one in manifest.get("files") or ()]
    found = [_File(state, "manifests", digest)]
    return found + [_File(state, "blobs", blob) for blob in dict.fromkeys(blobs)]


def deliver(state: str, digest: str, settings: dict[str, Any], emit: Emit) -> None:
    """Bring a captured result on its way.

    Args:
        state: the state folder that it was captured to; digest: of its manifest.
        settings: `inline`, the most bytes that go into the log; `store`, where more goes, or None.
        emit: writes one marker.

    Raises:
        DeliveryFailed: there is no store for a result of this size, or the store does not take it.
    """
    files = result_files(state, digest)
    total = sum(file.size for file in files)
    if total <= settings["inline"]:
        _into_log(files, emit)
        return
    store = settings.get("store")
    if store is None:
        raise DeliveryFailed(
            "The result has %s and only %s fit into the log: set result_url in the target's settings, or keep less."
            % (_size(total), _size(settings["inline"]))
        )
    try:
        if store["kind"] == "oci":
            _Registry(store).upload(files)
        elif store["kind"] == "put":
            _put_bundle(store, files, total)
        else:
            raise DeliveryFailed("The result's store is of an unknown kind, %r." % store["kind"])
    except OSError as error:
        where = store["url"].split("?")[0]
        raise DeliveryFailed("The result could not be sent to %s: %s." % (where, _reason(error))) from None


def _size(number: float) -> str:
    power = 0
    while number >= 1024 and power < 3:
        number, power = number / 1024, power + 1
    return "%.1f %s" % (number, ("B", "KiB", "MiB", "GiB")[power])


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", error)
    if getattr(error, "code", None) in (401, 403):
        return "it refused the job's credential (%s), which may have expired while the job ran" % reason
    return str(getattr(reason, "strerror", None) or reason)


def _into_log(files: list[_File], emit: Emit) -> None:
    for file in files:
        with open(file.path, "rb") as content:
            data = content.read()
        count = max(1, -(-len(data) // PIECE))
        for index in range(count):
            piece = base64.b64encode(data[index * PIECE : (index + 1) * PIECE]).decode()
            emit({"event": "blob", "digest": file.digest, "index": index, "count": count, "data": piece})


def _trust(store: dict[str, Any]) -> Any:
    """Whom a store's client trusts: as Python does by itself, and whom the host side does; None without TLS."""
    if not store["url"].startswith("https:"):
        return None
    import ssl

    context = ssl.create_default_context()
    if store.get("ca"):
        context.load_verify_locations(cadata=store["ca"])
    return context


def _request(method: str, url: str, trust: Any, data: Callable[[], Any] | None = None, **headers: str) -> Any:
    """One request, tried again when the other side does not answer or fails; returns the reply's headers.

    Args:
        trust: see `_trust`.
        data: makes what is sent, anew for each attempt.

    Raises:
        urllib.error.HTTPError: it was refused; OSError: nothing answers.
    """
    import urllib.error
    import urllib.request

    for attempt in range(ATTEMPTS):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, data() if data else None, names, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=trust) as reply:
                while reply.read(CHUNK):
                    pass
                return reply.headers
        except urllib.error.HTTPError as error:
            if (error.code < 500 and error.code != 429) or attempt == ATTEMPTS - 1:
                raise
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(2**attempt / 2)
    raise AssertionError("unreachable")


class _Registry:
    """Uploads a result to a registry: its files as blobs, and an OCI artifact that keeps them from being collected."""

    def __init__(self, store: dict[str, Any]) -> None:
        self.base = "%s/v2/%s" % (store["url"].rstrip("/"), store["repository"])
        self.origin = store["url"].rstrip("/")
        self.tag = store["tag"]
        self.trust = _trust(store)
        self.auth = {"Authorization": "Bearer " + store["token"]} if store.get("token") else {}

    def upload(self, files: list[_File]) -> None:
        import urllib.error

        for last in (False, True):
            for file in files:
                # The second time all are sent: what was there before us was collected before our artifact named it.
                self._blob(file.digest, file.size, functools.partial(open, file.path, "rb"), last)
            self._blob(EMPTY_DIGEST, len(EMPTY), lambda: EMPTY, last)
            try:
                self._artifact(files)
                return
            except urllib.error.HTTPError as error:
                if last or error.code not in (400, 404):
                    raise

    def _artifact(self, files: list[_File]) -> None:
        layers = [
            {
                "mediaType": "application/vnd.docker-kernel.%s.v1" % file.folder,
                "digest": file.digest,
                "size": file.size,
            }
            for file in files
        ]
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": EMPTY_DIGEST, "size": len(EMPTY)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": ARTIFACT,
            "artifactType": "application/vnd.docker-kernel.result.v1",
            "config": config,
            "layers": layers,
        }
        data = json.dumps(manifest).encode()
        place = "%s/manifests/%s" % (self.base, self.tag)
        _request("PUT", place, self.trust, lambda: data, Content_Type=ARTIFACT, **self.auth)

    def _blob(self, digest: str, size: int, data: Callable[[], Any], again: bool) -> None:
        import urllib.error

        if not again:
            try:
                _request("HEAD", "%s/blobs/%s" % (self.base, digest), self.trust, **self.auth)
                return
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
        headers = _request("POST", "%s/blobs/uploads/" % self.base, self.trust, lambda: b"", **self.auth)
        place = headers["Location"]
        if place.startswith("/"):
            place = self.origin + place
        place += ("&" if "?" in place else "?") + "digest=" + digest
        kind = "application/octet-stream"
        _request("PUT", place, self.trust, data, Content_Type=kind, Content_Length=str(size), **self.auth)


class Bundle:
    """All files of a result as one stream: a line of JSON, then the files' bytes, one after the other.

    The line is `{"version": 1, "files": [[FOLDER, DIGEST, SIZE], …]}`, FOLDER being manifests or blobs.
    """

    def __init__(self, files: list[_File]) -> None:
        index = {"version": 1, "files": [[file.folder, file.digest, file.size] for file in files]}
        self._head = json.dumps(index).encode() + b"\n"
        self.size = len(self._head) + sum(file.size for file in files)
        self._pieces = self._read(files)

    def _read(self, files: list[_File]) -> Iterator[bytes]:
        yield self._head
        for file in files:
            with open(file.path, "rb") as content:
                while data := content.read(CHUNK):
                    yield data

    def read(self, _: int = -1) -> bytes:
        return next(self._pieces, b"")


def _put_bundle(store: dict[str, Any], files: list[_File], total: int) -> None:
    if total > MAX_PUT:
        raise DeliveryFailed(
            "The result has %s, and a store of this kind takes %s at once: let result_url name a registry (oci+https://)."
            % (_size(total), _size(MAX_PUT))
        )
    size = str(Bundle(files).size)
    bundle = lambda: Bundle(files)  # noqa: E731
    kind = "application/octet-stream"
    _request("PUT", store["url"], _trust(store), bundle, Content_Length=size, Content_Type=kind)
