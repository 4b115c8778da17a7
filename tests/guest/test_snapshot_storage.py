"""Storage of snapshots: what is large, memory, what is stored twice or no more, and disks and blobs that fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from docker_kernel.guest import blob_files, snapshot
from tests.guest.test_snapshot import Notebook, notebook
from tests.patience import patient

__all__ = ["notebook"]

SHARED_MEMORY = Path("/dev/shm")


class File(NamedTuple):
    size: int
    written: int
    inode: int


def blobs(notebook: Notebook) -> dict[str, File]:
    found = {path.name: path.stat() for path in (Path(notebook.state) / "blobs").iterdir()}
    return {name: File(status.st_size, status.st_mtime_ns, status.st_ino) for name, status in found.items()}


def blob(notebook: Notebook, digest: str) -> Path:
    return Path(notebook.state) / "blobs" / digest.removeprefix("sha256:")


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


# Large bytes and bytearrays


def test_large_bytes_are_blobs_of_their_own_wherever_they_are(notebook: Notebook) -> None:
    notebook.run("""
        import os
        class Holder: pass
        once = os.urandom(100_000); part = {'a': [once, 'x' * 100_000], once: 1}; both = (bytearray(once), once)
        holder = Holder(); holder.data = both[0]; least = os.urandom(1 << 16); less = os.urandom((1 << 16) - 1)
        fixed = frozenset([once]); text = 'B\\xa0\\x86\\x01\\0' * 50_000
    """)
    packs = {name: notebook.pack(name) for name in ("once", "part", "holder", "least", "less", "fixed", "text")}
    assert [size for _, size in packs["once"]["buffers"]] == [100_000] and packs["once"]["sizes"][0] < 100
    assert {digest for name in ("once", "part", "fixed") for digest, _ in packs[name]["buffers"]} == {
        packs["once"]["buffers"][0][0]
    }
    assert packs["least"]["buffers"] and not packs["less"]["buffers"] and not packs["text"]["buffers"]
    copy = notebook.copy()
    for name in ("once", "part", "both", "least", "less", "fixed", "text"):
        assert copy[name] == notebook[name] and type(copy[name]) is type(notebook[name])
    assert type(copy["once"]) is bytes and type(copy["both"][0]) is bytearray
    assert copy["holder"].data is copy["both"][0] and copy["part"]["a"][0] is list(copy["part"])[1]
    copy["both"][0].append(1)


@pytest.mark.memory
def test_bytes_over_four_gigabytes_have_the_other_opcode(notebook: Notebook) -> None:
    if free(SHARED_MEMORY) < 6 << 30 or memory() < 12 << 30:
        pytest.skip("not enough memory")
    notebook.state = tempfile.mkdtemp(dir=SHARED_MEMORY)
    try:
        notebook.namespace["large"] = bytes((4 << 30) + 5)
        (pack,) = notebook.manifest()["packs"]
        ((digest, size),) = pack["buffers"]
        assert size == (4 << 30) + 5 and blob(notebook, digest).stat().st_size == size and pack["sizes"][0] < 100
    finally:
        shutil.rmtree(notebook.state)


# Memory


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def memory() -> int:
    """Bytes of memory that are free for use."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


MEASURE = """
import json, sys, time
from pathlib import Path
from docker_kernel.guest import snapshot
def memory(key):
    return next(int(line.split()[1]) >> 10 for line in Path('/proc/self/status').open() if line.startswith(key))
folder = sys.argv[1]
exec(sys.stdin.read())
variables = {name: value for name, value in globals().items() if name.startswith('v_')}
found = []
for _ in range(2):
    before = memory('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')
    captured = snapshot.capture(variables, globals(), folder)
    found.append(memory('VmHWM') - before)
assert not captured.left_out, captured.left_out
sizes = sum(file.stat().st_size for file in Path(folder).glob('blobs/*')) >> 20
del variables
for name in [name for name in globals() if name.startswith('v_')]: del globals()[name]
before = memory('VmRSS')
Path('/proc/self/clear_refs').write_text('5')
restored, failed = snapshot.restore(folder, json.loads(captured.manifest), {})
assert not failed, failed
print(json.dumps([*found, sizes, memory('VmHWM') - before]))
"""


