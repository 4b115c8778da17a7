"""Removes from a state folder what no kept snapshot or result names."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable

YOUNG_SECONDS = 300
"""Files that are younger stay: a job that writes its result just now names them last."""


def collect_garbage(state: str, keep: Iterable[str]) -> int:
    """Remove the manifests that are not kept, and the blobs that no kept manifest names.

    Args:
        keep: digests of manifests, "sha256:…".

    Returns:
        How many bytes were freed.
    """
    kept = {digest[7:] for digest in keep}
    blobs: set[str] = set()
    for digest in kept:
        try:
            with open(os.path.join(state, "manifests", digest), encoding="utf-8") as file:
                manifest = json.load(file)
        except FileNotFoundError:
            continue  # it was never here, as a result that was brought home and not fetched
        except (OSError, ValueError):
            return 0  # nobody knows what it needs
        for pack in manifest["packs"]:
            blobs |= {pack["blob"][7:], *(blob[7:] for blob, _ in pack["buffers"])}
        blobs |= {one["blob"][7:] for one in manifest.get("files", [])}
    return _sweep(os.path.join(state, "manifests"), kept) + _sweep(os.path.join(state, "blobs"), blobs)


def _sweep(folder: str, kept: set[str]) -> int:
    freed, limit = 0, time.time() - YOUNG_SECONDS
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return 0
    for entry in entries:
        try:
            status = entry.stat()
            if entry.name not in kept and status.st_mtime < limit:
                os.unlink(entry.path)
                freed += status.st_size
        except OSError:
            continue  # another one has removed it
    return freed
