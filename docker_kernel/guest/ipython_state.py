"""What a notebook set up in IPython, read and set (see process_parts.py)."""

from __future__ import annotations
import __future__

from typing import Any

_OURS = "docker_kernel.guest.extension"
_OPTIONS = ("ast_node_interactivity", "autocall", "automagic", "xmode", "float_precision", "pprint", "max_seq_length")
"""Of the shell, of its tracebacks, of its plain texts."""

_STATEMENTS = "future statements"
"""`from __future__ import …` in a cell holds in the cells that follow, too."""


def read(ipython: Any) -> dict[str, Any]:
    shell = ipython.get_ipython()
    if shell is None:
        return {}
    found: dict[str, Any] = {name: getattr(*_place(shell, name)) for name in _OPTIONS}
    found[_STATEMENTS] = [name for name, flag in _flags() if shell.compile.flags & flag]
    found.update(("extension %s" % name, True) for name in shell.extension_manager.loaded if name != _OURS)
    found.update(("alias %s" % name, command) for name, command in shell.alias_manager.aliases)
    for kind, magics in shell.magics_manager.magics.items():
        for name, magic in magics.items():
            described = _described(shell, magic)
            if described is not None:
                found["%s magic %s" % (kind, name)] = described
    return found


def _flags() -> list[tuple[str, int]]:
    """The names of Python's future features, and their flags for the compiler."""
    return [(name, getattr(__future__, name).compiler_flag) for name in __future__.all_feature_names]


def _place(shell: Any, option: str) -> tuple[Any, str]:
    """Whose attribute an option is, and which."""
    if option == "xmode":
        return shell.InteractiveTB, "mode"
    if option in ("float_precision", "pprint", "max_seq_length"):
        return shell.display_formatter.formatters["text/plain"], option
    return shell, option


def _described(shell: Any, magic: Any) -> Any:
    """A magic of the notebook's: another one's new name, a method of a class with magics, or a function."""
    if type(magic).__name__ == "MagicAlias":
        return ["alias", magic.magic_name, magic.magic_kind, getattr(magic, "magic_params", None)]
    owner = getattr(magic, "__self__", None)
    if owner is not None:
        return ["class", type(owner)] if type(owner).__module__ == "__main__" else None
    function = getattr(magic, "__func__", magic)
    if getattr(function, "__globals__", None) is shell.user_ns or getattr(function, "__module__", "") == "__main__":
        return ["function", magic]
    return None


def set_one(ipython: Any, name: str, value: Any) -> None:
    shell = ipython.get_ipython()
    kind, _, rest = name.partition(" ")
    if name in _OPTIONS:
        if name == "xmode":
            shell.InteractiveTB.set_mode(mode=value)
        else:
            setattr(*_place(shell, name), value)
    elif name == _STATEMENTS:
        for feature, flag in _flags():
            shell.compile.flags = shell.compile.flags | flag if feature in value else shell.compile.flags & ~flag
    elif kind == "extension":
        if shell.extension_manager.load_extension(rest) == "no load function":
            raise ValueError("it is no extension")
    elif kind == "alias":
        shell.alias_manager.define_alias(rest, value)
    else:
        _set_magic(shell, kind, rest.partition(" ")[2], *value)


def _set_magic(shell: Any, kind: str, name: str, how: str, what: Any, *target: Any) -> None:
    manager = shell.magics_manager
    if how == "alias":
        manager.register_alias(name, what, kind, *target[1:])
    elif how == "function":
        manager.magics[kind][name] = what
    elif type(manager.registry.get(what.__name__)) is not what:
        # The class has all of its magics.
        manager.register(what)


def forget(ipython: Any, name: str) -> None:
    shell = ipython.get_ipython()
    kind, _, rest = name.partition(" ")
    if kind == "extension":
        shell.extension_manager.unload_extension(rest)
    elif kind == "alias":
        shell.alias_manager.undefine_alias(rest)
    else:
        shell.magics_manager.magics[kind].pop(rest.partition(" ")[2], None)
