"""install, uninstall, list, build: kernelspecs, and the images that their kernels run in."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docker_kernel.cli.base import Subparsers, command, print_table, progress_display, with_engine
from docker_kernel.errors import EngineError


def add(commands: Subparsers) -> None:
    install = command(commands, "install", _install, "install a kernelspec, with the image its kernels run in")
    where = install.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for you, in all environments (default)")
    where.add_argument("--sys-prefix", action="store_true", help="into this Python environment only")
    where.add_argument("--prefix", type=Path, metavar="P", help="below P/share/jupyter")
    install.add_argument("--name", help="the kernelspec's name (default docker-python)")
    install.add_argument("--display-name", metavar="D", help='what Jupyter shows (default "Docker Python")')
    install.add_argument("--image", help="any image; it is pulled, and given ipykernel, if need be")
    install.add_argument("--all-kernels", action="store_true", help="one kernelspec for each kernel found in the image")
    install.add_argument("--mount", action="append", default=[], metavar="SRC:DST[:ro]", help="an extra mount")
    install.add_argument("--cpus", help="CPU limit, such as 1.5")
    install.add_argument("--memory", help="memory limit, such as 2g")
    install.add_argument("--gpus", help="'all', a number, or device ids")
    install.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable")
    install.add_argument("--network", help="the engine network to join, or 'none'")
    install.add_argument("--transport", help="'tcp' (default), or 'ipc' for sockets in files and no ports")
    install.add_argument("--publish", action="append", default=[], metavar="PORT", help="a port the notebook opens")

    uninstall = command(commands, "uninstall", _uninstall, "remove kernelspecs of ours; images stay")
    uninstall.add_argument("names", nargs="*", default=["docker-python"], metavar="NAME", help="default docker-python")

    command(commands, "list", _list, "list the kernelspecs of ours, with image, size and state")

    build = command(commands, "build", _build, "build one of our kernel images")
    build.add_argument("name", nargs="?", default="python", metavar="NAME", help="python (default) or scipy")
    base = build.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="IMAGE", help="build on this image (default python:3.12-slim)")
    base.add_argument("--bootstrap", action="store_true", help="bootstrap the base from Debian's packages")
    build.add_argument("--package", action="append", default=[], metavar="REQUIREMENT", help="add a package of pip's")
    build.add_argument("--tag", help="what to call the image (default docker-kernel/NAME:latest)")


def _install(arguments: argparse.Namespace) -> int:
    from docker_kernel import kernelspec

    settings = kernelspec.stanza(
        image=arguments.image,
        mounts=arguments.mount,
        env=arguments.env,
        publish=arguments.publish,
        cpus=arguments.cpus,
        memory=arguments.memory,
        gpus=arguments.gpus,
        network=arguments.network,
        transport=arguments.transport,
    )
    folder = kernelspec.kernels_folder(arguments.sys_prefix, arguments.prefix)
    with progress_display() as progress:
        made = with_engine(
            lambda engine: kernelspec.install(
                engine, folder, settings, arguments.name, arguments.display_name, arguments.all_kernels, progress
            )
        )
    for path in made:
        print(f"Installed the kernelspec {path.name} in {path}")
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from docker_kernel import kernelspec

    for path in kernelspec.uninstall(arguments.names):
        print(f"Removed the kernelspec {path.name} from {path}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from docker_kernel import background, kernelspec
    from docker_kernel.config import format_size

    try:
        rows = with_engine(kernelspec.installed)
    except EngineError as error:
        print(f"docker-kernel: {error}", file=sys.stderr)
        rows = background.run_blocking(kernelspec.installed(None))
    if not rows:
        print("No kernelspec of docker-kernel's is installed: run `docker-kernel install`.")
        return 0
    sizes = [format_size(row.size) if row.size is not None else "?" for row in rows]
    print_table(
        ["name", "display name", "image", "size", "state"],
        [(row.name, row.display_name, row.image, size, row.state) for row, size in zip(rows, sizes, strict=True)],
    )
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from docker_kernel import images

    with progress_display() as progress:
        with_engine(
            lambda engine: images.build(
                engine, arguments.name, arguments.base, arguments.bootstrap, arguments.package, progress, arguments.tag
            )
        )
    return 0
