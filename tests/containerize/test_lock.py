"""The lock of an environment, and the environment made anew from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, labels
from docker_kernel.build_settings import host_settings
from docker_kernel.containerize import index, lock
from docker_kernel.containerize.lock import Lock, Package
from docker_kernel.containerize.rebuild import rebuild_environment
from docker_kernel.containerize.request import Step, silent
from docker_kernel.engine import ContainerSpec, Engine, File, archive
from docker_kernel.errors import ContainerizeError, EngineError
from docker_kernel.kernel.guest_files import USER_BASE
from tests.engines import OwnRegistry
from tests.patience import patient

run = background.run_blocking

INSTALL = f"""
FROM BASE AS fetch
COPY host /host
RUN . /host/env && python3 -m pip download --no-deps -d /wheels PINNED toml==0.10.1
FROM BASE
COPY --from=fetch /wheels /wheels
COPY shade /wheels
RUN export PIP_BREAK_SYSTEM_PACKAGES=1 && cd /wheels \\
 && python3 -m pip install --no-index --no-deps -f . PINNED \\
 && PYTHONUSERBASE={USER_BASE} python3 -m pip install --user --no-index --no-deps -f . toml==0.10.1 EXTRA \\
 && rm -r /wheels
"""


@pytest.fixture(scope="module")
def made(engine: Engine) -> Iterator[list[str]]:
    """The images of this module: what is named here is removed at its end."""
    found: list[str] = []
    yield found
    for reference in reversed(found):
        with contextlib.suppress(EngineError):
            run(engine.images.remove(reference))


def environment(
    engine: Engine, base: str, made: list[str], extra: str = "", wheel: bytes = b"", pinned: str = "iniconfig==2.0.0"
) -> str:
    """An image as a kernel's packages make it: one package beside the system's, one in the user's folder."""
    settings = host_settings()
    tag = f"docker-kernel-test/{uuid.uuid4().hex[:12]}:latest"
    context = [
        File("Dockerfile", INSTALL.replace("BASE AS", f"{base} AS").replace("FROM BASE", f"FROM {base}")
             .replace("EXTRA", extra).replace("PINNED", pinned).encode()),
        File("host/env", settings.script("/host/ca.pem").encode()),
        File("host/ca.pem", settings.ca or b""),
        File("shade/shade-1.0-py3-none-any.whl", wheel),
    ]  # fmt: skip
    made.append(tag)
    kind = {labels.KIND: labels.KIND_ENVIRONMENT}
    run(engine.images.build(archive(context), tag, {}, kind, lambda event: None, network="host"))
    return tag


@pytest.fixture(scope="module")
def installed(engine: Engine, python_image: str, made: list[str]) -> str:
    return environment(engine, python_image, made)


@pytest.fixture(scope="module")
def locked(engine: Engine, installed: str) -> Lock:
    return run(lock.make(engine, installed))


def named(found: Lock, name: str) -> Package:
    return next(one for one in found.packages if one.key == name)


def rebuild(engine: Engine, wanted: Lock, made: list[str]) -> str:
    steps: list[Step] = []
    image = run(rebuild_environment(engine, wanted, steps.append))
    made.append(image)
    assert {step.name for step in steps} <= {"environment"}
    return image


def changed(whole: Lock, name: str, **update: object) -> Lock:
    packages = tuple(one.model_copy(update=update) if one.key == name else one for one in whole.packages)
    return whole.model_copy(update={"packages": packages})


def test_a_lock_names_the_base_the_layers_and_each_package_by_hash(
    engine: Engine, locked: Lock, installed: str, python_image: str
) -> None:
    base = run(engine.images.inspect(python_image))
    assert locked.base.layers == tuple(base["RootFS"]["Layers"]) and locked.base.reference == python_image
    assert locked.environment == tuple(
        run(engine.images.inspect(installed))["RootFS"]["Layers"][len(locked.base.layers) :]
    )
    one = named(locked, "iniconfig")
    # The digest that PyPI has of this file, for ever.
    assert (one.version, one.source, one.wheel) == ("2.0.0", "index", "iniconfig-2.0.0-py3-none-any.whl")
    assert one.hashes == ("sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374",)
    assert named(locked, "toml").folder.startswith(USER_BASE) and named(locked, "pip").source == "system"
    assert locked.hashes == "index" and all(one.hashes for one in locked.packages if one.source == "index")
    assert any(line.startswith("dpkg libc6=") for line in locked.system) and locked.python.machine
    lines = locked.requirements().splitlines()
    assert f"iniconfig==2.0.0 --hash={one.hashes[0]}" in lines and len(lines) == len(locked.packages)


