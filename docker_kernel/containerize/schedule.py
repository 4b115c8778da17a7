"""What existing schedulers need to run a notebook image: a Kubernetes CronJob, a systemd timer, a line for cron.

Nothing is installed, and nothing secret is in any of them: who may read the schedule may not have the credentials.
"""

from __future__ import annotations

import re
import shlex
import shutil
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from docker_kernel.containerize import cron, yaml_text
from docker_kernel.containerize.inspect import Described
from docker_kernel.containerize.run import image_parameters
from docker_kernel.errors import ContainerizeError
from docker_kernel.guest import parameters
from docker_kernel.guest.credentials import looks_secret
from docker_kernel.guest.parameters import ParameterError, Text

FORMS = ("kubernetes", "systemd", "crontab")

CLAIM = "claim:"
"""Begins an output that is a PersistentVolumeClaim."""

DAY = 86400.0

START_SECONDS = 300
"""How much longer than the notebook a run may take: pulling the image, bringing the results out."""

END_SECONDS = 30
"""From the signal to stop to the end; the entry point needs up to 8."""

MAX_TIMEOUT = 365 * 86400
"""Seconds: a year, which all of them can count."""

MAX_NAME = 52
"""Characters of a CronJob's name (Kubernetes adds eleven to it for its jobs)."""

MAX_LINE = 998
"""Characters of a command in a crontab (MAX_COMMAND of cron's own source)."""


@dataclass(frozen=True)
class Schedule:
    """One wish for a schedule.

    Args:
        image: what the image says of itself.
        cron: when, as cron has it.
        parameters: as texts, by name.
        name: of the CronJob, the units and the containers.
        output: a folder, a URL, or `claim:NAME` in Kubernetes; each run gets a folder of its own there.
        time_zone: an IANA name; "" for that of the machine or cluster.
        namespace: in Kubernetes.
        timeout: seconds that a run may take; 0 for no limit.
        secret: the name of a Secret, or a file of NAME=VALUE lines, whose variables a run gets.
    """

    image: Described
    cron: str
    parameters: Mapping[str, str]
    name: str = ""
    output: str = ""
    time_zone: str = ""
    namespace: str = ""
    timeout: float = DAY
    secret: str = ""


@dataclass(frozen=True)
class Document:
    """One file that a scheduler needs: its name, its text, and what to do with it."""

    name: str
    text: str
    usage: str


def documents(wish: Schedule, form: str, root: bool) -> list[Document]:
    """What a scheduler needs.

    Args:
        form: one of FORMS.
        root: whether runs on this machine are root's to start; they are never root inside.

    Raises:
        ContainerizeError: it cannot be said in this form, or a value is wrong; in one sentence.
    """
    when = cron.parse(wish.cron)
    name = wish.name or proposed_name(wish.image.reference)
    _check(wish, name)
    if form == "kubernetes":
        manifest = f"# {_about(wish.image)}\n{yaml_text.dump(_cron_job(wish, when, name))}"
        return [Document(f"{name}.yaml", manifest, f"kubectl apply -f {name}.yaml")]
    if form == "systemd":
        return _units(wish, when, name, root)
    return [_crontab(wish, when, name, root)]


def proposed_name(reference: str) -> str:
    """A schedule's name, made of an image's without registry and tag."""
    last = re.split(r"[@:]", reference.rpartition("/")[2])[0]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:MAX_NAME].rstrip("-") or "notebook"


