"""The requests that the browser makes, below `/docker-kernel/`.

Each is authenticated, guarded against cross-site requests by jupyter_server, and authorised: as "containerize" for what
it does, and for the contents and kernels that it reads. Nothing here waits for the engine or a disk on the server's
loop. An answer that is an error is {"message": one sentence}.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import to_os_path
from tornado.web import HTTPError, authenticated

from docker_kernel import background, config
from docker_kernel.containerize import lock
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.plan import image_name, make_plan, read_notebook
from docker_kernel.containerize.request import Request, parse_name, proposed_name, silent
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError, DockerKernelError
from docker_kernel.guest import parameters
from docker_kernel.server.builds import Build, Builds
from docker_kernel.server.edits import edited
from docker_kernel.server.messages import BuildRequest, parameter, parse, review

BUILDS = "docker_kernel_builds"
"""Under this the server's settings have the builds."""

POLL = 25.0
"""Seconds that a request for what is new is kept open; proxies close those of a minute."""

T = TypeVar("T")
Method = Callable[..., Awaitable[None]]


class NotHere(ContainerizeError):
    """There is no such notebook or build, as far as this user is shown."""


def guarded(action: str, *resources: str) -> Callable[[Method], Method]:
    """Only for a user who is logged in, and may do something with "containerize" and read some other resources.

    What a user can mend is answered with 400, or 404, and the error's sentence.
    """

    def wrap(method: Method) -> Method:
        @functools.wraps(method)
        async def answered(self: _Handler, *args: str) -> None:
            try:
                await method(self, *args)
            except DockerKernelError as error:
                self.set_status(404 if isinstance(error, NotHere) else 400)
                self.finish({"message": str(error)})

        made: Any = answered
        for resource in resources:
            made = authorized("read", resource)(made)
        return cast("Method", authenticated(authorized(action, "containerize")(made)))

    return wrap


