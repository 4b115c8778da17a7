"""Round trips of what libraries make: values, sharing and types survive, and what did not change is not stored anew."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from docker_kernel.guest import arrays, snapshot
from tests.guest.test_snapshot import Notebook, notebook

__all__ = ["notebook"]


def blobs(notebook: Notebook) -> set[str]:
    return {path.name for path in (Path(notebook.state) / "blobs").iterdir()}


def is_stable(notebook: Notebook) -> bool:
    """Whether a second capture stores nothing."""
    first = notebook.capture()
    before = blobs(notebook)
    return notebook.capture().digest == first.digest and blobs(notebook) == before


# numpy


def test_what_shows_a_file_and_writes_to_it_is_named(notebook: Notebook, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    (tmp_path / "file").write_bytes(bytes(8))
    notebook.run(f"import numpy as np\nw = np.memmap({str(tmp_path / 'file')!r}, 'u1', 'r+'); box = [w[2:4]]")
    notebook.run(f"r = np.memmap({str(tmp_path / 'file')!r}, 'u1', 'r')")
    assert [(one.name, one.reason) for one in notebook.capture().left_out] == [
        ("w", "it is an open file, which it writes to"),
        ("box", "it is an open file, which it writes to"),
    ]
    notebook.run("del w, box")
    assert notebook.copy()["r"].tolist() == [0] * 8


def test_arrays_of_texts_come_back_as_they_were(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    notebook.run("""
        import numpy as np
        class Text(str): pass
        unique = np.array([f'text {i}' for i in range(5000)], dtype=object)
        repeated = np.array([f'text {i % 7}' for i in range(5000)], dtype=object)
        gaps = np.array([None if i % 5 else f'text {i % 9}' for i in range(5000)], dtype=object)
        nans = np.array([float('nan') if i % 5 else 'x' for i in range(5000)], dtype=object)
        numbers = np.array([[0.0, -0.0, 1, True, 'a'][i % 5] for i in range(5000)], dtype=object)
        odd = np.array([['', '\\0', '\\ud800', 'größe', '😀'][i % 5] for i in range(5000)], dtype=object)
        wide = np.array([['a', 'b', b'c']] * 2000, dtype=object); turned = np.asfortranarray(wide)
        every = unique[::2]; cube = np.array([str(i) for i in range(2000)], dtype=object).reshape(10, 20, 10)
        texts = np.array([Text('a') if i % 2 else 'a' for i in range(5000)], dtype=object)
        lists = np.empty(2000, dtype=object); lists[:] = [['a'] for _ in range(2000)]
        fixed = np.array(['abc'] * 5000); long = 10**30
        big = np.array([long if i else 'a' for i in range(5000)], dtype=object)
    """)
    brought = notebook.job(
        """
        kinds = {name: [type(one) for one in globals()[name].ravel().tolist()] for name in names}
        signs = [np.signbit(one) for one in numbers[:2]]
        layout = turned.flags.fnc and wide.flags.c_contiguous
        unique[0] = 'changed'; lists[0].append('b')
        writable = unique[0] == 'changed' and lists[1] == ['a']
        same = repeated[0] is repeated[7] and gaps[5] is gaps[50]
    """.replace("names}", "['unique', 'repeated', 'gaps', 'nans', 'numbers', 'odd', 'texts', 'big', 'wide', 'cube']}")
    )
    for name, kinds in brought["kinds"].items():
        assert kinds == [type(one) for one in notebook[name].ravel().tolist()], name
    assert brought["signs"] == [False, True] and brought["layout"] and brought["writable"] and brought["same"]
    copy = notebook.copy()
    for name in ("unique", "repeated", "gaps", "numbers", "odd", "wide", "turned", "every", "cube", "fixed", "big"):
        assert np.array_equal(copy[name], notebook[name]), name
        assert copy[name].shape == notebook[name].shape and copy[name].dtype == notebook[name].dtype
    assert [one != one for one in copy["nans"]] == [one != one for one in notebook["nans"]]


def test_a_text_changed_in_place_is_seen(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\na = np.array([f'text {i}' for i in range(5000)], dtype=object); b = a[::-1]")
    first = notebook.manifest()
    notebook.run("a[4321] = 'text ' + str(4321)")
    assert notebook.manifest() == first, "an equal text is no change"
    notebook.run("a[4321] = 'other'")
    assert notebook.manifest() != first
    copy = notebook.copy()
    assert copy["a"][4321] == "other" == copy["b"][5000 - 4322]


def test_texts_are_known_again_only_where_their_blob_is(notebook: Notebook, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\na = np.array([f'text {i}' for i in range(50_000)], dtype=object)").capture()
    notebook.state = str(tmp_path / "other")
    assert notebook.copy()["a"][7] == "text 7"
    for path in (tmp_path / "other" / "blobs").iterdir():
        path.unlink()
    assert notebook.copy()["a"][7] == "text 7"


def test_texts_are_not_kept_for_longer_than_their_array(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\na = np.array([f'text {i}' for i in range(5000)], dtype=object)").capture()
    before = len(arrays.texts)
    del notebook.namespace["a"]
    assert len(arrays.texts) == before - 1


def test_dates_and_their_views(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    copy = notebook.run("""
        import numpy as np
        days = np.arange('2000-01-01', '2026-01-01', dtype='M8[D]'); some = days[10:20]; steps = np.diff(days)
    """).copy()
    assert (copy["days"] == notebook["days"]).all() and (copy["steps"] == notebook["steps"]).all()
    assert np.shares_memory(copy["days"], copy["some"])


def test_arrays_that_are_not_contiguous_or_empty_or_have_no_axes(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    copy = notebook.run("""
        import numpy as np
        whole = np.arange(1_000_000).reshape(1000, 1000)
        parts = {'columns': whole[:, ::3].copy()[:, ::2], 'turned': whole.T.copy().T, 'none': np.empty((0, 5)),
                 'one': np.array(5), 'text': np.array('x', dtype=object), 'swapped': np.arange(20_000, dtype='>f8'),
                 'permuted': np.ones((50, 60, 70)).transpose(1, 0, 2), 'bits': np.zeros(100_000, dtype=bool),
                 'masked': np.ma.masked_array(np.arange(100_000), np.arange(100_000) % 2 == 0)}
    """).copy()
    for name, part in notebook["parts"].items():
        assert np.array_equal(copy["parts"][name], part) and copy["parts"][name].dtype == part.dtype, name
    assert type(copy["parts"]["masked"]) is np.ma.MaskedArray


# pandas, polars, arrow

FRAME = """
import numpy as np, pandas as pd
n = 20_000
frame = pd.DataFrame({
    'text': [f'user {i}' for i in range(n)], 'kind': ['a', 'b', 'c', 'd'] * (n // 4),
    'object': pd.Series([f'user {i}' if i % 3 else None for i in range(n)], dtype=object),
    'number': np.arange(n) / 7, 'whole': pd.array([1, None] * (n // 2), dtype='Int64'),
    'category': pd.Categorical(['x', 'y'] * (n // 2)),
    'when': pd.date_range('2026-01-01', periods=n, tz='UTC', freq='h'),
    'nullable': pd.array(['t', None] * (n // 2), dtype='string'), 'lists': [[i] for i in range(n)],
})
"""


@pytest.mark.parametrize("storage", ["python", "pyarrow"])
def test_frames(notebook: Notebook, storage: str) -> None:
    pandas = pytest.importorskip("pandas")
    if storage == "pyarrow":
        pytest.importorskip("pyarrow")
    with pandas.option_context("mode.string_storage", storage):
        notebook.run(FRAME + "indexed = frame.set_index(['kind', 'text']); column = frame['number']; same = frame\n")
        copy = notebook.copy()
    for name in ("frame", "indexed", "column"):
        left, right = copy[name], notebook[name]
        getattr(pandas.testing, "assert_series_equal" if name == "column" else "assert_frame_equal")(left, right)
    assert copy["same"] is copy["frame"]
    assert is_stable(notebook)
    copy["frame"].loc[5, "text"] = "changed"
    assert copy["frame"]["text"][5] == "changed"


def test_a_changed_column_costs_no_more_than_itself(notebook: Notebook) -> None:
    pytest.importorskip("pandas")
    notebook.run(FRAME + "frame = frame.drop(columns='lists')\n").capture()
    before = blobs(notebook)
    notebook.run("frame['kind'] = frame['kind'].str.upper()").capture()
    state = Path(notebook.state) / "blobs"
    assert sum((state / name).stat().st_size for name in blobs(notebook) - before) < 250_000


def test_polars(notebook: Notebook) -> None:
    pytest.importorskip("polars")
    copy = notebook.run("""
        import polars as pl
        frame = pl.DataFrame({'a': range(50_000), 's': [f'text {i}' for i in range(50_000)], 'l': [[1, 2]] * 50_000})
        series = frame['s']; lazy = frame.lazy().filter(pl.col('a') > 49_990); expression = pl.col('a').sum().alias('t')
        same = frame
    """).copy()
    assert copy["frame"].equals(notebook["frame"]) and copy["series"].equals(notebook["series"])
    assert copy["lazy"].collect().height == 9 and copy["frame"].select(copy["expression"])["t"][0] == 1249975000
    assert copy["same"] is copy["frame"] and is_stable(notebook)


def test_arrow(notebook: Notebook) -> None:
    pytest.importorskip("pyarrow")
    copy = notebook.run("""
        import pyarrow as pa
        table = pa.table({'x': list(range(50_000)), 's': [f'text {i}' for i in range(50_000)]})
        part = table.slice(10, 5); array = pa.array(['a', None] * 50_000).dictionary_encode(); scalar = pa.scalar(5)
    """).copy()
    assert all(copy[name].equals(notebook[name]) for name in ("table", "part", "array", "scalar"))
    assert len(notebook.pack("table")["buffers"]) >= 3 and is_stable(notebook)


# torch, scikit-learn, compiled code

MODEL = """
import torch
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(300, 300), nn.Linear(300, 300)
        self.second.weight = self.first.weight
        self.register_buffer('scale', torch.ones(3))
    def forward(self, x): return self.second(torch.relu(self.first(x)))
x = torch.randn(16, 300)
model = Net(); optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
def step():
    optimizer.zero_grad(); loss = model(x).square().mean(); loss.backward(); optimizer.step(); schedule.step()
    return loss.item()
for _ in range(3): step()
"""


def test_training_goes_on_as_it_would_have(notebook: Notebook) -> None:
    pytest.importorskip("torch")
    notebook.run(MODEL)
    brought = notebook.job("""
        tied = model.first.weight is model.second.weight is optimizer.param_groups[0]['params'][0]
        there = [step() for _ in range(3)]
    """, known=("model", "optimizer", "schedule"))  # fmt: skip
    notebook.run("here = [step() for _ in range(3)]")
    assert brought["tied"] and brought["there"] == notebook["here"]
    state = brought["model"].state_dict()
    assert all((state[name] == value).all() for name, value in notebook["model"].state_dict().items())
    assert brought["optimizer"].param_groups[0]["params"][0] is brought["model"].first.weight


def test_tensors_share_storages_and_are_stored_without_copies(notebook: Notebook) -> None:
    torch = pytest.importorskip("torch")
    notebook.run("""
        import torch
        whole = torch.arange(200_000.0); part = whole[10:20]; grid = whole.view(200, 1000); column = grid[:, 3]
        half = torch.ones(100_000, dtype=torch.bfloat16); empty = torch.empty(0); scalar = torch.tensor(3)
        leaf = torch.ones(3, requires_grad=True); sparse = torch.eye(5).to_sparse(); flags = torch.ones(5) > 0
        complex = torch.ones(3, dtype=torch.complex64); generator = torch.Generator().manual_seed(5)
        quantized = torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8)
    """)
    assert {"whole", "part", "grid", "column"} in notebook.groups()
    assert notebook.pack("whole")["buffers"][0][1] == 800_000 and len(notebook.pack("whole")["buffers"]) == 1
    assert is_stable(notebook)
    copy = notebook.copy()
    copy["whole"][13] = -1
    assert copy["part"][3] == -1 and copy["grid"][0, 13] == -1 and copy["column"][0] == 3
    for name in ("half", "empty", "scalar", "leaf", "flags", "complex"):
        assert torch.equal(copy[name], notebook[name]) and copy[name].dtype == notebook[name].dtype
    assert copy["leaf"].requires_grad and copy["sparse"].to_dense().sum() == 5
    assert torch.rand(1, generator=copy["generator"]) == torch.rand(1, generator=notebook["generator"])
    assert torch.equal(copy["quantized"].dequantize(), notebook["quantized"].dequantize())


def test_a_tensor_of_a_gpu_is_named_where_there_is_none(notebook: Notebook) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    registry = torch.serialization._package_registry
    torch.serialization.register_package(0, lambda _: "cuda:0", lambda *_: None)
    try:
        data = io.BytesIO()
        torch.save(torch.ones(3), data, _use_new_zipfile_serialization=False)
    finally:
        registry[:] = [entry for entry in registry if entry[0] != 0]
    notebook.namespace["data"] = data.getvalue()
    notebook.run("""
        import torch
        class OnGpu:
            def __reduce__(self): return torch.storage._load_from_bytes, (data,)
        tensor = OnGpu(); fine = torch.ones(3)
    """)
    restored, failed = snapshot.restore(notebook.state, notebook.manifest(), {})
    assert [one.name for one in failed] == ["tensor"] and restored["fine"].sum() == 3
    assert "CUDA" in failed[0].reason and "GPU" in failed[0].hint


def test_pipelines(notebook: Notebook) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("pandas")
    notebook.run("""
        import numpy as np, pandas as pd
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
        rng = np.random.default_rng(0)
        X = pd.DataFrame({'n': rng.normal(size=200), 'c': rng.choice(['a', 'b'], 200)}); y = (X['n'] > 0).astype(int)
        columns = ColumnTransformer([('n', FunctionTransformer(lambda x: x * 2), ['n']), ('c', OneHotEncoder(), ['c'])])
        forest = RandomForestClassifier(10, random_state=0)
        search = GridSearchCV(Pipeline([('columns', columns), ('forest', forest)]), {'forest__max_depth': [2, 3]}, cv=2)
        search.fit(X, y); log = FunctionTransformer(np.log1p); other = FunctionTransformer(np.log1p)
    """)
    assert {"log"} in notebook.groups() and {"other"} in notebook.groups()
    brought = notebook.job("there = search.predict(X); same = search.estimator.named_steps['columns'] is columns")
    assert (brought["there"] == notebook["search"].predict(notebook["X"])).all() and brought["same"]


def test_compiled_functions_and_objects_of_c(notebook: Notebook) -> None:
    pytest.importorskip("numba")
    notebook.run("""
        import ctypes, numba, re
        @numba.njit
        def plus(x): return x + offset
        offset = 2
        plus(1)
        pattern = re.compile('a+'); match = pattern.match('aa'); pointer = ctypes.c_void_p(5)
        library = ctypes.CDLL(None); frame = None
        try: 1 / 0
        except ZeroDivisionError as error: frame = error.__traceback__
    """)
    captured = notebook.capture()
    refused = {one.name: one for one in captured.left_out}
    assert {"match", "pointer", "library", "frame"} <= refused.keys() and "plus" not in refused
    assert all(one.reason and one.hint for one in refused.values())
    restored, failed = snapshot.restore(notebook.state, json.loads(captured.manifest), notebook.namespace)
    assert not failed and restored["plus"](1) == 3 and restored["pattern"].match("a")


def test_libraries_are_not_imported_to_capture(tmp_path: Path) -> None:
    code = """
import sys
from docker_kernel.guest import snapshot
snapshot.capture({"a": bytes(1 << 21), "b": [bytearray(1 << 21)], "c": 1}, {}, sys.argv[1])
assert not {"numpy", "pandas", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
