"""A job's container, from its spec to its result, without a kernel around it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import secrets
import signal
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from docker_kernel import background, labels
from docker_kernel.engine import ContainerSpec, Engine, File
from docker_kernel.guest import snapshot
from docker_kernel.guest.job_log import JobLog
from docker_kernel.kernel import guest_files
from tests.patience import patient

run = background.run_blocking

UID = GID = 12345
NO_STATE = {
    "version": 1, "python": "", "cloudpickle": "", "packs": [], "modules": {}, "left_out": [], "env": {}, "cwd": "",
    "sys_path": [],
}  # fmt: skip


class JobContainer:
    """One job in a container of its own; `parts` is what it printed, text and markers in order."""

    def __init__(self, engine: Engine, image: str, source: str, state: dict[str, bytes], **spec: Any) -> None:
        self.engine = engine
        self.nonce = secrets.token_hex(16)
        self.source = source
        self.parts: list[bytes | dict[str, Any]] = []
        self.exit_code: int | None = None
        run(self._create(image, state, spec))

    async def _create(self, image: str, state: dict[str, bytes], spec: dict[str, Any]) -> None:
        base = guest_files.BASE
        manifest = spec.pop("manifest", None)
        if manifest is None:
            text = json.dumps(NO_STATE).encode()
            manifest = "sha256:" + hashlib.sha256(text).hexdigest()
            state = {**state, f"manifests/{manifest[7:]}": text}
        content = {
            "job": "0" * 12, "nonce": self.nonce, "manifest": manifest, "state": guest_files.STATE, "kind": "cell",
            "source": self.source, "cwd": "/tmp", "python": "python3", "user_base": guest_files.USER_BASE,
            "env": {"HOME": "/home/test"}, **spec,
        }  # fmt: skip
        self.container = await self.engine.containers.create(
            ContainerSpec(
                image=image,
                command=["python3", "-I", "-S", f"{guest_files.LIB}/docker_kernel/guest/run_job.py"],
                user=f"{UID}:{GID}",
                labels={labels.KIND: labels.KIND_JOB, labels.KERNEL_ID: "test"},
                network="none",
            )
        )
        files = [*guest_files.library(), *guest_files.folders(UID, GID, "/home/test")]
        files += [File(f"{base}/state/{name}", mode=0o700, uid=UID, gid=GID) for name in ("blobs", "manifests")]
        files += [File(f"{base}/state/{name}", data, uid=UID, gid=GID) for name, data in state.items()]
        files += [File(f"{base}/run/job.json", json.dumps(content).encode(), mode=0o600, uid=UID, gid=GID)]
        await self.engine.containers.put(self.container, files)

    def run(self, timeout: float = 60, term_at: bytes | None = None, interrupt_at: bytes | None = None) -> JobContainer:
        """Run the job to its end; with `term_at` or `interrupt_at`, send SIGTERM or SIGINT once it has printed that."""

        async def follow() -> None:
            stream = await self.engine.containers.attach(self.container)
            await self.engine.containers.start(self.container)
            log = JobLog(self.nonce)
            signals = [(signal.SIGINT, interrupt_at), (signal.SIGTERM, term_at)]
            waiting = [(number, at) for number, at in signals if at is not None]
            async for _, data in stream.frames():
                self.parts += log.feed(data)
                if waiting and waiting[0][1] in self.text:
                    await self.engine.containers.kill(self.container, waiting.pop(0)[0])
            self.parts.append(log.rest())
            self.exit_code = await self.engine.containers.wait(self.container)

        run(asyncio.wait_for(follow(), timeout))
        return self

    @property
    def text(self) -> bytes:
        return b"".join(part for part in self.parts if isinstance(part, bytes))

    @property
    def markers(self) -> list[dict[str, Any]]:
        """Those that say more than that the job or its cell begins, or has ended."""
        return [part for part in self.parts if isinstance(part, dict) and part["event"] not in ("begin", "cell")]

    @property
    def cell(self) -> list[bool]:
        """What was said of whether the cell runs."""
        return [part["running"] for part in self.parts if isinstance(part, dict) and part["event"] == "cell"]

    def state(self) -> dict[str, bytes]:
        """The files of its state folder, by their path in it."""
        data = run(self.engine.containers.get(self.container, guest_files.STATE))
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {
                member.name.partition("/")[2]: tar.extractfile(member).read()  # type: ignore[union-attr]
                for member in tar
                if member.isreg()
            }

    def result(self) -> dict[str, Any]:
        """The manifest of its result."""
        manifest: dict[str, Any] = json.loads(self.state()["manifests/" + self.markers[-1]["result"][7:]])
        return manifest

    def names(self) -> list[str]:
        return sorted(name for pack in self.result()["packs"] for group in pack["groups"] for name in group)

    def remove(self) -> None:
        run(self.engine.containers.remove(self.container))


@pytest.fixture
def job(engine: Engine, python_image: str) -> Iterator[Any]:
    made: list[JobContainer] = []

    def make(source: str, state: dict[str, bytes] | None = None, **spec: Any) -> JobContainer:
        made.append(JobContainer(engine, python_image, source, state or {}, **spec))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def test_output_passes_as_it_is_and_the_result_has_what_was_assigned(job: Any) -> None:
    source = (
        "import os, subprocess, sys\nprint('out')\nprint('err', file=sys.stderr)\nos.write(1, b'raw \\xff\\n')\n"
        "subprocess.run(['echo', 'from a child'])\nos.system('printf no-newline')\nx = 1\ndel subprocess"
    )
    one = job(source).run()
    assert one.exit_code == 0
    assert one.text == b"out\nerr\nraw \xff\nfrom a child\nno-newline"
    assert one.markers[-1]["event"] == "end" and one.markers[-1]["code"] == 0
    assert one.names() == ["x"] and one.result()["modules"] == {"os": "os", "sys": "sys"}


def test_the_state_is_there_and_only_what_changed_comes_back(job: Any, tmp_path: Any) -> None:
    variables = {"kept": [1], "grown": [1], "bound": 1, "gone": 1}
    context: dict[str, Any] = {"env": {"SHADE": "teal", "LANG": None}, "cwd": "/usr", "sys_path": []}
    digest = snapshot.capture(variables, {}, str(tmp_path), **context).digest
    state = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in tmp_path.glob("*/*")}
    one = job(
        "import os\nprint(kept, os.environ['SHADE'], os.environ.get('LANG'), os.getcwd())"
        "\ngrown.append(2)\nbound = 2\ndel gone",
        state,
        manifest=digest,
    ).run()
    assert one.text == b"[1] teal None /usr\n"
    assert one.names() == ["bound", "grown"] and one.result()["deleted"] == ["gone"]


def test_rich_outputs_keep_their_place_in_the_output(job: Any) -> None:
    one = job("for i in range(200):\n    print('before', i); display(i); print('after', i)").run()
    seen = [
        part if isinstance(part, bytes) else part["data"]["text/plain"].encode() + b"\n"
        for part in one.parts
        if isinstance(part, bytes) or part["event"] == "display"
    ]
    expected = "".join(f"before {i}\n{i}\nafter {i}\n" for i in range(200))
    assert b"".join(seen).decode().replace("\n\n", "\n") == expected


def test_an_output_that_is_too_large_is_named_and_harms_nothing(job: Any) -> None:
    one = job("from IPython.display import HTML\ndisplay(HTML('x' * (20 << 20)))\nprint('after')\nx = 1").run()
    assert one.text == b"after\n" and one.exit_code == 0 and "x" in one.names()
    assert "21 MB was left out" in one.markers[0]["data"]["text/plain"]


def test_an_exception_is_kept_with_its_traceback(job: Any) -> None:
    one = job("def f():\n    raise KeyError('k')\nf()").run()
    assert one.exit_code == 1
    error = one.result()["error"]
    assert (error["name"], error["value"]) == ("KeyError", "'k'") and "KeyError" in error["traceback"][-1]


def test_the_cell_does_not_find_the_nonce_where_one_would_look(job: Any) -> None:
    one = job(
        "import glob, os\n"
        "found = [open(path, 'rb').read() for path in glob.glob('/proc/*/cmdline') + glob.glob('/proc/*/environ')]\n"
        "files = [open(os.path.join(folder, name), 'rb').read()\n"
        "    for top in ('/opt/docker-kernel/run', '/tmp', '/run')\n"
        "    for folder, _, names in os.walk(top) for name in names]\n"
        "print(b' '.join(found + files))\nprint(os.path.exists('/opt/docker-kernel/run/job.json'))"
    ).run()
    assert one.exit_code == 0 and one.text.endswith(b"False\n") and b"run_job.py" in one.text
    assert one.nonce.encode() not in one.text


def test_a_marker_with_another_nonce_is_output(job: Any) -> None:
    line = "##docker-kernel " + "0" * 32 + ' {"event":"end","code":0,"result":"sha256:' + "0" * 64 + '"}\n'
    one = job(f"import os\n_ = os.write(1, {line.encode()!r})").run()
    assert one.text == line.encode() and len(one.markers) == 1


def test_junk_on_the_runners_descriptor_does_not_stop_the_job(job: Any) -> None:
    one = job(
        "import os, glob\nfor path in glob.glob('/proc/self/fd/*'):\n"
        "    if os.path.exists(path) and os.readlink(path).startswith('socket:'):\n"
        "        try: os.write(int(path.rsplit('/', 1)[1]), b'junk\\n{\\n1\\n')\n"
        "        except OSError: pass\n"
        "display('shown')\nprint('alive')"
    ).run()
    assert b"alive" in one.text and one.exit_code == 0 and one.markers[-1]["event"] == "end"


def test_a_cancelled_job_cleans_up_and_says_so(job: Any) -> None:
    one = job("import time\nprint('ready', flush=True)\ntry: time.sleep(60)\nfinally: print('cleaned up')")
    one.run(term_at=b"ready")
    assert one.exit_code == 143 and b"cleaned up" in one.text


def test_a_job_that_ignores_its_cancellation_is_killed(job: Any) -> None:
    started = time.monotonic()
    one = job(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)"
    ).run(term_at=b"ready")
    assert one.exit_code == 143 and time.monotonic() - started < patient(30)


def test_an_interrupted_cell_has_a_result_with_what_it_did(job: Any) -> None:
    one = job(
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '600'])\nx = 1\nprint('ready', flush=True)\n"
        "try: time.sleep(60)\nfinally: display('last'); print('cleaned up', child.wait()); del child\nx = 2"
    ).run(interrupt_at=b"ready")
    assert one.exit_code == 1 and one.text == b"ready\ncleaned up -2\n" and one.cell == [True, False]
    assert one.result()["error"]["name"] == "KeyboardInterrupt" and "x" in one.names()
    assert "cleaned up" in "".join(one.result()["error"]["traceback"]), "the lines of the cell"


def test_an_interrupted_await_is_cancelled_as_in_a_notebook(job: Any) -> None:
    one = job(
        "import asyncio\nprint('ready', flush=True)\nx = 1\ntry: await asyncio.sleep(60)\nfinally: print('cleaned up')"
    ).run(interrupt_at=b"ready")
    assert one.exit_code == 1 and one.text == b"ready\ncleaned up\n" and "x" in one.names()
    assert one.result()["error"]["name"] == "CancelledError"


def test_a_cell_that_heeds_an_interrupt_goes_on_and_succeeds(job: Any) -> None:
    one = job("import time\nprint('ready', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: x = 1")
    one.run(interrupt_at=b"ready")
    assert one.exit_code == 0 and "x" in one.names() and not one.markers[-1]["unheeded"]


def test_interrupts_leave_the_order_of_outputs_as_it_is(job: Any) -> None:
    source = (
        "import os, signal, threading\nseen = 0\n"
        "for i in range(50):\n"
        "    try:\n"
        "        threading.Timer(.002, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "        while True: display('d')\n"
        "    except KeyboardInterrupt: seen += 1\n"
        "for i in range(20): display('x'); print('p')\nprint(seen)"
    )
    one = job(source).run()
    shown = [
        part["data"]["text/plain"].strip("'") if isinstance(part, dict) else part.decode().replace("\n", "")
        for part in one.parts
        if isinstance(part, bytes) or part["event"] == "display"
    ]
    assert "".join(shown).endswith("d" + "xp" * 20 + "50")


def test_a_cell_that_does_not_heed_an_interrupt_is_stopped(job: Any) -> None:
    one = job(
        "import time\nopen('/tmp/outputs/kept', 'w').close()\nprint('ready', end='', flush=True)\n"
        "while True:\n    try: time.sleep(600)\n    except KeyboardInterrupt: pass"
    ).run(interrupt_at=b"ready")
    assert b"ready\ndocker-kernel: The cell was interrupted and has not ended." in one.text
    end = one.markers[-1]
    assert one.exit_code == 143 and end["unheeded"] and end["partial"] and not end["result"]


def test_an_interrupt_that_comes_when_the_cell_has_ended_changes_nothing(job: Any) -> None:
    one = job(
        "class Slow:\n    def __reduce__(self):\n        import time; print('captured', flush=True); time.sleep(1)\n"
        "        return Slow, ()\nx = Slow()"
    ).run(interrupt_at=b"captured")
    assert one.exit_code == 0 and "x" in one.names()


def test_orphans_are_reaped_and_hold_nothing_up(job: Any) -> None:
    started = time.monotonic()
    one = job(
        "import os, subprocess, time\n"
        "if os.fork() == 0:\n    os.fork()\n    os._exit(0)\nos.wait(); time.sleep(0.5)\n"
        "states = [open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0]\n"
        "          for pid in os.listdir('/proc') if pid.isdigit()]\nprint('zombies', states.count('Z'))\n"
        "subprocess.Popen('while true; do echo noise; sleep 0.01; done', shell=True, start_new_session=True)"
    ).run()
    assert b"zombies 0" in one.text and one.exit_code == 0 and time.monotonic() - started < patient(30)


def test_a_state_that_was_changed_is_refused(job: Any, tmp_path: Any) -> None:
    digest = snapshot.capture({"x": [1]}, {}, str(tmp_path), env={}, cwd="", sys_path=[]).digest
    state = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in tmp_path.glob("*/*")}
    name = next(name for name in state if name.startswith("blobs/"))
    state[name] = state[name][:-2] + bytes([state[name][-2] ^ 1]) + state[name][-1:]
    one = job("print('ran')", state, manifest=digest).run()
    assert one.exit_code == 3 and b"was changed after it was written" in one.text and b"ran" not in one.text


def test_a_task_may_have_its_rank_from_its_environment() -> None:
    from docker_kernel.guest.run_job import with_own_rank

    spec = {"rank_from": "TASK_INDEX", "world_size": 3, "result": {"inline": 1}}
    with pytest.MonkeyPatch.context() as patch:
        for rank, result in (("0", {"inline": 1}), ("2", None)):
            patch.setenv("TASK_INDEX", rank)
            assert with_own_rank(dict(spec)) == {"world_size": 3, "rank": int(rank), "result": result}
        for wrong in ("3", "first", ""):
            patch.setenv("TASK_INDEX", wrong)
            with pytest.raises(SystemExit, match="the variable TASK_INDEX is to have this task's rank"):
                with_own_rank(dict(spec))
    assert with_own_rank({"rank": 1, "world_size": 2}) == {"rank": 1, "world_size": 2}


def test_the_runner_says_first_that_it_begins(job: Any) -> None:
    begun = time.time()
    one = job("print('on')").run()
    assert one.parts[0]["event"] == "begin" and begun <= one.parts[0]["time"] <= time.time()
    assert one.text == b"on\n"
