"""Real targets of each kind for the behavioural suite, and how to look at what they hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docker_kernel import labels
from docker_kernel.batch.job_folder import root
from tests.engines import OwnRegistry, SecondEngine, bridge_address
from tests.patience import patient
from tests.swarm import TwoNodes


@dataclass
class Place:
    """One target.

    Args:
        settings: its table in the config file.
        host: this machine's address, as jobs there see it.
        engines: the engines it runs jobs on, as `docker -H` names them; "" for the kernel's own.
        sends: whether state has to be sent there.
        services: whether jobs are Swarm services.
    """

    settings: str
    host: str
    engines: list[str] = field(default_factory=lambda: [""])
    sends: bool = True
    services: bool = False

    def _docker(self, engine: str, *arguments: str) -> str:
        command = ["docker", *(["-H", engine] if engine else []), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patient(60)).stdout

    def _ids(self, engine: str, job: str) -> list[str]:
        return self._docker(engine, "ps", "-aq", "--filter", f"label={labels.JOB_ID}={job}").split()

    def left(self, job: str) -> list[str]:
        """What a job has on its engines."""
        found = [one for engine in self.engines for one in self._ids(engine, job)]
        if self.services:
            found += self._docker("", "service", "ls", "-q", "--filter", f"label={labels.JOB_ID}={job}").split()
            found += [name for name in self._docker("", "secret", "ls", "--format", "{{.Name}}").split() if job in name]
        networks = self._docker(self.engines[0], "network", "ls", "--format", "{{.Name}}").split()
        return found + [name for name in networks if job in name]

    def rests(self, job: str) -> bool:
        """Whether nothing of a job runs, or will without anybody's doing."""
        mark = f"label={labels.JOB_ID}={job}"
        running = [one for engine in self.engines for one in self._docker(engine, "ps", "-q", "--filter", mark).split()]
        services = self._docker("", "service", "ls", "-q", "--filter", mark).split() if self.services else []
        states = [self._docker("", "service", "ps", "--format", "{{.CurrentState}}", one) for one in services]
        return not running and all(state.startswith(("Complete", "Failed")) for state in states)

    def inspect(self, job: str) -> str:
        """All that its engines say of a job: containers and their images, services, logs."""
        found = []
        for engine in self.engines:
            for one in self._ids(engine, job):
                raw = self._docker(engine, "inspect", one)
                image = self._docker(engine, "inspect", "--format", "{{.Image}}", one).strip()
                found += [raw, self._docker(engine, "logs", one), self._docker(engine, "image", "inspect", image)]
                found.append(self._docker(engine, "image", "history", "--no-trunc", image))
        if self.services:
            for one in self._docker("", "service", "ls", "-q", "--filter", f"label={labels.JOB_ID}={job}").split():
                found.append(self._docker("", "service", "inspect", one))
            for one in self._docker("", "secret", "ls", "-q").split():
                found.append(self._docker("", "secret", "inspect", one))
        assert found, "the job is nowhere"
        return "\n".join(found)


@contextlib.contextmanager
def local(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield Place('kind = "local"\nmax_jobs = 4', bridge_address(), sends=False)


@contextlib.contextmanager
def swarm(request: pytest.FixtureRequest) -> Iterator[Place]:
    nodes: TwoNodes = request.getfixturevalue("two_nodes")
    settings = (
        f'kind = "swarm"\nregistry = "{nodes.registry}/team"\n'
        f'result_url = "oci+http://{nodes.address}:{nodes.port}/team"'
    )
    yield Place(settings, nodes.address, ["", nodes.worker_url], services=True)


@contextlib.contextmanager
def docker(request: pytest.FixtureRequest) -> Iterator[Place]:
    engine: SecondEngine = request.getfixturevalue("second_engine")
    yield Place(f'kind = "docker"\nengine = "{engine.url}"', engine.here, [engine.url])


@contextlib.contextmanager
def docker_registry(request: pytest.FixtureRequest) -> Iterator[Place]:
    engine: SecondEngine = request.getfixturevalue("second_engine")
    registry: OwnRegistry = request.getfixturevalue("own_registry")
    registry.serve_to(engine)
    settings = f'kind = "docker"\nengine = "{engine.tcp}"\ntls = "{engine.tls}"\nregistry = "{registry.address}/team"'
    yield Place(settings, engine.here, [engine.url])


@contextlib.contextmanager
def example(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The target that docs/targets.md shows, installed as a plugin."""
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    packages = folders.mktemp("packages")
    (packages / "example_target.py").symlink_to(Path(__file__).parent.parent.parent / "docs" / "example_target.py")
    about = packages / "example_target-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: example-target\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[docker_kernel.targets]\nexample = example_target:ExampleTarget\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(packages)
        patch.setenv("PYTHONPATH", str(packages), prepend=os.pathsep)
        try:
            yield Place(f'kind = "example"\nfolder = "{folders.mktemp("slots")}"\nslots = 2', bridge_address())
        finally:
            # Those of a notebook's last dispatches are kept for a retry.
            images = [f"docker-kernel-example:{path.name}" for path in (root() / "dispatches").glob("*")]
            subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True, check=False)


NEEDS = {
    "example": [pytest.mark.engine],
    "local": [pytest.mark.engine],
    "docker": [pytest.mark.cluster("second engine")],
    "docker-registry": [pytest.mark.cluster("second engine")],
    "swarm": [pytest.mark.cluster("swarm")],
}


def at(*names: str) -> pytest.MarkDecorator:
    """Has a test run on these targets only."""
    params = [pytest.param(name, marks=NEEDS[name]) for name in names]
    return pytest.mark.parametrize("place", params, indirect=True, scope="module")


PLACES: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Place]]] = {
    "example": example,
    "local": local,
    "docker": docker,
    "docker-registry": docker_registry,
    "swarm": swarm,
}