class _Handler(APIHandler):
    """What the handlers share."""

    auth_resource = "containerize"

    @property
    def builds(self) -> Builds:
        return cast("Builds", self.settings[BUILDS])

    async def on_engine(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the engine's loop; it is cancelled when the browser goes away."""
        self._task = asyncio.ensure_future(background.run(work))
        try:
            return await self._task
        except asyncio.CancelledError:
            raise HTTPError(499, "The browser went away.") from None

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if task := getattr(self, "_task", None):
            task.cancel()

    async def notebook(self, asked: BuildRequest) -> Path:
        """The notebook's file, as far as the contents manager shows it to the user.

        Raises:
            ContainerizeError: it is in no folder on this machine.
        """
        manager = self.contents_manager
        path = asked.path.strip("/")
        # Refuses what is hidden, and what leads out of the server's folder.
        try:
            model = await ensure_async(
                manager.get(  # type: ignore[no-untyped-call]
                    path, content=False, type="notebook"
                )
            )
        except HTTPError:
            raise NotHere(f"There is no notebook {path}.") from None
        root = getattr(manager, "root_dir", "")
        found = Path(os.path.normpath(to_os_path(model["path"], root))) if root else Path()
        inside = bool(root) and found.is_relative_to(Path(root).absolute())
        if not inside or not await asyncio.to_thread(found.is_file):
            raise ContainerizeError(
                f"The notebook {path} is in no folder of this machine: only one that is can become an image here."
            )
        return found

    async def request_of(self, asked: BuildRequest) -> Request:
        """What a asked means.

        Raises:
            ContainerizeError: it cannot be fulfilled.
        """
        path = await self.notebook(asked)
        if asked.kernel_id and asked.kernel_id not in self.kernel_manager:
            raise ContainerizeError("The notebook's kernel is no longer there: start it, or choose another one.")
        return await asyncio.to_thread(_request, asked, path)


def _request(asked: BuildRequest, path: Path) -> Request:
    registries = config.load().registries
    if asked.registry and asked.registry not in registries:
        raise ContainerizeError(f"There is no registry {asked.registry!r} in the config any more.")
    wanted = None
    if asked.parameters is not None:
        wanted, problems = edited(parameters.find(read_notebook(path)).parameters, asked.parameters)
        if problems:
            raise ContainerizeError(next(iter(problems.values())).message)
    return Request(
        notebook=path,
        tag=asked.tag,
        from_kernel=asked.kernel_id,
        parameters=wanted,
        exclude=tuple(asked.exclude),
        allow=tuple(asked.allow),
        keep_outputs=asked.keep_outputs,
        registry=asked.registry,
        push=asked.push,
    )


class NotebookHandler(_Handler):
    """POST a path: what the notebook's file says, for the wizard's first pages."""

    @guarded("read", "contents")
    async def post(self) -> None:
        asked = parse(self.request.body)
        self.finish(await asyncio.to_thread(self._look, await self.notebook(asked), "/" in asked.path.strip("/")))

    def _look(self, path: Path, in_folder: bool) -> dict[str, Any]:
        found = parameters.find(read_notebook(path))
        name = proposed_name(path)
        return {
            "names": [name, f"{proposed_name(path.parent)}/{name}"] if in_folder else [name],
            "registries": list(config.load().registries),
            "parameters": [parameter(one) for one in found.parameters],
            "tagged": found.tagged,
            "notes": list(found.notes),
        }


class CheckHandler(_Handler):
    """POST a asked: what is wrong with its name and its parameters; nothing is planned."""

    @guarded("read", "contents")
    async def post(self) -> None:
        asked = parse(self.request.body)
        self.finish(await asyncio.to_thread(_check, asked, await self.notebook(asked)))


def _check(asked: BuildRequest, path: Path) -> dict[str, Any]:
    problem = ""
    try:
        parse_name(asked.tag)
        name = str(image_name(Request(path, tag=asked.tag, registry=asked.registry)))
    except ContainerizeError as error:
        name, problem = "", str(error)
    found = parameters.find(read_notebook(path)).parameters
    problems = edited(found, asked.parameters or ())[1]
    return {
        "name": name,
        "problem": problem,
        "parameters": {key: {"field": one.field, "message": one.message} for key, one in problems.items()},
    }


class PlanHandler(_Handler):
    """POST a asked: what would be in the image."""

    @guarded("read", "contents", "kernels")
    async def post(self) -> None:
        asked = parse(self.request.body)
        request = await self.request_of(asked)
        self.finish(await self.on_engine(_plan(request)))


async def _plan(request: Request) -> dict[str, Any]:
    engine = await Engine.connect()
    try:
        plan = await make_plan(engine, request, silent)
        packages = (await lock.look(engine, plan.environment.image)).packages
        listed = sorted(((one.name, one.version) for one in packages), key=lambda one: one[0].lower())
        return await asyncio.to_thread(review, plan, listed, bool(request.from_kernel))
    finally:
        engine.close()


class BuildsHandler(_Handler):
    """GET all builds; with `?since=VERSION` when one changed after that, or after a while. POST a asked: build it."""

    @guarded("read")
    async def get(self) -> None:
        await self.wait()
        self.finish({"version": self.builds.version, "builds": [one.as_json() for one in self.builds.all()]})

    @guarded("write", "contents", "kernels")
    async def post(self) -> None:
        asked = parse(self.request.body)
        request = await self.request_of(asked)
        name = str(await asyncio.to_thread(image_name, request))
        build = self.builds.start(asked.path.strip("/"), name, lambda progress: containerize(request, progress))
        self.set_status(201)
        self.finish(build.as_json())

    async def wait(self) -> None:
        since = self.get_query_argument("since", "")
        if since:
            with contextlib.suppress(ValueError):
                await self.builds.wait(int(since), POLL)


class BuildHandler(BuildsHandler):
    """GET one build, as above; DELETE cancels it."""

    def found(self, build: str) -> Build:
        found = self.builds.get(build)
        if found is None:
            raise NotHere("There is no such build any more.")
        return found

    @guarded("read")
    async def get(self, build: str) -> None:
        self.found(build)
        await self.wait()
        self.finish(self.found(build).as_json())

    @guarded("write")
    async def delete(self, build: str) -> None:
        found = self.found(build)
        self.builds.cancel(found)
        self.finish(found.as_json())


HANDLERS = [
    ("/docker-kernel/notebook", NotebookHandler),
    ("/docker-kernel/check", CheckHandler),
    ("/docker-kernel/plan", PlanHandler),
    ("/docker-kernel/builds", BuildsHandler),
    ("/docker-kernel/builds/([0-9a-f]{32})", BuildHandler),
]
