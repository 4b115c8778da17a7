"""targets list|check: where jobs can run."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from docker_kernel.cli.base import Subparsers, command, group, mark, print_table
from docker_kernel.errors import DockerKernelError

if TYPE_CHECKING:
    from docker_kernel.config import TargetTable
    from docker_kernel.targets.base import Check

CHECK_SECONDS = 60
"""How long a target may take for its check."""


def add(commands: Subparsers) -> None:
    actions = group(commands, "targets", "list and check the places where jobs can run")
    command(actions, "list", _list, "list the targets of the config file, and `local`")
    check = command(actions, "check", _check, "check whether jobs could run on targets")
    check.add_argument("names", nargs="*", metavar="NAME", help="default: all")


def _list(arguments: argparse.Namespace) -> int:
    from docker_kernel import config

    rows = [(name, one.kind, _settings(one)) for name, one in config.load().all_targets().items()]
    print_table(["target", "kind", "settings"], rows)
    return 0


def _settings(target: TargetTable) -> str:
    """What a config file says of a target, without what looks like a credential."""
    from docker_kernel.guest.credentials import looks_secret

    given: dict[str, Any] = target.model_dump(mode="json", exclude_unset=True, exclude={"kind"})
    shown = {name: "…" if looks_secret(name, str(value)) else json.dumps(value) for name, value in given.items()}
    return ", ".join(f"{name} = {value}" for name, value in shown.items())


def _check(arguments: argparse.Namespace) -> int:
    from docker_kernel import background, config

    user_config = config.load()
    names = dict.fromkeys(arguments.names) or user_config.all_targets()
    chosen = {name: user_config.target(name) for name in names}

    async def check() -> list[list[Check]]:
        return await asyncio.gather(*(_checks(name, target) for name, target in chosen.items()))

    found = background.run_blocking(check())
    rows = [
        (mark("ok" if one.ok else "fails"), name, one.name, one.found, one.fix)
        for name, checks in zip(chosen, found, strict=True)
        for one in checks
    ]
    print_table(["", "target", "check", "found", "what to do"], rows)
    return 0 if all(one.ok for checks in found for one in checks) else 1


async def _checks(name: str, target: TargetTable) -> list[Check]:
    from docker_kernel import targets
    from docker_kernel.targets.base import Check

    try:
        return await asyncio.wait_for(targets.load(name, target).check(), CHECK_SECONDS)
    except DockerKernelError as error:
        return [Check("target", "not usable", False, str(error))]
    except asyncio.TimeoutError:
        return [Check("target", "no answer", False, f"It took over {CHECK_SECONDS} s: can its machine be reached?")]
