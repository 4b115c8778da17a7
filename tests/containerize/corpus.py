"""The notebooks of tests/notebooks: what each is run with, and how it ends. Its README says where they are from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.environment import write_wheel

FOLDER = Path(__file__).parents[1] / "notebooks"

STACK = ("bash_kernel==0.10.0", "emcee==3.1.6", "matplotlib==3.11.2", "numpy==2.4.6", "pandas==3.1.1")
"""What some of them need beyond docker-kernel/python."""


@dataclass(frozen=True)
class Case:
    """One notebook in its workspace.

    Args:
        path: of the notebook: in `public/`, or in one of the folders of `own/`, which is its workspace then.
        given: parameters as they are typed after `-p`.
        found: names of all parameters that are found, where there are more than the given ones.
        code: the exit code of the run.
        error: what nbclient raises: the name of the cell's exception if it has one, else of nbclient's own.
        says: what must be among the outputs, as the parameters are the given ones.
        stack: whether it needs STACK.
        kernel: the name of its kernel in the image.
    """

    path: str
    given: Mapping[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    code: int = 0
    error: str = ""
    says: str = ""
    stack: bool = False
    kernel: str = "python3"

    @property
    def name(self) -> str:
        """Of its test."""
        parts = Path(self.path).with_suffix("").parts
        return f"{parts[1]}-{parts[-1]}" if self.public else parts[1]

    @property
    def public(self) -> bool:
        """Whether it is of a public project, unmodified."""
        return self.path.startswith("public/")

    @property
    def parameters(self) -> set[str]:
        return {*self.given, *self.found}

    def workspace(self, folder: Path) -> Path:
        """Copy its files into an empty folder; returns the notebook's path there."""
        source = FOLDER / self.path
        if self.public:
            return Path(shutil.copy(source, folder / source.name))
        root = FOLDER / "own" / Path(self.path).parts[1]
        shutil.copytree(root, folder, dirs_exist_ok=True)
        if root.name == "pip":
            (folder / "wheels").mkdir()
            write_wheel(folder / "wheels")
        return folder / source.relative_to(root)


CASES = (
    Case("public/nbclient/Autokill.ipynb", code=1, error="DeadKernelError"),
    Case("public/nbclient/Clear Output.ipynb", says="Hello world"),
    Case("public/nbclient/Factorials.ipynb", says="89"),
    Case("public/nbclient/Output.ipynb", says="in output"),
    Case("public/nbclient/Skip Exceptions with Cell Tags.ipynb", says="üñîçø∂é"),
    Case("public/nbclient/update-display-id.ipynb", says="above"),
    Case(
        "public/nbconvert/nbconvert_library.ipynb",
        {"url": "https://example.org/x.ipynb"},
        code=1,
        error="URLError",
        says="urlopen error",
    ),
    Case("public/nbformat/test3.ipynb", code=1, error="URLError", says="<b>HTML</b>"),
    Case("public/nbformat/test4.ipynb", code=1, error="URLError", says="<b>HTML</b>"),
    Case("public/papermill/complex_parameters.ipynb", code=1, error="SyntaxError", says="invalid syntax"),
    Case("public/papermill/no_parameters.ipynb", {"msg": 'it\'s "here"\\n'}, says='it\'s "here"'),
    Case("public/papermill/report_mode_test.ipynb", {"a": "40", "b": "2"}, says="42\n"),
    Case("public/papermill/simple_execute.ipynb", {"msg": "héllo\n$(wörld)"}, says="héllo\n$(wörld)"),
    Case("public/ipywidgets/Widget Events.ipynb", says="Register a callback to execute when the button is clicked."),
    Case("public/ipython/Animations Using clear_output.ipynb", code=1, error="ImportError", says="9\n"),
    Case("public/ipython/Script Magics.ipynb", code=1, error="AttributeError", says="hello from /"),
    Case("public/ipython/Updating Displays.ipynb", says="'z'"),
    Case("public/ipython/Capturing Output.ipynb", says="hi, stdout", stack=True),
    Case("public/jupytext/nteract_with_parameter.ipynb", {"param": "40"}, says="43", stack=True),
    Case(
        "public/jupytext/sample_bash_notebook.ipynb",
        code=1,
        error="CellExecutionError",
        says="git: command not found",
        stack=True,
        kernel="bash",
    ),
    Case(
        "public/jupytext/text_outputs_and_images.ipynb",
        {"w": "5", "h": "4"},
        code=1,
        error="NameError",
        says="using sys.stderr.write",
        stack=True,
    ),
    Case("public/emcee/quickstart.ipynb", {"ndim": "3", "nwalkers": "8"}, says="Mean acceptance", stack=True),
    Case("own/async/tasks.ipynb", {"workers": "4"}, found=("pause",), says="result of a task of the cell before: 16"),
    Case("own/bash/shell.ipynb", code=1, error="CellExecutionError", says="3: hello", stack=True, kernel="bash"),
    Case(
        "own/errors/errors.ipynb",
        {"fail": "true", "where": "thère"},
        code=1,
        error="RuntimeError",
        says="failed thère: kaputt: ☠",
    ),
    Case("own/huge/huge.ipynb", {"lines": "60000", "wide": "1000000"}, says="0059999 "),
    Case(
        "own/magics/magics.ipynb",
        {"depth": "21", "word": "fancy"},
        code=1,
        error="UsageError",
        says="shell says 42 fancy",
    ),
    Case(
        "own/names/Grüße an 世界/Größe der Städte, 図表.ipynb",
        {"größe": "2.5", "stadt": "Łódź 🏙", "名前": '["京都", "a b"]'},
        says="Łódź 🏙 2.5 京都 a b",
    ),
    Case("own/pip/install.ipynb", {"shout": "true"}, says="TEAL"),
    Case(
        "own/plots/plots.ipynb",
        {"frequency": "3.5", "points": "80", "colour": "tab:red"},
        says="3.5 Hz",
        stack=True,
    ),
    Case(
        "own/types/report.ipynb",
        {
            "count": "7",
            "rate": "1e-1",
            "verbose": "yes",
            "title": "a 'quoted' \"title\"\nof two lines",
            "weights": "[0.25, 3]",
            "options": '{"depth": null, "names": []}',
            "day": "2027-02-28",
            "moment": "2027-02-28T23:59:59",
            "source": "other/file.parquet",
            "mode": "exact",
            "limit": "12",
        },
        found=("total",),
        says="PosixPath('other/file.parquet')",
    ),
    Case("own/widgets/widgets.ipynb", {"start": "8", "label": "Größe"}, says="now 13"),
    Case(
        "own/workspace/analysis.ipynb",
        {"column": "height", "digits": "1", "out": "/output/other"},
        found=("scale",),
        says="3 rows, 2.2",
    ),
)
