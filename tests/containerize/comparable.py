"""What two executions of one notebook must have in common: the notebook without what differs by nature.

All that is set aside is here, each with its reason; the rest must be equal to the character.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

RULES = (
    # Where an object is in memory.
    (re.compile(r"\b0x[0-9a-f]{6,}\b"), "0x…"),
    # ipykernel names a cell's code by its process id and a hash.
    (re.compile(r"/tmp/ipykernel_\d+/\d+\.py"), "/tmp/ipykernel_…"),
)

SLOW = re.compile(r"Matplotlib is building the font cache; this may take a moment\.\n")
"""Said by matplotlib's first import of all on a slow machine only: a stream of nothing else is set aside whole."""

MODEL_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
"""Widgets and displays are named at random: their names become numbers."""

WIDGETS = "application/vnd.jupyter.widget-state+json"

ASIDE = ("execution", "ExecuteTime", "collapsed", "scrolled", "outputs_hidden", "papermill", "signature")
"""Of metadata: when a cell began and ended, now or before, and how it was shown: an image forgets the latter two."""

DIED = "KernelDied"
"""The error that the runner leaves in a cell that ended its kernel; nbclient leaves nothing."""


def comparable(notebook: Mapping[str, Any]) -> list[Any]:
    """The cells of an executed notebook, and last its metadata, to be compared with another execution's.

    Ids of cells are not among it: notebooks from before nbformat 4.5 get them at random, or none.
    """
    cells = [
        {
            **{key: value for key, value in cell.items() if key != "id"},
            "source": _text(cell["source"]),
            "metadata": _metadata(cell),
            **({"outputs": _outputs(cell["outputs"])} if "outputs" in cell else {}),
        }
        for cell in notebook["cells"]
    ]
    whole = [*cells, _metadata(notebook)]
    names = _names(cells, whole[-1].get("widgets", {}).get(WIDGETS, {}).get("state", {}))
    return [_plain(one, names) for one in whole]


def _names(cells: list[Any], state: dict[str, Any]) -> dict[str, str]:
    """A number for each random name: by its appearance in the outputs, then in widgets that have one, then by looks."""
    names: dict[str, str] = {}

    def note(value: Any) -> None:
        for name in MODEL_ID.findall(json.dumps(value, sort_keys=True)):
            if name not in names:
                names[name] = f"id-{len(names)}"
                note(state.get(name))

    note(cells)
    looks = {name: MODEL_ID.sub("", json.dumps(one, sort_keys=True)) for name, one in state.items()}
    for name in sorted(state, key=lambda name: looks[name]):
        note(name)
    return names


def _metadata(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Without the state of widgets where there are none: that of a run before, which an image forgets, too.

    What a kernelspec lacks of its names, an image completes with empty ones, so that the notebook is valid.
    """
    made = {key: value for key, value in whole["metadata"].items() if key not in ASIDE}
    if "jupyter" in made:
        made["jupyter"] = {key: value for key, value in made["jupyter"].items() if key not in ASIDE}
        made = {key: value for key, value in made.items() if value or key != "jupyter"}
    if "kernelspec" in made:
        made["kernelspec"] = {"name": "", "display_name": "", **made["kernelspec"]}
    if not made.get("widgets", {}).get(WIDGETS, {}).get("state"):
        made.pop("widgets", None)
    return made


def _outputs(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How a stream is cut into messages, and how two of them mix, is a matter of time: each is one text."""
    made: list[dict[str, Any]] = []
    for printed, group in itertools.groupby(outputs, lambda one: one["output_type"] == "stream"):
        if printed:
            streams: dict[str, str] = {}
            for one in group:
                streams[one["name"]] = streams.get(one["name"], "") + _text(one["text"])
            for name, whole in sorted(streams.items()):
                text = SLOW.sub("", whole)
                if text or not whole:
                    made.append({"output_type": "stream", "name": name, "text": text})
        else:
            made += [one for one in group if one.get("ename") != DIED]
    return made


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def _plain(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        for pattern, text in RULES:
            value = pattern.sub(text, value)
        return MODEL_ID.sub(lambda found: names[found[0]], value)
    if isinstance(value, list):
        if all(isinstance(one, str) for one in value):
            return _plain("".join(value), names)  # nbformat: a text may be a list of its lines
        return [_plain(one, names) for one in value]
    if isinstance(value, dict):
        return {_plain(key, names): _plain(one, names) for key, one in value.items()}
    return value


def difference(first: list[Any], second: list[Any], where: str = "notebook") -> str:
    """Where two comparable notebooks differ first, short enough to be read; "" if they are equal."""
    if first == second:
        return ""
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = [(f"{where}[{key}]", *pair) for key, pair in enumerate(zip(first, second, strict=True))]
    elif isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        pairs = [(f"{where}.{key}", first[key], second[key]) for key in first]
    else:
        one, other = str(first), str(second)
        begin = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
        around = slice(max(0, begin - 100), begin + 200)
        return f"{where}, at {begin} of {len(one)} and {len(other)}:\n{one[around]!r}\n{other[around]!r}"
    return next(found for name, *pair in pairs if (found := difference(*pair, where=name)))
