"""What IPython keeps of the cells before: `_`, `Out`, `In` and their like, as far as a cell names them."""

from __future__ import annotations

import ast
import re
from typing import Any

NAME = "__docker_kernel_history__"
"""Under which name the inputs travel, which a job's own shell goes on with."""

_RESULTS = re.compile(r"_{1,3}|_\d+")
_ALL_RESULTS = frozenset({"Out", "_oh"})
_INPUTS = re.compile(r"In|_ih|_i{1,3}|_i\d+")


class NotBrought:
    """Stands for the value of a cell that stayed in the job: most cells are not run for it, so it says so when it is
    used."""

    def __init__(self, kind: str, reason: str) -> None:
        self._why = "the cell's value (%s) stayed in the job: %s" % (kind, reason)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(self.__dict__.get("_why", name))

    def __repr__(self) -> str:
        return "<%s>" % self._why


def is_result(name: str) -> bool:
    """Whether IPython binds a name to the values of cells."""
    return _RESULTS.fullmatch(name) is not None


def named(code: str, shell: Any) -> dict[str, Any]:
    """What a cell reads of it, as variables.

    Args:
        code: the cell as Python, magics transformed.
    """
    try:
        names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    except SyntaxError:
        return {}
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    read = {node.id for node in names} - bound
    if read & _ALL_RESULTS:
        read.update("_%d" % number for number in shell.user_ns.get("Out", {}))
    found = {name: shell.user_ns[name] for name in sorted(read) if is_result(name) and name in shell.user_ns}
    # "" is what `_` is until a cell has had a value.
    found = {name: value for name, value in found.items() if not (type(value) is str and not value)}
    if found or any(map(_INPUTS.fullmatch, read)):
        manager = shell.history_manager
        found[NAME] = {
            "count": shell.displayhook.prompt_count,  # IPython's versions count at a cell's start, or at its end
            # The last input is that which sends the cell, in whose place the cell itself will be.
            "parsed": manager.input_hist_parsed[:-1] or [""],
            "raw": manager.input_hist_raw[:-1] or [""],
            "recent": [shell.user_ns.get(name, "") for name in ("_i", "_ii", "_iii")],
        }
    return found


def give(shell: Any, restored: dict[str, Any]) -> None:
    """Let a job's shell go on from what was restored there, apart from the variables."""
    for name, value in restored.items():
        if not is_result(name):
            continue
        # As its own, which the next value may take the place of.
        shell.push({name: value}, interactive=False)
        if name.strip("_"):
            shell.user_ns["_oh"][int(name[1:])] = value
        else:
            setattr(shell.displayhook, name, value)
    sent = restored.pop(NAME, None)
    if sent is None:
        return
    shell.execution_count = sent["count"]
    manager = shell.history_manager
    manager.input_hist_parsed[:], manager.input_hist_raw[:] = sent["parsed"], sent["raw"]
    own = {"_i%d" % number: text for number, text in enumerate(sent["raw"]) if number}
    shell.push({**own, **dict(zip(("_i", "_ii", "_iii"), sent["recent"]))}, interactive=False)
    # A cell moves these on before it runs.
    manager._i00, manager._i, manager._ii = sent["recent"]


def remember(shell: Any, value: Any) -> None:
    """Let a value be that of the cell that runs, which has been shown already."""
    if value is not None:
        shell.displayhook.update_user_ns(value)
