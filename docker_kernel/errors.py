"""The errors of docker-kernel: each message is ready for a user's eyes.

A message is one sentence (or two): what is wrong, where, and what to do. The command line prints it, Jupyter's dialog
shows it, a cell raises it; nobody needs the traceback.
"""


class DockerKernelError(Exception):
    """Any failure that a user can understand and act on."""


class ConfigError(DockerKernelError):
    """A setting is unknown, of the wrong type, or asks for what is not allowed."""


class EngineError(DockerKernelError):
    """The engine refused or failed a request.

    Attributes:
        reason: its own words, for a sentence of somebody else's; empty where it had none.
    """

    def __init__(self, message: str = "", *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class EngineUnavailable(EngineError):
    """No engine answers, or we may not talk to it."""


class NotFound(EngineError):
    """The engine has no such container, volume or image."""


class Conflict(EngineError):
    """What exists is in the way: a name that is taken, a container that runs, an image, volume or network in use."""


class BeingRemoved(Conflict):
    """A container's removal is under way already."""


class RetryableError(EngineError):
    """Something else came in between: asked again, the engine may well do it."""


class ProgramMissing(EngineError):
    """A container could not be started, as its image has no such program."""


class ImageMissing(EngineError):
    """An image is not on the engine; the message names the command that brings it."""


class BuildFailed(EngineError):
    """A build ended with an error; the message holds the end of its output."""


class LinkError(DockerKernelError):
    """The link to a kernel container broke, or the other end does not follow its protocol."""


class KernelStartError(DockerKernelError):
    """A kernel container could not be started."""


class JobError(DockerKernelError):
    """A job could not be started, or its result cannot be trusted."""


class ContainerizeError(DockerKernelError):
    """A notebook cannot be made an image, or such an image cannot be used."""
