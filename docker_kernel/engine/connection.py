"""The connections to one engine, and the threads in which it is asked: docker-py blocks."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.constants
import docker.errors
import requests
import requests.exceptions
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter

from docker_kernel import background
from docker_kernel.engine.address import context_url, default_url, tls_config
from docker_kernel.engine.errors import explain
from docker_kernel.errors import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)

POOL = 64
"""How many connections to an engine are kept."""


class Connection:
    """The way to one engine, also in a process that was forked from the one that made it.

    Attributes:
        url: the engine's address.
    """

    def __init__(self, client: docker.APIClient, url: str, again: Callable[..., docker.APIClient]) -> None:
        self.url = url
        self._made, self._again = client, again
        self._workers, self._pid = _workers(), os.getpid()
        self._inherited: list[docker.APIClient] = []

    @classmethod
    async def open(cls, url: str | None, timeout: int, tls: Path | None) -> Connection:
        """As `Engine.connect`."""

        def reach() -> tuple[docker.APIClient, str, Callable[..., docker.APIClient]]:
            target = url or "the default address"
            secured: TLSConfig | bool = False
            try:
                if url is None:
                    target, secured = default_url()
                elif "://" not in url:
                    target, secured = context_url(url)
                elif tls is not None:
                    secured = tls_config(tls)
                again = functools.partial(_client, target, timeout, secured)
                return again(), target, again
            except ConfigError:
                raise
            except Exception as error:
                log.debug("the engine cannot be reached", exc_info=error)
                raise explain(error, target) from None

        return cls(*await background.in_own_thread(reach))

    @property
    def client(self) -> Any:
        """docker-py's client, with this process's connections."""
        self._begin_again_if_forked()
        return self._made

    def _begin_again_if_forked(self) -> None:
        """Give a forked child connections and threads of its own: on its parent's it would take the parent's answers,
        and of its parent's threads it has none.

        The connections that it has inherited are kept, as their end would end an `ssh` that the parent uses.
        """
        if self._pid == os.getpid():
            return
        self._inherited.append(self._made)
        self._made = self._again(version=self._made.api_version)
        self._workers, self._pid = _workers(), os.getpid()

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what takes an engine milliseconds, in one of the threads for it."""
        self._begin_again_if_forked()
        call = functools.partial(function, *args, **kwargs)
        return await self._answer(asyncio.get_running_loop().run_in_executor(self._workers, call))

    async def lasting(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what may last as long as a transfer or a build does, which must not keep others waiting."""
        self._begin_again_if_forked()
        return await self._answer(background.in_own_thread(function, *args, **kwargs))

    async def stream(self, path: str, *names: str, **options: Any) -> requests.Response:
        """Begin to read what an engine sends in pieces.

        Args:
            path: the API's, with {0} and so on for `names`.
            options: of requests, as `params`.
        """
        client = self.client

        def ask() -> requests.Response:
            response: requests.Response = client._get(client._url(path, *names), **{"stream": True, **options})
            client._raise_for_status(response)
            return response

        return await self.lasting(ask)

    async def _answer(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
            # The engine's own error is for our log; what a user is shown must not drag its traceback along.
            log.debug("the engine refused a call", exc_info=error)
            raise explain(error, self.url) from None

    def close(self) -> None:
        self._begin_again_if_forked()
        self._workers.shutdown(wait=False)
        self._made.close()


class EnginePart:
    """What is asked of an engine about one kind of what it has."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def url(self) -> str:
        return self._connection.url

    @property
    def _client(self) -> Any:
        return self._connection.client

    async def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self._connection.call(function, *args, **kwargs)

    async def _lasting(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self._connection.lasting(function, *args, **kwargs)


def _workers() -> background.Workers:
    """Threads of one engine's own: one that does not answer keeps nobody from another."""
    return background.Workers(background.WORKERS, thread_name_prefix="docker-kernel-engine")


class _SocketAdapter(UnixHTTPAdapter):
    """One pool of connections to an engine's socket: docker-py has one for each address that it asks for, and so hardly
    ever uses a connection again."""

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        return super().get_connection("http+docker://localhost", proxies)


def _client(url: str, timeout: int, tls: TLSConfig | bool, version: str | None = None) -> docker.APIClient:
    """Connections to an engine, which is asked for the version of its API unless that is given."""
    client: Any = docker.APIClient(
        base_url=url,
        version=docker.constants.MINIMUM_DOCKER_API_VERSION,
        timeout=timeout,
        tls=tls,
        max_pool_size=POOL,
        use_ssh_client=url.startswith("ssh://"),
    )
    adapter = client.get_adapter(client.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        client.mount("http+docker://", _SocketAdapter(adapter.socket_path, timeout, max_pool_size=POOL))
    # requests lets REQUESTS_CA_BUNDLE win over the CA that an engine's own certificates name (requests issue 3829).
    client.trust_env = False
    client._version = version or client._retrieve_server_version()
    made: docker.APIClient = client
    return made
