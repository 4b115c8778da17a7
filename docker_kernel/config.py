"""Typed settings: what a kernelspec's metadata and the user's config file may say.

One schema and one place for defaults and error texts; docs/configuration.md is generated from it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from docker_kernel.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_IMAGE = "docker-kernel/python:latest"
PROVISIONER = "docker-kernel"

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(value: object) -> object:
    """Bytes from a number or a text such as "2g", "512 MiB", "1.5GB" (units are powers of 1024, as Docker's are)."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", value.lower())
        if match is None:
            raise ValueError(f"{value!r} is no size: write a number with a unit, such as 512m or 2g")
        return int(float(match[1]) * _UNITS[match[2]])
    return value


def format_size(size: float) -> str:
    """A number of bytes for a reader: 2 GiB, 1.5 MiB, 300 B."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.1f}".removesuffix(".0") + f" {units[power]}"


Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))


class KernelMount(_Strict):
    """One extra mount, written SRC:DST[:ro]."""

    source: Path
    target: Path
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> KernelMount:
        parts = text.split(":")
        if len(parts) == 3 and parts[2] not in ("ro", "rw"):
            raise ValueError(f"mount {text!r}: the third part is 'ro' or 'rw', not {parts[2]!r}")
        if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
            raise ValueError(f"mount {text!r}: write SRC:DST or SRC:DST:ro")
        source, target = Path(parts[0]).expanduser(), Path(parts[1])
        if not target.is_absolute():
            raise ValueError(f"mount {text!r}: the path in the container must be absolute")
        return cls(source=source, target=target, read_only=parts[2:] == ["ro"])


class KernelConfig(_Strict):
    """How a kernel's container is made: the `config` stanza of a kernelspec, over `[kernel]` of the config file."""

    image: str = Field(DEFAULT_IMAGE, min_length=1, description="The kernel image.")
    python: str | None = Field(
        None, description="The Python in the image that runs the supervisor; found by `install`."
    )
    argv: list[str] | None = Field(
        None,
        description="The kernel's command inside the container, with {connection_file}; "
        "None runs ipykernel with the image's Python.",
    )
    workspace: bool = Field(True, description="Mount the workspace at its own path.")
    mounts: list[str] = Field(default_factory=list, description="Extra mounts, each SRC:DST or SRC:DST:ro.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables of the kernel.")
    env_from_host: list[str] = Field(
        default_factory=list, description="Names of the host's environment variables that the kernel gets too."
    )
    network: str = Field("bridge", description="The engine network the kernel joins; 'none' for no network at all.")
    publish: list[Annotated[int, Field(gt=0, lt=65536)]] = Field(
        default_factory=list, description="Ports the notebook opens, to be reached on the host's 127.0.0.1."
    )
    memory: Size | None = Field(None, description="Memory limit, such as 2g; swap is not added to it.")
    cpus: float | None = Field(None, gt=0, description="CPU limit; fractions are allowed.")
    pids: int | None = Field(4096, gt=0, description="How many processes and threads there may be.")
    shm: Size | None = Field(
        parse_size("1g"), validate_default=True, description="Size of /dev/shm (the engine's own default is 64m)."
    )
    gpus: str | None = Field(None, description="'all', a number, or comma-separated device ids.")
    user: Annotated[str, Field(pattern=r"^(host|\d+(:\d+)?)$")] = Field(
        "host", description="'host' for your own uid and gid, or UID[:GID]."
    )
    capabilities: list[str] = Field(
        default_factory=list, description="Linux capabilities to keep; all others are dropped."
    )
    transport: Literal["tcp", "ipc"] = Field(
        "tcp",
        description="How the kernel's messages go: 'tcp' by ports on 127.0.0.1, 'ipc' by sockets in a folder that only "
        "you may enter, with no ports at all.",
    )
    encryption: Literal["auto", "required", "disabled"] = Field(
        "auto", description="CurveZMQ on the kernel's ports or sockets: auto uses it where the kernel supports it."
    )
    grace: float = Field(
        60, ge=0, le=86400, description="Seconds a kernel lives on after its server or launcher has gone."
    )

    warm_spares: int = Field(
        1,
        ge=0,
        le=16,
        description="How many warm containers a Jupyter server keeps for the next kernels; 0 for none.",
    )
    warm_at_once: bool = Field(
        False, description="Have them prepared when the server starts; else after its first kernel of this kind."
    )

    @field_validator("network")
    @classmethod
    def _network_of_its_own(cls, value: str) -> str:
        if value == "host" or value.startswith("container:"):
            raise ValueError("a kernel has a network of its own: name 'bridge', 'none' or one of the engine's networks")
        return value

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("mounts")
    @classmethod
    def _mounts_parse(cls, value: list[str]) -> list[str]:
        for text in value:
            KernelMount.parse(text)
        return value

    def parsed_mounts(self) -> list[KernelMount]:
        return [KernelMount.parse(text) for text in self.mounts]


class TargetConfig(_Strict):
    """What every kind of target has: a named place where jobs run."""

    kind: str = Field("local", min_length=1, description="What kind of target this is.")
    memory: Size | None = Field(None, description="Most memory a job may have; the kernel's own limit when not given.")
    cpus: float | None = Field(None, gt=0, description="Most CPUs a job may have; the kernel's own when not given.")
    gpus: str | None = Field(None, description="GPUs that jobs may have: 'all', a number, or device ids.")
    timeout: float | None = Field(None, gt=0, description="Seconds after which a job is stopped.")
    max_jobs: int | None = Field(
        None,
        gt=0,
        description="How many jobs run there at once, the others wait; by default, what fits the kind.",
    )
    max_result: Size = Field(
        parse_size("32g"),
        validate_default=True,
        description="Most bytes of a job's result (variables and files) that are brought here.",
    )
    inputs: list[str] = Field(
        default_factory=list,
        description="What `--input NAME=…` may name besides URLs: folders of the target's machine (absolute paths, "
        "with all below them) and its engine's volumes.",
    )

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class TargetTable(TargetConfig):
    """A target's table in the config file, as it is: its other settings are its kind's, and checked by that
    (`targets.load`) when it is used, so that a mistake in one keeps no kernel from its start."""

    model_config = ConfigDict(extra="allow", frozen=True)


class UserConfig(_Strict):
    """The user's config file."""

    kernel: dict[str, Any] = Field(
        default_factory=dict, description="Defaults for every kernel: any setting of a kernel."
    )
    allowed_mounts: list[Path] | None = Field(
        None, description="Folders below which extra mounts may lie; not given, any folder but / may be mounted."
    )
    targets: dict[str, TargetTable] = Field(default_factory=dict, description="Where jobs can run, by name.")
    registries: dict[str, str] = Field(
        default_factory=dict, description="Where notebook images can be pushed, by name: HOST[:PORT][/PREFIX]."
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _targets_by_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        found: dict[str, TargetTable] = {}
        for name, settings in value.items():
            if not isinstance(settings, TargetTable | dict):
                raise ValueError(f"{name}: a target is a table, [targets.{name}]")
            found[name] = (
                validate(TargetTable, settings, f"[targets.{name}]") if isinstance(settings, dict) else settings
            )
        return found

    def kernel_config(self, stanza: Mapping[str, Any], where: str) -> KernelConfig:
        """A kernelspec's settings over the file's defaults.

        Args:
            stanza: the `config` of the spec's `kernel_provisioner` metadata.
            where: what to call the stanza in an error.

        Raises:
            ConfigError: an unknown key or a value that does not fit.
        """
        config: KernelConfig = validate(KernelConfig, {**self.kernel, **stanza}, where)
        return config

    def all_targets(self) -> dict[str, TargetTable]:
        """The targets by name, `local` among them."""
        return {"local": TargetTable(), **self.targets}

    def target(self, name: str) -> TargetTable:
        """A target by its name; `local` is always there. Raises ConfigError, naming the ones that are."""
        known = self.all_targets()
        if name not in known:
            raise ConfigError(
                f"There is no target {name!r}{_closest(name, known)}: the config file names {', '.join(sorted(known))}."
            )
        return known[name]


def read_target(name: str, settings: Mapping[str, Any]) -> TargetTable:
    """One target's settings, as its table in the config file has them; raises ConfigError."""
    return UserConfig(targets={name: settings}).targets[name]


def validate(model: type[Any], data: Mapping[str, Any], where: str) -> Any:
    """Data checked against a model, with errors a user can act on.

    Raises:
        ConfigError: one sentence for each key that is unknown or has a wrong value.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(" ".join(_sentence(detail, model, where) for detail in error.errors())) from None


def _sentence(detail: Any, model: type[BaseModel], where: str) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = model.model_fields
        name = str(detail["loc"][-1])
        return (
            f"{where}: there is no setting {key!r}{_closest(name, known)}; the settings are {', '.join(sorted(known))}."
        )
    reason = detail["msg"].removeprefix("Value error, ")
    given = detail["input"]
    # The input of "missing" is the table that it is missing in.
    shown_already = repr(given) in reason or detail["type"] == "missing"
    shown = "" if shown_already else f" (it is {json.dumps(given, default=str)})"
    return f"{where}: {key}{shown}: {reason[:1].lower()}{reason[1:]}."


def _closest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def config_path() -> Path:
    """Where the user's config file is: DOCKER_KERNEL_CONFIG, else the platform's config folder."""
    if given := os.environ.get("DOCKER_KERNEL_CONFIG"):
        return Path(given).expanduser()
    return platformdirs.user_config_path("docker-kernel") / "config.toml"


def load() -> UserConfig:
    """The user's config file, or the defaults where there is none.

    Raises:
        ConfigError: the file is not TOML, has unknown keys, or values that do not fit.
    """
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if "DOCKER_KERNEL_CONFIG" in os.environ:
            raise ConfigError(f"DOCKER_KERNEL_CONFIG names {path}, which does not exist.") from None
        return UserConfig()
    except OSError as error:
        raise ConfigError(f"The config file {path} cannot be read: {error.strerror}.") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The config file {path} is not valid TOML: {error}.") from None
    config: UserConfig = validate(UserConfig, data, str(path))
    config.kernel_config({}, f"{path} [kernel]")
    return config
