"""The engine (Docker or Podman): the only package that imports docker.

What asks the engine is a coroutine: docker-py blocks, so its calls run in threads. Failures of the engine become errors
of ours that say what to do.
"""

from docker_kernel.engine.archives import File, archive, paths_not_ignored
from docker_kernel.engine.containers import NEVER_RAN, Containers, ContainerState
from docker_kernel.engine.credentials import registry_credentials
from docker_kernel.engine.engine import Engine, EngineInfo
from docker_kernel.engine.specs import BindMount, ContainerSpec, SwarmFile, TaskSpec, VolumeMount
from docker_kernel.engine.streams import STREAM_STDERR, STREAM_STDOUT, ByteStream, ExecStream, LogStream
from docker_kernel.engine.swarm import Swarm, SwarmNode, SwarmTask

__all__ = [
    "NEVER_RAN",
    "STREAM_STDERR",
    "STREAM_STDOUT",
    "BindMount",
    "ByteStream",
    "ContainerSpec",
    "ContainerState",
    "Containers",
    "Engine",
    "EngineInfo",
    "ExecStream",
    "File",
    "LogStream",
    "Swarm",
    "SwarmFile",
    "SwarmNode",
    "SwarmTask",
    "TaskSpec",
    "VolumeMount",
    "archive",
    "paths_not_ignored",
    "registry_credentials",
]
