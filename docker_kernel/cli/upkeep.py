"""prune and doctor: what nobody needs, and what is wrong."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from docker_kernel.cli.base import Subparsers, command, confirm, mark, print_table, with_engine

if TYPE_CHECKING:
    from docker_kernel import prune
    from docker_kernel.engine import Engine


def add(commands: Subparsers) -> None:
    sub = command(commands, "prune", _prune, "remove unused images, volumes and stopped containers of ours")
    sub.add_argument("--yes", "-y", action="store_true", help="do not ask")
    command(commands, "doctor", _doctor, "check what kernels need, and say how to mend what is wrong")


def _prune(arguments: argparse.Namespace) -> int:
    from docker_kernel import kernelspec, prune
    from docker_kernel.config import format_size

    kept = kernelspec.images_in_use()

    async def look(engine: Engine) -> prune.Plan:
        await prune.conclude_jobs()
        return await prune.plan(engine, kept)

    plan = with_engine(look)
    if plan.empty:
        print("There is nothing to remove.")
        return 0
    for image in plan.images:
        print(f"image      {image.name}  {format_size(image.size)}")
    for state in plan.leftovers.containers:
        print(f"container  {state.name}  {state.status}")
    for volume in plan.leftovers.volumes:
        print(f"volume     {volume}")
    if not confirm("Remove all of these?", arguments.yes):
        return 0
    problems = with_engine(lambda engine: prune.carry_out(engine, plan))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _doctor(arguments: argparse.Namespace) -> int:
    from docker_kernel import background, doctor

    checks = background.run_blocking(doctor.diagnose())
    rows = [
        (mark("ok" if check.ok else "note" if check.warning else "fails"), check.name, check.found, check.fix)
        for check in checks
    ]
    print_table(["", "check", "found", "what to do"], rows)
    return 1 if doctor.failed(checks) else 0
