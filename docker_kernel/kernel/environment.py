"""Which environment variables reach a kernel: an allow-list, never the host's whole environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from docker_kernel.build_settings import CA_VARIABLES, BuildSettings
from docker_kernel.config import KernelConfig
from docker_kernel.kernel.guest_files import CA_FILE, USER_BASE
from docker_kernel.kernel.user import ContainerUser

FROM_HOST = frozenset({"LANG", "LANGUAGE", "TZ", "JPY_SESSION_NAME", "COLORTERM", "NO_COLOR"})
FROM_HOST_PREFIXES = ("LC_", "KERNEL_")
NEVER = frozenset(
    {
        "HOME", "PATH", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "HOSTNAME", "VIRTUAL_ENV",
        "JPY_PARENT_PID", "JPY_INTERRUPT_EVENT", "JPY_API_TOKEN", "JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN",
        "PYTHONHOME", "PYTHONEXECUTABLE", "LD_LIBRARY_PATH", "LD_PRELOAD",
        "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
    }
)  # fmt: skip
"""Variables that mean something on the host only, or that would hand out its powers. JPY_PARENT_PID would make
ipykernel exit at once."""


def kernel_env(
    config: KernelConfig,
    user: ContainerUser,
    packages: BuildSettings,
    launch_env: Mapping[str, str],
    spec_env: Mapping[str, str],
) -> dict[str, str]:
    """The environment of the kernel process, over that of its image.

    Args:
        packages: the host's package settings, so that installing works inside as it does outside.
        launch_env: what the client launches the kernel with; usually the server's environment with a few changes.
        spec_env: the kernelspec's `env` stanza.
    """
    env = {
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "PYTHONUSERBASE": USER_BASE,
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **(packages.variables(CA_FILE) if config.network != "none" else {}),
    }
    for name, value in launch_env.items():
        changed = os.environ.get(name) != value
        allowed = name in FROM_HOST or name.startswith(FROM_HOST_PREFIXES) or name in config.env_from_host
        if name not in NEVER and name not in CA_VARIABLES and (allowed or changed or name in spec_env):
            env[name] = value
    for name in config.env_from_host:
        if name in os.environ:
            env.setdefault(name, os.environ[name])
    return {**env, **config.env}
