"""Widgets of ipywidgets as values: in a job without a frontend; at home the kernel's own, or live from then on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"

_PER_PROCESS = frozenset(
    {"comm", "keys", "log", "_property_lock", "_states_to_send", "_view_count"},
)
"""Traits that say how a widget stands with its frontend."""

_INTERNAL = frozenset(
    {
        "_trait_values", "_trait_notifiers", "_trait_validators", "_cross_validation_lock", "_model_id",
        "_holding_sync", "_repr_mimebundle_", "_all_trait_default_generators",
    }
)  # fmt: skip
"""Attributes that are traitlets' own, or follow from the class."""

_at_home: set[str] = set()
"""In a job: the ids of the models that the kernel has."""


def is_widget(value: Any) -> bool:
    """Whether a value is a widget that has no way of its own to be pickled."""
    kind = getattr(sys.modules.get("ipywidgets"), "Widget", None)
    if kind is None or not isinstance(value, kind):
        return False
    names = ("__reduce__", "__reduce_ex__")
    return all(getattr(type(value), name) is getattr(object, name) for name in names)


def reduce(widget: Any) -> Any:
    """How a widget is pickled: as its traits, what else it has, and who observes it."""
    values = widget._trait_values
    names = sorted((set(values) | set(widget.keys)) - _PER_PROCESS)
    state = {
        "traits": {name: getattr(widget, name) for name in names},
        "attributes": {name: part for name, part in vars(widget).items() if name not in _INTERNAL},
        "observers": list(_observers(widget)),
        "closed": widget.comm is None,
    }
    return make, (type(widget), widget._model_id), state, None, None, fill


def _observers(widget: Any) -> Iterator[tuple[str, str, Any]]:
    """Those that somebody added, and not the class: the trait's name, the kind of change, and the function."""
    handler = sys.modules["traitlets"].EventHandler
    for name, kinds in widget._trait_notifiers.items():
        for kind, functions in kinds.items():
            for function in functions:
                if not isinstance(function, handler):
                    yield name, kind, function


def make(kind: Any, model_id: str | None) -> Any:
    widget = kind.__new__(kind)
    widget._model_id = model_id
    return widget


def fill(widget: Any, state: dict[str, Any]) -> None:
    """Give a widget what another one has; a live one, too, without a word to those who observe it: where it was changed
    they have heard of it."""
    changed = [
        name
        for name, value in state["traits"].items()
        if name not in widget._trait_values or not _same(widget._trait_values[name], value)
    ]
    widget._trait_values.update(state["traits"])
    vars(widget).update(state["attributes"])
    for name, kind, function in list(_observers(widget)):
        widget._trait_notifiers[name][kind].remove(function)
    for name, kind, function in state["observers"]:
        widget._trait_notifiers.setdefault(name, {}).setdefault(kind, []).append(function)
    if state["closed"]:
        widget.close()
        widget._repr_mimebundle_ = None  # as of one that was closed here
    elif widget.comm is None:
        _open(widget)
    elif changed:
        _open_parts(widget)
        widget.send_state([name for name in changed if name in widget.keys])


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # of an array, which has no truth
        return False


def _open(widget: Any, within: tuple[Any, ...] = ()) -> None:
    """Make a widget known to frontends."""
    _open_parts(widget, within)
    if widget._model_id in live():
        widget._model_id = None  # This one is a copy.
    widget.open()


def _open_parts(widget: Any, within: tuple[Any, ...] = ()) -> None:
    """Do so with those that it consists of, as it names them."""
    waiting = list(widget._trait_values.values())
    while waiting:
        part = waiting.pop()
        if isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
        elif is_widget(part) and part.comm is None and all(part is not one for one in (widget, *within)):
            _open(part, (widget, *within))


def live() -> Any:
    """The widgets of this process, by their models' ids."""
    module: Any = sys.modules.get("ipywidgets.widgets.widget")
    if module is None:
        return {}
    return module._instances if hasattr(module, "_instances") else module.Widget.widgets


# In a job


def begin() -> None:
    """Take all widgets that are there for those of the kernel."""
    _at_home.update(live())


def without_view(data: dict[str, Any], metadata: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An output as a frontend can show it, which has only the models of the kernel; of another, its id is among the
    metadata."""
    view = data.get(VIEW)
    if not isinstance(view, dict) or view.get("model_id") in _at_home:
        return data, metadata
    return {kind: value for kind, value in data.items() if kind != VIEW}, {**metadata, VIEW: view}


# In the kernel


class Views:
    """The outputs of a job whose models are not here yet, by the ids under which they are shown."""

    def __init__(self) -> None:
        self._waiting: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []

    def note(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any]) -> dict[str, Any]:
        """Note an output that is about to be shown; returns what is transient of it."""
        if VIEW in data or not isinstance(metadata.get(VIEW), dict):
            return transient
        import uuid

        transient = {"display_id": "docker-kernel-widget-%s" % uuid.uuid4().hex, **transient}
        self._waiting.append((data, metadata, transient))
        return transient

    def show(self, publisher: Any) -> None:
        """Show those whose models have come home."""
        for data, metadata, transient in self._waiting:
            if metadata[VIEW].get("model_id") in live():
                rest = {name: value for name, value in metadata.items() if name != VIEW}
                publisher.publish({**data, VIEW: metadata[VIEW]}, rest, transient=transient, update=True)
        self._waiting.clear()
