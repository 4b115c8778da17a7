"""The configuration of `logging`, read and set (see process_parts.py)."""

from __future__ import annotations

import os
import sys
from typing import Any

from docker_kernel.guest.unable import Unable

_DEFAULT = [0, True, False, []]
_OWN = ("lock", "stream", "dev", "ino")
"""Attributes of a handler that are this process's own."""


def read(logging: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "disable": logging.root.manager.disable,
        "captureWarnings": logging._warnings_showwarning is not None,
        "raiseExceptions": logging.raiseExceptions,
    }
    found.update(("name of level %d" % number, name) for number, name in logging._levelToName.items())
    loggers = {"root": logging.root, **logging.root.manager.loggerDict}
    for name, logger in list(loggers.items()):
        if not isinstance(logger, logging.Logger):
            continue
        settings = [logger.level, logger.propagate, bool(logger.disabled), list(logger.filters)]
        if settings != _DEFAULT:
            found["logger %s" % name] = settings
        for number, handler in enumerate(logger.handlers):
            if type(handler).__module__.partition(".")[0] == name.partition(".")[0]:
                continue  # a library's own, which it adds wherever it is imported
            found["handler %d of %s" % (number, name)] = _described(logging, handler)
    return found


def set_one(logging: Any, name: str, value: Any) -> None:
    kind, _, rest = name.partition(" ")
    if name == "disable":
        logging.disable(value)
    elif name == "captureWarnings":
        logging.captureWarnings(value)
    elif name == "raiseExceptions":
        logging.raiseExceptions = value
    elif kind == "name":
        logging.addLevelName(int(rest.split()[-1]), value)
    elif kind == "logger":
        logger = _logger(logging, rest)
        level, logger.propagate, logger.disabled, logger.filters[:] = value
        logger.setLevel(level)
    else:
        number, _, rest = rest.partition(" of ")
        _set_handler(logging, _logger(logging, rest), int(number), *value)


def forget(logging: Any, name: str) -> None:
    kind, _, rest = name.partition(" ")
    if kind == "logger":
        set_one(logging, name, _DEFAULT)
    elif kind == "handler":
        number, _, rest = rest.partition(" of ")
        logger = _logger(logging, rest)
        if int(number) < len(logger.handlers):
            logger.removeHandler(logger.handlers[int(number)])


def needs(name: str) -> str:
    """A library sets up its own loggers when it is imported: what came of them is set when that is done, and nowhere
    else is it of use."""
    kind, _, rest = name.partition(" ")
    if kind not in ("logger", "handler"):
        return ""
    top = (rest.partition(" of ")[2] if kind == "handler" else rest).partition(".")[0]
    module = sys.modules.get(top)
    return "" if module is None or top in ("root", "__main__") or _is_standard(module) else top


def _is_standard(module: Any) -> bool:
    """Whether a module is Python's own: a logger of its name may well be the notebook's."""
    folder = os.path.dirname(os.__file__)
    inside = os.path.relpath(getattr(module, "__file__", None) or folder, folder)
    return not inside.startswith(("..", "site-packages", "dist-packages"))


def _logger(logging: Any, name: str) -> Any:
    return logging.root if name == "root" else logging.getLogger(name)


def _described(logging: Any, handler: Any) -> Any:
    """A handler's class, the stream that it writes to ("" for none), and its attributes."""
    target = ""
    attributes = {name: value for name, value in handler.__dict__.items() if name not in _OWN}
    if not isinstance(handler, logging.FileHandler) and hasattr(handler, "stream"):
        stream = handler.stream
        for name in ("stdout", "stderr"):
            ours = (getattr(sys, name, None), getattr(sys, "__%s__" % name, None))
            if any(one is stream for one in ours) or getattr(stream, "name", "") in (name, "<%s>" % name):
                target = name
        if not target:
            kind = type(stream).__name__
            hint = "add it in the cell, or log to sys.stderr or a file"
            return Unable(
                type(handler).__name__, "it writes to a %s, which is this process's own" % kind, hint, handler
            )
    return [type(handler), target, attributes]


def _set_handler(logging: Any, logger: Any, number: int, kind: Any, target: str, attributes: dict[str, Any]) -> None:
    """Make a logger's handler of a number be as it was described. One that is such a handler already stays the same
    object, as variables may hold it."""
    old = logger.handlers[number] if number < len(logger.handlers) else None
    same = type(old) is kind and old.__dict__.get("baseFilename") == attributes.get("baseFilename")
    if old is not None and same and (not target or _described(logging, old)[1] == target):
        old.__dict__.update({name: value for name, value in attributes.items() if name != "mode"})
        return
    handler = kind.__new__(kind)
    logging.Handler.__init__(handler)
    handler.__dict__.update(attributes)
    handler.set_name(attributes.get("_name"))
    if target:
        handler.stream = getattr(sys, target)
    elif isinstance(handler, logging.FileHandler):
        handler.stream = None  # it is opened for the first record, and what is in it stays
        handler.mode = "a"
    if old is None:
        logger.addHandler(handler)
    else:
        logger.handlers[number] = handler
