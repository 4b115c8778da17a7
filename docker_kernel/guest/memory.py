"""What the system says and is told about memory: who was killed for it, and who is to be chosen first."""

from __future__ import annotations

KERNEL_OOM_SCORE = 500
"""Out of memory, the kernel process is to be chosen, not the supervisor that must tell of it."""

WAITING_OOM_SCORE = 1000
"""A spare that nobody uses yet goes before all others."""


def oom_kills() -> int | None:
    """How many processes of this container were killed for memory (cgroup v2, then v1); None where nobody tells."""
    for path, key in (
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ):
        try:
            with open(path) as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == key:
                        return int(value)
        except OSError:
            continue
    return None


def set_oom_score(score: int) -> None:
    """How soon the system chooses this process when memory runs out (proc(5), oom_score_adj)."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:
        pass
