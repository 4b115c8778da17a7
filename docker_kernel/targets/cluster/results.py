"""Results of a cluster's jobs: in the log where they are small, in the store that `result_url` names where not."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from docker_kernel import background
from docker_kernel.batch.result_store import ResultFolder, ResultStore, result_store
from docker_kernel.engine import registry_credentials
from docker_kernel.errors import DockerKernelError, EngineError, JobError
from docker_kernel.guest.job_log import JobLog
from docker_kernel.targets.base import Check, JobTask
from docker_kernel.targets.cluster.log import ByteLog

INLINE = 48_000
INLINE_BESIDE_STORE = 4096
"""Bytes of a result that go into the log, without and with a result store: that one keeps it also when a node dies."""

MAX_INLINE_READ = 4 << 20
"""Bytes of inline results that the host takes from a log, whatever is in it."""

LAST_LINES = 1000
"""Lines at a log's end in which a result is looked for before it is in all of the log."""

READ_SECONDS = 30
"""How long a log that is read for its result may say nothing."""

OpenLog = Callable[["int | None"], Awaitable[ByteLog]]
"""Opens rank 0's log as it is now: so many of its last lines, or all of it."""


class JobResults:
    """The results of a target's jobs.

    Args:
        url: of the store; None for none.
        most: bytes that a result may have.
    """

    def __init__(self, url: str | None, most: int) -> None:
        self._url = url
        self._most = most
        self._store: ResultStore | None = None

    async def store(self) -> ResultStore | None:
        if self._store is None and self._url is not None:
            self._store = await background.in_own_thread(result_store, self._url, registry_credentials)
        return self._store

    async def check(self) -> Check:
        if self._url is None:
            return Check("results", f"in the log, up to {INLINE // 1000} kB; result_url is not set", True)
        try:
            store = await background.in_own_thread(result_store, self._url, registry_credentials)
            said = await background.in_own_thread(store.check)
        except DockerKernelError as error:
            return Check("results", self._url, False, str(error))
        return Check("results", f"{store.url} {said}", True)

    async def settings(self, task: JobTask) -> dict[str, object]:
        """What the runner is told of where its result goes (`spec["result"]`)."""
        store = await self.store()
        if store is None:
            return {"inline": INLINE, "store": None}
        timeout = task.spec.get("timeout")
        return {
            "inline": INLINE_BESIDE_STORE,
            "store": await background.in_own_thread(store.settings, task.label, timeout),
        }

    async def fetch(self, name: str, nonce: str, digest: str, folder: Path, tail: bytes | None, log: OpenLog) -> bool:
        """Bring a result into a folder; False if it was in the log, and is there no more.

        Args:
            name: the attempt's (JobTask.label).
            tail: the last lines of its log, where they are still known.

        Raises:
            JobError: it is not in the store, or was changed.
        """
        place = ResultFolder(folder, self._most)
        if await asyncio.to_thread(place.complete, digest):
            return True
        if tail is not None and await background.in_own_thread(_from_lines, [tail], nonce, digest, place):
            return True
        store = await self.store()
        if store is None:
            return await _from_log(log, nonce, digest, place)
        try:
            await background.in_own_thread(store.fetch, name, digest, place)
        except JobError:
            if not await _from_log(log, nonce, digest, place):
                raise
        return True

    async def remove(self, name: str) -> None:
        """Remove an attempt's result from the store."""
        store = await self.store()
        if store is not None:
            await background.in_own_thread(store.remove, name)


async def _from_log(log: OpenLog, nonce: str, digest: str, place: ResultFolder) -> bool:
    """Look for a result in the log once more: in its last lines, then in all of it."""
    for tail in (LAST_LINES, None):
        try:
            stream = await log(tail)
        except EngineError:
            return False
        inline = InlineResult(nonce)
        try:
            while data := await asyncio.wait_for(stream.read(), READ_SECONDS):
                await asyncio.to_thread(inline.feed, data)
        except asyncio.TimeoutError:
            pass
        finally:
            stream.close()
        if await background.in_own_thread(inline.keep, digest, place):
            return True
    return False


class InlineResult:
    """Picks the pieces of a result out of a log."""

    def __init__(self, nonce: str) -> None:
        self._log = JobLog(nonce)
        self._pieces: dict[str, dict[int, bytes]] = {}
        self._size = 0

    def feed(self, data: bytes) -> None:
        for part in self._log.feed(data):
            if not isinstance(part, dict) or part.get("event") != "blob":
                continue
            with contextlib.suppress(KeyError, TypeError, ValueError, binascii.Error):
                piece = base64.b64decode(part["data"], validate=True)
                self._size += len(piece)
                if self._size <= MAX_INLINE_READ:
                    self._pieces.setdefault(str(part["digest"]), {})[int(part["index"])] = piece

    def keep(self, digest: str, place: ResultFolder) -> bool:
        """Write the result, if all of it is here; raises JobError where a piece was changed."""
        if digest not in self._pieces:
            return False
        place.write("manifests", digest, self._in_order(digest))
        blobs = place.missing_blobs(digest)
        if not all(blob in self._pieces for blob in blobs):
            return False
        for blob in blobs:
            place.write("blobs", blob, self._in_order(blob))
        return True

    def _in_order(self, digest: str) -> list[bytes]:
        return [piece for _, piece in sorted(self._pieces[digest].items())]


def _from_lines(lines: Iterable[bytes], nonce: str, digest: str, place: ResultFolder) -> bool:
    inline = InlineResult(nonce)
    for data in lines:
        inline.feed(data)
    return inline.keep(digest, place)
