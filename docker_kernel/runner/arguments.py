"""What a run is asked for: the command line, environment variables and a file of parameters, in this order of rank."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from docker_kernel.guest import parameters
from docker_kernel.guest.parameters import Parameter, Text
from docker_kernel.runner import sagemaker

SPEC_FILE = "/opt/docker-kernel/notebook/notebook.json"
DEFAULT_OUTPUT = "/output"
PREFIX = "PARAM_"
NONCE = "DOCKER_KERNEL_NONCE"
CONTRACT = 1

BAD_PARAMETERS = 2
"""The exit code where something is wrong with what is asked for, or with where it shall go: nothing was run."""


class UsageError(Exception):
    """What is asked for cannot be done: one sentence."""


@dataclass(frozen=True)
class Spec:
    """What an image says of its notebook: /opt/docker-kernel/notebook/notebook.json.

    Args:
        notebook: its path, relative to the workspace, the image's working directory.
        python: the interpreter of the kernel's environment.
        kernel: name, language and argv of the kernel.
        timeout: seconds that a run may take where nobody says otherwise.
    """

    notebook: str
    python: str
    kernel: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    timeout: float | None

    @classmethod
    def read(cls, path: str = SPEC_FILE) -> Spec:
        """The spec of this image; raises UsageError where there is none that this runner knows."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["contract"] != CONTRACT:
                raise UsageError(f"{path} is of version {found['contract']!r}, which this runner does not know.")
            return cls(
                notebook=found["notebook"],
                python=found["python"],
                kernel=found["kernel"],
                parameters=tuple(Parameter.from_dict(one) for one in found["parameters"]),
                timeout=found.get("timeout"),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} cannot be read ({error!r}): this is no notebook image, or a broken one."
            ) from None


@dataclass(frozen=True)
class RunOptions:
    """One run, as it is asked for.

    Args:
        values: the parameters, as typed values of JSON.
        folders, urls: where outputs go.
        chosen: whether somebody named the folders.
        no_input: whether output.html hides the code.
        timeout, cell_timeout: seconds; None for no limit.
        sagemaker: whether SageMaker's contract holds.
        nonce: what the markers in the log carry.
    """

    values: Mapping[str, Any]
    folders: tuple[str, ...]
    urls: tuple[str, ...]
    chosen: bool
    no_input: bool
    timeout: float | None
    cell_timeout: float | None
    sagemaker: bool
    nonce: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].upper()}{message[1:].rstrip('.')}: --help shows what there is.")


def parser(spec: Spec) -> argparse.ArgumentParser:
    """The command line of an image; its help describes the notebook's parameters."""
    made = _Parser(
        prog="IMAGE",
        usage="docker run [-v FOLDER:/output] IMAGE [-p NAME=VALUE]... [options]",
        description=f"Runs the notebook {spec.notebook} and writes output.ipynb and output.html.",
        epilog=describe(spec) + _ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("command", nargs="?", choices=["train"], metavar="train", help="run as SageMaker's training does")
    made.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", dest="given", help="set a parameter")
    made.add_argument("--params", metavar="FILE", help="a JSON or YAML file of parameters: a path, or a URL")
    made.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="PLACE",
        help="where results go: a folder (/output if none is named), or a URL, s3://… for example; may be repeated",
    )
    made.add_argument("--no-input", action="store_true", help="leave the code out of output.html")
    made.add_argument("--timeout", type=seconds, metavar="SECONDS", help="how long the run may take")
    made.add_argument("--cell-timeout", type=seconds, metavar="SECONDS", help="how long one cell may take")
    made.add_argument("--show-parameters", action="store_true", help="print the parameters as a JSON Schema, and end")
    return made


