"""The installer: writes, removes and lists the kernelspecs that run kernels in containers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_core.paths import jupyter_data_dir

from docker_kernel import config, images
from docker_kernel.config import DEFAULT_IMAGE, PROVISIONER, KernelConfig
from docker_kernel.data import data_folder
from docker_kernel.engine import Engine
from docker_kernel.errors import ConfigError, EngineError, ImageMissing
from docker_kernel.kernel import bytecode
from docker_kernel.kernel.workspace import kernel_mounts

NAME = "docker-python"
DISPLAY_NAME = "Docker Python"


@dataclass(frozen=True)
class Installed:
    """An installed kernelspec of ours.

    Args:
        size: of its image in bytes, None if it is not known.
        state: "ready", or what keeps it from starting and the command that mends it.
    """

    name: str
    display_name: str
    folder: Path
    image: str
    size: int | None
    state: str


def kernels_folder(sys_prefix: bool = False, prefix: Path | None = None) -> Path:
    """Where kernelspecs are installed: the user's folder, this Python environment's, or the one below a prefix."""
    if prefix is not None:
        return prefix.expanduser().resolve() / "share" / "jupyter" / "kernels"
    if sys_prefix:
        return Path(sys.prefix) / "share" / "jupyter" / "kernels"
    return Path(jupyter_data_dir()) / "kernels"


def stanza(
    image: str | None = None,
    mounts: Iterable[str] = (),
    env: Iterable[str] = (),
    publish: Iterable[str] = (),
    **settings: object,
) -> dict[str, Any]:
    """A kernelspec's `config` from what a user typed; values that are None are left out.

    Args:
        mounts: each SRC:DST[:ro]; a relative source is one of the current folder.
        env: each NAME=VALUE.

    Raises:
        ConfigError: a value that does not fit, or a mount that a kernel could not have.
    """
    pairs = [text.partition("=") for text in env]
    for name, equals, _ in pairs:
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"--env {name}{equals}: write NAME=VALUE.")
    ports = [int(text) if text.isdecimal() else text for text in publish]
    given = {
        "image": image,
        **settings,
        "mounts": [_absolute(text) for text in mounts],
        "env": {name: value for name, _, value in pairs},
        "publish": ports,
    }
    typed = {key: value for key, value in given.items() if value not in (None, [], {})}
    user_config = config.load()
    checked = user_config.kernel_config(typed, "docker-kernel install")
    kernel_mounts(checked.model_copy(update={"workspace": False}), user_config, None, "/")
    if "cpus" in typed:
        typed["cpus"] = checked.cpus
    return typed


def _absolute(mount: str) -> str:
    source, colon, rest = mount.partition(":")
    return f"{Path(source).expanduser().absolute()}{colon}{rest}" if source and colon else mount


async def install(
    engine: Engine,
    folder: Path,
    settings: Mapping[str, Any],
    name: str | None = None,
    display_name: str | None = None,
    all_kernels: bool = False,
    progress: images.Progress = images.silent,
) -> list[Path]:
    """Install one kernelspec, or one for each kernel found in the image, and return their folders.

    The image is built, pulled or derived here, so that no kernel's start ever waits for it.

    Args:
        folder: the `kernels` folder to install into.
        settings: the `config` stanza, from `stanza()`.

    Raises:
        ConfigError: a name or folder that cannot be used; nothing is written then.
        ImageMissing, BuildFailed: there is no image to run it in; nothing is written then.
    """
    if all_kernels and (name or display_name):
        raise ConfigError("--all-kernels names the kernelspecs after the kernels it finds: leave out --name and more.")
    name = name or NAME
    _check_name(name)
    _check_writable(folder)
    facts = await images.kernel_image(engine, str(settings.get("image") or default_image()), progress)
    if facts.python:
        with contextlib.suppress(EngineError):  # starts are slower without it
            await bytecode.make(engine, facts.id, facts.python)
    settings = {**settings, "image": facts.reference, "python": facts.python}
    if not all_kernels:
        return [_write(folder / name.lower(), _python_spec(facts, settings, display_name or DISPLAY_NAME))]
    if not facts.kernelspecs:
        raise ConfigError(f"There is no kernelspec in the image {facts.reference}: install it without --all-kernels.")
    made = [(f"docker-{found.name}", _found_spec(facts, found, settings)) for found in facts.kernelspecs]
    return [_write(folder / found_name, spec) for found_name, spec in made]


def install_like(folder: Path, name: str, image: str, spec: Mapping[str, Any], display_name: str = "") -> Path:
    """Install a kernelspec with the settings of another one of ours, and an image of its own; returns its folder.

    Args:
        folder: the `kernels` folder to install into.
        spec: the other kernelspec, as kernel.json has it.
        display_name: by default the other one's, with the new name.
    """
    metadata = dict(spec.get("metadata", {}))
    settings = {**(_of_ours(spec) or {}), "image": image}
    metadata["kernel_provisioner"] = {"provisioner_name": PROVISIONER, "config": settings}
    made = {
        **spec,
        "argv": _template()["argv"],
        "display_name": display_name or f"{spec.get('display_name', DISPLAY_NAME)} ({name})",
        "metadata": metadata,
    }
    _check_writable(folder)
    return _write(folder / name.lower(), made)


def check_free(name: str, replace: bool) -> None:
    """Refuse a name for a kernelspec that is none, or that is taken.

    Args:
        replace: whether one of ours may be replaced.

    Raises:
        ConfigError: it cannot be used, with what to do.
    """
    _check_name(name)
    found = KernelSpecManager().get_all_specs().get(name.lower())
    if found is None:
        return
    if _of_ours(found["spec"]) is None:
        raise ConfigError(f"The kernelspec {name!r} is there, and not one of docker-kernel's: choose another name.")
    if not replace:
        raise ConfigError(f"The kernelspec {name!r} is there already: say --replace, or choose another name.")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ConfigError(f"{name!r} is no name for a kernelspec: use letters, digits, '.', '_' and '-'.")


def default_image() -> str:
    """The image that kernels run in where nothing else is said: the config file's, or ours."""
    return str(config.load().kernel.get("image", DEFAULT_IMAGE))


