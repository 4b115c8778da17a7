"""The errors of docker-kernel: each message is ready for a user's eyes.

A message is one sentence (or two): what is wrong, where, and what to do. The command line prints it, Jupyter's dialog
shows it, a cell raises it; nobody needs the traceback.
"""


class DockerKernelError(Exception):
    """Any failure that a user can understand and act on."""


class ConfigError(DockerKernelError):
    """A setting is unknown, of the wrong type, or asks for what is not allowed."""


class EngineError(DockerKernelError):
    """The engine refused or failed a request."""


class EngineUnavailable(EngineError):
    """No engine answers, or we may not talk to it."""


class NotFound(EngineError):
    """The engine has no such container, volume or image."""


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
