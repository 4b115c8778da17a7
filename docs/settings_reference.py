"""Renews the tables of configuration.md from the schema itself, and checks its examples: conf.py does at every build.

A table stands between `<!-- settings: MODEL -->` and `<!-- end -->`; the models are those of docker_kernel.config, and
those of each kind of target.
"""

from __future__ import annotations

import json
import re
import sys
import types
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from docker_kernel import config, targets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = Path(__file__).parent / "configuration.md"
TABLE = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
EXAMPLE = re.compile(r"^```(json|toml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

KINDS = [one.name for one in entry_points(group=targets.GROUP) if one.module.startswith("docker_kernel.")]
"""Those of targets that are ours."""

NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
BOUNDS = {"gt": "greater than {}", "ge": "at least {}", "lt": "less than {}", "le": "at most {}"}


def renew(page: Path = PAGE) -> bool:
    """Renew the page's tables; returns whether any was stale.

    Raises:
        ConfigError: docker-kernel would refuse one of the examples.
    """
    old = page.read_text(encoding="utf-8")
    for language, text in EXAMPLE.findall(old):
        check(language, text)
    new = TABLE.sub(lambda found: found[1] + table(model(found[2])) + found[3], old)
    if new != old:
        page.write_text(new, encoding="utf-8")
    return new != old


def model(name: str) -> type[BaseModel]:
    """The settings of that name."""
    own = {kind.Config.__name__: kind.Config for kind in (targets.kind_class(one, "the page") for one in KINDS)}
    found: type[BaseModel] = own.get(name) or getattr(config, name)
    return found


def table(model: type[BaseModel]) -> str:
    """The settings of a model, without inherited ones, as Markdown: setting, type, default, meaning."""
    lines = ["| Setting | Type | Default | Meaning |", "|---|---|---|---|"]
    own = {name: field for name, field in model.model_fields.items() if name in model.__annotations__}
    for name, field in own.items():
        cells = f"`{name}`", type_text(field.annotation, field.metadata), default_text(field), field.description or ""
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(["", *lines, "", ""])


def type_text(kind: Any, metadata: list[Any] | None = None) -> str:
    """A type as a reader of a configuration knows it."""
    found = [*(metadata or [])]
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        found += [part for one in more for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
    if _is_size(found):
        return "size"
    bounds = [
        text.format(f"{getattr(part, name):g}")
        for part in found
        for name, text in BOUNDS.items()
        if getattr(part, name, None) is not None
    ]
    return ", ".join([_plain(kind), *bounds])


def _is_size(metadata: list[Any]) -> bool:
    return any(isinstance(part, BeforeValidator) and part.func is config.parse_size for part in metadata)


def _plain(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'`"{part}"`' for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in parts if part is not type(None))
    if origin is list:
        return f"list of {type_text(parts[0])}"
    if origin is dict:
        return "table" if parts[1] is Any else f"table of {type_text(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "tables (below)"
    return NAMES[kind]


def default_text(field: FieldInfo) -> str:
    """A default as it would be written in a config file."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if type_text(field.annotation, field.metadata) == "size":
        value = config.format_size(value)
    return f"`{json.dumps(value)}`"


def check(language: str, text: str) -> None:
    """Check an example: a config file in TOML, or a kernelspec in JSON.

    Raises:
        ConfigError: docker-kernel would refuse it.
    """
    if language == "toml":
        file: config.UserConfig = config.validate(config.UserConfig, tomllib.loads(text), "the example")
        file.kernel_config({}, "the example")
        for name, settings in file.targets.items():
            if settings.kind in KINDS:
                targets.load(name, settings)
    else:
        stanza = json.loads(text)["metadata"]["kernel_provisioner"]
        config.UserConfig().kernel_config(stanza["config"], "the example")


if __name__ == "__main__":
    print("renewed" if renew() else "up to date")
