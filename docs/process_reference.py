"""Renews the table of jobs.md that says which settings travel, from where they are read and set: conf.py does at every
build.

It stands between `<!-- settings that travel -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from docker_kernel.guest.process_parts import PARTS

PAGE = Path(__file__).parent / "jobs.md"
TABLE = re.compile(r"(<!-- settings that travel -->\n).*?(<!-- end -->)", re.DOTALL)


def renew(page: Path = PAGE) -> bool:
    """Renew the page's table; returns whether it was stale."""
    old = page.read_text(encoding="utf-8")
    new = TABLE.sub(lambda found: found[1] + table() + found[2], old)
    if new != old:
        page.write_text(new, encoding="utf-8")
    return new != old


def table() -> str:
    """What has settings or random states, and which travel, as Markdown."""
    rows = [f"| {part.name} | {part.what} |" for part in PARTS]
    return "\n".join(["", "| | What travels, both ways |", "|---|---|", *rows, "", ""])