def _check(wish: Schedule, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) or len(name) > MAX_NAME:
        raise ContainerizeError(
            f"{name!r} cannot be a schedule's name: use up to {MAX_NAME} small letters, digits and '-' between them."
        )
    if not 0 <= wish.timeout <= MAX_TIMEOUT:
        raise ContainerizeError(f"--timeout must be a number of seconds up to {MAX_TIMEOUT} (a year); 0 for no limit.")
    user = re.fullmatch(r"([0-9]{1,10})(:[0-9]{1,10})?", wish.image.user)
    if user is None or int(user[1]) == 0:
        raise ContainerizeError(
            f"The image's user is {wish.image.user!r}, and a schedule needs the number of one that is not root: "
            "containerize the notebook again."
        )
    told = {"the image's name": wish.image.reference, "--secret": wish.secret, "--namespace": wish.namespace}
    for what, text in told.items():
        if not text.isprintable():
            raise ContainerizeError(f"{what} has a line break or a control character, which no scheduler takes.")
    if wish.time_zone:
        try:
            zoneinfo.ZoneInfo(wish.time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ContainerizeError(
                f"There is no time zone {wish.time_zone!r}: use a name such as Europe/Berlin or UTC."
            ) from None
    given = {one: Text(value) for one, value in wish.parameters.items()}
    try:
        parameters.check(image_parameters(wish.image.schema), given)
    except ParameterError as error:
        raise ContainerizeError(str(error)) from None
    for one, value in {**wish.parameters, "--output": wish.output}.items():
        if looks_secret(one, value):
            raise ContainerizeError(
                f"{one} looks like a credential, which does not belong in a schedule: leave it out, and name with "
                "--secret where the run gets it from (PARAM_NAME=… sets a parameter)."
            )
        if not (value + one).isprintable():
            raise ContainerizeError(f"{one} has a line break or a control character, which no scheduler takes.")


def _arguments(wish: Schedule) -> list[str]:
    made = [part for name, value in wish.parameters.items() for part in ("-p", f"{name}={value}")]
    return [*made, "--timeout", f"{wish.timeout:.15g}"] if wish.timeout else made


def _pinned(image: Described) -> str:
    """The image's name by its digest, where it has one: runs stay the same when its tag moves on."""
    repository = re.sub(r"(@[^/]*|:[^/]*)$", "", image.reference)
    return image.digest if image.digest.partition("@")[0] == repository else image.reference


def _about(image: Described) -> str:
    """The image and its notebook, as a comment's only line: labels are anybody's."""
    about = f"{image.notebook} in {image.reference}"
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in about)


def _is_url(output: str) -> bool:
    return "://" in output


# Kubernetes


def _cron_job(wish: Schedule, when: cron.Cron, name: str) -> dict[str, Any]:
    """A CronJob (batch/v1, Kubernetes 1.27 and later for the time zone), for the "restricted" Pod Security Standard."""
    marks = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "docker-kernel"}
    spec: dict[str, Any] = {
        "schedule": when.kubernetes(),
        **({"timeZone": wish.time_zone} if wish.time_zone else {}),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 300,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {
            "spec": {
                "backoffLimit": 0,
                **({"activeDeadlineSeconds": int(wish.timeout) + START_SECONDS} if wish.timeout else {}),
                "template": {"metadata": {"labels": marks}, "spec": _pod(wish)},
            }
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, **({"namespace": wish.namespace} if wish.namespace else {}), "labels": marks},
        "spec": spec,
    }


