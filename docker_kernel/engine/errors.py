"""The errors of an engine, and of what leads to it, as ours."""

from __future__ import annotations

import docker.errors
import requests.exceptions

from docker_kernel.errors import EngineError, EngineUnavailable, ImageMissing, NotFound


def explain(error: Exception, url: str) -> EngineError:
    """An engine's or transport's error as one of ours."""
    text = str(getattr(error, "explanation", None) or error)
    if isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(f"The engine has no such image: {text}.")
    if isinstance(error, docker.errors.NotFound):
        if "No such image" in text:
            return ImageMissing(f"The engine has no such image: {text}.")
        return NotFound(text)
    if isinstance(error, docker.errors.APIError) and "marked for removal" in text:
        return NotFound(text)
    if isinstance(error, docker.errors.APIError):
        if "no space left on device" in text:
            return EngineError(
                "The engine's disk is full: free space with `docker-kernel prune` or `docker system prune`."
            )
        if "port is already allocated" in text or "address already in use" in text:
            return EngineError(f"The engine could not publish a port, as another program has it: {text}.")
        return EngineError(f"The engine refused: {text.strip().rstrip('.')}.")
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
