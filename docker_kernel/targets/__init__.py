"""Where jobs run: one folder a kind of target, all behind `base.Target`; kinds are entry points, plugins' too."""

from __future__ import annotations

from importlib.metadata import entry_points

from docker_kernel.config import TargetConfig
from docker_kernel.errors import ConfigError
from docker_kernel.targets.base import Target

GROUP = "docker_kernel.targets"


def load(name: str, config: TargetConfig) -> Target:
    """A target of the user's config.

    Raises:
        ConfigError: nothing that is installed knows its kind, or what does cannot be imported.
    """
    kinds = {entry.name: entry for entry in entry_points(group=GROUP)}
    if config.kind not in kinds:
        raise ConfigError(
            f"[targets.{name}]: there is no kind {config.kind!r} of target: there are {', '.join(sorted(kinds))}, and "
            f"plugins can add more (entry-point group {GROUP})."
        )
    entry = kinds[config.kind]
    try:
        kind = entry.load()
    except Exception as error:
        raise ConfigError(
            f"[targets.{name}]: the kind {config.kind!r} cannot be used: {entry.value} fails with {error!r}."
        ) from None
    made: Target = kind(name, config)
    return made
