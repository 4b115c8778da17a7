"""`docker-kernel run`: an image of a notebook run from the host, here and on another engine."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, cli, labels
from docker_kernel.containerize.run import _make_folder, image_parameters, unpack
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError
from docker_kernel.guest import parameters
from tests.engines import SecondEngine
from tests.patience import patient
from tests.runner.conftest import image, images
from tests.runner.image import as_notebook

__all__ = ["image", "images"]  # fixtures

COMMAND = [sys.executable, "-c", "import sys; from docker_kernel import cli; sys.exit(cli.main(sys.argv[1:]))"]


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine) -> Iterator[None]:
    yield
    assert not background.run_blocking(engine.containers.list({labels.KIND: labels.KIND_RUN}))


def test_results_come_home(image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    code = "import os; print('here', os.environ['TOKEN']); open('made.txt', 'w').write('x')"
    arguments = ["run", image, "-p", f"code={code}", "-p", "alpha=0.5", "-e", "TOKEN=abc", "--output", str(out)]
    assert cli.main([*arguments, "--cpus", "1", "--memory", "1g"]) == 0
    said = capfd.readouterr()
    assert "here abc\n" in said.out and "##docker-kernel" not in said.out
    assert "Done in" in said.out and f"Read it: {out}/output.html" in said.out
    assert "-- cell 2 of 4" in said.err
    assert "0.5" in (out / "output.html").read_text() and (out / "files" / "made.txt").read_text() == "x"
    assert (out / "output.html").stat().st_uid == (os.getuid() or 1000)


def test_parameters_are_checked_before_anything_starts(
    image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", image, "-p", "alhpa=1", "--output", str(out)]) == 2
    assert "did you mean alpha?" in capfd.readouterr().err
    assert cli.main(["run", image, "-p", "number=many", "--output", str(out)]) == 2
    assert "number must be" in capfd.readouterr().err
    assert not out.exists()


def test_the_label_says_all_that_is_checked() -> None:
    cells = [
        "from typing import Literal\nmode: Literal['fast', 'good'] = 'fast'\nperson: str",
        "n: int | None = None\nwhen: 'date | None' = None\nxs: list[int] = [1]",
    ]
    found = parameters.find(as_notebook(cells)).parameters
    read = image_parameters(parameters.schema(found))
    assert [(one.name, one.type, one.required) for one in read] == [(one.name, one.type, one.required) for one in found]
    with pytest.raises(parameters.ParameterError, match="mode"):
        parameters.check(read, {"person": "you", "mode": "slow"})


def test_file_of_parameters_and_a_failure(image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yml"
    file.write_text("code: 'raise LookupError(number)'\nnumber: 42\n")
    assert cli.main(["run", image, "--params", str(file), "--output", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().out
    assert "Failed in" in said and "LookupError: 42" in said and "Traceback" in said
    assert "LookupError" in (tmp_path / "out" / "output.html").read_text()


def test_timeout(image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", image, "-p", "code=import time; time.sleep(99)", "--timeout", "4"]
    assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 124
    assert "Out of time" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped(image: str, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    code = "code=import time; print('first words', flush=True); time.sleep(99)"
    process = subprocess.Popen(
        [*COMMAND, "run", image, "-p", code, "--output", str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "first words" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(patient(60)) == 128 + number
    assert "first words" in (out / "output.ipynb").read_text()
    assert "first words" in (out / "output.html").read_text()


def test_what_is_no_notebook_image(python_image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", python_image, "--output", str(tmp_path / "out")]) == 1
    assert "is not an image of a notebook" in capfd.readouterr().err
    assert cli.main(["run", "no/such:image", "--output", str(tmp_path / "out")]) == 1
    assert "is not on the engine" in capfd.readouterr().err
    assert cli.main(["run", python_image, "--on", "nowhere"]) == 1


def test_on_another_engine(
    image: str,
    second_engine: SecondEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[targets.there]\nkind = "docker"\nengine = {json.dumps(second_engine.url)}\n'
        '[targets.swarm]\nkind = "swarm"\nregistry = "127.0.0.1:5000/team"\n'
    )
    monkeypatch.setenv("DOCKER_KERNEL_CONFIG", str(config))
    out = tmp_path / "out"
    code = "code=print('there'); open('made.txt', 'w').write('x'); 1/0"
    images_before = second_engine.docker("images", "-aq")
    begun = time.monotonic()
    assert cli.main(["run", image, "-p", code, "--on", "there", "--output", str(out)]) == 1
    said = capfd.readouterr().out
    assert "there\n" in said and "ZeroDivisionError" in said, time.monotonic() - begun
    assert "ZeroDivisionError" in (out / "output.html").read_text() and (out / "files" / "made.txt").exists()
    assert not second_engine.docker("ps", "-aq") and not second_engine.docker("volume", "ls", "-q")
    assert second_engine.docker("images", "-aq") == images_before
    assert cli.main(["run", image, "--on", "swarm"]) == 1
    assert "of the kind swarm" in capfd.readouterr().err


def test_an_archive_of_others_stays_in_its_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(name: str, data: bytes | None, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info, io.BytesIO(data or b""))

        add("output/good.txt", b"good")
        add("output/../../evil.txt", b"evil")
        add("/output/absolute.txt", b"evil")
        add("output/link", None, str(tmp_path / "other"))
        add("output/link/evil.txt", b"held")
    (tmp_path / "out").mkdir()
    (tmp_path / "other").mkdir()
    # Of an earlier run: what is written goes not where a link leads.
    (tmp_path / "out" / "good.txt").symlink_to(tmp_path / "other" / "target.txt")
    unpack(iter([buffer.getvalue()]), tmp_path / "out")
    assert (tmp_path / "out" / "good.txt").read_text() == "good"
    assert not (tmp_path / "out" / "good.txt").is_symlink()
    assert not list((tmp_path / "other").iterdir()) and not (tmp_path / "evil.txt").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.txt", "link"]


@pytest.mark.parametrize("output", ["out", "linked/out", "/absolute/out"])
def test_an_output_folder_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    (work / output.replace("/absolute/", "").partition("/")[0]).symlink_to(home)
    before = home.stat()
    place = Path(output.replace("/absolute", str(work)))
    with pytest.raises(ContainerizeError, match="is a link to"):
        _make_folder(place, "1000:0")
    assert not list(home.iterdir()) and home.stat().st_uid == before.st_uid


def test_an_output_folder_by_a_link_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "shared").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "work")
    _make_folder(tmp_path / "shared" / "out", "")
    assert (tmp_path / "disk" / "out").is_dir()


@pytest.mark.parametrize("option", ["--cpus", "--timeout", "--cell-timeout"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "0", "-1"])
def test_a_limit_is_a_number_above_0(option: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "docker-kernel-test/not-there", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"{value} is not a number above 0" in capfd.readouterr().err
