"""Which process made a container, so that others know of one that never started whether it still may."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def this_process() -> str:
    """This process's name for a label, which no other has; empty where the system tells none."""
    try:
        return f"{_here()} {os.getpid()} {_start(os.getpid())}"
    except OSError:
        return ""


def lives(maker: str) -> bool | None:
    """Whether a process still runs, by its name; None where that cannot be told from here."""
    try:
        where, process, start = maker.rsplit(" ", 2)
        if where != _here():
            return None  # another boot, another machine that has the same engine, or another container
    except (OSError, ValueError):
        return None
    try:
        return _start(int(process)) == start
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # or its number is another user's process by now


def _here() -> str:
    """Where process ids mean what they mean to us: since which boot, and in which namespace."""
    return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {(PROC / 'self/ns/pid').readlink()}"


def _start(process: int) -> str:
    """When a process started, in ticks since the boot (proc(5), stat); empty for one that has ended."""
    state, *rest = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]
