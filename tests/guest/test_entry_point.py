"""A notebook image's main process as a job, without an image: run_job.py is started here, with a script of ours."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.guest import run_job
from docker_kernel.guest.job_log import JobLog
from tests.patience import patient

NONCE = "f" * 32
SAY = (
    "import json, os, sys\n"
    "def say(**marker):\n"
    "    print('##docker-kernel', os.environ['DOCKER_KERNEL_NONCE'], json.dumps(marker), flush=True)\n"
)


class Run:
    """One run of a script as an image's main process; `parts` is what its log has, in order."""

    def __init__(self, folder: Path, script: str, **spec: Any) -> None:
        self.folder = folder
        (folder / "output").mkdir(exist_ok=True)
        content = {
            "kind": "image", "nonce": NONCE, "python": sys.executable, "command": [sys.executable, "-c", SAY + script],
            "cwd": str(folder), "env": {}, "files": {}, "state": str(folder / "state"),
            "outputs": str(folder / "output"), **spec,
        }  # fmt: skip
        for name in ("blobs", "manifests"):
            (folder / "state" / name).mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(content))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", run_job.__file__, str(folder / "job.json")], stdout=subprocess.PIPE
        )
        self.log = JobLog(NONCE)
        self.parts: list[bytes | dict[str, Any]] = []
        self.raw = b""

    def until(self, text: bytes) -> Run:
        assert self.process.stdout is not None
        while text not in self.raw:
            data = self.process.stdout.read1()  # type: ignore[attr-defined]
            assert data, self.raw
            self.raw += data
            self.parts += self.log.feed(data)
        return self

    def end(self) -> Run:
        out, _ = self.process.communicate(timeout=patient(30))
        self.parts += [*self.log.feed(out), self.log.rest()]
        return self

    @property
    def text(self) -> bytes:
        return b"".join(part for part in self.parts if isinstance(part, bytes))

    @property
    def markers(self) -> list[dict[str, Any]]:
        """All but the first, by which the runner tells that it begins."""
        return [part for part in self.parts if isinstance(part, dict) and part["event"] != "begin"]

    def files(self, digest: str) -> dict[str, bytes]:
        """What a result says of files, with their content."""
        state = self.folder / "state"
        manifest = json.loads((state / "manifests" / digest[7:]).read_text())
        return {one["path"]: (state / "blobs" / one["blob"][7:]).read_bytes() for one in manifest["files"]}


def test_what_it_writes_is_the_result(tmp_path: Path) -> None:
    script = (
        "os.makedirs('output/files')\nopen('output/files/made.txt', 'w').write('x')\n"
        "open('output/output.ipynb', 'w').write('{}')\nprint('words')\nsay(event='end', code=0, oom=False)"
    )
    one = Run(tmp_path, script).end()
    assert one.process.returncode == 0 and one.text == b"words\n"
    [end] = one.markers
    assert (end["event"], end["code"], end["partial"]) == ("end", 0, "")
    assert one.files(end["result"]) == {"files/made.txt": b"x", "output.ipynb": b"{}"}


def test_its_markers_become_the_jobs_and_others_with_its_words_do_not(tmp_path: Path) -> None:
    script = (
        "say(event='progress', value=0.5, text='half')\nprint('##docker-kernel other {\"event\": \"progress\"}')\n"
        f"print('##docker-kernel {NONCE[:-1]}e {{}}')\n"
        "say(event='blob', digest='sha256:0', index=0, count=1, data='')\nsay(event='raised', name='E', value='why')\n"
        "sys.exit(1)"
    )
    one = Run(tmp_path, script).end()
    assert [marker["event"] for marker in one.markers] == ["progress", "raised", "end"]
    assert one.text.count(b"##docker-kernel") == 2 and one.markers[-1]["code"] == 1


def test_the_jobs_nonce_is_nowhere_in_the_image(tmp_path: Path) -> None:
    script = (
        "print(*os.environ.values(), *sys.argv)\nprint(open('/proc/%d/cmdline' % os.getppid()).read())\n"
        "print(os.path.exists('job.json'))"
    )
    one = Run(tmp_path, script).end()
    assert NONCE.encode() not in one.text and one.text.endswith(b"False\n")


def test_variables_secrets_and_files_reach_it(tmp_path: Path) -> None:
    place = tmp_path / "parameters.yml"
    files = {str(place): base64.b64encode(b"n: 1").decode()}
    one = Run(
        tmp_path,
        f"print(os.environ['A'], os.environ['TOKEN'], open({str(place)!r}).read(), os.getcwd())",
        env={"A": "a"}, secrets={"TOKEN": "t"}, files=files,
    ).end()  # fmt: skip
    assert one.text == f"a t n: 1 {tmp_path}\n".encode()


def test_a_line_is_seen_while_the_process_goes_on(tmp_path: Path) -> None:
    one = Run(tmp_path, "import time\nprint('first words', flush=True)\ntime.sleep(99)").until(b"first words\n")
    one.process.send_signal(signal.SIGTERM)
    assert one.end().markers[-1]["code"] == 143


def test_when_stopped_it_may_write_what_it_has(tmp_path: Path) -> None:
    script = (
        "import signal, time\n"
        "def stop(*_):\n    open('output/output.ipynb', 'w').write('so far')\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(99)"
    )
    one = Run(tmp_path, script).until(b"ready")
    one.process.send_signal(signal.SIGTERM)
    end = one.end().markers[-1]
    assert (end["code"], end["result"]) == (143, "") and one.files(end["partial"]) == {"output.ipynb": b"so far"}


def test_what_a_killed_process_had_written_is_kept(tmp_path: Path) -> None:
    script = "import signal\nopen('output/output.ipynb', 'w').write('so far')\nos.kill(os.getpid(), signal.SIGKILL)"
    end = Run(tmp_path, script).end().markers[-1]
    assert (end["code"], end["result"]) == (137, "")


def test_out_of_time_and_memory_are_as_it_says(tmp_path: Path) -> None:
    end = Run(tmp_path, "say(event='end', code=124, oom=False)\nsys.exit(124)").end().markers[-1]
    assert end["timeout"] and end["code"] == 124 and not end["oom"]
    end = Run(tmp_path, "say(event='end', code=137, oom=True)\nsys.exit(137)").end().markers[-1]
    assert end["oom"] and not end["timeout"]


def test_results_that_cannot_be_kept_are_told(tmp_path: Path) -> None:
    result = {"inline": 10, "store": None}
    one = Run(tmp_path, "open('output/large', 'w').write('x' * 100)", result=result).end()
    assert one.process.returncode == run_job.NOT_DELIVERED
    assert b"docker-kernel: The results could not be kept: " in one.text and b"set result_url" in one.text


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    one = Run(tmp_path, "", command=["/no/such/program"]).end()
    assert one.process.returncode == 127 and b"/no/such/program cannot be started" in one.text


@pytest.mark.parametrize("text", [b"no newline", b"\xff\x00", b"##docker-kernel ", b"##docker", b"\n\n", b""])
def test_output_passes_as_it_is(tmp_path: Path, text: bytes) -> None:
    one = Run(tmp_path, f"os.write(1, {text!r})\nos.write(2, b'')").end()
    assert one.text == text
