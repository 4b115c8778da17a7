"""A kernel's state as image layers: the same bytes for the same content, in pieces, checked on the way."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background
from docker_kernel.batch import layers as module
from docker_kernel.batch.layers import MAX_OWN, Layer, job_layers, tar_content, tar_files
from docker_kernel.errors import JobError
from docker_kernel.kernel import guest_files
from docker_kernel.targets.base import Package
from tests.notebook import Notebook, captured
from tests.patience import patient

MB = 1_000_000

run = background.run_blocking


def layers_of(notebook: Notebook, package: Package | None = None) -> list[Layer]:
    made: list[Layer] = run(job_layers(notebook.container, package or captured(notebook)))
    return made


def data_of(layer: Layer) -> bytes:
    return b"".join(layer.open())


def blob_of(package: Package, name: str) -> str:
    """The digest of the largest blob that a variable's group has."""
    (pack,) = (one for one in json.loads(package.manifest)["packs"] if [name] in one["groups"])
    return str(max(pack["buffers"], key=lambda one: one[1])[0] if pack["buffers"] else pack["blob"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of no other test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_DIGESTS", module.DigestCache())


@pytest.fixture
def kernel(notebook: Notebook) -> Iterator[Notebook]:
    """A kernel with no variables."""
    notebook.run("import os")
    yield notebook
    notebook.run("%reset -f")


def test_the_same_state_makes_the_same_bytes(kernel: Notebook) -> None:
    kernel.run("large = os.urandom(5_000_000); small = [1, 2]; other = {'a': large}")
    package = captured(kernel)
    first, second = layers_of(kernel, package), layers_of(kernel, package)
    assert [(one.digest, one.size) for one in first] == [(one.digest, one.size) for one in second]
    for layer in first:
        data = data_of(layer)
        assert (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}") == (layer.size, layer.digest)
        assert data_of(layer) == data


def test_what_is_in_them(kernel: Notebook) -> None:
    kernel.run("large = os.urandom(2_000_000); small = 1")
    package = captured(kernel)
    uid, gid = map(int, kernel.container.user.split(":"))
    state = guest_files.STATE.lstrip("/")
    found: dict[str, tarfile.TarInfo] = {}
    content: dict[str, bytes] = {}
    for layer in layers_of(kernel, package):
        with tarfile.open(fileobj=io.BytesIO(data_of(layer))) as tar:
            names = [member.name for member in tar]
            assert len(names) == len(set(names)), "engines refuse a path that is there twice"
            for member in tar:
                found[member.name] = member
                if member.isreg():
                    content[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    blobs = {name.rpartition("/")[2] for name in content if name.startswith(f"{state}/blobs/")}
    assert {f"sha256:{name}" for name in blobs} >= {blob_of(package, "large")}
    for name in blobs:
        assert hashlib.sha256(content[f"{state}/blobs/{name}"]).hexdigest() == name
    assert content[f"{state}/manifests/{package.digest[7:]}"].decode() == package.manifest
    for name in (state, f"{state}/blobs", f"{state}/manifests", f"{state}/manifests/{package.digest[7:]}", "outputs"):
        assert (found[name].uid, found[name].gid) == (uid, gid), name
    assert found[state].mode == 0o700 and found[f"{guest_files.RUN.lstrip('/')}"].mode == 0o700
    assert f"{guest_files.LIB.lstrip('/')}/docker_kernel/guest/run_job.py" in content
    for file in kernel.container.guest_files():
        assert (found[file.path].mode, found[file.path].uid, found[file.path].gid) == (file.mode, file.uid, file.gid)
        assert file.data is None or content[file.path] == file.data


def test_one_small_change_makes_few_small_new_layers(kernel: Notebook) -> None:
    kernel.run("large = os.urandom(20_000_000)\nfor _i in range(300): globals()[f'v{_i}'] = os.urandom(2000)")
    kernel.run("counter = 1")
    first = layers_of(kernel)
    kernel.run("counter = 2")
    second = layers_of(kernel)
    before = {one.digest for one in first}
    new = [one for one in second if one.digest not in before]
    assert 0 < len(new) <= 3 and sum(one.size for one in new) < 200_000
    same = next(at for at, pair in enumerate(zip(first, second, strict=True)) if pair[0].digest != pair[1].digest)
    assert max(one.size for one in second[:same]) > 20 * MB, "the large ones are below what changes"


def test_any_number_of_variables_fits_an_image(kernel: Notebook) -> None:
    kernel.run("for _i in range(150): globals()[f'w{_i}'] = os.urandom(300_000)")
    package = captured(kernel)
    layers = layers_of(kernel, package)
    assert MAX_OWN < len(layers) < 70
    assert sum(one.size for one in layers) > 150 * 300_000


def test_a_digest_is_known_without_reading_again(kernel: Notebook) -> None:
    kernel.run("large = os.urandom(3_000_000)")
    package = captured(kernel)
    first = layers_of(kernel, package)
    kernel.run(f"os.unlink('{guest_files.STATE}/blobs/{blob_of(package, 'large')[7:]}')")
    second = layers_of(kernel, package)
    assert [one.digest for one in first] == [one.digest for one in second]
    (gone,) = (one for one in second if one.size > 3 * MB)
    with pytest.raises(JobError, match="is gone: run the cell again"):
        data_of(gone)


def test_a_cache_that_is_broken_costs_only_time(kernel: Notebook, tmp_path: Path) -> None:
    kernel.run("large = os.urandom(3_000_000)")
    package = captured(kernel)
    first = layers_of(kernel, package)
    (kept,) = (tmp_path / "cache").rglob("layers.sqlite")
    kept.write_bytes(b"no database" * 1000)
    assert [one.digest for one in layers_of(kernel, package)] == [one.digest for one in first]


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize(
    "change",
    ["data[1000] ^= 1", "data += b'more'", "data += bytes(10_000_000)", "del data[-1]", "data[:] = b''"],
    ids=["a flipped bit", "longer", "much longer", "shorter", "empty"],
)
def test_a_blob_that_was_changed_is_refused(kernel: Notebook, change: str, known: bool) -> None:
    """Whether its layer was made before or not; and never does more come than was said."""
    kernel.run("large = os.urandom(3_000_000)")
    package = captured(kernel)
    digest = blob_of(package, "large")
    if known:
        layers_of(kernel, package)
    path = f"{guest_files.STATE}/blobs/{digest[7:]}"
    done = kernel.run(
        f"data = bytearray(open({path!r}, 'rb').read())\n{change}\nos.chmod({path!r}, 0o600)\n"
        f"with open({path!r}, 'wb') as file: file.write(data)"
    )
    assert done.status == "ok", done.traceback
    read = 0
    with pytest.raises(JobError, match=rf"\({digest[:19]}\) was changed after it was written; it is not sent"):
        layers = layers_of(kernel, package)
        (layer,) = (one for one in layers if one.size > 3 * MB)
        for piece in layer.open():
            read += len(piece)
    assert bool(read) == known and read <= 3 * MB + 20_000


def test_a_workspace_s_large_files_keep_their_layers(kernel: Notebook, tmp_path: Path) -> None:
    package = captured(kernel)
    folder = tmp_path / "work/space"
    folder.mkdir(parents=True)
    (folder / "large.bin").write_bytes(b"l" * 3 * MB)
    (folder / "small.py").write_text("x = 1")

    def made(name: str) -> list[Layer]:
        path = tmp_path / name
        with tarfile.open(path, "w") as tar:
            tar.add(tmp_path / "work", "work")
        return layers_of(
            kernel, Package("0123456789ab", package.image, package.manifest, package.digest, "", False, path)
        )

    without = {one.digest for one in layers_of(kernel, package)}
    first = [one for one in made("one.tar") if one.digest not in without]
    (folder / "small.py").write_text("x = 2")
    (folder / "new.py").write_text("y = 2")
    second = [one for one in made("two.tar") if one.digest not in without]
    assert [len(first), len(second)] == [2, 2]
    assert first[0].digest == second[0].digest and first[0].size > 3 * MB
    assert first[1].digest != second[1].digest and second[1].size < 20_000
    with tarfile.open(fileobj=io.BytesIO(data_of(second[1]))) as tar:
        assert {"work/space", "work/space/small.py", "work/space/new.py"} <= set(tar.getnames())


def test_the_content_of_an_archive_comes_in_pieces() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("one")
        info.size = 5 * MB
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    data = made.getvalue()
    pieces = [data[at : at + 777] for at in range(0, len(data), 777)]
    assert b"".join(tar_content(pieces)) == b"x" * 5 * MB
    for cut in (0, 300, 1_000_000, 5 * MB):
        with pytest.raises(JobError):
            list(tar_content([data[:cut]]))


MEASURE = """
import asyncio, json, sys, time
from types import SimpleNamespace
from docker_kernel.batch.layers import job_layers
from docker_kernel.targets.base import Package
from docker_kernel.engine import Engine

def peak():  # ru_maxrss would be that of the process that forked us, too
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1000

async def main():
    given = json.load(sys.stdin)
    package = Package("0123456789ab", given["image"], given["manifest"], given["digest"])
    kernel = SimpleNamespace(engine=await Engine.connect(), user=given["user"], guest_files=lambda: [],
                             container_id=given["container"], python=given["python"])
    before, begun = peak(), time.monotonic()
    layers = await job_layers(kernel, package)
    made = time.monotonic() - begun
    read = await asyncio.to_thread(lambda: sum(len(piece) for layer in layers for piece in layer.open()))
    print(json.dumps([before, peak(), read, made, time.monotonic() - begun - made]))

asyncio.run(main())
"""


def test_a_state_of_any_size_costs_little_memory(kernel: Notebook) -> None:
    assert kernel.run("huge = os.urandom(1_000_000_000)", timeout=120).status == "ok"
    package = captured(kernel)
    one = kernel.container
    given: dict[str, Any] = {
        "image": package.image, "manifest": package.manifest, "digest": package.digest, "user": one.user,
        "container": one.container_id, "python": one.python,
    }  # fmt: skip
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=patient(240), check=False
    )
    assert done.returncode == 0, done.stderr
    before, peak, read, digest_seconds, read_seconds = json.loads(done.stdout)
    print(f"{before} MB before, {peak} MB at most; digest {digest_seconds:.1f} s, read again {read_seconds:.1f} s")
    assert read > 1_000_000_000
    assert peak < 100


def test_files_of_a_tar_archive_are_read_one_after_the_other() -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        folder = tarfile.TarInfo("blobs")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("blobs/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for member in (folder, link):
            tar.addfile(member)
        for name, content in (("skipped", bytes(3_000_000)), ("taken", b"taken"), ("empty", b"")):
            file = tarfile.TarInfo(f"blobs/{name}")
            file.size = len(content)
            tar.addfile(file, io.BytesIO(content))
    data = whole.getvalue()
    pieces = [data[at : at + 70_000] for at in range(0, len(data), 70_000)]
    found = {name: b"".join(content) for name, content in tar_files(pieces) if name != "skipped"}
    assert found == {"taken": b"taken", "empty": b""}
    with pytest.raises(JobError, match="broke off"):
        for _, parts in tar_files(pieces[:2]):
            b"".join(parts)
