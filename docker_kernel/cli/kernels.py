"""kernels list|stop|save|reap, console: the kernels that run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from docker_kernel.cli.base import (
    Subparsers,
    command,
    format_seconds,
    group,
    print_table,
    progress_display,
    with_engine,
)
from docker_kernel.errors import ConfigError

if TYPE_CHECKING:
    from docker_kernel.engine import Engine


def add(commands: Subparsers) -> None:
    actions = group(commands, "kernels", "list, stop, save and reap running kernels")
    command(actions, "list", _list, "list your kernels on this engine")
    stop = command(actions, "stop", _stop, "stop kernels and remove their containers")
    stop.add_argument("kernels", nargs="*", metavar="KERNEL", help="the start of an id, or a part of a notebook's name")
    stop.add_argument("--all", action="store_true", help="all of yours")
    save = command(
        actions, "save", _save, "save what is installed in a kernel as an image and a kernelspec of your own"
    )
    save.add_argument("kernel", metavar="KERNEL", help="the start of an id, or a part of a notebook's name")
    save.add_argument("name", metavar="NAME[:TAG]", help="what to call the image")
    save.add_argument("--spec-name", default="", metavar="N", help="the kernelspec's name (default: the image's)")
    save.add_argument("--display-name", default="", metavar="D", help="what Jupyter shows")
    save.add_argument("--replace", action="store_true", help="replace what was saved under this name before")
    command(actions, "reap", _reap, "remove containers and volumes that no kernel or job will need again")

    console = command(commands, "console", _console, "attach a terminal to a running kernel, keys included")
    console.add_argument("kernel", nargs="?", metavar="KERNEL", help="needed when several run")


def _list(arguments: argparse.Namespace) -> int:
    from docker_kernel.kernel import running

    found = with_engine(running.kernels)
    if not found:
        print("No Docker kernel is running.")
        return 0
    rows = [
        (
            one.kernel_id[:8],
            one.spec,
            one.notebook,
            "spare" if one.spare else one.container.status,
            format_seconds(one.age.total_seconds()),
        )
        for one in found
    ]
    print_table(["kernel", "kernelspec", "notebook", "state", "age"], rows)
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from docker_kernel.kernel import running

    if not arguments.kernels and not arguments.all:
        raise ConfigError("Name the kernels to stop, or say --all; `docker-kernel kernels list` shows them.")

    async def stop(engine: Engine) -> list[str]:
        found = [one for one in await running.kernels(engine) if not one.spare] if arguments.all else []
        found += [await running.find(engine, name) for name in arguments.kernels]
        for kernel in found:
            await running.stop(engine, kernel)
        return [kernel.kernel_id for kernel in found]

    for kernel_id in with_engine(stop):
        print(f"Stopped the kernel {kernel_id[:8]}.")
    return 0


def _save(arguments: argparse.Namespace) -> int:
    from docker_kernel import saved_kernel
    from docker_kernel.config import format_size
    from docker_kernel.images import Event

    with progress_display() as show:
        saved = with_engine(
            lambda engine: saved_kernel.save(
                engine,
                arguments.kernel,
                arguments.name,
                arguments.spec_name,
                arguments.display_name,
                arguments.replace,
                lambda text: show(Event(text)),
            )
        )
    print(f"Installed: {', '.join(saved.packages) or 'nothing that pip knows'}")
    print(f"Saved the image {saved.image} ({format_size(saved.size)})")
    print(f"Installed the kernelspec {saved.kernelspec.name} in {saved.kernelspec}")
    return 0


def _reap(arguments: argparse.Namespace) -> int:
    from docker_kernel import prune
    from docker_kernel.kernel import running

    async def reap(engine: Engine) -> running.Leftovers:
        await prune.conclude_jobs()
        found = await prune.leftovers(engine)
        await running.reap(engine, found)
        return found

    found = with_engine(reap)
    print(f"Removed {len(found.containers)} containers and {len(found.volumes)} volumes.")
    return 0


def _console(arguments: argparse.Namespace) -> int:
    from docker_kernel.kernel import console, running

    console.attach(with_engine(lambda engine: running.find(engine, arguments.kernel)), [])
    return 0
