"""The `docker-kernel` command: options in, one function of the package each, a sentence out.

A module here is a group of commands. `add` declares them; a command's own function runs it and returns the exit code.
What a command needs beyond argparse is imported when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from docker_kernel.cli import containerize, jobs, kernels, kernelspecs, run, schedule, targets, upkeep
from docker_kernel.cli.base import printable
from docker_kernel.errors import DockerKernelError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a failure of ours is one sentence on standard error."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except DockerKernelError as error:
        print(printable(f"docker-kernel: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    from docker_kernel import __version__

    top = argparse.ArgumentParser("docker-kernel", description="Jupyter kernels that live in containers.")
    top.add_argument("--version", action="version", version=f"docker-kernel {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (kernelspecs, kernels, jobs, containerize, run, schedule, targets, upkeep):
        group.add(commands)
    return top