def test_the_lock_of_what_was_seen_is_there_at_once_and_the_same(engine: Engine, installed: str, locked: Lock) -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        again = run(lock.make(engine, installed))
        times.append(time.perf_counter() - began)
        assert again == locked and again.digest == locked.digest
    assert min(times) < patient(0.1)


def test_a_lock_travels_as_text(locked: Lock) -> None:
    assert lock.load(locked.model_dump_json(indent=1)) == locked
    for text in ("", "[]", "{}", locked.model_dump_json().replace('"format":1', '"format":2'),
                 locked.model_dump_json().replace("sha256:", "md5:", 1)):  # fmt: skip
        with pytest.raises(ContainerizeError, match=r"^This is no lock of a notebook image, or it was damaged: "):
            lock.load(text)


def test_an_image_is_compared_with_a_lock(engine: Engine, python_image: str, installed: str, locked: Lock) -> None:
    assert run(lock.verify(engine, installed, locked)) == []
    assert run(lock.verify(engine, python_image, locked)) == ["iniconfig 2.0.0 is missing.", "toml 0.10.1 is missing."]
    other = changed(locked, "iniconfig", version="1.0")
    assert run(lock.verify(engine, installed, other)) == ["iniconfig is 2.0.0, the lock says 1.0."]
    other = changed(locked, "toml", files="sha256:" + "0" * 64)
    assert run(lock.verify(engine, installed, other)) == ["toml 0.10.1 has other files than the lock says."]


def test_an_environment_is_made_anew_from_its_lock(
    engine: Engine, installed: str, locked: Lock, made: list[str], tmp_path: Path
) -> None:
    image = rebuild(engine, locked, made)
    assert image != run(engine.images.inspect(installed))["Id"]
    assert run(lock.verify(engine, image, locked)) == []
    again = run(lock.make(engine, image))
    assert again.packages == locked.packages and again.base == locked.base
    assert rebuild(engine, locked, made) == image, "the same lock is built once"
    about = run(engine.images.inspect(image))
    settings = host_settings()
    assert not [pair for pair in about["Config"]["Env"] if pair.startswith(("PIP_", "PYTHON", "SSL", "REQUESTS"))]
    container = run(engine.containers.create(ContainerSpec(image=image, command=["true"], network="none")))
    try:
        new = {path for path, _ in run(engine.containers.diff(container))}
        assert not new
        listing = run(engine.containers.get(container, USER_BASE))
        assert b"toml-0.10.1.dist-info" in listing
        assert not settings.ca or settings.ca[:200] not in listing
    finally:
        run(engine.containers.remove(container))


def test_nothing_is_built_for_what_is_as_the_lock_says(engine: Engine, python_image: str) -> None:
    wanted = run(lock.make(engine, python_image))
    assert run(rebuild_environment(engine, wanted, silent)) == run(engine.images.inspect(python_image))["Id"]


def test_other_versions_take_the_place_of_the_bases(
    engine: Engine, python_image: str, installed: str, locked: Lock, made: list[str]
) -> None:
    about = run(engine.images.inspect(installed))
    base = locked.base.model_copy(update={"id": about["Id"], "layers": tuple(about["RootFS"]["Layers"])})
    other = run(lock.make(engine, environment(engine, python_image, made, pinned="iniconfig==1.1.1")))
    assert named(other, "iniconfig").version == "1.1.1"
    wanted = other.model_copy(update={"base": base, "environment": ()})
    image = rebuild(engine, wanted, made)
    assert run(lock.verify(engine, image, wanted)) == [], "the base has 2.0.0 in the same folder"
    bare = run(lock.make(engine, python_image)).model_copy(update={"base": base, "environment": ()})
    image = rebuild(engine, bare, made)
    assert run(lock.verify(engine, image, bare)) == [], "the base has two packages more"


