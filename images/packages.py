"""Run by an image's own Python (3.9 or newer), for its lock: prints one line of JSON about what it can import."""

import base64
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig

MARK = "docker-kernel-packages:"
OWN = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "uv_cache.json")
"""Files of a .dist-info that installers write: they differ between two installations of the same wheel."""


def file_digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def text_of(one, name):
    try:
        return one.read_text(name) or ""
    except (OSError, UnicodeDecodeError):
        return ""


def recorded(record, site):
    """What a RECORD says was installed (path to digest), and what of it is otherwise now."""
    said, changed = {}, []
    for row in csv.reader(record.splitlines()):
        if len(row) < 2 or not row[1].startswith("sha256=") or row[0].endswith((".pyc", *OWN)):
            continue
        path = os.path.normpath(row[0])
        plain = re.sub(r"^(\.\./)+", "", path)
        if os.path.isabs(path) or plain.startswith("bin/"):
            continue  # scripts begin with the path of their Python
        text = row[1][7:]
        said[plain] = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
        try:
            same = file_digest(os.path.join(site, path)) == said[plain]
        except OSError:
            same = "tests" in plain.split("/")  # our images go without them
        if not same:
            changed.append(plain)
    return said, changed


def listed(site, metadata, tops):
    """The files of a package without a RECORD, with their digests: its metadata, and its modules by their names."""
    found = {}
    for top in [metadata, *tops, *(f"{name}.py" for name in tops)]:
        whole = os.path.join(site, top)
        paths = [whole] if os.path.isfile(whole) else []
        for folder, folders, names in os.walk(whole):
            folders[:] = [name for name in folders if name != "__pycache__"]
            paths += [os.path.join(folder, name) for name in names]
        for path in paths:
            try:
                found[os.path.relpath(path, site)] = file_digest(path)
            except OSError:
                continue
    return found


def packages():
    """What can be imported; of two packages of a name, the one that is."""
    seen = set()
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        key = re.sub(r"[-_.]+", "-", name or "").lower()
        if not key or key in seen:
            continue
        seen.add(key)
        site = os.path.abspath(str(one.locate_file("")))
        installer = text_of(one, "INSTALLER").strip()
        record = text_of(one, "RECORD")
        if record and installer:
            said, changed = recorded(record, site)
        else:
            tops = text_of(one, "top_level.txt").split() or [key.replace("-", "_")]
            said, changed = listed(site, os.path.basename(str(getattr(one, "_path", ""))) or key, tops), []
        whole = hashlib.sha256("".join(f"{path}\0{said[path]}\n" for path in sorted(said)).encode(errors="replace"))
        try:
            direct = json.loads(text_of(one, "direct_url.json") or "{}")
        except ValueError:
            direct = {}
        yield {
            "name": name,
            "version": one.version,
            "installer": installer,
            "folder": site,
            "direct": direct,
            "files": f"sha256:{whole.hexdigest()}",
            "changed": sorted(changed)[:20],
        }


def system():
    """The packages of the image's package managers, as NAME=VERSION with the manager before them."""
    found = []
    for manager, command in (
        ("dpkg", ["dpkg-query", "-W", "-f", "${Package}=${Version}\n"]),
        ("apk", ["apk", "info", "-v"]),
        ("rpm", ["rpm", "-qa", "--qf", "%{NAME}=%{VERSION}-%{RELEASE}\n"]),
    ):
        try:
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        except OSError:
            continue
        found += [f"{manager} {line}" for line in ran.stdout.decode(errors="replace").split("\n") if line]
    folder = os.path.join(sys.prefix, "conda-meta")
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.endswith(".json"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                one = json.load(file)
            found.append(f"conda {one.get('name')}={one.get('version')}={one.get('build')}")
    return sorted(found)


def main():
    libc, version = platform.libc_ver()
    musl = "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "")
    facts = {
        "python": {
            "implementation": sys.implementation.name,
            "version": platform.python_version(),
            "executable": sys.executable,
            "machine": platform.machine(),
            "libc": "musl" if musl else libc or "unknown",
            "libc_version": "" if musl else version,
        },
        "packages": sorted(packages(), key=lambda one: str(one["name"]).lower()),
        "system": system(),
    }
    print("\n" + MARK + json.dumps(facts))


main()
