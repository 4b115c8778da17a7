"""tqdm's bars in a job, which has no frontend for their widgets: as text, which is the job's progress, too."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Callable

from docker_kernel.guest.imports import when_imported


def begin() -> None:
    """Have all bars of this process be text, from whichever of tqdm's modules they are."""
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])
        when_imported(name, change)


def _as_text(notebook: Any) -> None:
    """Take from the class with widgets what makes it differ from the one with text; it stays the class it is, by which
    it is known at home."""
    kind, text = notebook.tqdm_notebook, notebook.std_tqdm
    for name in [name for name in vars(kind) if name == "colour" or callable(vars(text).get(name))]:
        if name != "__init__":
            delattr(kind, name)

    def init(self: Any, *arguments: Any, display: bool = True, **options: Any) -> None:
        super(kind, self).__init__(*arguments, **options)

    kind.__init__ = init


def _as_in_a_notebook(automatic: Any) -> None:
    """Choose the class that the kernel would choose, where it has ipywidgets."""
    notebook = importlib.import_module("tqdm.notebook")
    if notebook.IProgress is not None:
        automatic.tqdm, automatic.trange = notebook.tqdm, notebook.trange


_CHANGES: dict[str, Callable[[Any], None]] = {"tqdm.notebook": _as_text, "tqdm.autonotebook": _as_in_a_notebook}
