"""The built extension that is kept: it is what ui/ says, and it is installed with the package."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import patient

ROOT = Path(__file__).parent.parent.parent
UI = ROOT / "ui"
BUILT = ROOT / "docker_kernel" / "labextension"


def test_it_was_built_from_what_is_in_ui() -> None:
    """As ui/digest.mjs writes it: `npm run build` in ui/ when this fails."""
    files = [UI / name for name in ("package.json", "package-lock.json", "rspack.config.js", "tsconfig.json")]
    for folder in ("schema", "src", "style"):
        files += [one for one in (UI / folder).rglob("*") if one.suffix in (".ts", ".tsx", ".css", ".json")]
    digest = hashlib.sha256()
    for name in sorted(one.relative_to(UI).as_posix() for one in files):
        digest.update(name.encode() + b"\0" + (UI / name).read_bytes() + b"\0")
    assert (BUILT / "source.sha256").read_text().strip() == digest.hexdigest()


def test_it_is_whole_and_says_nothing_of_where_it_was_built() -> None:
    package = json.loads((BUILT / "package.json").read_text())
    assert (BUILT / package["jupyterlab"]["_build"]["load"]).is_file()
    files = [one for one in BUILT.rglob("*") if one.is_file()]
    assert sum(one.stat().st_size for one in files) < 500_000
    for one in files:
        assert one.suffix != ".map"
        assert str(ROOT) not in one.read_text()
    lock = json.loads((UI / "package-lock.json").read_text())
    hosts = {one["resolved"].split("/")[2] for one in lock["packages"].values() if "resolved" in one}
    assert hosts <= {"registry.npmjs.org"}


@pytest.mark.index
def test_building_it_anew_makes_the_same(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine")
    copy = tmp_path / "elsewhere"
    shutil.copytree(UI, copy / "ui", ignore=shutil.ignore_patterns("node_modules", "lib"))
    (copy / "docker_kernel").mkdir()
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    if (UI / "node_modules").is_dir():
        # No symbolic link: the names of the built files come from the paths of what is in them.
        shutil.copytree(UI / "node_modules", copy / "ui" / "node_modules", symlinks=True, copy_function=os.link)
    else:
        fetched = subprocess.run(
            command, cwd=copy / "ui", capture_output=True, text=True, timeout=patient(250), check=False
        )
        assert "in sync" not in fetched.stderr, fetched.stderr
        if fetched.returncode:
            pytest.skip("npm cannot fetch its packages here")
    built = subprocess.run(
        ["npm", "run", "build"], cwd=copy / "ui", capture_output=True, text=True, timeout=patient(200), check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    made = copy / "docker_kernel" / "labextension"
    names = {one.relative_to(BUILT) for one in BUILT.rglob("*") if one.is_file()}
    assert {one.relative_to(made) for one in made.rglob("*") if one.is_file()} == names
    for one in names:
        assert (made / one).read_bytes() == (BUILT / one).read_bytes(), one


@pytest.mark.parametrize("command", ["labextension", "server extension"])
def test_jupyter_finds_it(command: str, tmp_path: Path) -> None:
    """Also where docker-kernel is installed from a checkout, as editable."""
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path)}
    listed = subprocess.run(
        [Path(sys.executable).parent / "jupyter", *command.split(), "list"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=patient(120),
        check=True,
    )
    lines = [line for line in (listed.stdout + listed.stderr).splitlines() if "docker" in line]
    assert any("enabled" in line for line in lines), listed.stdout + listed.stderr
    assert any("OK" in line for line in lines), listed.stdout + listed.stderr