def test_a_changed_hash_is_refused_and_leaves_nothing(engine: Engine, locked: Lock) -> None:
    wrong = changed(locked, "iniconfig", hashes=("sha256:" + hashlib.sha256(b"other").hexdigest(),))
    with pytest.raises(ContainerizeError, match=r"^The package iniconfig .*another hash"):
        run(rebuild_environment(engine, wrong, silent))
    assert not left(engine, wrong)


def left(engine: Engine, wanted: Lock) -> list[str]:
    recipe = f"{labels.RECIPE}=lock-{wanted.digest.removeprefix('sha256:')}"
    containers = run(engine.containers.list({labels.RECIPE: f"lock-{wanted.digest.removeprefix('sha256:')}"}))
    return [one["Id"] for one in run(engine.images.list(recipe))] + [one.id for one in containers]


def test_a_wheel_with_other_files_than_were_installed_is_refused(engine: Engine, locked: Lock) -> None:
    wrong = changed(locked, "iniconfig", files="sha256:" + "0" * 64)
    with pytest.raises(ContainerizeError, match=r"cannot be made as its lock says.*iniconfig 2.0.0 has other files"):
        run(rebuild_environment(engine, wrong, silent))
    assert not left(engine, wrong)


def test_a_version_that_is_gone_is_named(engine: Engine, locked: Lock) -> None:
    gone = changed(locked, "iniconfig", version="1.999")
    with pytest.raises(ContainerizeError, match=r"^The package iniconfig 1.999 of the lock is in no package index"):
        run(rebuild_environment(engine, gone, silent))


def test_a_base_that_is_gone_is_named_with_what_to_do(engine: Engine, locked: Lock) -> None:
    nowhere = ("sha256:" + "1" * 64,)
    base = locked.base.model_copy(update={"id": "sha256:" + "2" * 64, "layers": nowhere})
    with pytest.raises(ContainerizeError, match=r"came from no registry: pull an image that was made with this lock"):
        run(rebuild_environment(engine, locked.model_copy(update={"base": base}), silent))
    pulled = base.model_copy(update={"digests": (f"127.0.0.1:1/gone@sha256:{'3' * 64}",)})
    with pytest.raises(ContainerizeError, match=r"cannot be pulled \(127.0.0.1:1/gone@sha256:333"):
        run(rebuild_environment(engine, locked.model_copy(update={"base": pulled}), silent))


def test_a_base_is_cut_out_of_an_image_that_was_built_on_it(
    engine: Engine, installed: str, locked: Lock, made: list[str]
) -> None:
    """The kernel's image is gone, and a notebook image that was made with the lock is there."""
    own = run(engine.images.inspect(installed))["RootFS"]["Layers"]
    # A base that no image on the engine is, but for what was built on it: its layers and the first of the environment.
    base = locked.base.model_copy(
        update={"id": "sha256:" + "4" * 64, "layers": tuple(own[: len(locked.base.layers) + 1])}
    )
    wanted = locked.model_copy(update={"base": base, "environment": tuple(own[len(locked.base.layers) + 1 :])})
    image = rebuild(engine, wanted, made)
    made.append(f"docker-kernel/locked-base:{'4' * 12}")
    assert run(lock.verify(engine, image, wanted)) == []
    assert tuple(run(engine.images.inspect(image))["RootFS"]["Layers"][: len(base.layers)]) == base.layers
    assert run(engine.images.inspect(image))["Config"]["Env"] == list(base.env)


