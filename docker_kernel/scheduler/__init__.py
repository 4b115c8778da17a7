"""A backend for jupyter-scheduler: notebook jobs of JupyterLab's own UI run in containers.

A Jupyter server extension, which sets the classes of jupyter-scheduler's where nobody has set others:
`jupyter server extension enable docker_kernel.scheduler`.
"""

from __future__ import annotations

from typing import Any

CLASSES = {
    "scheduler_class": "docker_kernel.scheduler.backend.DockerScheduler",
    "environment_manager_class": "docker_kernel.scheduler.environments.DockerEnvironments",
    "job_files_manager_class": "docker_kernel.scheduler.outputs.DockerJobFiles",
}


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "docker_kernel.scheduler"}]


def _link_jupyter_server_extension(server: Any) -> None:
    """Set the classes before jupyter-scheduler is loaded: extensions are linked in the order of their names."""
    from traitlets.config import Config

    chosen = server.config.get("SchedulerApp", {})
    ours = Config({"SchedulerApp": {name: value for name, value in CLASSES.items() if name not in chosen}})
    server.update_config(ours)


def _load_jupyter_server_extension(server: Any) -> None:
    """There is nothing to load: jupyter-scheduler does."""
