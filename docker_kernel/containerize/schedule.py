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
class ScheduleRequest:
    """One request for a schedule.

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


def documents(request: ScheduleRequest, form: str, root: bool) -> list[Document]:
    """What a scheduler needs.

    Args:
        form: one of FORMS.
        root: whether runs on this machine are root's to start; they are never root inside.

    Raises:
        ContainerizeError: it cannot be said in this form, or a value is wrong; in one sentence.
    """
    when = cron.parse(request.cron)
    name = request.name or proposed_name(request.image.reference)
    _check(request, name)
    if form == "kubernetes":
        manifest = f"# {_about(request.image)}\n{yaml_text.dump(_cron_job(request, when, name))}"
        return [Document(f"{name}.yaml", manifest, f"kubectl apply -f {name}.yaml")]
    if form == "systemd":
        return _units(request, when, name, root)
    return [_crontab(request, when, name, root)]


def proposed_name(reference: str) -> str:
    """A schedule's name, made of an image's without registry and tag."""
    last = re.split(r"[@:]", reference.rpartition("/")[2])[0]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:MAX_NAME].rstrip("-") or "notebook"


def _check(request: ScheduleRequest, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) or len(name) > MAX_NAME:
        raise ContainerizeError(
            f"{name!r} cannot be a schedule's name: use up to {MAX_NAME} small letters, digits and '-' between them."
        )
    if not 0 <= request.timeout <= MAX_TIMEOUT:
        raise ContainerizeError(f"--timeout must be a number of seconds up to {MAX_TIMEOUT} (a year); 0 for no limit.")
    user = re.fullmatch(r"([0-9]{1,10})(:[0-9]{1,10})?", request.image.user)
    if user is None or int(user[1]) == 0:
        raise ContainerizeError(
            f"The image's user is {request.image.user!r}, and a schedule needs the number of one that is not root: "
            "containerize the notebook again."
        )
    given = {"the image's name": request.image.reference, "--secret": request.secret, "--namespace": request.namespace}
    for what, text in given.items():
        if not text.isprintable():
            raise ContainerizeError(f"{what} has a line break or a control character, which no scheduler takes.")
    if request.time_zone:
        try:
            zoneinfo.ZoneInfo(request.time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ContainerizeError(
                f"There is no time zone {request.time_zone!r}: use a name such as Europe/Berlin or UTC."
            ) from None
    given = {one: Text(value) for one, value in request.parameters.items()}
    try:
        parameters.check(image_parameters(request.image.schema), given)
    except ParameterError as error:
        raise ContainerizeError(str(error)) from None
    for one, value in {**request.parameters, "--output": request.output}.items():
        if looks_secret(one, value):
            raise ContainerizeError(
                f"{one} looks like a credential, which does not belong in a schedule: leave it out, and name with "
                "--secret where the run gets it from (PARAM_NAME=… sets a parameter)."
            )
        if not (value + one).isprintable():
            raise ContainerizeError(f"{one} has a line break or a control character, which no scheduler takes.")


def _arguments(request: ScheduleRequest) -> list[str]:
    made = [part for name, value in request.parameters.items() for part in ("-p", f"{name}={value}")]
    return [*made, "--timeout", f"{request.timeout:.15g}"] if request.timeout else made


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


def _cron_job(request: ScheduleRequest, when: cron.Cron, name: str) -> dict[str, Any]:
    """A CronJob (batch/v1, Kubernetes 1.27 and later for the time zone), for the "restricted" Pod Security Standard."""
    marks = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "docker-kernel"}
    spec: dict[str, Any] = {
        "schedule": when.kubernetes(),
        **({"timeZone": request.time_zone} if request.time_zone else {}),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 300,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {
            "spec": {
                "backoffLimit": 0,
                **({"activeDeadlineSeconds": int(request.timeout) + START_SECONDS} if request.timeout else {}),
                "template": {"metadata": {"labels": marks}, "spec": _pod(request)},
            }
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, **({"namespace": request.namespace} if request.namespace else {}), "labels": marks},
        "spec": spec,
    }


def _pod(request: ScheduleRequest) -> dict[str, Any]:
    user, _, group = request.image.user.partition(":")
    arguments = _arguments(request)
    # In what is given to a container, $(NAME) is a variable's value, and $$ a dollar.
    escaped = [part.replace("$(", "$$(") for part in arguments]
    output: dict[str, Any] = {"name": "output", "mountPath": "/output"}
    source: dict[str, Any] = {"name": "output", "emptyDir": {}}
    if _is_url(request.output):
        escaped += ["--output", f"{request.output.rstrip('/')}/$(RUN)"]
    elif request.output.startswith(CLAIM):
        output["subPathExpr"] = "$(RUN)"
        source = {"name": "output", "persistentVolumeClaim": {"claimName": request.output.removeprefix(CLAIM)}}
    elif request.output:
        raise ContainerizeError(
            f"Kubernetes does not see the folder {request.output}: write --output URL, such as s3://bucket/reports, or "
            f"--output {CLAIM}NAME for a PersistentVolumeClaim."
        )
    container: dict[str, Any] = {
        "name": "notebook",
        "image": _pinned(request.image),
        "args": escaped,
        "env": [{"name": "RUN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        **({"envFrom": [{"secretRef": {"name": request.secret}}]} if request.secret else {}),
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


def command(request: ScheduleRequest, name: str, root: bool, docker: str) -> str:
    """A shell's command line for one run: results into a folder of its own, the rest read-only, never as root."""
    options = [
        *("--rm", "--name", f"docker-kernel-{name}", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges"),
    ]
    if request.secret:
        options += ["--env-file", request.secret]
    words = [docker, "run", *options]
    arguments = _arguments(request)
    if request.output.startswith(CLAIM):
        raise ContainerizeError(
            f"Only Kubernetes has claims: write --output FOLDER or a URL instead of {request.output}."
        )
    now = '"$(date -u +%Y-%m-%dT%H-%M-%SZ)"'
    if _is_url(request.output):
        run = f"{shlex.quote(request.output.rstrip('/') + '/')}{now}"
        return f"exec {shlex.join([*words, _pinned(request.image), *arguments, '--output'])} {run}"
    if not request.output:
        raise ContainerizeError("Say with --output FOLDER or a URL where the results of each run go.")
    folder = PurePosixPath(request.output)
    if not folder.is_absolute() or ":" in request.output:
        raise ContainerizeError(f"--output {request.output} must be a folder's whole path, without ':'.")
    if root:
        user, make = "", f"install -d -o {request.image.user.partition(':')[0]} -g 0"
    else:
        user, make = ' --user "$(id -u):$(id -g)"', "mkdir -p"
    return (
        f'run={shlex.quote(f"{folder}/")}{now} && {make} "$run" && '
        f'exec {shlex.join(words)}{user} -v "$run:/output" {shlex.join([_pinned(request.image), *arguments])}'
    )


def _docker() -> str:
    """Where the engine's command is on this machine: schedulers have their own idea of PATH."""
    found = shutil.which("docker") or shutil.which("podman") or "/usr/bin/docker"
    return str(Path(found).absolute())


def _units(request: ScheduleRequest, when: cron.Cron, name: str, root: bool) -> list[Document]:
    docker = _docker()
    container = f"docker-kernel-{name}"
    limit = f"{int(request.timeout) + START_SECONDS}s" if request.timeout else "infinity"
    about = _about(request.image).replace("%", "%%")
    service = f"""\
[Unit]
Description=Notebook {about}
After=network-online.target docker.service
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c {_systemd_quoted(command(request, name, root, docker))}
ExecStopPost=-{docker} rm --force {container}
TimeoutStartSec={limit}
TimeoutStopSec={END_SECONDS}s
"""
    calendars = "".join(f"OnCalendar={one}\n" for one in when.systemd(request.time_zone))
    timer = f"""\
[Unit]
Description=ScheduleRequest of {about}

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


def _crontab(request: ScheduleRequest, when: cron.Cron, name: str, root: bool) -> Document:
    if request.time_zone:
        raise ContainerizeError(
            "A line of cron's has no time zone of its own: leave out --time-zone, or use --as systemd or kubernetes."
        )
    line = command(request, name, root, _docker())
    # To cron, % ends the command.
    line = line.replace("%", "\\%")
    if len(line) > MAX_LINE:
        raise ContainerizeError(
            f"The command has {len(line)} characters, and cron takes {MAX_LINE}: use --as systemd, or a shorter folder."
        )
    text = f"# {_about(request.image)}\n{when.text} {line}\n"
    return Document(f"{name}.crontab", text, "add it with `crontab -e`")


def notes(request: ScheduleRequest, form: str) -> Sequence[str]:
    """What a user should know before they use a document."""
    found = []
    if form == "kubernetes" and not request.image.digest:
        found.append(
            f"{request.image.reference} is on this machine only: push it (`docker-kernel containerize --push`) before "
            "the cluster asks for it."
        )
    if form == "kubernetes" and not request.output:
        found.append(
            f"Without --output, results go with each run's pod; its log stays: say --output URL or {CLAIM}NAME."
        )
    return found