def shade(colour: str) -> bytes:
    """A package that no index has in this version."""
    import base64
    import io
    import zipfile

    buffer = io.BytesIO()
    files = {
        "shade.py": f"COLOUR = {colour!r}\n",
        "shade-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: shade\nVersion: 1.0\n",
        "shade-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(buffer, "w") as wheel:
        record = ""
        for name, text in files.items():
            wheel.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
        wheel.writestr("shade-1.0.dist-info/RECORD", record + "shade-1.0.dist-info/RECORD,,\n")
    return buffer.getvalue()


def test_what_no_index_can_give_is_marked_and_refused_by_name(
    engine: Engine, python_image: str, made: list[str]
) -> None:
    one = run(lock.make(engine, environment(engine, python_image, made, "./shade-1.0-py3-none-any.whl", shade("teal"))))
    package = named(one, "shade")
    assert (package.source, package.url, package.hashes) == ("local", "shade-1.0-py3-none-any.whl", ())
    with pytest.raises(ContainerizeError, match=r"^The package shade 1.0 of the lock cannot be installed anew: it was"):
        run(rebuild_environment(engine, one, silent))
    # The same from a folder that pip is told of: it is asked for in the index, which has other versions only.
    edit = f"shade==1.0 && sed -i '$a# mine' {USER_BASE}/lib/python3*/site-packages/toml/encoder.py"
    two = run(lock.make(engine, environment(engine, python_image, made, edit, shade("blue"))))
    assert named(two, "shade").source == "local" and named(two, "shade").files != package.files
    assert named(two, "toml").changed == ("toml/encoder.py",) and "# shade==1.0: " in two.requirements()
    with pytest.raises(ContainerizeError, match=r"toml 0.10.1 of the lock .* toml/encoder.py was changed after"):
        run(rebuild_environment(engine, changed(two, "shade", changed=(), hashes=("sha256:" + "0" * 64,)), print))


def test_without_an_index_a_lock_is_of_the_installed_files(
    engine: Engine, installed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(index._CACHE, "_path", tmp_path / "wheels.sqlite")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    found = run(lock.make(engine, installed))
    assert found.hashes == "files" and named(found, "iniconfig").source == "index"
    assert not named(found, "iniconfig").hashes and named(found, "iniconfig").files.startswith("sha256:")
    began = time.perf_counter()
    assert run(lock.make(engine, installed)) == found and time.perf_counter() - began < patient(2), (
        "it is not asked each time"
    )
    with pytest.raises(ContainerizeError, match=r"made where no package index could be reached"):
        run(rebuild_environment(engine, found, silent))


def test_hashes_are_kept_for_other_images(engine: Engine, locked: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*arguments: str) -> index.Ran:
        raise AssertionError(f"pip was asked: {arguments}")

    monkeypatch.setattr(index, "pip", never)
    known = [(one.key, one.version) for one in locked.packages if one.source == "index"]
    found = run(index.hashes(known, lock.tags_of(locked.python)))
    assert found.complete and len(found.wheels) == len(known)


def test_an_image_without_python_has_no_lock(engine: Engine, made: list[str]) -> None:
    tag = f"docker-kernel-test/{uuid.uuid4().hex[:12]}:latest"
    made.append(tag)
    context = archive([File("Dockerfile", b"FROM scratch\nCOPY only.txt /\n"), File("only.txt", b"")])
    run(engine.images.build(context, tag, {}, {labels.KIND: labels.KIND_BUILD}, lambda event: None))
    with pytest.raises(ContainerizeError, match="has no Python"):
        run(lock.make(engine, tag))


def test_a_lock_says_nothing_of_this_machine(locked: Lock) -> None:
    text = json.dumps(locked.model_dump())
    assert str(Path.home()) + "/" not in text.replace("/root/.cache", "") and "file://" not in text


def test_a_base_is_pulled_by_its_digest(
    engine: Engine, python_image: str, made: list[str], own_registry: OwnRegistry
) -> None:
    name = f"{own_registry.address}/team/kernel"
    context = [File("Dockerfile", f"FROM {python_image}\nRUN echo {uuid.uuid4()} > /etc/own\n".encode())]
    made.append(f"{name}:1")
    run(engine.images.build(archive(context), f"{name}:1", {}, {labels.KIND: labels.KIND_BUILD}, lambda event: None))
    run(engine.images.push(name, "1", lambda text: None))
    above = environment(engine, f"{name}:1", made)
    wanted = run(lock.make(engine, above))
    (digest,) = wanted.base.digests
    assert digest.startswith(f"{name}@sha256:") and wanted.base.reference == f"{name}:1"
    image = run(engine.images.inspect(f"{name}:1"))["Id"]
    for reference in (above, f"{name}:1"):
        run(engine.images.remove(reference))
    others = [run(engine.images.inspect(one)) for one in run(engine.images.ids())]
    for one in others:  # stages of the build: what keeps the base's layers on the engine
        if tuple(one["RootFS"]["Layers"][: len(wanted.base.layers)]) == wanted.base.layers:
            run(engine.images.remove(one["Id"]))
    assert image not in run(engine.images.ids())
    made.append(digest)
    rebuilt = rebuild(engine, wanted, made)
    assert run(lock.verify(engine, rebuilt, wanted)) == []
    assert run(engine.images.inspect(image))["RepoDigests"] == [digest]
