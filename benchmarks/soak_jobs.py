"""`python -m benchmarks.soak_jobs 60`: so many jobs whose hosts are killed at random, and what became of them.

Each host is a process with a kernel of its own that sends a few jobs, to its own engine or to a second one: cells that
return, cells that raise and are tried again, pairs of replicas. It is killed with SIGKILL somewhere between the first
request to send them and their end. Often a second process takes its jobs over, and is killed, too. A last one concludes
them. Jobs tell a counter of each time that they really run.
"""

from __future__ import annotations

import argparse
import random
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import contenders
from docker_kernel import background, labels
from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import Engine
from tests.doomed import Counter, counter
from tests.engines import SecondEngine, bridge_address, running_engine

JOBS_OF_A_HOST = 5
PATIENCE = 300.0
"""Seconds until the last process has to be through with a host's jobs."""

HOST = """
import sys
from pathlib import Path
from tests.notebook import Notebook

one = Notebook(sys.argv[1], Path(sys.argv[2]))
print(one.container.kernel_id, flush=True)
one.run(sys.argv[3], timeout=120)
one.run("_.wait(100)", timeout=120)
print("done", flush=True)
sys.stdin.read()
"""

FOLLOWER = f"""
import asyncio, sys
from docker_kernel import background
from docker_kernel.batch.manager import manager

async def follow():
    await manager().adopt()
    for job in sys.argv[1:]:
        await manager().wait(job)
    await manager().catch_up({PATIENCE})

print("follows", flush=True)
background.run_blocking(follow())
print("done", flush=True)
"""

PRUNER = """
from docker_kernel import background
from docker_kernel.batch.manager import manager

async def prune():
    await manager().adopt()
    await manager().prune(0)

background.run_blocking(prune())
"""

KINDS = {
    "returns": ("", "import time; time.sleep(n / 2)\nanswer = n"),
    "raises": ("--retries 1", "raise KeyError('always')"),
    "replicas": ("--replicas 2 --retries 1", "import time; time.sleep(1)\nanswer = n"),
}
"""By name: the options and the code of a host's jobs."""


@dataclass
class Summary:
    """What became of the jobs.

    Args:
        seed: of all that was random.
        attempts: as the ledger has them; runs: of a job's code, replicas of one attempt counted once.
        unsent: jobs that cannot have run, as their host was killed before their state had been sent.
        double: jobs that ran more often than they had attempts, by id.
        wrong: jobs whose last state, reason or number of attempts is not what their code makes it, by id.
        orphans: what was left on both engines, and on the disk.
        ids: of all jobs.
    """

    seed: int
    hosts: int = 0
    killed_followers: int = 0
    jobs: int = 0
    attempts: int = 0
    runs: int = 0
    unsent: int = 0
    lost_attempts: int = 0
    double: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    @property
    def flawless(self) -> bool:
        return not (self.double or self.wrong or self.orphans)

    def __str__(self) -> str:
        lines = [
            f"{self.jobs} jobs of {self.hosts} killed hosts and {self.killed_followers} killed followers, "
            f"seed {self.seed}",
            f"{self.attempts} attempts, {self.runs} runs; {self.unsent} jobs were never sent, and "
            f"{self.lost_attempts} attempts were lost and tried again",
        ]
        for what, found in (
            ("ran twice", self.double), ("wrong final states", self.wrong), ("orphans", self.orphans),
        ):  # fmt: skip
            lines.append(f"{what}: {len(found)}" + "".join(f"\n  {one}" for one in found))
        return "\n".join(lines)


def run(count: int, seed: int | None = None) -> Summary:
    """Send so many jobs from hosts that are killed.

    Args:
        seed: of all that is random; None for another one each time.
    """
    soak = Soak(secrets.randbelow(10**6) if seed is None else seed)
    with tempfile.TemporaryDirectory(prefix="docker-kernel-soak-") as folder, running_engine() as second:
        soak.run(count, Path(folder), second)
    return soak.summary


