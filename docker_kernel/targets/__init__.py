"""Where jobs run: one folder a kind of target, all behind `base.Target`; kinds are entry points, plugins' too."""

from __future__ import annotations

from importlib.metadata import entry_points

from docker_kernel.config import TargetConfig, validate
from docker_kernel.errors import ConfigError
from docker_kernel.targets.base import AnyTarget

GROUP = "docker_kernel.targets"


def kind_class(kind: str, where: str) -> type[AnyTarget]:
    """The class of a kind of target.

    Args:
        where: who names it, for an error.

    Raises:
        ConfigError: nothing that is installed knows the kind, or what does cannot be imported.
    """
    kinds = {entry.name: entry for entry in entry_points(group=GROUP)}
    if kind not in kinds:
        raise ConfigError(
            f"{where}: there is no kind {kind!r} of target: there are {', '.join(sorted(kinds))}, and plugins can add "
            f"more (entry-point group {GROUP})."
        )
    entry = kinds[kind]
    try:
        found: type[AnyTarget] = entry.load()
    except Exception as error:
        raise ConfigError(f"{where}: the kind {kind!r} cannot be used: {entry.value} fails with {error!r}.") from None
    return found


def load(name: str, table: TargetConfig) -> AnyTarget:
    """A target of the user's config.

    Raises:
        ConfigError: there is no such kind, or it has not these settings.
    """
    where = f"[targets.{name}]"
    kind = kind_class(table.kind, where)
    given = {**table.model_dump(exclude_unset=True), "kind": table.kind}
    return kind(name, validate(kind.Config, given, where))
