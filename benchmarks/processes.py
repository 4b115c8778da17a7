"""What processes use, as /proc tells it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")


def _all() -> list[int]:
    return [int(folder.name) for folder in PROC.iterdir() if folder.name.isdecimal()]


def _threads(process: int) -> Iterator[Path]:
    return (PROC / str(process) / "task").iterdir()


def _line(process: int, file: str, name: str) -> list[str]:
    """The words of one line of a file whose lines are `Name:  value unit`."""
    for line in (PROC / str(process) / file).read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return rest.split()
    raise KeyError(f"{file} of {process} tells no {name}")


def _field(process: int, file: str, name: str) -> int:
    return int(_line(process, file, name)[0])


def resident(process: int) -> float:
    """MB of memory that a process has."""
    return _field(process, "status", "VmRSS") / 1000


def threads(process: int) -> int:
    return _field(process, "status", "Threads")


def proportional(processes: Iterable[int]) -> float:
    """MB of memory that processes have, what they share with others counted in parts (PSS)."""
    return sum(_field(process, "smaps_rollup", "Pss") for process in processes) / 1000


def cpu_seconds(processes: Iterable[int]) -> float:
    """Seconds of CPU that the threads of processes have had; the usual counters would go by ticks of 10 ms."""
    total = 0
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in _threads(process):
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def descendants(process: int) -> list[int]:
    """A process and all that it and its children have started."""
    children: dict[int, list[int]] = {}
    for one in _all():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = (PROC / str(one) / "stat").read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(one)
    found = [process]
    for one in found:
        found += children.get(one, [])
    return found


def in_containers(containers: Collection[str]) -> list[int]:
    """The processes in containers, given by their full ids: the engine names control groups after them."""
    found = []
    for one in _all():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = (PROC / str(one) / "cgroup").read_text()
            if any(container in text for container in containers):
                found.append(one)
    return found


def named(names: Collection[str]) -> list[int]:
    """The processes that have one of the given names."""
    found = []
    for one in _all():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The kernel keeps 15 characters of a name.
            if (PROC / str(one) / "comm").read_text().strip() in {name[:15] for name in names}:
                found.append(one)
    return found


def born(process: int) -> list[float]:
    """When the threads of a process were started, the oldest first, as time.time() has it, to 10 ms."""
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    stats = [(thread / "stat").read_text().rpartition(")")[2].split() for thread in _threads(process)]
    return sorted(booted + int(stat[19]) / os.sysconf("SC_CLK_TCK") for stat in stats)


def inner_id(process: int) -> int:
    """A process's id as it knows it itself, in its container."""
    return int(_line(process, "status", "NSpid")[-1])
