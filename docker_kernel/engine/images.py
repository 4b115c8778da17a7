"""The images of an engine."""

from __future__ import annotations

import builtins
import contextlib
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from docker_kernel.engine.connection import EnginePart
from docker_kernel.engine.errors import is_absence, refusal
from docker_kernel.engine.streams import ByteStream, ChunkReader
from docker_kernel.errors import BuildFailed, EngineError, EngineUnavailable, ImageMissing, NotFound


class Images(EnginePart):
    """An engine's images, and the ways by which they come and go."""

    async def inspect(self, reference: str) -> dict[str, Any]:
        """The engine's description of an image.

        Raises:
            ImageMissing: there is none; the message names the reference.
        """
        try:
            found: dict[str, Any] = await self._call(self._client.inspect_image, reference)
            return found
        except NotFound as error:
            raise ImageMissing(f"The image {reference} is not on the engine.") from error

    async def list(self, label: str) -> builtins.list[dict[str, Any]]:
        """The images that carry a label (KEY or KEY=VALUE)."""
        found: builtins.list[dict[str, Any]] = await self._call(self._client.images, filters={"label": label})
        return found

    async def ids(self) -> builtins.list[str]:
        """The ids of all images."""
        return [str(one["Id"]) for one in await self._call(self._client.images)]

    async def used(self, but_by: Collection[str] = ()) -> set[str]:
        """The ids of the images that any container has, running or not.

        Args:
            but_by: ids of containers that do not count.
        """
        containers = await self._call(self._client.containers, all=True)
        return {str(container["ImageID"]) for container in containers if container["Id"] not in but_by}

    async def build(
        self,
        context: bytes,
        tag: str,
        build_args: Mapping[str, str],
        image_labels: Mapping[str, str],
        progress: Callable[[Mapping[str, Any]], None],
        network: str | None = None,
        target: str | None = None,
        no_cache: bool = False,
    ) -> None:
        """Build an image from a context archive with a Dockerfile at its root; every event goes to `progress`.

        Raises:
            BuildFailed: with the last lines of the build's output.
        """

        def run() -> None:
            tail: builtins.list[str] = []
            events = self._client.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=tag,
                buildargs=dict(build_args),
                labels=dict(image_labels),
                network_mode=network,
                target=target or "",
                nocache=no_cache,
                rm=True,
                forcerm=True,
                decode=True,
            )
            for event in events:
                tail = [*tail[-24:], *str(event.get("stream", "")).splitlines()]
                if "error" in event:
                    lines = "\n".join(line for line in tail if line.strip())
                    raise BuildFailed(f"The build of {tag} failed: {event['error'].strip()}\n{lines}")
                progress(event)

        await self._lasting(run)

    async def import_tar(self, path: Path, repository: str, tag: str, changes: Sequence[str] = ()) -> None:
        """Make an image of a tar archive of a root filesystem."""
        answer = await self._lasting(
            self._client.import_image_from_file,
            str(path),
            repository=repository,
            tag=tag,
            changes=list(changes) or None,
        )
        if "error" in answer:
            raise BuildFailed(f"The engine could not import {path.name}: {answer}")

    async def pull(self, reference: str, progress: Callable[[Mapping[str, Any]], None]) -> None:
        """Pull an image; every event of the engine goes to `progress`."""
        repository, _, tag = (
            reference.rpartition(":") if ":" in reference.rsplit("/", 1)[-1] else (reference, "", "latest")
        )

        def run() -> None:
            for event in self._client.pull(repository, tag=tag, stream=True, decode=True):
                if said := event.get("error"):
                    raise refusal(said, message=f"The image {reference} could not be pulled: {said}.")
                progress(event)

        await self._lasting(run)

    async def pull_digest(self, reference: str, progress: Callable[[str], None] = lambda text: None) -> str:
        """Pull an image by its digest, NAME@sha256:…; returns its id here.

        Args:
            progress: gets a few words on how it goes; what it raises ends the pull.

        Raises:
            EngineError: the registry cannot be reached from that engine, or has it no more.
        """
        name, _, digest = reference.partition("@")

        def run() -> None:
            for event in self._client.pull(name, tag=digest, stream=True, decode=True):
                if said := event.get("error"):
                    raise refusal(said, message=said.strip())
                progress("the engine pulls the image")

        try:
            await self._lasting(run)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(
                f"The engine at {self.url} could not pull {reference} ({str(error).rstrip('.')}): does it reach the "
                f"registry {reference.partition('/')[0]}, and has that still got the image?"
            ) from None
        return str((await self.inspect(reference))["Id"])

    async def push(self, repository: str, tag: str, progress: Callable[[str], None]) -> None:
        """Push an image; the registry asks for what it lacks.

        Args:
            progress: gets a few words on how it goes.

        Raises:
            EngineError: the registry refuses it, or breaks off.
        """

        def run() -> None:
            sizes: dict[str, tuple[int, int]] = {}
            for event in self._client.push(repository, tag=tag, stream=True, decode=True):
                if said := event.get("error"):
                    raise refusal(said, message=f"The image {repository}:{tag} could not be pushed: {said.strip()}.")
                detail = event.get("progressDetail") or {}
                if "total" in detail:
                    sizes[event.get("id", "")] = (int(detail.get("current", 0)), int(detail["total"]))
                    sent, whole = (sum(part) for part in zip(*sizes.values(), strict=True))
                    progress(f"sends {min(sent, whole) >> 20} of {whole >> 20} MiB of the image")

        await self._lasting(run)

    async def why_not_pullable(self, repository: str) -> str:
        """Why this engine can pull nothing from a repository, which need not exist; empty if it could.

        It asks the registry for a manifest, with the user's credentials for it, and pulls nothing.
        """
        try:
            await self._lasting(self._client.inspect_distribution, f"{repository}:none")
        except NotFound:
            return ""
        except EngineError as error:
            return "" if is_absence(error) else str(error)
        return ""

    async def save(self, image: str) -> IO[bytes]:
        """An image as a `docker save` archive, to be read in a thread, and closed."""
        response = await self._connection.stream("/images/{0}/get", image)
        return io.BufferedReader(ChunkReader(ByteStream(response, self.url)), 1 << 20)

    async def load(self, archive: Iterable[bytes]) -> None:
        """Load a `docker save` archive that arrives in pieces, which are made in a thread.

        Raises:
            EngineError: the engine refuses it.
        """

        def run() -> None:
            client: Any = self._client
            for event in client.load_image(archive):
                if said := event.get("error"):
                    raise refusal(said, message=f"The engine at {self.url} did not take the image: {said.strip()}.")

        await self._lasting(run)

    async def tag(self, image: str, repository: str, tag: str) -> None:
        await self._call(self._client.tag, image, repository, tag)

    async def untag(self, image: str, repository: str, tag: str) -> None:
        """Take a name from an image; the image stays where it has another name, or a running container has it."""
        names = (await self.inspect(image)).get("RepoTags") or []
        with contextlib.suppress(NotFound, ImageMissing):
            await self._lasting(self._client.remove_image, f"{repository}:{tag}", force=len(names) == 1, noprune=True)

    async def remove(self, reference: str) -> None:
        """Remove an image that no container uses; raises EngineError if one does."""
        try:
            await self._lasting(self._client.remove_image, reference)
        except (NotFound, ImageMissing):
            return
