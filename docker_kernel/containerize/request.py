"""What a notebook image is asked for with, and what is told while it is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from docker_kernel.errors import ContainerizeError
from docker_kernel.guest.parameters import Parameter

# The grammar of references (distribution, reference/regexp.go): no uppercase in a repository, 128 characters in a tag.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_NAME = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?", re.ASCII
)


@dataclass(frozen=True)
class Request:
    """One wish for a notebook image.

    Args:
        notebook: the notebook's file on this machine.
        tag: NAME or NAME:TAG of the image; empty for one made of the notebook's name.
        kernel: the kernelspec whose image is the environment; empty for the notebook's own.
        from_kernel: the start of a running kernel's id, whose exact environment is taken instead.
        parameters: as a user wants them, in place of those found.
        include, exclude: patterns of files that go in, or stay out, beyond the rules.
        allow: findings of the scan that are no secrets: their ids or paths.
        keep_outputs: whether the notebook's present outputs go in.
        registry: a name of the config's `[registries]`, or an address, that goes before the image's name.
        push: whether the image is pushed when it is made.
        lock: the text of an earlier image's lock, whose environment is built anew.
    """

    notebook: Path
    tag: str = ""
    kernel: str = ""
    from_kernel: str = ""
    parameters: tuple[Parameter, ...] | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    keep_outputs: bool = False
    registry: str = ""
    push: bool = False
    lock: str = ""


@dataclass(frozen=True)
class Step:
    """One thing that happens while an image is made.

    Args:
        name: environment, runner, lock, scan, layers, image or push.
        text: what it does, for a reader.
        done: how much of it is done, 0 to 1, where that is known.
    """

    name: str
    text: str
    done: float | None = None


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Name:
    """An image's name: `repository` with a registry's host, if any, and `tag`."""

    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"

    @property
    def registry(self) -> str:
        """The registry's host, or "" where the name has none (Docker's rule: a dot, a colon, or localhost)."""
        host, slash, _ = self.repository.partition("/")
        return host if slash and ("." in host or ":" in host or host == "localhost") else ""


def parse_name(text: str) -> Name:
    """An image's name as a user writes it; without a tag it is `latest`.

    Raises:
        ContainerizeError: an engine would refuse it.
    """
    found = _NAME.fullmatch(text)
    if found is None or len(text) > 255:
        hint = f", such as {text.lower()!r}" if _NAME.fullmatch(text.lower()) else ""
        raise ContainerizeError(
            f"{text!r} cannot be an image's name: write NAME:TAG with lowercase letters, digits and . _ - between "
            f"them{hint}."
        )
    tag = found["tag"] or "latest"
    return Name(text[: -len(tag) - 1] if found["tag"] else text, tag)


def proposed_name(notebook: Path) -> str:
    """An image's name made of a notebook's: what cannot be in one becomes a dash."""
    plain = re.sub(r"[^a-z0-9]+", "-", notebook.stem.lower()).strip("-")
    return plain or "notebook"
