"""The architecture, as docs/how-it-works.md draws it: who may import whom."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "docker_kernel"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    ["docker_kernel", "errors", "labels", "data", "background", "whole_file", "free_memory"],
    ["checkout"],
    ["config", "build_settings", "trust"],
    ["engine"],
    ["images"],
    ["guest"],
    ["runner"],
    ["kernel"],
    ["batch", "targets"],
    ["kernelspec", "prune"],
    ["containerize"],
    ["saved_kernel"],
    ["server", "scheduler"],
    ["doctor"],
    ["cli"],
]
"""From the ones that know nothing of the others; a module imports from its own layer and from those above it here."""


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The absolute names of all that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def part(name: str) -> str:
    """The part of our package that a dotted name belongs to."""
    pieces = name.split(".")
    known = {layer for group in LAYERS for layer in group}
    return pieces[1] if len(pieces) > 1 and pieces[1] in known else "docker_kernel"


def rank(name: str) -> int:
    return next(number for number, group in enumerate(LAYERS) if name in group)


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def is_guest(path: Path) -> bool:
    return path.is_relative_to(PACKAGE / "guest") or path == PACKAGE / "__init__.py"


@pytest.mark.parametrize("path", [path for path in MODULES if not is_guest(path)], ids=ids)
def test_a_module_imports_only_from_its_own_layer_and_those_below_it(path: Path) -> None:
    own = part(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    for name in imports(path):
        if name.split(".")[0] == "docker_kernel":
            assert rank(part(name)) <= rank(own), f"{own} must not import {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name != "engine"], ids=ids)
def test_only_the_engine_imports_docker(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] == "docker"]


@pytest.mark.parametrize("path", [path for path in MODULES if is_guest(path)], ids=ids)
def test_the_guest_imports_only_what_every_kernel_image_has(path: Path) -> None:
    allowed = {"IPython", "ipykernel", "cloudpickle", "zmq", "jupyter_client", "traitlets", "matplotlib_inline"}
    for name in imports(path):
        top = name.split(".")[0]
        if top == "docker_kernel":
            assert part(name) in ("guest", "docker_kernel"), f"{name} is not in the container"
        else:
            assert top in sys.stdlib_module_names or top in allowed, f"{name} may be missing in the image"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "runner"], ids=ids)
def test_the_runner_imports_only_what_a_notebook_image_has(path: Path) -> None:
    lock = (PACKAGE / "runner" / "requirements.txt").read_text()
    locked = {name.lower().replace("-", "_") for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    for name in imports(path):
        top = name.split(".")[0]
        if top == "docker_kernel":
            assert part(name) in ("guest", "runner", "docker_kernel"), f"{name} is not in the image"
        else:
            known = {"yaml": "pyyaml", "zmq": "pyzmq"}.get(top, top)
            assert top in sys.stdlib_module_names or known in locked, f"{name} is not in the runner's lock"


@pytest.mark.parametrize("path", [path for path in MODULES if not is_guest(path)], ids=ids)
def test_the_host_never_imports_what_unpickles(path: Path) -> None:
    assert not {"pickle", "marshal", "shelve", "dill"} & {name.split(".")[0] for name in imports(path)}
