"""A job's output as it grows, whichever process writes it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from docker_kernel.batch.job_folder import JobFolder


class OutputTail:
    """Reads the files of JobFolder.add_output: each piece once, also when a new follower reads the job's log anew."""

    def __init__(self, folder: JobFolder) -> None:
        self._aside, self._current = folder.path / "output.0", folder.path / "output.1"
        self._file: IO[bytes] | None = None
        self._put_aside = 0
        self._attempt = 0
        self._position = self._given = 0

    def read(self, attempt: int) -> bytes:
        """What has come since the last call, of a job's attempt; blocks for the disk only."""
        if attempt != self._attempt:
            self._attempt, self._given = attempt, 0
            self._close()
        pieces: list[bytes] = []
        while self._file is not None or self._open(pieces):
            assert self._file is not None
            pieces.append(self._fresh(self._file.read()))
            number = os.fstat(self._file.fileno()).st_ino
            if number == _number(self._current):
                break
            # What was written between our read and its end.
            pieces.append(self._fresh(self._file.read()))
            self._close()
            if number != _number(self._aside):
                break  # it was removed, perhaps for another attempt: the caller's next word tells
            self._put_aside = number
        return b"".join(pieces)

    def _open(self, pieces: list[bytes]) -> bool:
        if not self._put_aside or self._put_aside != _number(self._aside):
            self._position = 0
            with suppress(FileNotFoundError):
                pieces.append(self._fresh(self._aside.read_bytes()))
        with suppress(FileNotFoundError):
            self._file = self._current.open("rb")
        return self._file is not None

    def _fresh(self, data: bytes) -> bytes:
        """What of the bytes at this position has not been given yet."""
        begin, self._position = self._position, self._position + len(data)
        fresh = data[max(0, self._given - begin) :]
        self._given = max(self._given, self._position)
        return fresh

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._put_aside = None, 0


def _number(path: Path) -> int:
    """A file's number, 0 if it is not there."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0
