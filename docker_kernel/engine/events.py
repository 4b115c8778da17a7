"""The end of containers, from the one stream of an engine's events that all who wait share.

A wait costs no thread and no connection of its own. An event only says that it is time to look: what a container is,
and how it ended, is what the engine says when it is asked. So nothing is lost with an event that is missed while the
stream breaks off: whoever waits looks when the stream has begun, before it relies on it, and again when it has begun
anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar

from docker_kernel.engine.connection import Connection
from docker_kernel.engine.streams import ReadAhead
from docker_kernel.errors import EngineError, EngineUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

ENDS = ("die", "died", "destroy", "remove")
"""What happens to a container that ends or goes; two of them are Podman's."""

EXIT_CODES = ("exitCode", "containerExitCode")
"""Docker's name of the exit code in an event, and Podman's."""

SWEEP_SECONDS = 60
"""How often the engine is asked for all that runs: it drops events where it cannot send them fast enough, and a
connection may have gone without a word."""

FIRST_SWEEP_SECONDS = 1
"""How long after a stream's begin it is asked first: Podman answers before it listens for events itself."""

RECONNECT_SECONDS = 10
"""How long an engine may take to come back, before all who wait are told that it does not."""

RECONNECT_PAUSE = 0.2


class Watch:
    """One who waits for something to happen to a container.

    Attributes:
        exit_code: what its last `die` event had; None if there was none yet.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._changed = asyncio.Event()
        self._error: EngineError | None = None

    async def change(self) -> None:
        """Wait until it is time to look at the container again.

        Raises:
            EngineError: the engine has gone, and does not come back.
        """
        await self._changed.wait()
        if self._error is not None:
            raise self._error
        self._changed.clear()

    def wake(self, exit_code: int | None = None) -> None:
        if exit_code is not None:
            self.exit_code = exit_code
        self._changed.set()

    def fail(self, error: EngineError) -> None:
        self._error = error
        self._changed.set()


class ContainerEvents:
    """An engine's containers that somebody waits for, on one event loop.

    The stream is open while there is anybody, and for a minute or two longer.
    """

    def __init__(self, connection: Connection) -> None:
        self.loop = asyncio.get_running_loop()
        self._connection = connection
        self._watches: dict[str, set[Watch]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._open: asyncio.Future[None] = self.loop.create_future()
        self._since = ""

    @contextlib.contextmanager
    def watch(self, container: str) -> Iterator[Watch]:
        """Be woken at what ends the container of an id. `listening` must have returned before it is looked at."""
        watch = Watch()
        self._watches.setdefault(container, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[container].discard(watch)
            if not self._watches[container]:
                del self._watches[container]

    async def listening(self) -> None:
        """Wait until the stream has begun: from then on nothing goes unnoticed.

        Raises:
            EngineUnavailable: no engine answers.
        """
        if self._reading is None or self._reading.done():
            self._open = self.loop.create_future()
            self._reading = asyncio.ensure_future(self._read())
        await asyncio.shield(self._open)

    def close(self) -> None:
        """End the stream; from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._fail(EngineUnavailable(f"The connection to the engine at {self._connection.url} was closed."))

    async def _read(self) -> None:
        try:
            stream = await self._begin()
            while await self._follow(stream):
                # Those who begin to wait meanwhile must not look before the next stream has begun.
                self._open = self.loop.create_future()
                await asyncio.sleep(RECONNECT_PAUSE)
                stream = await while_it_starts(self._begin)
        except EngineError as error:
            self._fail(error)
        except Exception as error:
            log.exception("the engine's events could not be read")
            self._fail(EngineError(f"The events of the engine at {self._connection.url} cannot be read: {error}."))

    async def _begin(self) -> ReadAhead:
        filters = json.dumps({"type": ["container"], "event": list(ENDS)})
        response = await self._connection.stream("/events", params={"filters": filters, "since": self._since or None})
        client = self._connection.client
        with contextlib.suppress(AttributeError, OSError):  # it ended already
            client._disable_socket_timeout(client._get_raw_response_socket(response))
        stream = ReadAhead(response, "docker-kernel-events")
        if not self._open.done():
            self._open.set_result(None)
        self._wake_all()
        return stream

    async def _follow(self, stream: ReadAhead) -> bool:
        """Wake those whom a stream's events concern, until it ends; False when nobody waits any longer."""
        held, idle = b"", False
        sweep = self.loop.time() + FIRST_SWEEP_SECONDS
        try:
            while True:
                try:
                    data = await asyncio.wait_for(stream.read(), max(0.0, sweep - self.loop.time()))
                except asyncio.TimeoutError:
                    if self._watches:
                        await self._sweep()
                    elif idle:
                        return False
                    idle = not self._watches
                    sweep = self.loop.time() + SWEEP_SECONDS
                    continue
                if not data:
                    log.debug("the engine's events broke off: %s", stream.error or "it ended them")
                    return True
                *lines, held = (held + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        self._on_event(json.loads(line))
        except EngineError as error:
            log.debug("the engine did not say what runs: %s", error)
            return True
        finally:
            stream.close()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if "timeNano" in event:
            seconds, rest = divmod(int(event["timeNano"]), 10**9)
            self._since = f"{seconds}.{rest:09}"
        actor = event.get("Actor") or {}
        attributes = actor.get("Attributes") or {}
        code = next((attributes[name] for name in EXIT_CODES if attributes.get(name)), None)
        for watch in self._watches.get(str(actor.get("ID")), ()):
            watch.wake(None if code is None else int(code))

    async def _sweep(self) -> None:
        """Wake those whose container does not run."""
        running = {str(one["Id"]) for one in await self._connection.call(self._connection.client.containers)}
        for container, watches in self._watches.items():
            if container not in running:
                for watch in watches:
                    watch.wake()

    def _wake_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()

    def _fail(self, error: EngineError) -> None:
        if not self._open.done():
            self._open.set_exception(error)
            self._open.exception()  # there may be nobody who asks
        for watches in self._watches.values():
            for watch in watches:
                watch.fail(error)


async def while_it_starts(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask an engine that may only be starting again.

    Raises:
        EngineUnavailable: it does not come back.
    """
    end = asyncio.get_running_loop().time() + RECONNECT_SECONDS
    while True:
        try:
            return await ask()
        except EngineUnavailable:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(RECONNECT_PAUSE)
