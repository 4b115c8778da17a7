"""What `docker-kernel schedule` prints: each form passes its scheduler's own validator, and is run once."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import time
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, cli
from docker_kernel.containerize import cron
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.request import Request
from docker_kernel.engine import Engine
from docker_kernel.errors import ContainerizeError
from tests.patience import patient

yaml = pytest.importorskip("yaml")

run = background.run_blocking
IMAGE = "docker-kernel-test/schedule-report:1"
NAME = f"docker-kernel-test-{os.getpid()}"
TRICKY = """50% "of" $HOME, it's `id` \\ $(id) %d é"""

EXPRESSIONS = [
    "* * * * *", "*/15 9-17 * * mon-fri", "0 6 * * 1-5", "0 6 1,15 * 5", "30 2 29 feb *", "0 0 * * 5-7", "@weekly",
    "0 0 */2 * 1", "0 0 1-7 * */2", "5-59/15 0,12 1-10/3 jan-jun/2 *", "59 23 31 12 *", "@hourly", "17 3 * Dec sun",
    "0 0 31 * *", "0 0 * * 7", "0 12 13 * fri", "*/7 */5 */10 */4 *", "0 8 1 1,4,7,10 *",
]  # fmt: skip


@pytest.fixture(scope="module")
def image(engine: Engine, python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of a notebook with two parameters."""
    import nbformat

    path = tmp_path_factory.mktemp("notebook") / "report.ipynb"
    cells = ["rows: int = 3\ntitle = 'plain'", "print(title, rows)"]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    yield run(containerize(Request(path, tag=IMAGE), engine=engine)).reference
    run(engine.images.remove(IMAGE))


@pytest.fixture
def printed(image: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; returns what it prints, or the sentence that it ends with."""

    def ask(*arguments: str, when: str = "0 6 * * 1-5") -> str:
        code = cli.main(["schedule", image, "--cron", when, "--name", NAME, *arguments])
        told = capsys.readouterr()
        return told.out if code == 0 else told.err

    return ask


def printed_by(folder: Path) -> list[str]:
    """What the notebooks of all runs below a folder printed."""
    import nbformat

    found = [nbformat.read(path, as_version=4) for path in sorted(folder.glob("*/output.ipynb"))]
    return [cell.outputs[0].text for one in found for cell in one.cells if cell.get("outputs")]


# When


def upcoming(text: str, count: int, zone: str) -> list[datetime.datetime]:
    from cronsim import CronSim

    found = CronSim(cron.MACROS.get(text, text), datetime.datetime.now(zoneinfo.ZoneInfo(zone)))
    return [next(found) for _ in range(count)]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_systemd_is_due_when_cron_is(text: str) -> None:
    pytest.importorskip("cronsim")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    zone, count = "Asia/Tokyo", 12  # has no daylight saving time, in which schedulers differ
    found: set[datetime.datetime] = set()
    for line in cron.parse(text).systemd(zone):
        told = subprocess.run(
            ["systemd-analyze", "calendar", f"--iterations={count}", line],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        ).stdout
        for row in told.splitlines():
            label, _, value = row.strip().partition(": ")
            if label == "Next elapse" or label.startswith("Iter. #"):
                when = datetime.datetime.strptime(value.strip(), "%a %Y-%m-%d %H:%M:%S %Z")
                found.add(when.replace(tzinfo=datetime.timezone.utc))
    assert sorted(found)[:count] == upcoming(text, len(found), zone)[:count]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_schedule_in_numbers_is_the_same_schedule(text: str) -> None:
    pytest.importorskip("cronsim")
    assert upcoming(cron.parse(text).text, 20, "UTC") == upcoming(text, 20, "UTC")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("* * * *", "has 4 fields, and cron's expressions have five:"),
        ("0 0 6 * * *", r"has 6 fields, and cron's expressions have five \(there are no seconds\)"),
        ("61 * * * *", "'61' is no minute: it must be from 0 to 59."),
        ("0 0 * * mun", "'mun' is no day of the week: it must be from 0 to 7, or sun to sat."),
        ("0 0 31 2 *", "is never due: no such month has a day 31."),
        ("5/15 * * * *", "write '5-59/15' for every 15 from 5 on."),
        ("0 22-4 * * *", "'22-4' is no hour, as 22 comes after 4: write '22-23,0-4'."),
        ("@reboot", "'@reboot' is no time: there are @yearly"),
        ("0 0 L * *", "'L' is no day of the month"),
        ("*/0 * * * *", "its step must be from 1 to 59"),
        ("1,,2 * * * *", "is no minute: write a number"),
    ],
)
def test_what_is_no_schedule_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ContainerizeError, match=sentence):
        cron.parse(text)


def test_kubernetes_says_the_same_or_is_not_given_it() -> None:
    assert cron.parse("0 0 * * fri-7").kubernetes() == "0 0 * * 0,5,6"
    assert cron.parse("*/5 * 1 jan mon").kubernetes() == "*/5 * 1 1 1"
    with pytest.raises(ContainerizeError, match=r"Kubernetes cannot say '0 0 \*/2 \* 1'"):
        cron.parse("0 0 */2 * 1").kubernetes()


