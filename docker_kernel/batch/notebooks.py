"""Which notebook is which: one that was renamed or moved has its jobs still, and a copy has none of them.

A path alone does not tell: new notebooks are called Untitled.ipynb again and again. Neither does a file's number (its
inode), which file systems use again, and editors give a new one when they save. So what is in a notebook counts, too:
its cells' ids, or their sources.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker_kernel.batch.ledger import Ledger
from docker_kernel.kernel.notebook import Sight, inode_of, look

log = logging.getLogger(__name__)

_TABLE = (
    "CREATE TABLE IF NOT EXISTS notebooks (owner TEXT PRIMARY KEY, path TEXT NOT NULL, inode INTEGER, "
    "ids TEXT NOT NULL, sources TEXT NOT NULL, kernels TEXT NOT NULL)"
)
_COLUMNS = "owner, path, inode, ids, sources, kernels"

KEPT_KERNELS = 50
"""How many of a notebook's latest kernels are remembered, which may outlive the server that started them."""


@dataclass(frozen=True)
class _Known:
    """What is kept of a notebook."""

    owner: str
    sight: Sight
    kernels: tuple[str, ...] = ()


class Notebooks:
    """What the ledger knows of notebooks. All methods block."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._noted: dict[str, tuple[int, int, int]] = {}

    def owner(self, sight: Sight, kernel_id: str) -> str:
        """Whose the jobs of a kernel are: its notebook's, by the name that this has for ever.

        Args:
            sight: the notebook when the kernel was started, as code in a kernel may rename and change files.
        """
        try:
            with self._ledger.opened() as connection:
                connection.execute(_TABLE)
                if not connection.in_transaction:
                    connection.execute("BEGIN IMMEDIATE")
                known = _read(connection)
                for one in known:
                    if kernel_id in one.kernels:
                        return one.owner
                found = self._which(connection, known, sight)
                if found is None:
                    owner = f"notebook:{sight.path}"
                    if any(one.owner == owner for one in known):
                        owner += f"#{secrets.token_hex(4)}"  # that is another's, which was there before
                    found = _Known(owner, sight)
                kernels = (*found.kernels, kernel_id)[-KEPT_KERNELS:]
                _write(connection, _Known(found.owner, sight.after(found.sight), kernels))
                return found.owner
        except (OSError, sqlite3.Error) as error:
            log.warning("which notebook %s is, the ledger %s cannot tell: %s", sight.path, self._ledger.path, error)
            return f"notebook:{sight.path}"

    def note(self, owner: str) -> str:
        """See how an owner's notebook looks now, so that its next kernel finds it; returns its path, "" for unknown."""
        try:
            with self._ledger.opened() as connection:
                connection.execute(_TABLE)
                known = _read(connection, owner)
            if not known:
                return ""
            last = known[0].sight
            path = self._place(last)
            if not path:
                return last.path
            status = Path(path).stat()
            state = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._noted.get(owner) != state or path != last.path:
                now = look(path).after(last)
                with self._ledger.opened() as connection:
                    for one in _read(connection, owner):
                        _write(connection, _Known(owner, now, one.kernels))
                self._noted[owner] = state
            return path
        except (OSError, sqlite3.Error) as error:
            log.warning("the notebook of %s is not noted in the ledger %s: %s", owner, self._ledger.path, error)
            return ""

    def _which(self, connection: sqlite3.Connection, known: list[_Known], sight: Sight) -> _Known | None:
        """The notebook that was found, among those that are known."""
        for one in known:
            if sight.inode is not None and one.sight.inode == sight.inode and _still(one.sight, sight):
                return one
        for one in [other for other in known if other.sight.path == sight.path]:
            if one.sight.inode is None or sight.inode is None:
                return one
            renamed = _renamed(one.sight)
            if renamed is not None:
                _write(connection, _Known(one.owner, renamed, one.kernels))
            elif inode_of(one.sight.path) != one.sight.inode and (one.sight.blank or sight.like(one.sight)):
                return one
        for one in known:
            # It was moved to where its file has another number, or comes so from a copy or a checkout.
            if sight.most_like(one.sight) and not Path(one.sight.path).exists() and _renamed(one.sight) is None:
                return one
        return None

    def _place(self, last: Sight) -> str:
        """Where a notebook that was last seen so is now, "" for unknown."""
        inode = inode_of(last.path)
        if inode is not None and inode == last.inode:
            return last.path
        renamed = _renamed(last)
        if renamed is not None:
            return renamed.path
        return (
            last.path if inode is not None and (last.inode is None or last.blank or look(last.path).like(last)) else ""
        )


def _still(last: Sight, now: Sight) -> bool:
    """Whether a file with the same number is the same notebook: the number may be that of one which was deleted."""
    if now.path != last.path and inode_of(last.path) == last.inode:
        return Path(now.path).resolve() == Path(last.path).resolve()  # or it is a second name of the file
    return last.blank or now.like(last)


def _renamed(last: Sight) -> Sight | None:
    """A notebook under its new name in its folder."""
    path = _search(last.path, last.inode) if last.inode is not None else ""
    if not path or path == last.path:
        return None
    now = look(path)
    return now if last.blank or now.like(last) else None


def _search(path: str, inode: int) -> str:
    """The notebook with that number in a path's folder; editors' backup files are no notebooks. "" for none."""
    try:
        with os.scandir(Path(path).parent) as entries:
            for entry in entries:
                if entry.inode() == inode and Path(entry.name).suffix == Path(path).suffix:
                    return entry.path
    except OSError:
        pass
    return ""


def _read(connection: sqlite3.Connection, owner: str | None = None) -> list[_Known]:
    """The notebooks, the one that was seen last first."""
    where, values = ("", ()) if owner is None else (" WHERE owner = ?", (owner,))
    rows: list[Any] = connection.execute(
        f"SELECT {_COLUMNS} FROM notebooks{where} ORDER BY rowid DESC", values
    ).fetchall()
    return [
        _Known(
            str(owner),
            Sight(str(path), inode, frozenset(json.loads(ids)), frozenset(json.loads(sources))),
            tuple(json.loads(kernels)),
        )
        for owner, path, inode, ids, sources, kernels in rows
    ]


def _write(connection: sqlite3.Connection, one: _Known) -> None:
    sight = one.sight
    lists = (json.dumps(sorted(part)) for part in (sight.ids, sight.sources))
    values = (one.owner, sight.path, sight.inode, *lists, json.dumps(one.kernels))
    connection.execute(f"INSERT OR REPLACE INTO notebooks ({_COLUMNS}) VALUES (?,?,?,?,?,?)", values)