def measured(source: str, folder: Path) -> list[int]:
    """MiB by which memory grew at most in a first capture and in a second, that were stored, and for a restore."""
    # All is compiled anew, whatever an earlier process has kept: what that has taken and given back is there for both.
    argv = [sys.executable, "-B", "-X", f"pycache_prefix={folder}/none", "-c", MEASURE, str(folder)]
    done = subprocess.run(argv, input=textwrap.dedent(source), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    """A folder in memory, with room."""
    if not SHARED_MEMORY.is_dir() or free(SHARED_MEMORY) < 3 << 30 or memory() < 8 << 30:
        pytest.skip("not enough memory")
    path = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
    yield path
    shutil.rmtree(path)


def test_an_array_of_two_gigabytes(shared_memory: Path) -> None:
    pytest.importorskip("numpy")
    source = "import numpy as np\nv_a = np.arange(250_000_000, dtype='f8'); v_b = v_a[1000:2000]"
    first, again, stored, restored = measured(source, shared_memory)
    assert first < 50 and again < 50 and 1900 <= stored < 1920 and restored < 1980


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("v_a = b'x' * 500_000_000; v_b = [bytearray(300_000_000)]", 50),
        ("import numpy as np; v_a = {i: np.full(20_000, i) for i in range(2000)}", 50),
        ("v_a = [{'id': i, 'name': f'n{i}'} for i in range(500_000)]", 130),
    ],
    ids=["bytes", "many arrays", "objects"],
)
def test_a_capture_takes_little_memory(shared_memory: Path, source: str, limit: int) -> None:
    first, again, stored, _ = measured(source, shared_memory)
    assert stored >= 10 and first < limit and again < limit


def test_frames_of_texts_take_little_memory(shared_memory: Path) -> None:
    pytest.importorskip("pandas")
    first, again, stored, _ = measured(
        """
        import pandas as pd
        with pd.option_context('mode.string_storage', 'python'):
            v_f = pd.DataFrame({c: [f'{c} {i} of a long street' for i in range(1_000_000)] for c in 'abcd'})
        """,
        shared_memory,
    )
    # The packed texts, and 8 bytes for each of them to know them again.
    assert first < 220 and again < 50 and stored > 80


# What is unchanged


