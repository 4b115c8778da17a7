"""schedule: what existing schedulers need to run an image of a notebook."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from docker_kernel.cli.base import Subparsers, command, printable, with_engine
from docker_kernel.errors import ContainerizeError


def add(commands: Subparsers) -> None:
    make = command(commands, "schedule", _schedule, "print what a scheduler needs to run an image of a notebook")
    make.add_argument("image", metavar="IMAGE")
    make.add_argument("--cron", required=True, metavar='"M H D M W"', help="when: cron's five fields, or @daily")
    make.add_argument(
        "--as", dest="form", default="kubernetes", choices=["kubernetes", "systemd", "crontab"], help="for which"
    )
    make.add_argument("-p", "--param", action="append", default=[], metavar="K=V", help="a parameter")
    make.add_argument("--name", default="", help="of the CronJob, or the units (default: the image's)")
    make.add_argument("--output", default="", metavar="PLACE", help="a URL, a folder, or claim:NAME in Kubernetes")
    make.add_argument("--time-zone", default="", metavar="Z", help="such as Europe/Berlin (default: the scheduler's)")
    make.add_argument("--namespace", default="", metavar="N", help="in Kubernetes")
    make.add_argument(
        "--timeout", type=float, default=86400, metavar="SECONDS", help="for one run (default 86400, a day; 0: none)"
    )
    make.add_argument("--secret", default="", metavar="S", help="a Secret in Kubernetes, else a file of NAME=VALUE")
    make.add_argument("--write", type=Path, metavar="DIR", help="write the files there instead of printing them")


def _schedule(arguments: argparse.Namespace) -> int:
    from docker_kernel.containerize import schedule
    from docker_kernel.containerize.inspect import describe

    pairs = dict(text.partition("=")[::2] for text in arguments.param if "=" in text)
    if len(pairs) != len(arguments.param):
        raise ContainerizeError("--param is given as NAME=VALUE, and each name once.")
    output = arguments.output
    if output and "://" not in output and not output.startswith(schedule.CLAIM) and arguments.form != "kubernetes":
        output = str(Path(output).expanduser().absolute())
    request = schedule.ScheduleRequest(
        image=with_engine(lambda engine: describe(engine, arguments.image)),
        cron=arguments.cron,
        parameters=pairs,
        name=arguments.name,
        output=output,
        time_zone=arguments.time_zone,
        namespace=arguments.namespace,
        timeout=arguments.timeout,
        secret=arguments.secret,
    )
    made = schedule.documents(request, arguments.form, root=os.getuid() == 0)
    for note in schedule.notes(request, arguments.form):
        print(printable(f"Note: {note}"), file=sys.stderr)
    if arguments.write is None:
        print("\n".join(f"# {one.name}: {one.usage}\n{one.text}" for one in made), end="")
        return 0
    arguments.write.mkdir(parents=True, exist_ok=True)
    for one in made:
        (arguments.write / one.name).write_text(one.text, encoding="utf-8")
        print(f"Wrote {arguments.write / one.name}: {one.usage}")
    return 0