_ENVIRONMENT = """
environment variables, which the options above override, and which override --params:
  PARAM_NAME=VALUE            a parameter
  DOCKER_KERNEL_PARAMS        as --params
  DOCKER_KERNEL_OUTPUT        as --output; several with commas between them
  DOCKER_KERNEL_NO_INPUT=1, DOCKER_KERNEL_TIMEOUT, DOCKER_KERNEL_CELL_TIMEOUT

exit codes: 0 done; 1 a cell failed; 2 parameters, options or outputs are wrong and nothing was run; 74 the notebook is
done, but not all results could be brought out; 124 out of time; 143 stopped.
"""


def seconds(text: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def describe(spec: Spec) -> str:
    """The parameters for a reader, one in each line or two."""
    if not spec.parameters:
        return "This notebook has no parameters.\n"
    lines = ["parameters:"]
    for one in spec.parameters:
        default = one.default_source or json.dumps(one.default, ensure_ascii=False)
        head = f"  {one.name} ({one.type}, {'required' if one.required else f'default {default}'})"
        lines += [head, *(f"      {line}" for line in one.help.splitlines())]
    return "\n".join(lines) + "\n"


def read(given: argparse.Namespace, spec: Spec, environment: Mapping[str, str]) -> RunOptions:
    """What a run is asked for.

    Args:
        given: what `parser` made of the command line.

    Raises:
        UsageError: an option, a file or a parameter is wrong; nothing was run.
    """
    train = given.command == "train"
    values = load(place) if (place := given.params or environment.get("DOCKER_KERNEL_PARAMS")) else {}
    if train:
        values.update(sagemaker.hyperparameters())
    named = [name for name in environment if name.startswith(PREFIX) and name != PREFIX]
    values.update((name[len(PREFIX) :], Text(environment[name])) for name in named)
    values.update(map(_pair, given.given))
    try:
        checked = parameters.check(spec.parameters, values)
    except parameters.ParameterError as error:
        raise UsageError(str(error)) from None
    places = given.output or _split(environment.get("DOCKER_KERNEL_OUTPUT", ""))
    folders = tuple(place for place in places if not _is_url(place))
    timeout = given.timeout or _seconds(environment, "DOCKER_KERNEL_TIMEOUT")
    return RunOptions(
        values=checked,
        folders=folders or ((sagemaker.OUTPUT,) if train else (DEFAULT_OUTPUT,)),
        urls=tuple(place for place in places if _is_url(place)),
        chosen=bool(folders) or train,
        no_input=given.no_input
        or environment.get("DOCKER_KERNEL_NO_INPUT", "").lower() not in ("", "0", "false", "no"),
        timeout=timeout or spec.timeout,
        cell_timeout=given.cell_timeout or _seconds(environment, "DOCKER_KERNEL_CELL_TIMEOUT"),
        sagemaker=train,
        nonce=environment.get(NONCE, ""),
    )


def _pair(text: str) -> tuple[str, Text]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UsageError(f"-p {text}: write -p NAME=VALUE.")
    return name, Text(value)


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,\n]", text) if part.strip()]


def _seconds(environment: Mapping[str, str], name: str) -> float | None:
    try:
        return seconds(environment[name]) if environment.get(name) else None
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name}: {error}.") from None


def _is_url(place: str) -> bool:
    return "://" in place


def load(place: str) -> dict[str, Any]:
    """A file of parameters, JSON or YAML, as values of JSON.

    Args:
        place: a path, or a URL that fsspec knows.

    Raises:
        UsageError: it cannot be read, or is no mapping of names to values.
    """
    import yaml

    try:
        if _is_url(place):
            import fsspec

            with fsspec.open(place, "rb") as file:
                text = file.read().decode()
        else:
            text = Path(place).read_text(encoding="utf-8")
    except Exception as error:
        raise UsageError(f"The file of parameters {place} cannot be read: {_words(error)}.") from None
    try:
        found = json.loads(text) if place.lower().endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"The file of parameters {place} is neither good JSON nor YAML: {said}.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"The file of parameters {place} has to be a mapping of names to values.")
    return {str(name): _json(value) for name, value in found.items()}


def _json(value: Any) -> Any:
    """A value of YAML as one of JSON: it has dates, too."""
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _json(one) for name, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, list) else value


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
