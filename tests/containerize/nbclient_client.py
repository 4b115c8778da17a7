"""A kernel's client that misses neither replies nor outputs."""

from __future__ import annotations

import contextlib
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from traitlets import Type

LOOK_SECONDS = 0.1
"""How often a channel on which a message is awaited is looked at, whether or not it has said that there is one."""


class ShellChannel(AsyncZMQSocketChannel):  # type: ignore[misc]
    """The channel on which nbclient awaits a cell's reply, and answers the cell's Output widgets meanwhile.

    It answers by a send that asyncio does not know of, and such a send takes away the notice that a message has come:
    ZeroMQ gives each but once (zmq_getsockopt(3), ZMQ_FD). Who waits for the notice alone may wait for ever.
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message.

        Raises:
            Empty: there is none after `timeout` seconds.
        """
        while timeout is None:
            with contextlib.suppress(Empty):
                return await self._next(LOOK_SECONDS)
        return await self._next(timeout)

    async def _next(self, timeout: float) -> dict[str, Any]:
        message: dict[str, Any] = await super().get_msg(timeout)
        return message


class Client(AsyncKernelClient):  # type: ignore[misc]
    """jupyter_client's own, with that channel.

    Its queues have no end: where one does, at 1000 messages, ZeroMQ drops without a word what a cell shows faster than
    nbclient takes it (zmq_socket(3), ZMQ_SUB).
    """

    shell_channel_class = Type(ShellChannel)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.context.rcvhwm = 0
