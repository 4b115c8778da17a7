"""The host's end of a link: JSON lines over an exec stream, all that arrives being hostile input."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from docker_kernel.engine import STREAM_STDOUT, ExecStream
from docker_kernel.errors import DockerKernelError, LinkError
from docker_kernel.guest.link import VERSION, LineBuffer, encode

log = logging.getLogger(__name__)

MAX_PENDING = 64
"""Requests of one kernel that may wait for their answer at once."""

MAX_PENDING_BYTES = 32 << 20
"""Bytes that those may have together; a request that has more of them alone waits for all others."""


SEND_SECONDS = 5.0
"""How long the other end may take no more of a message. While the engine cannot get rid of what is sent to an exec's
process, it does not tell that the process has ended, either (Docker 20.10)."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Hello(_Message):
    type: Literal["hello"]
    version: int
    generation: int
    alive: bool
    code: int | None
    oom: bool
    warm: bool


class Started(_Message):
    type: Literal["started"]
    generation: int


class Warm(_Message):
    """The forkserver has imported what a kernel needs."""

    type: Literal["warm"]


class Exited(_Message):
    type: Literal["exited"]
    generation: int
    code: int
    oom: bool


class Confirmed(_Message):
    """What the host side asked to have confirmed has arrived."""

    type: Literal["confirmed"]
    number: int


class Request(_Message):
    type: Literal["request"]
    id: Annotated[str, Field(max_length=64)]
    method: Annotated[str, Field(max_length=64)]
    params: dict[str, Any]


Event = Hello | Started | Warm | Exited | Confirmed
Message = Event | Request
_messages: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])

RequestHandler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class HostLink:
    """One open link. `on_event` gets the supervisor's messages, `on_request` answers the kernel's requests.

    Args:
        on_closed: called once, when the stream has ended.
    """

    def __init__(
        self,
        stream: ExecStream,
        on_event: Callable[[Event], None],
        on_request: RequestHandler,
        on_closed: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._on_event = on_event
        self._on_request = on_request
        self._on_closed = on_closed
        self._pending: dict[asyncio.Task[None], int] = {}
        self._sending = asyncio.Lock()
        self.closed = False
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message; raises LinkError when the other end has gone."""
        if self.closed:
            raise LinkError("The link to the kernel container is closed.")
        try:
            async with self._sending:
                await asyncio.wait_for(self._stream.write(encode(message)), SEND_SECONDS)
        except asyncio.TimeoutError:
            self._stream.abort()
            raise LinkError("The link to the kernel container takes no messages any more.") from None
        except (ConnectionError, RuntimeError) as error:
            raise LinkError("The link to the kernel container broke.") from error

    def close(self) -> None:
        """Close the stream: the relay in the container ends, and the lease begins to run out."""
        self._stream.close()
        self._reader.cancel()
        for task in self._pending:
            task.cancel()
        self.closed = True

    async def _read(self) -> None:
        lines = LineBuffer()
        try:
            async for stream, data in self._stream.frames():
                if stream != STREAM_STDOUT:
                    log.warning("the link's relay says: %s", data.decode(errors="replace").strip())
                    continue
                for line in lines.feed(data):
                    await self._receive(_messages.validate_json(line), len(line))
        except (ValidationError, ValueError, LinkError) as error:
            log.error("a kernel container does not follow the link's protocol, its link is closed: %s", error)
        finally:
            self.closed = True
            self._stream.close()
        self._on_closed()

    async def _receive(self, message: Message, size: int) -> None:
        if isinstance(message, Request):
            while self._pending and (
                len(self._pending) >= MAX_PENDING or sum(self._pending.values()) + size > MAX_PENDING_BYTES
            ):
                await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._answer(message))
            self._pending[task] = size
            task.add_done_callback(lambda done: self._pending.pop(done, None))
            return
        if isinstance(message, Hello) and message.version != VERSION:
            raise LinkError(f"its version is {message.version}, ours is {VERSION}")
        self._on_event(message)

    async def _answer(self, request: Request) -> None:
        reply: dict[str, Any] = {"type": "reply", "id": request.id}
        try:
            reply["result"] = await self._on_request(request.method, request.params)
        except DockerKernelError as error:
            reply["error"] = str(error)
        except Exception:
            log.exception("the request %s of a kernel failed", request.method)
            reply["error"] = f"The host side failed to answer {request.method!r}; its log has the details."
        try:
            await self.send(reply)
        except LinkError as error:
            log.debug("an answer was lost: %s", error)


def greeting(attached: bool) -> dict[str, Any]:
    """What the host sends first: the relay waits for it, so that nothing is printed before the stream is ours.

    Args:
        attached: whether the sender holds the main process's standard input, too.
    """
    return {"type": "hello", "version": VERSION, "attached": attached}