# Kubernetes


@pytest.mark.parametrize(
    "more",
    [
        ["--output", "s3://bucket/reports", "--time-zone", "Europe/Berlin", "--namespace", "team", "--secret", "store"],
        ["--output", "claim:reports", "-p", "rows=5", "-p", f"title={TRICKY}"],
        ["--timeout", "0"],
    ],
)
def test_a_cron_job_is_valid(printed: Any, more: list[str]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifest = yaml.safe_load(printed(*more))
    for version in ("1.27", "1.31", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_cron_job_is_bounded_and_has_no_powers(printed: Any) -> None:
    text = printed("--output", "claim:reports", "-p", f"title={TRICKY}", "--timeout", "600")
    manifest = yaml.safe_load(text)
    assert manifest == json.loads(json.dumps(manifest))
    spec = manifest["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("0 6 * * 1-5", "Forbid")
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0 and job["activeDeadlineSeconds"] == 900
    pod = job["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["args"] == ["-p", "title=" + TRICKY.replace("$(", "$$("), "--timeout", "600"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/output"}


def test_the_container_of_a_cron_job_runs(printed: Any, tmp_path: Path) -> None:
    pod = yaml.safe_load(printed("--output", "claim:reports", "-p", "rows=4", "-p", f"title={TRICKY}"))["spec"][
        "jobTemplate"
    ]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    folder = tmp_path / "run"
    folder.mkdir()
    os.chown(folder, -1, pod["securityContext"]["fsGroup"])
    folder.chmod(0o2775)  # as a volume has it, with fsGroup
    context = pod["securityContext"]
    user = f"{context['runAsUser']}:{context['runAsGroup']}"
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--user", user, "--group-add", str(context["fsGroup"])),
            *("--tmpfs", "/tmp", "-e", "RUN=r", "-v", f"{folder}:/output", container["image"]),
            *(part.replace("$$(", "$(") for part in container["args"]),
        ],
        capture_output=True,
        text=True,
        timeout=patient(120),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert printed_by(tmp_path) == [f"{TRICKY} 4\n"]


def test_what_kubernetes_cannot_use_is_said(printed: Any, capsys: pytest.CaptureFixture[str], image: str) -> None:
    assert "Kubernetes does not see the folder /srv/out" in printed("--output", "/srv/out")
    assert cli.main(["schedule", image, "--cron", "@daily"]) == 0
    told = capsys.readouterr().err
    assert "is on this machine only: push it" in told and "Without --output" in told


# systemd


def unquoted(line: str) -> list[str]:
    """A unit's command line as systemd splits it (systemd.service(5)): quotes, backslashes, then $$ and %%."""
    words = [""]
    quoted = False
    characters = iter(line)
    for one in characters:
        if one == "\\":
            words[-1] += next(characters)
        elif one == '"':
            quoted = not quoted
        elif one == " " and not quoted:
            words.append("")
        else:
            words[-1] += one
    return [word.replace("$$", "$").replace("%%", "%") for word in words]


@pytest.fixture
def units(image: str, tmp_path: Path) -> Path:
    """A folder with the units."""
    arguments = ["--as", "systemd", "--output", str(tmp_path / "the runs"), "-p", f"title={TRICKY}", "--name", NAME]
    folder = tmp_path / "units"
    when = ["--cron", "*/10 6 1,15 * 5", "--time-zone", "Europe/Berlin"]
    assert cli.main(["schedule", image, *when, *arguments, "--write", str(folder)]) == 0
    return folder


def test_units_pass_systemds_own_check(units: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    paths = [str(units / f"{NAME}.service"), str(units / f"{NAME}.timer")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if NAME in line]
    assert done.returncode == 0 and not complaints, done.stderr


def test_a_service_runs_once_as_systemd_starts_it(units: Path, tmp_path: Path) -> None:
    text = (units / f"{NAME}.service").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = unquoted(line.removeprefix("ExecStart="))
    done = subprocess.run(words, capture_output=True, text=True, timeout=patient(120), env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stdout + done.stderr
    assert printed_by(tmp_path / "the runs") == [f"{TRICKY} 3\n"]
    (stop,) = [line for line in text.splitlines() if line.startswith("ExecStopPost=-")]
    after = unquoted(stop.removeprefix("ExecStopPost=-"))
    assert subprocess.run(after, capture_output=True, timeout=patient(60)).returncode in (0, 1)


# cron

CRON = """\
set -e
mount --make-rprivate /
mount -t tmpfs none /var/spool
mkdir -p /var/spool/cron/crontabs
install -m 600 "$1/crontab" /var/spool/cron/crontabs/root
cp -r /etc/pam.d "$1/pam.d"
cp "$1/cron/etc/pam.d/cron" "$1/pam.d/cron"
mount --bind "$1/pam.d" /etc/pam.d
for path in /etc/cron.d /etc/crontab; do
    if [ -d "$path" ]; then mount -t tmpfs none "$path"; elif [ -e "$path" ]; then mount --bind /dev/null "$path"; fi
done
exec "$1/cron/usr/sbin/cron" -f -L 15
"""
"""cron's own daemon in a mount namespace where there are no other crontabs."""


@pytest.fixture(scope="module")
def debian_cron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Debian's cron, unpacked and not installed."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None or shutil.which("unshare") is None:
        pytest.skip("cron's own daemon needs root, apt-get and unshare")
    folder = tmp_path_factory.mktemp("cron")
    got = subprocess.run(
        ["apt-get", "download", "cron"], cwd=folder, capture_output=True, text=True, timeout=patient(100)
    )
    archives = list(folder.glob("cron_*.deb"))
    if got.returncode or not archives:
        pytest.skip(f"Debian's cron cannot be downloaded here: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg", "-x", archives[0].name, "cron"], cwd=folder, check=True)
    return folder


def test_a_line_passes_crons_own_check(printed: Any, debian_cron: Path, tmp_path: Path) -> None:
    path = tmp_path / "crontab"
    path.write_text(printed("--as", "crontab", "--output", str(tmp_path), "-p", f"title={TRICKY}"))
    # It makes its spool folder where there is none.
    script = "mount --make-rprivate / && mount -t tmpfs none /var/spool && mkdir -p /var/spool/cron/crontabs && exec "
    program = ["unshare", "--mount", "/bin/sh", "-c", script + '"$@"', "sh", str(debian_cron / "cron/usr/bin/crontab")]
    told = subprocess.run([*program, "-h"], capture_output=True, text=True)
    check = "-n" if "dry run" in told.stderr + told.stdout else "-T"  # Debian renamed it after 12
    done = subprocess.run([*program, check, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path.write_text("61 * * * * true\n")
    assert "bad minute" in subprocess.run([*program, check, path], capture_output=True, text=True).stderr


def test_cron_itself_runs_a_line(printed: Any, debian_cron: Path, tmp_path: Path, engine: Engine) -> None:
    runs = tmp_path / "the runs"
    text = printed("--as", "crontab", "--output", str(runs), "-p", f"title={TRICKY}", when="* * * * *")
    (debian_cron / "crontab").write_text(text)
    log = (tmp_path / "cron.log").open("wb")
    daemon = subprocess.Popen(
        ["unshare", "--mount", "/bin/sh", "-c", CRON, "sh", str(debian_cron)], stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + patient(150)
        while not (runs.exists() and printed_by(runs)):
            assert daemon.poll() is None and time.monotonic() < deadline, (tmp_path / "cron.log").read_text()
            time.sleep(1)
    finally:
        daemon.terminate()
        daemon.wait(patient(20))
        log.close()
        run(engine.containers.remove(f"docker-kernel-{NAME}"))
        Path("/run/crond.pid").unlink(missing_ok=True)
    assert printed_by(runs)[0] == f"{TRICKY} 3\n"


def test_a_time_zone_is_not_crons(printed: Any) -> None:
    told = printed("--as", "crontab", "--output", "/srv/out", "--time-zone", "UTC")
    assert told == (
        "docker-kernel: A line of cron's has no time zone of its own: leave out --time-zone, or use --as systemd or "
        "kubernetes.\n"
    )


def test_a_line_too_long_for_cron_is_refused(printed: Any) -> None:
    assert "and cron takes 998" in printed("--as", "crontab", "--output", "/srv/out", "-p", f"title={'x' * 900}")


# All of them


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "rows=many"], "rows must be a whole number"),
        (["-p", "titel=x"], "There is no parameter titel (did you mean title?)"),
        (["-p", "rows"], "--param is given as NAME=VALUE"),
        (["-p", "title=AKIAABCDEFGHIJKLMNOP"], "title looks like a credential"),
        (["--output", "s3://user:password@bucket"], "--output looks like a credential"),
        (["-p", "title=a\nb"], "title has a line break"),
        (["--time-zone", "Mars/Olympus"], "There is no time zone 'Mars/Olympus'"),
        (["--name", "Not A Name"], "'Not A Name' cannot be a schedule's name"),
        (["--as", "systemd"], "Say with --output"),
        (["--as", "systemd", "--output", "claim:x"], "Only Kubernetes has claims"),
        (["--timeout", "-1"], "--timeout must be"),
        (["--cron", "61 * * * *"], "'61' is no minute"),
    ],
)
def test_mistakes_are_one_sentence(printed: Any, arguments: list[str], sentence: str) -> None:
    told = printed(*arguments)
    assert sentence in told and told.count("\n") == 1


def test_an_image_that_is_no_notebooks_is_refused(python_image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schedule", python_image, "--cron", "@daily"]) == 1
    assert "is not an image of a notebook" in capsys.readouterr().err
