"""A server extension for tests: how long the server's loop was held up since someone asked."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from jupyter_server.base.handlers import APIHandler
from tornado.web import authenticated

PAUSE = 0.01


class StallHandler(APIHandler):
    """GET: the longest stall in seconds since the last request."""

    longest = 0.0

    @authenticated
    def get(self) -> None:
        longest, StallHandler.longest = StallHandler.longest, 0.0
        self.finish({"seconds": longest})


async def _watch() -> None:
    while True:
        before = time.monotonic()
        await asyncio.sleep(PAUSE)
        StallHandler.longest = max(StallHandler.longest, time.monotonic() - before - PAUSE)


def _load_jupyter_server_extension(app: Any) -> None:
    app.web_app.add_handlers(".*", [("/stall", StallHandler)])
    app.io_loop.add_callback(_watch)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "tests.server.stall"}]
