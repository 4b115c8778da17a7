"""What a notebook image does where all is well: parameters, outputs, files, any user, any rights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.runner.conftest import Runner
from tests.runner.image import Images


def executed(out: Path) -> Any:
    """The notebook that a run left."""
    import nbformat

    return nbformat.read(out / "output.ipynb", as_version=4)


def texts(out: Path) -> str:
    """What the cells of output.ipynb printed, and their values."""
    found = []
    for cell in executed(out).cells:
        for output in cell.get("outputs", ()):
            found.append(output.get("text", "") + output.get("data", {}).get("text/plain", ""))
    return "\n".join(found)


def test_parameters_by_rank(image: str, docker_run: Runner, out: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("alpha: 0.3\nday: 2026-01-01\nnumber: 3\n")
    ran = docker_run(
        image, "--params", "/p.yaml", "-p", "number=5", "-p", "code=print(alpha, repr(day), number)",
        options=("-v", f"{tmp_path}/p.yaml:/p.yaml", "-e", "PARAM_alpha=0.4", "-e", "PARAM_number=4"),
    )  # fmt: skip
    assert ran.code == 0, ran.complaint
    assert "0.4 datetime.date(2026, 1, 1) 5" in ran.log
    assert executed(out).cells[-1].outputs[-1].data["text/plain"] == "0.4"


def test_parameters_from_a_url_of_json(image: str, docker_run: Runner, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"code": "print(number)", "number": 7}')
    options = ("-v", f"{tmp_path}/p.json:/p.json", "-e", "DOCKER_KERNEL_PARAMS=file:///p.json")
    ran = docker_run(image, options=options)
    assert ran.code == 0, ran.complaint
    assert "7\n" in ran.log


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-p", "alhpa=1"), "alpha"),
        (("-p", "number=many"), "number must be"),
        (("-p", "alpha"), "write -p NAME=VALUE"),
        (("--params", "/none.yaml"), "/none.yaml cannot be read"),
        (("--timeout", "soon"), "soon"),
        (("--frobnicate",), "frobnicate"),
        (("--output", "nosuch://place"), "nosuch"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    image: str, docker_run: Runner, out: Path, arguments: tuple[str, ...], expected: str
) -> None:
    ran = docker_run(image, *arguments)
    assert ran.code == 2
    assert expected in ran.complaint and ran.complaint.count("\n") == 1
    assert not list(out.iterdir()) and not ran.log


def test_other_kernels_argv(images: Images, image: str, docker_run: Runner) -> None:
    other = images.with_kernel(image, ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    ran = docker_run(other, "-p", "code=from docker_kernel import job; job.progress(0.6, 'told')")
    assert ran.code == 0, ran.log
    assert "told" in [one.get("text") for one in ran.markers()]


def test_required_parameter(images: Images, docker_run: Runner, out: Path) -> None:
    image = images.make(["person: str", "print('hello', person)"])
    ran = docker_run(image)
    assert ran.code == 2 and "person" in ran.complaint and "required" in ran.complaint
    assert not list(out.iterdir())
    assert "hello you" in docker_run(image, "-p", "person=you").log


def test_help_and_schema(image: str, docker_run: Runner) -> None:
    shown = docker_run(image, "--help").log
    assert "alpha (float, default 0.1)\n      how much" in shown
    schema = json.loads(docker_run(image, "--show-parameters").log)
    assert schema["properties"]["number"]["type"] == "integer"


def test_outputs_and_markers(image: str, docker_run: Runner, out: Path) -> None:
    import nbformat

    code = "import sys; from docker_kernel import job; job.progress(0.7, 'far', loss=0.5); print(job.params['number'])"
    ran = docker_run(image, "-p", f"code={code}; print('seen', file=sys.stderr)", "-p", "number=9",
                     options=("-e", "DOCKER_KERNEL_NONCE=abc"))  # fmt: skip
    assert ran.code == 0, ran.log
    markers = ran.markers("abc")
    assert [one["text"] for one in markers if one["event"] == "progress"] == [
        "cell 1 of 4", "cell 2 of 4", "far", "cell 3 of 4", "cell 4 of 4", "4 cells",
    ]  # fmt: skip
    assert [one["values"] for one in markers if one["event"] == "metrics"] == [{"loss": 0.5}]
    assert markers[-1]["event"] == "end" and markers[-1]["code"] == 0 and markers[-1]["cost"]["seconds"] > 0
    assert "9\n" in ran.log and "seen\n" in ran.log
    assert not [line for line in ran.log.splitlines() if "##docker-kernel" in line and " abc " not in line]
    notebook = executed(out)
    nbformat.validate(notebook)
    assert notebook.metadata.language_info.name == "python"
    page = (out / "output.html").read_text()
    assert "A report" in page and "the end" in page and ">exec<" in page
    assert sorted(path.name for path in out.iterdir()) == ["output.html", "output.ipynb"]


def test_no_input_hides_code_but_not_outputs(image: str, docker_run: Runner, out: Path) -> None:
    assert docker_run(image, "--no-input").code == 0
    page = (out / "output.html").read_text()
    assert "the end" in page and ">exec<" not in page
    assert "exec" in (out / "output.ipynb").read_text()


def test_files_come_out(image: str, docker_run: Runner, out: Path) -> None:
    code = (
        "import os; from docker_kernel import job; os.makedirs('deep/er'); open('deep/er/n.bin','wb').write(b'n'*9);"
        "open('data.txt','a').write('+'); open('sub/more.txt').read(); open('.hidden','w').close();"
        "os.symlink('/etc/passwd','link'); open(os.path.join(job.outputs,'own.txt'),'w').write('own')"
    )
    ran = docker_run(image, "-p", f"code={code}")
    assert ran.code == 0, ran.log
    found = {str(path.relative_to(out / "files")) for path in (out / "files").rglob("*") if path.is_file()}
    assert found == {"deep/er/n.bin", "data.txt", ".hidden", "own.txt"}
    assert (out / "files" / "data.txt").read_text() == "data+"


WHO = (
    "import os, getpass, tempfile; print('user', os.getuid(), getpass.getuser() != '', os.getcwd());"
    "open(os.path.expanduser('~/mine'), 'w').close(); tempfile.mkdtemp(); open('data.txt','a').write('+');"
    "print(open('sub/more.txt').read(), len(os.listdir('/proc/self/fd')) > 0)"
)


@pytest.mark.parametrize(
    "options",
    [
        ("--user", "4321:0"),
        ("--user", "4321:4321"),
        ("--read-only", "--tmpfs", "/tmp"),
        ("--read-only",),
        ("--read-only", "--user", "4321:4321", "--network", "none", "--cap-drop", "ALL"),
        ("--read-only", "--user", "4321:4321", "--ipc", "none", "--network", "none"),
        ("--user", "0:0"),
    ],
    ids=" ".join,
)
def test_any_user_and_any_rights(image: str, docker_run: Runner, out: Path, options: tuple[str, ...]) -> None:
    ran = docker_run(image, "-p", f"code={WHO}", options=options)
    assert ran.code == 0, ran.log + ran.complaint
    assert "more True" in ran.log
    assert (out / "files" / "data.txt").read_text() == "data+"
    assert sorted(path.name for path in out.iterdir()) == ["files", "output.html", "output.ipynb"]
    assert "the end" in (out / "output.html").read_text()
    user = options[options.index("--user") + 1] if "--user" in options else "1000:0"
    assert f"user {user.split(':')[0]} True" in ran.log
    if os.getuid() == 0:
        assert (out / "output.html").stat().st_uid == int(user.split(":")[0])


def test_tolerated_error_goes_on(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "-p", "tolerated=1/0")
    assert ran.code == 0 and "the end" in ran.log
    assert "ZeroDivisionError" in (out / "output.ipynb").read_text()


@pytest.mark.parametrize(
    ("end", "code"), [("exit()", 0), ("import sys; sys.exit(0)", 0), ("import sys; sys.exit(7)", 7)]
)
def test_a_notebook_may_end_itself_with_a_code(image: str, docker_run: Runner, out: Path, end: str, code: int) -> None:
    ran = docker_run(image, "-p", f"code={end}")
    assert ran.code == code and "the end" not in ran.log
    assert ran.markers()[-1]["code"] == code
    assert ("SystemExit: 7" in ran.log and "SystemExit" in (out / "output.html").read_text()) == (code == 7)


def test_huge_output_is_bounded(image: str, docker_run: Runner, out: Path) -> None:
    code = "[print('x' * 999) for _ in range(40_000)]; print('last words')"
    ran = docker_run(image, "-p", f"code={code}")
    assert ran.code == 0
    assert ran.log.count("x" * 999) == 40_000
    assert (out / "output.ipynb").stat().st_size < 12 << 20
    assert (out / "output.html").stat().st_size < 4 << 20
    assert "last words" in texts(out) and "characters are left out here" in texts(out)
    assert "last words" in (out / "output.html").read_text()


def test_orphans_are_reaped_and_end_with_the_run(image: str, docker_run: Runner) -> None:
    code = (
        "import subprocess, time, glob;"
        "subprocess.run(['sh', '-c', 'sleep 0.1 & sleep 300 & exit'], stdout=subprocess.DEVNULL); time.sleep(1);"
        "states = [open(p).read().rpartition(')')[2].split()[0] for p in glob.glob('/proc/[0-9]*/stat')];"
        "print('zombies', states.count('Z'))"
    )
    ran = docker_run(image, "-p", f"code={code}")
    assert ran.code == 0 and "zombies 0" in ran.log
    # Where it is not process 1, nothing is left either.
    script = (
        'python3 -I -S /opt/docker-kernel/lib/docker_kernel/runner/main.py -p code="$0"; echo code $?;'
        "cat /proc/[0-9]*/comm | grep -c sleep"
    )
    ran = docker_run(image, "-c", script, code, options=("--entrypoint", "sh"))
    assert "code 0" in ran.log and "zombies 0" in ran.log
    assert ran.log.splitlines()[-1] == "0"
