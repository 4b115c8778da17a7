"""One thread with one event loop, on which everything that talks to an engine runs.

The caller may be a Jupyter server's loop (which must never wait), a blocking client whose own loop only turns during
its calls, or the command line. A kernel's link must be served at all times, so it lives on a loop of its own; one
thread serves all kernels of a process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
P = ParamSpec("P")

WORKERS = 16
"""How many calls that take milliseconds may be under way at once: in the loop's shared threads, and in an engine's."""

CLEAN_UP = 30.0
"""Seconds that an interrupted command waits for its clean-up."""


class Workers(concurrent.futures.ThreadPoolExecutor):
    """Threads for blocking calls, and the loop's own thread for those of `atexit` handlers.

    Jupyter's command-line clients stop their kernels there, when Python has ended its pools already.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if "cannot schedule new futures" not in str(error):
                raise
            return _done_here(fn, *args, **kwargs)


class _OwnThreads(concurrent.futures.Executor):
    """A new thread for each call. Python does not wait for one at its end, as a log may outlive this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=_settle, args=(future, fn, args, kwargs), name="docker-kernel-lasting", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            if "interpreter shutdown" not in str(error):
                raise
            return _done_here(fn, *args, **kwargs)
        return future


def _done_here(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    _settle(future, fn, args, kwargs)
    return future


def _settle(future: concurrent.futures.Future[T], fn: Callable[..., T], args: Any, kwargs: Any) -> None:
    try:
        future.set_result(fn(*args, **kwargs))
    except BaseException as error:
        future.set_exception(error)


_own_threads = _OwnThreads()


async def in_own_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what may last as long as a transfer or a build does, in a thread of its own.

    `asyncio.to_thread` is for what takes milliseconds: its threads are few, and whoever waits in one of them keeps
    kernels from starting and being interrupted. When the awaiting task is cancelled, the thread goes on to its end.
    """
    call = functools.partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_own_threads, call)


class _Selector(selectors.DefaultSelector):
    """The selector of a process's loop, which its forked children leave alone.

    They have the same epoll object (epoll(7)): a stream that is collected in a child, and so unregistered, would never
    be read in the parent again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return super().unregister(fileobj) if os.getpid() == self._pid else self.get_key(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        return super().modify(fileobj, events, data) if os.getpid() == self._pid else self.get_key(fileobj)


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_inherited: list[asyncio.AbstractEventLoop | None] = []


def _begin_again() -> None:
    """In a forked child: no thread runs the loop there, and whoever held the lock is gone."""
    global _lock, _loop
    _inherited.append(_loop)  # what is on it belongs to the parent, and is not ended here
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_begin_again)


def loop() -> asyncio.AbstractEventLoop:
    """The background loop, started at its first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.SelectorEventLoop(_Selector())
            _loop.set_default_executor(Workers(WORKERS, thread_name_prefix="docker-kernel-engine"))
            threading.Thread(target=_loop.run_forever, name="docker-kernel", daemon=True).start()
        return _loop


def submit(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Run a coroutine on the background loop; the caller's thread goes on."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


async def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and await its result on the caller's loop."""
    if asyncio.get_running_loop() is _loop:
        return await coroutine
    return await asyncio.wrap_future(submit(coroutine))


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and block the calling thread until it is done.

    A KeyboardInterrupt cancels the coroutine, and waits until its own clean-up has taken down what it started.
    """
    ended = threading.Event()

    async def noted() -> T:
        try:
            return await coroutine
        finally:
            ended.set()

    future = submit(noted())
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(CLEAN_UP)
        raise
