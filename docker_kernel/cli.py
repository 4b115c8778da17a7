"""The `docker-kernel` command: options in, one function of the package each, a sentence out.

A command is two functions: `_add_NAME` declares its options, `_NAME` runs it and returns the exit code. What a command
needs beyond argparse is imported when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from docker_kernel.errors import ConfigError, DockerKernelError, EngineError

if TYPE_CHECKING:
    from docker_kernel.engine import Engine
    from docker_kernel.images import Event, Progress

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a failure of ours is one sentence on standard error."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except DockerKernelError as error:
        print(f"docker-kernel: {error}", file=sys.stderr)
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
    for add in (
        _add_install,
        _add_uninstall,
        _add_list,
        _add_build,
        _add_kernels,
        _add_console,
        _add_prune,
        _add_doctor,
    ):
        add(commands)
    return top


def command(commands: Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    """A subcommand's parser, wired to the function that runs it."""
    sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    sub.set_defaults(run=run)
    return sub


def with_engine(use: Callable[[Engine], Awaitable[T]]) -> T:
    """Run a coroutine function with the engine that `docker` would reach."""
    from docker_kernel import background
    from docker_kernel.engine import Engine

    async def run() -> T:
        engine = await Engine.connect()
        try:
            return await use(engine)
        finally:
            engine.close()

    return background.run_blocking(run())


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Shows events: a live line with the tool's own output and a bar on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        yield lambda event: None if event.detail else print(event.text, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, BarColumn(), DownloadColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bars:
        task = bars.add_task("", total=None)

        def show(event: Event) -> None:
            if event.detail:
                line = Text(event.text)
                line.truncate(max(20, console.width - 60), overflow="ellipsis")
                bars.update(task, description=line.plain, completed=event.done or 0, total=event.total)
            else:
                console.print(event.text, markup=False, highlight=False)
                bars.update(task, description="", completed=0, total=None)

        yield show


def _add_install(commands: Subparsers) -> None:
    sub = command(commands, "install", _install, "install a kernelspec, with the image its kernels run in")
    where = sub.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for you, in all environments (default)")
    where.add_argument("--sys-prefix", action="store_true", help="into this Python environment only")
    where.add_argument("--prefix", type=Path, metavar="P", help="below P/share/jupyter")
    sub.add_argument("--name", help="the kernelspec's name (default docker-python)")
    sub.add_argument("--display-name", metavar="D", help='what Jupyter shows (default "Docker Python")')
    sub.add_argument("--image", help="any image; it is pulled, and given ipykernel, if need be")
    sub.add_argument("--all-kernels", action="store_true", help="one kernelspec for each kernel found in the image")
    sub.add_argument("--mount", action="append", default=[], metavar="SRC:DST[:ro]", help="an extra mount")
    sub.add_argument("--cpus", help="CPU limit, such as 1.5")
    sub.add_argument("--memory", help="memory limit, such as 2g")
    sub.add_argument("--gpus", help="'all', a number, or device ids")
    sub.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable")
    sub.add_argument("--network", help="the engine network to join, or 'none'")
    sub.add_argument("--publish", action="append", default=[], metavar="PORT", help="a port the notebook opens")


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


def _add_uninstall(commands: Subparsers) -> None:
    sub = command(commands, "uninstall", _uninstall, "remove kernelspecs of ours; images stay")
    sub.add_argument("names", nargs="*", default=["docker-python"], metavar="NAME", help="default docker-python")


def _uninstall(arguments: argparse.Namespace) -> int:
    from docker_kernel import kernelspec

    for path in kernelspec.uninstall(arguments.names):
        print(f"Removed the kernelspec {path.name} from {path}")
    return 0


def _add_list(commands: Subparsers) -> None:
    command(commands, "list", _list, "list the kernelspecs of ours, with image, size and state")


def _list(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

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
    table = Table("name", "display name", "image", "size", "state")
    for row in rows:
        size = format_size(row.size) if row.size is not None else "?"
        table.add_row(row.name, row.display_name, row.image, size, row.state)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def _add_build(commands: Subparsers) -> None:
    sub = command(commands, "build", _build, "build one of our kernel images")
    sub.add_argument("name", nargs="?", default="python", metavar="NAME", help="python (default) or scipy")
    base = sub.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="IMAGE", help="build on this image (default python:3.12-slim)")
    base.add_argument("--bootstrap", action="store_true", help="bootstrap the base from Debian's packages")
    sub.add_argument("--package", action="append", default=[], metavar="REQUIREMENT", help="add a package of pip's")
    sub.add_argument("--tag", help="what to call the image (default docker-kernel/NAME:latest)")


