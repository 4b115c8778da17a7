"""Content that is mapped from a state's files: it is used as if it had been read, and what is written to is known."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import blob_files, mapped_files, snapshot
from tests.guest.test_snapshot import Notebook, notebook
from tests.guest.test_snapshot_storage import blob, flip

__all__ = ["notebook"]

np = pytest.importorskip("numpy")

SIZE = 1_000_000


def restored(notebook: Notebook) -> dict[str, Any]:
    """The state, as a job has it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found, failed = snapshot.restore(notebook.state, notebook.manifest(), namespace, mapped=True)
    assert not failed
    return {**namespace, **found}


def is_untouched(notebook: Notebook, array: Any, name: str = "big") -> bool:
    ((digest, _),) = notebook.pack(name)["buffers"]
    return mapped_files.is_untouched(digest, memoryview(array).cast("B"))


def test_large_arrays_are_mapped_and_small_ones_are_not(notebook: Notebook) -> None:
    notebook.run(f"import numpy as np; big = np.arange({SIZE}.); small = np.arange(100_000.)")
    copy = restored(notebook)
    assert np.array_equal(copy["big"], notebook["big"]) and np.array_equal(copy["small"], notebook["small"])
    paths = Path("/proc/self/maps").read_text()
    assert notebook.pack("big")["buffers"][0][0][7:] in paths
    assert notebook.pack("small")["buffers"][0][0][7:] not in paths


@pytest.mark.parametrize("index", [0, 511, 512, SIZE // 2, SIZE - 1])
def test_one_written_element_is_noticed_and_is_not_in_the_file(notebook: Notebook, index: int) -> None:
    notebook.run(f"import numpy as np; big = np.arange({SIZE}.) + 1")
    big, other = restored(notebook)["big"], restored(notebook)["big"]
    assert big.sum() == notebook["big"].sum()
    assert is_untouched(notebook, big)
    big[index] = 0
    assert not is_untouched(notebook, big) and is_untouched(notebook, other)
    assert np.array_equal(other, notebook["big"]) and np.array_equal(restored(notebook)["big"], notebook["big"])


def test_what_is_not_the_mapping_is_not_taken_for_it(notebook: Notebook) -> None:
    notebook.run(f"import numpy as np; big = np.zeros({SIZE}); other = np.ones({SIZE})")
    copy = restored(notebook)
    assert not is_untouched(notebook, np.zeros(SIZE))
    assert not is_untouched(notebook, copy["big"][1:]) and not is_untouched(notebook, copy["big"][:-1])
    assert not is_untouched(notebook, copy["other"])
    del copy
    # Memory that nobody has written to yet looks as pages do that nobody has read; some of it is where those were.
    fresh = [np.frombuffer(mmap.mmap(-1, SIZE * 8)) for _ in range(20)]
    assert not any(is_untouched(notebook, one) for one in fresh)


def test_content_that_is_there_twice_is_mapped_twice(notebook: Notebook) -> None:
    copy = restored(notebook.run(f"import numpy as np; one = np.zeros({SIZE}); other = [np.zeros({SIZE})]"))
    copy["one"][5] = 1
    assert not copy["other"][0].any()
    assert is_untouched(notebook, copy["other"][0], "other") and not is_untouched(notebook, copy["one"], "one")


def test_large_bytes_and_read_only_arrays_are_what_they_were(notebook: Notebook) -> None:
    notebook.run(f"""
        import numpy as np
        fixed = np.arange({SIZE}.); fixed.flags.writeable = False
        text, changing = bytes(range(256)) * 40_000, bytearray(range(256)) * 40_000
    """)
    copy = restored(notebook)
    assert not copy["fixed"].flags.writeable and np.array_equal(copy["fixed"], notebook["fixed"])
    assert is_untouched(notebook, copy["fixed"], "fixed")
    assert type(copy["text"]) is bytes and copy["text"] == notebook["text"]
    assert type(copy["changing"]) is bytearray and copy["changing"] == notebook["changing"]
    copy["changing"].append(1)


def test_a_process_that_is_forked_has_its_own(notebook: Notebook) -> None:
    big = restored(notebook.run(f"import numpy as np; big = np.zeros({SIZE})"))["big"]
    child = os.fork()
    if not child:
        big[:] = 1
        os._exit(is_untouched(notebook, big))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_untouched(notebook, big) and not big.any()


@pytest.mark.parametrize("position", [0, SIZE * 4, SIZE * 8 - 1])
def test_a_file_that_was_changed_is_refused(notebook: Notebook, position: int) -> None:
    notebook.run(f"import numpy as np; big = np.zeros({SIZE}); other = [1]")
    manifest, pack = notebook.manifest(), notebook.pack("big")
    flip(blob(notebook, pack["buffers"][0][0]), position)
    with pytest.raises(blob_files.SnapshotError, match="was changed after it was written"):
        snapshot.restore(notebook.state, manifest, {}, mapped=True)


@pytest.mark.parametrize("damage", ["short", "empty", "missing"])
def test_a_file_that_is_not_whole_is_refused(notebook: Notebook, damage: str) -> None:
    manifest = notebook.run(f"import numpy as np; big = np.zeros({SIZE})").manifest()
    path = blob(notebook, notebook.pack("big")["buffers"][0][0])
    path.unlink() if damage == "missing" else os.truncate(path, 5 if damage == "short" else 0)
    with pytest.raises(blob_files.SnapshotError, match="cannot be read" if damage == "missing" else "was changed"):
        snapshot.restore(notebook.state, manifest, {}, mapped=True)


def test_the_order_of_variables_is_kept(notebook: Notebook) -> None:
    notebook.run(f"import numpy as np; a = np.zeros({SIZE}); b = ['x' * 2000]; c = np.ones({SIZE}); d = 'y' * 2000")
    names = [name for name in restored(notebook) if name in "abcd"]
    assert names == [name for name in notebook.copy() if name in "abcd"] and sorted(names) == [*"abcd"]


def test_many_large_arrays_do_not_take_all_descriptors(notebook: Notebook) -> None:
    notebook.run(f"import numpy as np; many = [np.full({SIZE}, number, 'f4') for number in range(100)]")
    program = """
import json, resource, sys
from docker_kernel.guest import snapshot
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
found, failed = snapshot.restore(sys.argv[1], snapshot.read_manifest(*sys.argv[1:]), {}, mapped=True)
assert not failed and [one[0] for one in found["many"]] == list(range(100))
"""
    subprocess.run([sys.executable, "-c", program, notebook.state, notebook.capture().digest], check=True)
