"""Brings a job's inputs to /inputs/NAME before its code runs: what is named by URL, or is a part of what is mounted."""

from __future__ import annotations

import importlib
import os
import shutil
from typing import Any, Callable

from docker_kernel.guest.credentials import hide_credentials, without_credentials

FOLDER = "/inputs"


class InputFailed(Exception):
    """An input cannot be had; the message says which and why."""


def fetch(inputs: dict[str, str], send: Callable[[dict[str, Any]], None]) -> None:
    """Fetch all inputs, read-only, and tell what their stores call this version of them.

    Raises:
        InputFailed: one cannot be fetched.
    """
    for name, uri in inputs.items():
        path = os.path.join(FOLDER, name)
        try:
            version = _fetch(uri, path)
            _make_read_only(path)
        except InputFailed:
            raise
        except Exception as error:
            shown = without_credentials(uri), hide_credentials(str(error), uri)
            raise InputFailed("The input %s cannot be fetched from %s: %s" % (name, *shown)) from None
        send({"event": "input", "name": name, "version": version})


def link(linked: dict[str, list[str]]) -> None:
    """Make `/inputs/NAME` a link to a path below a folder that is mounted elsewhere: (folder, path) by name.

    Raises:
        InputFailed: it is not there, or a link on its way leads out of the folder.
    """
    for name, (folder, path) in linked.items():
        real = os.path.realpath(os.path.join(folder, path))
        if not real.startswith(folder + "/"):
            text = "The input %s: a link in %s leads out of the folder that the target allows, or is absolute."
            raise InputFailed(text % (name, path))
        if not os.path.exists(real):
            text = "The input %s: there is no %s in the folder that the target allows."
            raise InputFailed(text % (name, path))
        os.symlink(real, os.path.join(FOLDER, name))


def _fetch(uri: str, path: str) -> str:
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError:
        if uri.startswith(("http://", "https://")):
            return _download(uri, path)
        text = "%s needs fsspec (and the package for its store, such as s3fs) in the kernel: %%pip install fsspec"
        raise InputFailed(text % without_credentials(uri)) from None
    system, inside = fsspec.url_to_fs(uri)
    info = system.info(inside)
    if info["type"] == "directory":
        system.get(inside.rstrip("/") + "/", path + "/", recursive=True)
    else:
        system.get_file(inside, path)
    for key in ("version_id", "VersionId", "ETag", "etag", "checksum", "LastModified", "mtime"):
        if info.get(key):
            return str(info[key]).strip('"')
    return _download_version(uri) if uri.startswith(("http://", "https://")) else ""


def _download_version(uri: str) -> str:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(uri, method="HEAD"), timeout=60) as answer:
        return _version(answer)


def _version(answer: Any) -> str:
    return (answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "").strip('"')


def _download(uri: str, path: str) -> str:
    import urllib.request

    with urllib.request.urlopen(uri, timeout=60) as answer, open(path, "wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
        return _version(answer)


def _make_read_only(path: str) -> None:
    if not os.path.isdir(path):
        os.chmod(path, 0o444)
        return
    for folder, _, files in os.walk(path, topdown=False):
        for file in files:
            os.chmod(os.path.join(folder, file), 0o444)
        os.chmod(folder, 0o555)