def _build(arguments: argparse.Namespace) -> int:
    from docker_kernel import images

    with progress_display() as progress:
        with_engine(
            lambda engine: images.build(
                engine, arguments.name, arguments.base, arguments.bootstrap, arguments.package, progress, arguments.tag
            )
        )
    return 0


def _add_kernels(commands: Subparsers) -> None:
    group = commands.add_parser("kernels", help="list, stop and reap running kernels")
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    command(actions, "list", _kernels_list, "list your kernels on this engine")
    stop = command(actions, "stop", _kernels_stop, "stop kernels and remove their containers")
    stop.add_argument("kernels", nargs="*", metavar="KERNEL", help="the start of an id, or a part of a notebook's name")
    stop.add_argument("--all", action="store_true", help="all of yours")
    command(actions, "reap", _kernels_reap, "remove containers and volumes that no kernel will need again")


def _kernels_list(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from docker_kernel.kernel import running

    found = with_engine(running.kernels)
    if not found:
        print("No Docker kernel is running.")
        return 0
    table = Table("kernel", "kernelspec", "notebook", "state", "age")
    for kernel in found:
        age = str(kernel.age).split(".")[0]
        table.add_row(kernel.kernel_id[:8], kernel.spec, kernel.notebook, kernel.container.status, age)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def _kernels_stop(arguments: argparse.Namespace) -> int:
    from docker_kernel.kernel import running

    if not arguments.kernels and not arguments.all:
        raise ConfigError("Name the kernels to stop, or say --all; `docker-kernel kernels list` shows them.")

    async def stop(engine: Engine) -> list[str]:
        found = await running.kernels(engine) if arguments.all else []
        found += [await running.find(engine, name) for name in arguments.kernels]
        for kernel in found:
            await running.stop(engine, kernel)
        return [kernel.kernel_id for kernel in found]

    for kernel_id in with_engine(stop):
        print(f"Stopped the kernel {kernel_id[:8]}.")
    return 0


def _kernels_reap(arguments: argparse.Namespace) -> int:
    from docker_kernel.kernel import running

    async def reap(engine: Engine) -> running.Leftovers:
        found = await running.leftovers(engine)
        await running.reap(engine, found)
        return found

    found = with_engine(reap)
    print(f"Removed {len(found.containers)} containers and {len(found.volumes)} volumes.")
    return 0


def _add_console(commands: Subparsers) -> None:
    sub = command(commands, "console", _console, "attach a terminal to a running kernel, keys included")
    sub.add_argument("kernel", nargs="?", metavar="KERNEL", help="needed when several run")


def _console(arguments: argparse.Namespace) -> int:
    from docker_kernel.kernel import console, running

    console.attach(with_engine(lambda engine: running.find(engine, arguments.kernel)), [])
    return 0


def _add_prune(commands: Subparsers) -> None:
    sub = command(commands, "prune", _prune, "remove unused images, volumes and stopped containers of ours")
    sub.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _prune(arguments: argparse.Namespace) -> int:
    from docker_kernel import kernelspec, prune
    from docker_kernel.config import format_size

    kept = kernelspec.images_in_use()
    plan = with_engine(lambda engine: prune.plan(engine, kept))
    if plan.empty:
        print("There is nothing to remove.")
        return 0
    for image in plan.images:
        print(f"image      {image.name}  {format_size(image.size)}")
    for state in plan.leftovers.containers:
        print(f"container  {state.name}  {state.status}")
    for volume in plan.leftovers.volumes:
        print(f"volume     {volume}")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise ConfigError("Nothing was removed, as nobody can be asked here: say --yes.")
        if input("Remove all of these? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    problems = with_engine(lambda engine: prune.carry_out(engine, plan))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _add_doctor(commands: Subparsers) -> None:
    command(commands, "doctor", _doctor, "check what kernels need, and say how to mend what is wrong")


def _doctor(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from docker_kernel import background, doctor

    checks = background.run_blocking(doctor.diagnose())
    table = Table("", "check", "found", "what to do")
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[yellow]note[/]" if check.warning else "[red]fails[/]"
        table.add_row(mark, check.name, check.found, check.fix)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 1 if doctor.failed(checks) else 0