def _template() -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((data_folder("kernelspecs") / NAME / "kernel.json").read_text(encoding="utf-8"))
    return spec


def _python_spec(facts: images.ImageFacts, settings: Mapping[str, Any], display_name: str) -> dict[str, Any]:
    spec = _template()
    spec["display_name"] = display_name
    if facts.curve:
        spec["metadata"]["supported_encryption"] = ["curve"]
    spec["metadata"]["kernel_provisioner"]["config"] = dict(settings)
    return spec


def _found_spec(facts: images.ImageFacts, found: images.FoundSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A kernelspec for a kernel found in an image: language, interrupt mode and metadata stay as they are there."""
    spec = _template()
    settings = dict(settings)
    if not _is_ours(found, facts):
        settings["argv"] = [part.replace("{resource_dir}", found.resource_dir) for part in found.argv]
    if env := {**found.env, **settings.get("env", {})}:
        settings["env"] = env
    metadata = {key: value for key, value in found.metadata.items() if key != "kernel_provisioner"}
    spec["display_name"] = f"Docker {found.display_name}"
    spec["language"] = found.language
    spec["interrupt_mode"] = found.interrupt_mode
    spec["metadata"] = {**metadata, "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": settings}}
    config.validate(KernelConfig, settings, f"The kernelspec {found.name} in {facts.reference}")
    return spec


def _is_ours(found: images.FoundSpec, facts: images.ImageFacts) -> bool:
    """Whether a kernel is the ipykernel of the image's own Python, which runs without an argv."""
    program = found.argv[0]
    return (
        found.argv[1:3] in (("-m", "ipykernel_launcher"), ("-m", "ipykernel"))
        and (program in ("python", "python3") or program == facts.python)
        and len(found.argv) == 5
    )


def _check_writable(folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"You may not write to {existing}: install with --user, --sys-prefix or another --prefix.")


def _write(folder: Path, spec: dict[str, Any]) -> Path:
    """Write a kernelspec's folder; the one it replaces is there until the new one is whole."""
    places = {"{python}": sys.executable, "{spec}": str(folder)}
    spec["argv"] = [places.get(part, part) for part in spec["argv"]]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".docker-kernel-", dir=folder.parent) as work:
        fresh, old = Path(work) / "new", Path(work) / "old"
        fresh.mkdir()
        (fresh / "kernel.json").write_text(json.dumps(spec, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for logo in sorted((data_folder("kernelspecs") / NAME).glob("logo-*")):
            shutil.copyfile(logo, fresh / logo.name)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    return folder


def _of_ours(spec: KernelSpec | Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The `config` stanza of a kernelspec of ours; None if it is someone else's."""
    metadata = spec.metadata if isinstance(spec, KernelSpec) else spec.get("metadata", {})
    provisioner = metadata.get("kernel_provisioner") or {}
    return provisioner.get("config") or {} if provisioner.get("provisioner_name") == PROVISIONER else None


def uninstall(names: Sequence[str]) -> list[Path]:
    """Remove kernelspecs of ours and return their folders; none is removed if one of the names is not ours.

    Raises:
        ConfigError: there is no such kernelspec, or it is not one of ours.
    """
    manager = KernelSpecManager()
    folders = []
    for name in names:
        try:
            spec = manager.get_kernel_spec(name)
        except NoSuchKernel:
            raise ConfigError(
                f"There is no kernelspec {name!r}: `docker-kernel list` shows those that are installed."
            ) from None
        if _of_ours(spec) is None:
            raise ConfigError(f"The kernelspec {name!r} is not one of docker-kernel's: it is left alone.")
        folders.append(Path(spec.resource_dir))
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ConfigError(f"The kernelspec in {folder} cannot be removed: {error.strerror}.") from None
    return folders


def ours() -> dict[str, dict[str, Any]]:
    """The kernelspecs of ours that Jupyter finds: name to `resource_dir` and `spec`, as get_all_specs gives them."""
    specs: dict[str, dict[str, Any]] = KernelSpecManager().get_all_specs()
    return {name: found for name, found in sorted(specs.items()) if _of_ours(found["spec"]) is not None}


def images_in_use() -> list[str]:
    """The images that installed kernelspecs of ours name, and the default one."""
    stanzas = [_of_ours(found["spec"]) or {} for found in ours().values()]
    return [default_image(), *(str(stanza["image"]) for stanza in stanzas if "image" in stanza)]


async def installed(engine: Engine | None) -> list[Installed]:
    """The kernelspecs of ours that Jupyter finds, with the state of their images.

    Args:
        engine: None if none answers; sizes and states are unknown then.
    """
    rows = []
    for name, found in ours().items():
        settings = _of_ours(found["spec"]) or {}
        image = str(settings.get("image") or default_image())
        size, state = await _image_state(engine, image)
        rows.append(Installed(name, found["spec"]["display_name"], Path(found["resource_dir"]), image, size, state))
    return rows


async def _image_state(engine: Engine | None, image: str) -> tuple[int | None, str]:
    if engine is None:
        return None, "no engine answers"
    try:
        return int((await engine.images.inspect(image))["Size"]), "ready"
    except ImageMissing:
        return None, f"image missing: {images.how_to_bring(image)}"
    except EngineError as error:
        return None, str(error)
