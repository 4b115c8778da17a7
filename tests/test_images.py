"""Images are built, derived and looked into on the real engine."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker_kernel import background, images, labels
from docker_kernel.build_settings import host_settings
from docker_kernel.engine import ContainerSpec, Engine, File
from docker_kernel.errors import BuildFailed, ConfigError, ImageMissing
from docker_kernel.images import Event

run = background.run_blocking

NO_PYTHON = "RUN rm -rf /usr/bin/python* /usr/local/bin /usr/lib/python* /usr/local/lib/python*"


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with nothing in it, which remembers how it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization") or "")
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def marker() -> str:
    return f"trace{uuid.uuid4().hex}"


@pytest.fixture
def marked_host(marker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A host whose index URL, proxies and CA bundle all hold a marker; yields how its index was asked."""
    asked: list[str] = []
    handler = type("Handler", (Index,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(host_settings().ca or Path("/etc/ssl/certs/ca-certificates.crt").read_bytes())
    with bundle.open("a") as file:
        file.write(f"\n# {marker}\n")
    monkeypatch.setenv("PIP_CERT", str(bundle))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://{marker}:secret@127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", f"{marker}.invalid")
    monkeypatch.setenv("NO_PROXY", f"{os.environ.get('NO_PROXY', '')},127.0.0.1,{marker}.invalid".lstrip(","))
    yield asked
    server.shutdown()
    server.server_close()


def assert_no_trace(image: str, marker: str, tmp_path: Path) -> None:
    """Neither config nor history nor any file of any layer holds the marker, a CA bundle or pip settings of a build."""
    saved = tmp_path / "image.tar"
    subprocess.run(["docker", "save", "-o", str(saved), image], check=True)
    wanted = marker.encode()
    with tarfile.open(saved) as whole:
        for member in whole.getmembers():
            data = whole.extractfile(member)
            if data is None:
                continue
            keep = b""
            while block := data.read(1 << 20):
                assert wanted not in keep + block, f"{member.name} holds the marker"
                keep = block[-len(wanted) :]
            if member.name.endswith(".json") and member.name != "manifest.json":
                config = whole.extractfile(member)
                assert config is not None
                text = config.read().decode()
                assert "PIP_" not in text and "proxy" not in text.lower()
            if member.name.endswith("layer.tar"):
                with tarfile.open(fileobj=whole.extractfile(member)) as layer:
                    names = {f"/{name.lstrip('./')}" for name in layer.getnames()}
                assert not {"/build", "/host", "/etc/pip.conf", "/root/.cache", images._CA_PATH} & names
    saved.unlink()


@pytest.fixture
def marked_image(make_image: Callable[[str], str], python_image: str, marker: str) -> str:
    """A kernel image whose containers can be told from all others."""
    return make_image(f"FROM {python_image}\nLABEL test={marker[:8]}")


def assert_nothing_left(engine: Engine, marker: str) -> None:
    """No container of an image with the marker as its label is there, and no stage image."""
    assert not run(engine.containers.list({"test": marker[:8]}))
    left = [image for image in run(engine.images.list(f"test={marker[:8]}")) if labels.BUILD in image["Labels"]]
    assert not left, "a stage image was left behind"


def test_a_base_that_is_there_is_not_asked_for_again(engine: Engine) -> None:
    base = run(images.ensure_base(engine))
    told: list[Event] = []
    assert run(images.ensure_base(engine, progress=told.append)) == base
    assert not told


INTERRUPTED = """
import sys
from docker_kernel import background
from docker_kernel.cli.base import with_engine
from docker_kernel.engine import File, archive

context = archive([File("Dockerfile", sys.argv[1].encode())])
def show(event):
    print(event.get("stream", ""), flush=True)
try:
    with_engine(lambda engine: engine.images.build(context, "docker-kernel-test/interrupted", {}, {}, show))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupted_build_ends_at_once(engine: Engine, python_image: str, marker: str) -> None:
    dockerfile = f"FROM {python_image}\nLABEL test={marker[:8]}\nRUN echo begun; sleep 600"
    command = [sys.executable, "-c", INTERRUPTED, dockerfile]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as building:
        try:
            assert building.stdout is not None
            assert any(line.strip() == "begun" for line in building.stdout)
            building.send_signal(signal.SIGINT)
            assert building.wait(30) == 130
        finally:
            building.kill()
    end = time.monotonic() + 30
    while run(engine.containers.list({"test": marker[:8]})):
        assert time.monotonic() < end, "the engine goes on with the build"
        time.sleep(0.1)
    for image in run(engine.images.list(f"test={marker[:8]}")):
        run(engine.images.remove(image["Id"]))


def output_of(engine: Engine, spec: ContainerSpec) -> tuple[int, str]:
    """Run a throwaway container to its end."""

    async def go() -> tuple[int, str]:
        container = await engine.containers.create(spec)
        try:
            await engine.containers.start(container)
            return await engine.containers.wait(container), (await engine.containers.logs(container)).decode()
        finally:
            await engine.containers.remove(container)

    return run(go())


def test_a_build_uses_the_hosts_settings_and_keeps_no_trace_of_them(
    engine: Engine,
    python_image: str,
    make_image: Callable[[str], str],
    used_images: list[str],
    marked_host: list[str],
    marker: str,
    tmp_path: Path,
) -> None:
    base = run(images.ensure_base(engine))
    mine = make_image(f"FROM {base}\nLABEL test={marker[:8]}")
    tag = run(images.build(engine, "python", base=mine, tag=f"docker-kernel-test/{uuid.uuid4().hex}"))
    about = run(engine.images.inspect(tag))
    used_images += about["RepoTags"]
    assert any(marked_host), "the index was not asked, or without its credentials"
    assert_no_trace(tag, marker, tmp_path)
    assert about["Config"]["Labels"][labels.KIND] == labels.KIND_IMAGE
    assert about["Config"]["Labels"][labels.PYTHON].startswith("/")
    assert about["Config"]["Labels"]["org.opencontainers.image.licenses"] == "BSD-3-Clause"
    assert_nothing_left(engine, marker)


def test_a_derived_image_is_made_once_for_the_same_content_and_keeps_no_trace(
    engine: Engine,
    make_image: Callable[[str], str],
    used_images: list[str],
    marked_host: list[str],
    marker: str,
    tmp_path: Path,
) -> None:
    base = run(images.ensure_base(engine))
    mine = make_image(f'FROM {base}\nLABEL test={marker[:8]}\nUSER 1234\nWORKDIR /srv\nCMD ["sh"]')
    events: list[Event] = []
    first = run(images.kernel_image(engine, mine, events.append))
    used_images.append(first.reference)
    assert first.ipykernel and first.curve and first.reference.startswith("docker-kernel/derived:")
    assert any(event.text.startswith("Adding ipykernel") for event in events)
    assert any(marked_host)
    assert_no_trace(first.reference, marker, tmp_path)
    about = run(engine.images.inspect(first.reference))["Config"]
    assert (about["User"], about["WorkingDir"], about["Cmd"]) == ("1234", "/srv", ["sh"])

    events.clear()
    assert run(images.kernel_image(engine, mine, events.append)).id == first.id
    assert not any(event.text.startswith("Adding") for event in events)


def test_any_uid_can_install_packages(engine: Engine, python_image: str) -> None:
    settings = host_settings()
    script = (
        "set -e; pip install --no-deps six > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }; "
        'python -c "import six; print(six.__file__)"'
    )
    environment = {"HOME": "/tmp", "PYTHONUSERBASE": "/tmp/user", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    spec = ContainerSpec(
        image=python_image,
        command=["/bin/sh", "-c", script],
        user="12345:54321",
        env={**environment, **settings.variables("/tmp/ca.pem")},
        network="host",
        labels={labels.KIND: labels.KIND_BUILD},
    )

    async def go() -> tuple[int, str]:
        container = await engine.containers.create(spec)
        try:
            await engine.containers.put(container, [File("tmp/ca.pem", settings.ca or b"")])
            await engine.containers.start(container)
            return await engine.containers.wait(container), (await engine.containers.logs(container)).decode()
        finally:
            await engine.containers.remove(container)

    code, output = run(go())
    assert code == 0, output
    assert output.startswith("/tmp/user/lib/python3")


def test_modules_come_with_their_bytecode(engine: Engine, python_image: str) -> None:
    code = (
        "import importlib.util, os, sys, asyncio, email.mime.text, IPython, ipykernel.kernelapp, zmq\n"
        "missing = [m.__file__ for m in list(sys.modules.values()) if str(getattr(m, '__file__', '')).endswith('.py')"
        " and not os.path.exists(importlib.util.cache_from_source(m.__file__))]\n"
        "print([path for path in missing if 'sitecustomize' not in path])"
    )
    spec = ContainerSpec(image=python_image, command=["python", "-c", code], user="1234:1234", network="none")
    assert output_of(engine, spec) == (0, "[]\n")


def test_the_probe_says_what_an_image_holds(engine: Engine, marked_image: str, marker: str) -> None:
    facts = run(images.probe(engine, marked_image))
    assert facts.python and facts.python_version and facts.python_version >= (3, 10)
    assert facts.ipykernel and facts.curve and facts.pip and facts.size > 50e6
    assert [spec.name for spec in facts.kernelspecs] == ["python3"]
    assert_nothing_left(engine, marker)


def test_an_image_without_python_is_given_one_by_its_package_manager(
    engine: Engine, make_image: Callable[[str], str], used_images: list[str]
) -> None:
    purge = "RUN dpkg --purge --force-all $(dpkg-query -W -f '${Package} ' '*python3*') && rm -rf /usr/lib/python3*"
    image = make_image(f"FROM {run(images.ensure_base(engine, bootstrap=True))}\n{purge}")
    assert run(images.probe(engine, image)).python is None
    facts = run(images.kernel_image(engine, image))
    used_images.append(facts.reference)
    assert facts.python == "/usr/bin/python3" and facts.ipykernel


@pytest.mark.parametrize("contents", ["FROM scratch\nCOPY only.txt /", f"FROM BASE\n{NO_PYTHON}\nRUN rm /usr/bin/apt*"])
def test_an_image_that_cannot_have_python_is_refused_with_the_reason(
    engine: Engine, make_image: Callable[..., str], contents: str
) -> None:
    base = run(images.ensure_base(engine))
    image = make_image(contents.replace("BASE", base), {"only.txt": "nothing runs here"})
    with pytest.raises(ConfigError, match=r"has no Python and no package manager"):
        run(images.kernel_image(engine, image))


def test_an_image_that_is_nowhere_is_missing(engine: Engine) -> None:
    with pytest.raises(ImageMissing, match=r"no-such-image:1 is not on the engine and cannot be pulled") as caught:
        run(images.kernel_image(engine, "127.0.0.1:1/no-such-image:1"))
    assert "\n" not in str(caught.value)


def test_a_failed_build_shows_the_end_of_its_output_and_leaves_nothing(
    engine: Engine, marked_image: str, marker: str
) -> None:
    facts = run(images.probe(engine, marked_image))
    with pytest.raises(BuildFailed, match="no-such-package-at-all"):
        run(images._derive(engine, facts, host_settings(), ("no-such-package-at-all-1234",), images.silent))
    assert_nothing_left(engine, marker)


@pytest.mark.parametrize("arguments", [{"name": "julia"}, {"base": "x", "bootstrap": True}, {"packages": ["-r x"]}])
def test_a_build_with_wrong_arguments_is_refused(engine: Engine, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        run(images.build(engine, **{"name": "python", **arguments}))  # type: ignore[arg-type]


def test_indexes_on_the_hosts_disk_do_not_reach_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///srv/simple https://mirror.invalid/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/srv/wheels")
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    env = host_settings().env
    assert env["PIP_EXTRA_INDEX_URL"] == "https://mirror.invalid/simple"
    assert "PIP_FIND_LINKS" not in env
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://proxy.invalid:3128"
