"""Which files of Python code are the user's own, and of no package that is installed."""

from __future__ import annotations

import functools
import os
import site
import sysconfig

from docker_kernel.guest.inputs import FOLDER

_INSTALLED = ("site-packages", "dist-packages")


def is_own(file: object) -> bool:
    """Whether a module's file is one that the user writes, as a workspace has them."""
    if not isinstance(file, str) or not os.path.isabs(file):
        return False  # no file, or what Python calls "built-in" and "frozen"
    if file.startswith((*_places(), os.path.join(FOLDER, ""))) or any(
        name in file.split(os.sep) for name in _INSTALLED
    ):
        return False
    return not _is_installed(os.path.dirname(file))


@functools.lru_cache(None)
def _is_installed(folder: str) -> bool:
    """Whether packages are installed in a folder, or in one that it is in, as by `pip install --target`."""
    above = os.path.dirname(folder)
    if above != folder and _is_installed(above):
        return True
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(folder))
    except OSError:
        return False


@functools.lru_cache(None)
def _places() -> tuple[str, ...]:
    """The folders of Python, of installed packages, of this one, and of what a job is given to read."""
    paths = sysconfig.get_paths()
    found = [FOLDER, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    found += [site.getusersitepackages(), *os.environ.get("PIP_TARGET", "").split()]
    found.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    return tuple({os.path.join(path, "") for one in found for path in (one, os.path.realpath(one))})
