"""Interrupts (SIGINT) that are noted where Python would raise KeyboardInterrupt wherever it happens to be."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Callable

from docker_kernel.guest.exceptions import Shown


class Interrupts:
    """While it is entered, in the main thread, interrupts are counted.

    Args:
        tell: is called at each of them, between any two instructions: it may do little, or raise what ends all.

    Attributes:
        count: how many there were.
    """

    def __init__(self, tell: Callable[[], object] = lambda: None) -> None:
        self.tell = tell
        self.count = 0
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        # None is a handler that is not Python's, which could not be set again.
        heard = signal.getsignal(signal.SIGINT) not in (None, signal.SIG_IGN)
        if heard and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: Any) -> None:
        self.count += 1
        self.tell()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let what is done in here be done whole: an interrupt waits for its end."""
    with Interrupts() as noted:
        yield
    if noted.count:
        signal.raise_signal(signal.SIGINT)


def interrupted(text: str) -> KeyboardInterrupt:
    """What an interrupted cell raises, with a sentence in place of frames of ours."""
    error = KeyboardInterrupt(text)
    # IPython shows what this gives.
    error.__dict__["_render_traceback_"] = Shown(["\x1b[31mKeyboardInterrupt\x1b[0m: %s" % text])
    return error


def is_shown(error: BaseException) -> bool:
    """Whether an exception is one of a cell's, or says itself what a user is to read."""
    return isinstance(vars(error).get("_render_traceback_"), Shown)
