"""docker-kernel: Jupyter kernels that live in containers, and whose live state can be sent anywhere.

In a kernel: `from docker_kernel import dispatch, job, jobs, ports`. They are loaded at their first use, as this package
is imported on the host, too, where they have nothing to work on.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["dispatch", "job", "jobs", "ports"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from docker_kernel.guest import api

    return getattr(api, name)
