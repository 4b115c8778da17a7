"""What names are bound to: a notebook's variables by theirs, values of the user's modules by their full ones."""

from __future__ import annotations

import importlib
from collections.abc import Container, Iterator, Mapping, MutableMapping
from typing import Any

from docker_kernel.guest.imports import said_elsewhere
from docker_kernel.guest.workspace_modules import Sent, WorkspaceModules

_NOTHING_SENT = Sent({}, {}, frozenset(), {}, {})


class Bindings(MutableMapping):  # type: ignore[type-arg]
    """A notebook's namespace, and the user's modules.

    Attributes:
        troubles: what could not be bound, a sentence each.
    """

    def __init__(self, namespace: dict[str, Any], modules: WorkspaceModules) -> None:
        self._namespace, self._modules = namespace, modules
        self._sent = _NOTHING_SENT
        self.troubles: list[str] = []

    def expect(self, sent: Sent | None, before: Container[str]) -> set[str]:
        """Import the modules whose values come home, which natively the cell would have imported here.

        Args:
            before: the modules that were here.

        Returns:
            The names of values of those that were not.
        """
        self._sent = sent or _NOTHING_SENT
        new: set[str] = set()
        for module, names in self._sent.values.items():
            if module in before:
                continue
            new.update(names)
            try:
                with said_elsewhere():
                    importlib.import_module(module)
            except Exception as error:
                text = "The module %s, which the job has imported and changed, cannot be imported here: %s"
                self.troubles.append(text % (module, error))
        return new

    def assign(self, values: Mapping[str, Any]) -> None:
        """Bind all names at once; values of modules that cannot be imported here are left out."""
        sent = {name for names in self._sent.values.values() for name in names}
        of_modules = {name: value for name, value in values.items() if name in sent or self._is_of_module(name)}
        self.troubles += self._modules.bring_home(of_modules, self._sent)
        self._namespace.update({name: value for name, value in values.items() if name not in of_modules})

    def _is_of_module(self, name: str) -> bool:
        # A variable may have a name with dots, too (`globals()["a.b"]`).
        return "." in name and name not in self._namespace and self._modules.place(name)[0] is not None

    def __getitem__(self, name: str) -> Any:
        return self._modules.value(name) if self._is_of_module(name) else self._namespace[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.assign({name: value})

    def __delitem__(self, name: str) -> None:
        if self._is_of_module(name):
            self._modules.forget(name)
        else:
            del self._namespace[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._namespace, *self._modules.values()])

    def __len__(self) -> int:
        return len(list(iter(self)))