def test_what_is_unchanged_is_neither_written_nor_made_again(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("""
        import numpy as np
        big = np.arange(2_000_000.0); texts = np.array([f't{i}' for i in range(300_000)], dtype=object)
        data = bytes(3_000_000); small = {'x': 1}; pieces = [np.ones(1 << 17) for _ in range(5)]
    """)
    first = notebook.capture()
    before = blobs(notebook)
    assert notebook.capture() == first and blobs(notebook) == before
    notebook.run("big = big.copy(); data = bytes(bytearray(data)); texts = np.array(texts.tolist(), dtype=object)")
    assert notebook.capture() == first and blobs(notebook) == before, "equal content is known also elsewhere in memory"


@pytest.mark.parametrize("position", [0, 1_000_000, 1_999_999])
def test_one_changed_number_is_found(notebook: Notebook, position: int) -> None:
    pytest.importorskip("numpy")
    notebook.run(
        "import numpy as np\na = np.zeros(2_000_000); b = np.zeros(2_000_000); c = np.ones(2_000_000)"
    ).capture()
    before = blobs(notebook)
    notebook.run(f"b[{position}] = 1").capture()
    after = blobs(notebook)
    new = [file.size for name, file in after.items() if name not in before]
    assert [size for size in new if size > 1000] == [16_000_000] and after.items() >= before.items()
    assert notebook.copy()["b"][position] == 1 and notebook.copy()["a"].sum() == 0
    notebook.run(f"b[{position}] = 0").capture()
    assert blobs(notebook).keys() == after.keys()


def test_equal_arrays_are_stored_once(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\nfor i in range(6): globals()[f'v{i}'] = np.arange(500_000)").capture()
    assert len([file for file in blobs(notebook).values() if file.size == 4_000_000]) == 1
    copy = notebook.copy()
    copy["v0"][0] = 5
    assert copy["v1"][0] == 0


def test_many_blobs_of_one_size(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    notebook.namespace["arrays"] = [np.full(140_000, i) for i in range(blob_files._MAX_CANDIDATES + 20)]
    first = notebook.capture()
    notebook.namespace["arrays"].reverse()
    assert notebook.capture().digest != first.digest and len(notebook.copy()["arrays"]) == len(notebook["arrays"])
    assert [array[0] for array in notebook.copy()["arrays"]] == [array[0] for array in notebook["arrays"]]
    assert len([file for file in blobs(notebook).values() if file.size > 1 << 20]) == len(notebook["arrays"])


def test_many_versions_that_differ_little(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    notebook.namespace["results"] = results = np.zeros(300_000)
    digests = []
    for number in range(2 * blob_files._MAX_COMPARED + 2):
        results[40_000 + number] = 1
        digests.append(notebook.capture().digest)
        assert (notebook.copy()["results"] == results).all()
    assert len([file for file in blobs(notebook).values() if file.size == 2_400_000]) == len(digests)
    results[40_001:] = 0
    before = blobs(notebook)
    assert notebook.capture().digest == digests[0] and blobs(notebook) == before


def test_slices_of_an_array_are_not_stored_beside_it(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\na = np.arange(1_000_000); train = a[:800_000]; test = a[800_000:]").capture()
    assert sum(file.size for file in blobs(notebook).values()) < 8_100_000


def test_a_blob_that_is_used_again_is_young_again(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run("import numpy as np\na = np.arange(1_000_000); b = [1]; c = 'x' * 5000").capture()
    for path in (Path(notebook.state) / "blobs").iterdir():
        os.utime(path, (0, 0))
    notebook.capture()
    assert all(file.written > (time.time() - 100) * 1e9 for file in blobs(notebook).values())


def test_captures_at_once_in_one_folder(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    notebook.run(
        "import numpy as np\na = np.arange(1_000_000); b = {i: [i] for i in range(1000)}; c = bytes(2_000_000)"
    )
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(notebook.capture().digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert all(len(name) == 64 for name in blobs(notebook)) and notebook.copy()["b"][5] == [5]


# Faults


STATE = """
    import numpy as np
    big = np.arange(1_000_000); objects = [{'id': i} for i in range(20_000)]; small = [1]
    data = bytes(range(256)) * 400; texts = np.array([f't{i}' for i in range(50_000)], dtype=object)
"""


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", ["big", "objects", "small", "data", "texts"])
def test_one_flipped_bit_is_refused(notebook: Notebook, name: str, where: str) -> None:
    pytest.importorskip("numpy")
    notebook.run(STATE)
    manifest = notebook.manifest()
    pack = notebook.pack(name)
    path = blob(notebook, pack["buffers"][0][0] if pack["buffers"] else pack["blob"])
    size = path.stat().st_size
    flip(path, {"first": 0, "middle": size // 2, "last": size - 1}[where])
    with pytest.raises(blob_files.SnapshotError, match="was changed after it was written"):
        snapshot.restore(notebook.state, manifest, {})


def test_a_missing_or_shortened_blob_is_said(notebook: Notebook) -> None:
    pytest.importorskip("numpy")
    manifest = notebook.run(STATE).manifest()
    path = blob(notebook, notebook.pack("big")["buffers"][0][0])
    os.truncate(path, 5)
    with pytest.raises(blob_files.SnapshotError, match="was changed"):
        snapshot.restore(notebook.state, manifest, {})
    path.unlink()
    with pytest.raises(blob_files.SnapshotError, match="cannot be read: No such file"):
        snapshot.restore(notebook.state, manifest, {})


def test_the_next_capture_repairs_large_blobs(notebook: Notebook) -> None:
    np = pytest.importorskip("numpy")
    first = notebook.run(STATE).capture()
    big = blob(notebook, notebook.pack("big")["buffers"][0][0])
    texts = blob(notebook, notebook.pack("texts")["buffers"][0][0])
    for damage in (lambda: flip(big, 7_000_000), lambda: os.truncate(big, 100), big.unlink, texts.unlink):
        damage()
        assert notebook.capture().digest == first.digest
        copy = notebook.copy()
        assert np.array_equal(copy["big"], notebook["big"]) and np.array_equal(copy["texts"], notebook["texts"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]).returncode:
        pytest.skip("no filesystem can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\na = np.arange(1_000_000)",
        "a = [bytes([i]) * 70_000 for i in range(100)]",
        "a = [str(i) for i in range(1_000_000)]",
        "import numpy as np\na = np.array([f'text {i}' for i in range(500_000)], dtype=object)",
        "for i in range(300): globals()[f'v{i}'] = str(i) * 20_000",
    ],
    ids=["array", "bytes", "objects", "texts", "many"],
)
def test_a_full_disk(notebook: Notebook, small_disk: Path, source: str) -> None:
    if "numpy" in source:
        pytest.importorskip("numpy")
    notebook.state = str(small_disk / "state")
    before = notebook.run("fine = bytes(100_000)").capture()
    notebook.run(source)
    threads = threading.active_count()
    with pytest.raises(blob_files.SnapshotError, match="cannot be written: No space left on device"):
        notebook.capture()
    left = [path.name for path in small_disk.rglob("*") if path.is_file()]
    assert all(len(name) == 64 for name in left), "what is half written is removed"
    assert threading.active_count() <= threads, "no writer is left behind"
    restored, _ = snapshot.restore(notebook.state, json.loads(before.manifest), {})
    assert restored["fine"] == notebook["fine"]
    notebook.state = str(small_disk.parent / "state")
    assert len(notebook.copy()) > 1, "elsewhere, all is well"


def test_ten_thousand_objects_survive(notebook: Notebook) -> None:
    notebook.run("""
        for i in range(10_000): globals()[f'v{i}'] = [i, str(i), {'k': i}]
        shared = []
        for i in range(0, 10_000, 100): globals()[f'v{i}'].append(shared)
        len = 5; dict = {}; open = print
    """)
    began = time.monotonic()
    copy = notebook.copy()
    assert time.monotonic() - began < patient(20)
    copy["shared"].append("all")
    assert sum(value[-1] == ["all"] for name, value in copy.items() if name.startswith("v")) == 100
    assert copy["v77"] == [77, "77", {"k": 77}] and (copy["len"], copy["dict"], copy["open"]) == (5, {}, print)
