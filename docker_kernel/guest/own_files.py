"""Which files of Python code are the user's own, and of no package that is installed."""

from __future__ import annotations

import functools
import os
import site
import sysconfig

_INSTALLED = ("site-packages", "dist-packages")


def is_own(file: object) -> bool:
    """Whether a module's file is one that the user writes, as a workspace has them."""
    if not isinstance(file, str) or not os.path.isabs(file):
        return False  # no file, or what Python calls "built-in" and "frozen"
    return not file.startswith(_places()) and not any(name in file.split(os.sep) for name in _INSTALLED)


@functools.lru_cache(None)
def _places() -> tuple[str, ...]:
    """The folders of Python, of installed packages, and of this one."""
    paths = sysconfig.get_paths()
    found = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [site.getusersitepackages(), *os.environ.get("PIP_TARGET", "").split()]
    found.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    return tuple({os.path.join(path, "") for one in found for path in (one, os.path.realpath(one))})
