"""Bytecode for all below a folder, and for the standard library where the base has none: precompile.py OUT

A kernel runs as a user who may not write bytecode beside the modules, and would compile them anew at every start.
"""

import compileall
import importlib.util
import os
import py_compile
import sys
import sysconfig

SKIPPED = {
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}


def main(out: str) -> None:
    compileall.compile_dir(out, quiet=2, workers=0, stripdir=out, prependdir="/")
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = [name for name in folders if name not in SKIPPED and not name.startswith("config-")]
        for name in names:
            source = os.path.join(folder, name)
            if not name.endswith(".py") or os.path.exists(importlib.util.cache_from_source(source)):
                continue
            target = out + importlib.util.cache_from_source(source)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            py_compile.compile(source, cfile=target, dfile=source, quiet=2)


if __name__ == "__main__":
    main(sys.argv[1])
