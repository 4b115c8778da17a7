"""Names of variables and full names of modules' values are bound to what they say."""

from __future__ import annotations

import pytest

from docker_kernel.guest.bindings import Bindings
from docker_kernel.guest.workspace_modules import Sent
from tests.guest.test_merge import Kernel, kernel

__all__ = ["kernel"]

FILES = {
    "config": "alpha = 1\ndef counter():\n    n = 0\n    def up(): return n\n    return up\nup = counter()\n",
    "pkg__": "class config:\n    alpha = 3\n",
    "pkg__part": "alpha = 2\n",
}


@pytest.fixture
def bindings(kernel: Kernel) -> Bindings:
    kernel.files(**FILES)
    kernel.restart()
    kernel.run("import config, pkg.part; alpha = 0; globals()['a.b'] = 5")
    return Bindings(kernel.namespace, kernel.modules)


def test_full_names_are_values_of_modules(kernel: Kernel, bindings: Bindings) -> None:
    names = ["alpha", "config.alpha", "pkg.part.alpha", "pkg.config.alpha", "config.up.<n>", "a.b"]
    assert [bindings[name] for name in names] == [0, 1, 2, 3, 0, 5]
    bindings.assign({name: value for value, name in enumerate(names, 10)})
    assert kernel["config"].up() == 14 and kernel["pkg"].config.alpha == 13 and kernel["pkg"].part.alpha == 12
    assert (kernel["alpha"], kernel["config"].alpha, kernel["a.b"]) == (10, 11, 15)
    del bindings["config.alpha"], bindings["a.b"]
    assert not hasattr(kernel["config"], "alpha") and "a.b" not in kernel.namespace and not bindings.troubles


@pytest.mark.parametrize(
    "name", ["config.nothing", "config.nothing.alpha", "nothing.alpha", "pkg.part.alpha.real", "x"]
)
def test_what_is_not_there_is_not(bindings: Bindings, name: str) -> None:
    assert name not in bindings and bindings.get(name) is None and name not in list(bindings)


def test_a_module_that_cannot_be_imported_is_one_sentence(kernel: Kernel, bindings: Bindings) -> None:
    (kernel.workspace / "broken.py").write_text("1 / 0")
    sent = Sent({"broken": ["broken.alpha"]}, {}, frozenset(), {}, {})
    assert bindings.expect(sent, kernel.modules.files()) == {"broken.alpha"}
    bindings.assign({"broken.alpha": 1, "config.alpha": 2})
    sentence = "The module broken, which the job has imported and changed, cannot be imported here: division by zero"
    assert bindings.troubles == [sentence] and "broken.alpha" not in kernel.namespace and kernel["config"].alpha == 2


def test_what_does_not_take_a_value_is_told(kernel: Kernel, bindings: Bindings) -> None:
    kernel.files(
        frozen="class Meta(type):\n    def __setattr__(cls, *_): raise TypeError('no')\nclass A(metaclass=Meta): x = 1"
    )
    kernel.run("import importlib; importlib.invalidate_caches(); import frozen")
    bindings.assign({"frozen.A.x": 2})
    assert bindings.troubles == ["frozen.A.x cannot be set: no"]