class Soak:
    def __init__(self, seed: int) -> None:
        self.summary = Summary(seed)
        self._chance = random.Random(seed)
        self._life: dict[tuple[str, str], float] = {}
        """Seconds from the request to send a host's jobs to their end, by target and kind of jobs."""
        self._kernels: list[str] = []

    def run(self, count: int, folder: Path, second: SecondEngine) -> None:
        summary, engine = self.summary, background.run_blocking(Engine.connect())
        contenders.prepare(engine, folder)
        (folder / "config.toml").write_text(f'[targets.there]\nkind = "docker"\nengine = "{second.url}"\n')
        addresses = {"local": bridge_address(), "there": second.here}
        networks = second.docker("network", "ls", "-q")
        ledger = Ledger(root() / "jobs.sqlite")
        with counter() as told:
            while summary.jobs < count:
                target, kind = list(addresses)[summary.hosts % 2], list(KINDS)[summary.hosts // 2 % len(KINDS)]
                known = {record.id for record in ledger.find()}
                cell = self._cell(target, kind, min(JOBS_OF_A_HOST, count - summary.jobs), told, addresses[target])
                life = self._killed_host(folder, cell, self._life.get((target, kind)))
                self._life[target, kind] = max(life, self._life.get((target, kind), 0.0))
                jobs = [record for record in ledger.find() if record.id not in known]
                if jobs and self._chance.random() < 0.5:
                    summary.killed_followers += _killed_follower(jobs, self._chance.uniform(0, life))
                _conclude(jobs)
                for record in jobs:
                    _judge(ledger.get(record.id), kind, summary, told)
                summary.hosts += 1
                summary.jobs += len(jobs)
                print(f"… {summary.jobs} of {count}", flush=True)
        _process(PRUNER).wait(PATIENCE)
        end = time.monotonic() + 60
        while (left := self._left(engine, second, networks)) and time.monotonic() < end:
            time.sleep(0.5)
        summary.orphans = left
        engine.close()

    def _cell(self, target: str, kind: str, number: int, told: Counter, address: str) -> str:
        options, code = KINDS[kind]
        tell = told.cell(address, f"'{self.summary.hosts} ' + str(n) + ' ' + os.environ.get('RANK', '0')")
        return f"%%dispatch --on {target} --sweep n=range({number}) {options}\n{tell}{code}"

    def _killed_host(self, folder: Path, cell: str, life: float | None) -> float:
        """Have a host send its jobs, and kill it; for how many seconds it lived then.

        Args:
            life: for how long at most; None lets it live to the end of its jobs, which shows how long that takes.
        """
        process = _process(HOST, contenders.OURS.spec, str(folder), cell)
        assert process.stdout is not None
        try:
            self._kernels.append(process.stdout.readline().strip())
            begun = time.monotonic()
            if life is None:
                process.stdout.readline()
            else:
                time.sleep(self._chance.uniform(0, life))
            return time.monotonic() - begun
        finally:
            process.kill()
            process.wait()

    def _left(self, engine: Engine, second: SecondEngine, networks: str) -> list[str]:
        """All that hosts and jobs have left; the second engine is ours alone."""
        found = []
        for kernel in self._kernels:
            having = {labels.KERNEL_ID: kernel}
            found += [f"container {state.name}" for state in background.run_blocking(engine.containers.list(having))]
            volumes = background.run_blocking(engine.volumes.list(f"{labels.KERNEL_ID}={kernel}"))
            found += [f"volume {volume['Name']}" for volume in volumes]
        ours = background.run_blocking(engine.networks.list({labels.KIND: labels.KIND_NETWORK})).values()
        jobs = {record.id for record in Ledger(root() / "jobs.sqlite").find()} | self.summary.ids
        found += [f"network {name}" for name in ours if any(job in name for job in jobs)]
        for what in (["ps", "-aq"], ["images", "-q"], ["volume", "ls", "-q"]):
            found += [f"{what[0]} {one} on the second engine" for one in second.docker(*what).split()]
        left = set(second.docker("network", "ls", "-q").split()) - set(networks.split())
        found += [f"network {one} on the second engine" for one in left]
        folders = [path for name in ("jobs", "dispatches") for path in (root() / name).glob("*")]
        return found + [f"folder {path}" for path in folders]


def _killed_follower(jobs: list[JobRecord], life: float) -> bool:
    """Have another process take jobs over, and kill it after some seconds; whether it was not through with them."""
    process = _process(FOLLOWER, *(record.id for record in jobs))
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(life)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        process.kill()
        process.wait()


def _conclude(jobs: list[JobRecord]) -> None:
    process = _process(FOLLOWER, *(record.id for record in jobs))
    try:
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def _process(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parent.parent)


def _judge(record: JobRecord, kind: str, summary: Summary, told: Counter) -> None:
    """Compare what became of a job with what its code makes of it, and with how often that ran."""
    ranks = [told.seen[f"{summary.hosts} {record.params['n']} {rank}"] for rank in range(record.replicas)]
    runs = max(ranks)
    about = f"{record.id} ({kind}): {record.state} after {record.attempt} attempts and {ranks} runs: {record.reason}"
    summary.ids.add(record.id)
    summary.runs += runs
    summary.attempts += record.attempt
    if runs > record.attempt:
        summary.double.append(about)
    if record.state == "lost" and "before its state was sent" in record.reason:
        summary.unsent += 1
        if runs:
            summary.wrong.append(about)
        return
    right = {
        "returns": record.state == "succeeded" and (record.attempt, runs) == (1, 1),
        "raises": record.state == "failed" and record.attempt == runs == 2 and "KeyError" in record.reason,
        # An attempt of which only some replicas had been started is lost, and the next one is the last.
        "replicas": (record.state == "succeeded" and 1 <= min(ranks) <= runs <= record.attempt <= 2)
        or (record.state == "lost" and record.attempt == 2 and "replicas had begun" in record.reason),
    }  # fmt: skip
    if not right[kind]:
        summary.wrong.append(about)
    if kind == "replicas":
        summary.lost_attempts += record.attempt - 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak_jobs", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=60)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    summary = run(options.count, options.seed)
    print(summary)
    sys.exit(0 if summary.flawless else 1)


if __name__ == "__main__":
    main()