def _pod(wish: Schedule) -> dict[str, Any]:
    user, _, group = wish.image.user.partition(":")
    arguments = _arguments(wish)
    # In what is given to a container, $(NAME) is a variable's value, and $$ a dollar.
    escaped = [part.replace("$(", "$$(") for part in arguments]
    output: dict[str, Any] = {"name": "output", "mountPath": "/output"}
    source: dict[str, Any] = {"name": "output", "emptyDir": {}}
    if _is_url(wish.output):
        escaped += ["--output", f"{wish.output.rstrip('/')}/$(RUN)"]
    elif wish.output.startswith(CLAIM):
        output["subPathExpr"] = "$(RUN)"
        source = {"name": "output", "persistentVolumeClaim": {"claimName": wish.output.removeprefix(CLAIM)}}
    elif wish.output:
        raise ContainerizeError(
            f"Kubernetes does not see the folder {wish.output}: write --output URL, such as s3://bucket/reports, or "
            f"--output {CLAIM}NAME for a PersistentVolumeClaim."
        )
    container: dict[str, Any] = {
        "name": "notebook",
        "image": _pinned(wish.image),
        "args": escaped,
        "env": [{"name": "RUN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        **({"envFrom": [{"secretRef": {"name": wish.secret}}]} if wish.secret else {}),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, output],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": END_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": int(user),
            "runAsGroup": int(group or 0),
            "fsGroup": int(user),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, source],
    }


# This machine


def command(wish: Schedule, name: str, root: bool, docker: str) -> str:
    """A shell's command line for one run: results into a folder of its own, the rest read-only, never as root."""
    options = [
        *("--rm", "--name", f"docker-kernel-{name}", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges"),
    ]
    if wish.secret:
        options += ["--env-file", wish.secret]
    words = [docker, "run", *options]
    arguments = _arguments(wish)
    if wish.output.startswith(CLAIM):
        raise ContainerizeError(f"Only Kubernetes has claims: write --output FOLDER or a URL instead of {wish.output}.")
    now = '"$(date -u +%Y-%m-%dT%H-%M-%SZ)"'
    if _is_url(wish.output):
        run = f"{shlex.quote(wish.output.rstrip('/') + '/')}{now}"
        return f"exec {shlex.join([*words, _pinned(wish.image), *arguments, '--output'])} {run}"
    if not wish.output:
        raise ContainerizeError("Say with --output FOLDER or a URL where the results of each run go.")
    folder = PurePosixPath(wish.output)
    if not folder.is_absolute() or ":" in wish.output:
        raise ContainerizeError(f"--output {wish.output} must be a folder's whole path, without ':'.")
    if root:
        user, make = "", f"install -d -o {wish.image.user.partition(':')[0]} -g 0"
    else:
        user, make = ' --user "$(id -u):$(id -g)"', "mkdir -p"
    return (
        f'run={shlex.quote(f"{folder}/")}{now} && {make} "$run" && '
        f'exec {shlex.join(words)}{user} -v "$run:/output" {shlex.join([_pinned(wish.image), *arguments])}'
    )


def _docker() -> str:
    """Where the engine's command is on this machine: schedulers have their own idea of PATH."""
    found = shutil.which("docker") or shutil.which("podman") or "/usr/bin/docker"
    return str(Path(found).absolute())


def _units(wish: Schedule, when: cron.Cron, name: str, root: bool) -> list[Document]:
    docker = _docker()
    container = f"docker-kernel-{name}"
    limit = f"{int(wish.timeout) + START_SECONDS}s" if wish.timeout else "infinity"
    about = _about(wish.image).replace("%", "%%")
    service = f"""\
[Unit]
Description=Notebook {about}
After=network-online.target docker.service
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c {_systemd_quoted(command(wish, name, root, docker))}
ExecStopPost=-{docker} rm --force {container}
TimeoutStartSec={limit}
TimeoutStopSec={END_SECONDS}s
"""
    calendars = "".join(f"OnCalendar={one}\n" for one in when.systemd(wish.time_zone))
    timer = f"""\
[Unit]
Description=Schedule of {about}

[Timer]
{calendars}AccuracySec=1s

[Install]
WantedBy=timers.target
"""
    place = "/etc/systemd/system" if root else "~/.config/systemd/user"
    how = f"systemctl {'' if root else '--user '}enable --now {name}.timer"
    return [
        Document(f"{name}.service", service, f"put it into {place}"),
        Document(f"{name}.timer", timer, f"put it into {place}, then `{how}`"),
    ]


def _systemd_quoted(text: str) -> str:
    """One argument of a unit's command line (systemd.service(5), "COMMAND LINES")."""
    made = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{made}"'


def _crontab(wish: Schedule, when: cron.Cron, name: str, root: bool) -> Document:
    if wish.time_zone:
        raise ContainerizeError(
            "A line of cron's has no time zone of its own: leave out --time-zone, or use --as systemd or kubernetes."
        )
    line = command(wish, name, root, _docker())
    # To cron, % ends the command.
    line = line.replace("%", "\\%")
    if len(line) > MAX_LINE:
        raise ContainerizeError(
            f"The command has {len(line)} characters, and cron takes {MAX_LINE}: use --as systemd, or a shorter folder."
        )
    text = f"# {_about(wish.image)}\n{when.text} {line}\n"
    return Document(f"{name}.crontab", text, "add it with `crontab -e`")


def notes(wish: Schedule, form: str) -> Sequence[str]:
    """What a user should know before they use a document."""
    found = []
    if form == "kubernetes" and not wish.image.digest:
        found.append(
            f"{wish.image.reference} is on this machine only: push it (`docker-kernel containerize --push`) before the "
            "cluster asks for it."
        )
    if form == "kubernetes" and not wish.output:
        found.append(
            f"Without --output, results go with each run's pod; its log stays: say --output URL or {CLAIM}NAME."
        )
    return found
