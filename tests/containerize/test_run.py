"""`docker-kernel run`: an image of a notebook run from the host, here and on another engine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, cli, labels
from docker_kernel.batch import image_jobs
from docker_kernel.batch.manager import manager
from docker_kernel.batch.record import JobRecord
from docker_kernel.containerize.run import RunRequest, image_parameters, run
from docker_kernel.engine import Engine
from docker_kernel.guest import parameters
from tests.engines import SecondEngine
from tests.patience import patient, until
from tests.runner.conftest import image, images
from tests.runner.image import as_notebook
from tests.swarm import TwoNodes

__all__ = ["image", "images"]  # fixtures

COMMAND = [sys.executable, "-c", "import sys; from docker_kernel import cli; sys.exit(cli.main(sys.argv[1:]))"]


@pytest.fixture(autouse=True)
def nothing_left(engine: Engine) -> Iterator[None]:
    before = set(jobs())
    yield
    for one in set(jobs()) - before:
        # A Swarm's node takes a moment.
        until(lambda one=one: not background.run_blocking(engine.containers.list({labels.JOB_ID: one})))  # type: ignore[misc]


def jobs() -> dict[str, JobRecord]:
    async def find() -> list[JobRecord]:
        return manager().jobs()

    return {one.id: one for one in background.run_blocking(find())}


def latest() -> JobRecord:
    return next(iter(jobs().values()))


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
    assert (out / "output.html").stat().st_uid == os.getuid()


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
    config.write_text(f'[targets.there]\nkind = "docker"\nengine = {json.dumps(second_engine.url)}\n')
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
    assert cli.main(["jobs", "retry", latest().id]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err and latest().attempt == 2
    assert second_engine.docker("images", "-aq") == images_before


def test_on_a_swarm(
    image: str,
    two_nodes: TwoNodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[targets.swarm]\nkind = "swarm"\nregistry = "{two_nodes.registry}/team"\n'
        f'result_url = "oci+http://{two_nodes.address}:{two_nodes.port}/team"\n'
    )
    monkeypatch.setenv("DOCKER_KERNEL_CONFIG", str(config))
    out = tmp_path / "out"
    code = "code=print('there'); open('made.bin', 'wb').write(bytes(3_000_000))"
    assert cli.main(["run", image, "-p", code, "--on", "swarm", "--output", str(out)]) == 0
    assert "there\n" in capfd.readouterr().out
    assert (out / "files" / "made.bin").stat().st_size == 3_000_000 and (out / "output.html").exists()


@pytest.mark.parametrize("option", ["--cpus", "--timeout", "--cell-timeout"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "0", "-1", "many"])
def test_a_limit_is_a_number_above_0(option: str, value: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "docker-kernel-test/not-there", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"{value} is not a number above 0" in capfd.readouterr().err


def test_files_of_any_name_and_number_come_home(image: str, tmp_path: Path) -> None:
    code = (
        "import os\nfor number in range(200): open(f'/output/{number}', 'w').write(str(number))\n"
        "open(b'/output/\\xff', 'w').write('x'); open('/output/new\\nline', 'w').write('x')\n"
        "os.symlink('/etc/passwd', '/output/link'); os.mkfifo('/output/fifo')"
    )
    out = tmp_path / "out"
    assert cli.main(["run", image, "-p", f"code={code}", "--output", str(out)]) == 0
    assert {"0", "199", "\\xff", "new\nline", "output.html"} < {path.name for path in out.iterdir()}
    assert not {"link", "fifo"} & {path.name for path in out.iterdir()}


def test_results_that_do_not_come_home_are_told_of_and_brought_later(
    image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "output.html" / "in the way").mkdir(parents=True)
    assert cli.main(["run", image, "--output", str(out)]) == 74
    said = capfd.readouterr().out
    assert "its result is not here yet" in said and "output.html: Is a directory" in said and "Read it" not in said
    (out / "output.html" / "in the way").rmdir()
    (out / "output.html").rmdir()
    assert cli.main(["jobs", "list"]) == 0
    assert (out / "output.html").is_file() and latest().reason == "" and latest().settled


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory", "0"], "--memory 0 leaves nothing"),
        (["--output", ""], "--output needs the name of a folder"),
        (["-p", "code=\udcff"], "this is not UTF-8"),
    ],
)
def test_wrong_values_are_one_sentence(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "docker-kernel-test/not-there", *arguments]) == 1
    assert said in capfd.readouterr().err


def test_retries_are_a_number(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "docker-kernel-test/not-there", "--retries", "-1"])
    assert "-1 is not 0, 1, 2" in capfd.readouterr().err


def test_a_run_goes_on_when_nobody_reads_what_it_prints(image: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "code=import time\nfor number in range(100_000): print(number)\ntime.sleep(1); print('last words')"
    process = subprocess.Popen(
        [*COMMAND, "run", image, "-p", code, "--output", str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    process.wait(patient(60))
    assert latest().state == "succeeded" and "last words" in (out / "output.ipynb").read_text()


def test_what_a_terminal_cannot_show_does_not_end_a_run(image: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "run", image, "-p", "code=print('snow: \u2603')", "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True,
    )  # fmt: skip
    assert b"snow: ?\n" in done.stdout and latest().state == "succeeded"


def test_a_run_that_is_stopped_while_it_is_submitted_does_not_start(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = image_jobs.submit

    async def stopped(*arguments: Any) -> JobRecord:
        await submit(*arguments)
        raise asyncio.CancelledError  # as it does when it is cancelled on its way

    monkeypatch.setattr(image_jobs, "submit", stopped)
    request = RunRequest(image, tmp_path / "out", {"code": "open('ran', 'w')"})
    known = set(jobs())
    with pytest.raises(concurrent.futures.CancelledError):
        background.run_blocking(run(request, lambda _: None))
    assert all(record.state == "cancelled" for name, record in jobs().items() if name not in known)


def test_a_run_is_a_job_like_any_other(image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code = "code=from docker_kernel import job; job.progress(0.5, 'half'); print('here'); 1/0"
    assert cli.main(["run", image, "-p", code, "-p", "alpha=2", "--output", str(out)]) == 1
    record = latest()
    assert (record.kind, record.state, record.error) == ("image", "failed", "ZeroDivisionError")
    assert record.params["alpha"] == "2" and record.cost is not None and record.settled
    capfd.readouterr()
    assert cli.main(["jobs", "list"]) == 0
    assert record.id in (listed := capfd.readouterr().out) and "ZeroDivisionError" in listed
    assert cli.main(["jobs", "show", record.id]) == 0
    assert "a notebook image" in (shown := capfd.readouterr().out) and str(out) in shown.replace("\n", "")
    assert cli.main(["jobs", "logs", record.id]) == 0
    assert "here\n" in capfd.readouterr().out
    (out / "output.ipynb").unlink()
    assert cli.main(["jobs", "retry", record.id]) == 1
    assert (out / "output.ipynb").exists() and latest().attempt == 2


def test_a_detached_run_goes_on_and_is_cancelled(image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code = "code=import time; print('first words', flush=True); time.sleep(99)"
    done = subprocess.run(
        [*COMMAND, "run", image, "-p", code, "--output", str(out), "--detach"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    record = latest()
    assert f"The job {record.id} runs on local" in done.stdout
    until(lambda: "first words" in output(record), 60)
    assert cli.main(["jobs", "cancel", record.id]) == 0
    assert "cancelled" in capfd.readouterr().out
    assert "first words" in (out / "output.ipynb").read_text()


def output(record: JobRecord) -> str:
    done = subprocess.run([*COMMAND, "jobs", "logs", record.id], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def test_a_run_whose_process_was_killed_loses_nothing(
    image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = "code=import time; print('first words', flush=True); time.sleep(4); print('last words')"
    process = subprocess.Popen(
        [*COMMAND, "run", image, "-p", code, "--output", str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "first words" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.wait()
    assert cli.main(["jobs", "logs", "-f", latest().id]) == 0
    said = capfd.readouterr().out
    assert said.count("first words") == 1 and said.count("last words") == 1
    assert latest().state == "succeeded" and "last words" in (out / "output.ipynb").read_text()


def test_a_failed_run_is_tried_again(image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", image, "-p", "code=1/0", "--output", str(tmp_path / "out"), "--retries", "1"]) == 1
    assert latest().attempt == 2


def test_secrets_are_not_kept(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "code=import os; print(len(os.environ['MY_TOKEN']))"
    out = str(tmp_path / "out")
    assert cli.main(["run", image, "-p", code, "-e", "MY_TOKEN=s3cret-value", "--output", out]) == 0
    capfd.readouterr()
    data = Path(os.environ["XDG_DATA_HOME"]) / "docker-kernel"
    found = [path for path in data.rglob("*") if path.is_file() and b"s3cret-value" in path.read_bytes()]
    assert not found
    assert cli.main(["jobs", "retry", latest().id]) == 1
    assert "-e MY_TOKEN" in capfd.readouterr().err
    monkeypatch.setenv("MY_TOKEN", "s3cret-value")
    assert cli.main(["jobs", "retry", latest().id]) == 0


def test_a_stop_keeps_what_a_kernel_has_that_does_not_heed_it(
    image: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = (
        "code=import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); open('large', 'wb').write(bytes(100_000_000)); "
        "print('ready', flush=True); time.sleep(99)"
    )
    assert cli.main(["run", image, "-p", code, "--output", str(out), "--detach"]) == 0
    record = latest()
    until(lambda: "ready" in output(record), 60)
    capfd.readouterr()
    assert cli.main(["jobs", "cancel", record.id]) == 0
    assert "cancelled" in capfd.readouterr().out
    assert "ready" in (out / "output.ipynb").read_text() and latest().partial
