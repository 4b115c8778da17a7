"""An engine's refusals, and the failures of what leads to it, as errors of ours.

What kind of error it is follows from the HTTP status code. Where an engine has no code of its own for something, or
gives nothing but text, this is the one place that knows the text.
"""

from __future__ import annotations

import re

import docker.errors
import requests.exceptions

from docker_kernel.errors import (
    BeingRemoved,
    Conflict,
    EngineError,
    EngineUnavailable,
    ImageMissing,
    NotFound,
    ProgramMissing,
    RetryableError,
)

BY_STATUS: dict[int, type[EngineError]] = {404: NotFound, 409: Conflict}

BY_TEXT: list[tuple[str, type[EngineError]]] = [
    # 400 of Docker's when a container is started, 404 or 500 of Podman's.
    (r"executable file|\bexec\b.*no such file", ProgramMissing),
    # 400 and 403: a Swarm's network that services have, a network that containers have.
    (r"is in use by|has active endpoints", Conflict),
    # 409, of a container that is as good as gone.
    (r"marked for removal", NotFound),
    (r"removal of container .* is already in progress", BeingRemoved),
    # 500 of a Swarm's manager, now and then.
    (r"\b(?:network|service|secret) \S+ not found", NotFound),
    # 500: another update of a service came in between; a container that Podman 4.3 stops ends at that moment.
    (r"update out of sequence|could not be stopped", RetryableError),
    # In a stream: an image, a blob or a layer went while it was pushed or loaded.
    (r"does not exist locally|blob unknown|layer\.tar: no such file", RetryableError),
]
"""What an engine says, and what that is whatever the code, but for 404."""


def explain(error: Exception, url: str) -> EngineError:
    """An engine's or transport's error as one of ours."""
    text = str(getattr(error, "explanation", None) or error)
    if isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(f"The engine has no such image: {text}.", reason=_cause(text))
    if isinstance(error, docker.errors.APIError):
        return refusal(text, error.status_code)
    if "Permission denied" in text or "PermissionError" in text:
        return EngineUnavailable(
            f"You may not talk to the engine at {url}: add yourself to its group with "
            "`sudo usermod -aG docker $USER` and log in again."
        )
    if isinstance(error, (docker.errors.DockerException, requests.exceptions.ConnectionError)):
        if url.startswith(("tcp://", "ssh://", "https://", "http://")):
            return EngineUnavailable(
                f"No engine answers at {url}: is its machine up, and are address, keys and certificates right? ({text})"
            )
        return EngineUnavailable(
            f"No engine answers at {url}: start Docker (`sudo systemctl start docker`, or `scripts/engine up` in a "
            "checkout), or point DOCKER_HOST at one."
        )
    if isinstance(error, requests.exceptions.Timeout):
        return EngineUnavailable(f"The engine at {url} did not answer in time: is it overloaded, or hung?")
    return EngineError(f"The engine at {url} failed: {text}")


def refusal(text: str, status: int | None = None, message: str | None = None) -> EngineError:
    """What an engine refused, as one of our errors.

    Args:
        text: the engine's own words.
        status: the HTTP status code; None where the words came in a stream that had begun well.
        message: what a user reads; None for what fits the kind of error.
    """
    kind = _kind(text, status)
    return kind(message or _message(text, kind), reason=_cause(text))


def is_absence(error: EngineError) -> bool:
    """Whether an engine that looked for an image in a registry found none, and had no code for that."""
    return re.search("manifest unknown|not found", error.reason) is not None


def _kind(text: str, status: int | None) -> type[EngineError]:
    if status == 404:
        return NotFound
    for pattern, kind in BY_TEXT:
        if re.search(pattern, text):
            return kind
    return BY_STATUS.get(status, EngineError) if status is not None else EngineError


def _message(text: str, kind: type[EngineError]) -> str:
    if kind is NotFound:
        return text
    if "no space left on device" in text:
        return "The engine's disk is full: free space with `docker-kernel prune` or `docker system prune`."
    if "port is already allocated" in text or "address already in use" in text:
        return f"The engine could not publish a port, as another program has it: {text}."
    return f"The engine refused: {text.strip().rstrip('.')}."


def _cause(text: str) -> str:
    """The engine's words, without all the calls that led to a network's error."""
    text = text.strip().rstrip(".")
    return text.rpartition(": ")[2] if "dial tcp" in text else text
