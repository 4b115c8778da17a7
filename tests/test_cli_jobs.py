"""`docker-kernel jobs` and `targets`: beside a notebook, after its end, and after its server was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, labels, prune
from docker_kernel.batch.job_folder import MAX_OUTPUT, JobFolder, root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.output_tail import OutputTail
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import Engine
from tests.conftest import NotebookMaker
from tests.notebook import HOLD, KERNEL_IDS, Notebook, let_go
from tests.patience import patient, until
from tests.test_cli import run

COMMAND = str(Path(sys.executable).parent / "docker-kernel")

SERVER = """
import sys
from pathlib import Path
from tests.notebook import Notebook

one = Notebook(sys.argv[1], Path(sys.argv[2]))
print(one.manager.kernel_id, flush=True)
for cell in sys.stdin:
    reply = one.run(cell.encode().decode("unicode_escape"))
    print(repr(reply.text + reply.value), flush=True)
"""


class Server:
    """A process of its own with a kernel, to be killed."""

    def __init__(self, spec: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, spec, str(folder)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kernel_id = self._line()
        KERNEL_IDS.add(self.kernel_id)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, cell: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(cell.encode("unicode_escape").decode() + "\n")
        self.process.stdin.flush()
        return self._line()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(make_spec: Callable[..., str], tmp_path: Path) -> Iterator[Server]:
    one = Server(make_spec(grace=1), tmp_path)
    yield one
    one.kill()


@pytest.fixture(scope="module", autouse=True)
def no_jobs_left() -> Iterator[None]:
    yield
    run("jobs", "prune", "--older-than", "0", "-y")


def listed(name: str) -> dict[str, Any]:
    """What `jobs list` knows of the latest job of a name."""
    done = run("jobs", "list", "--all", "--json")
    assert done.returncode == 0, done.stderr
    return next(one for one in json.loads(done.stdout) if one["name"] == name)


def wait_for(name: str, *states: str) -> dict[str, Any]:
    until(lambda: listed(name)["state"] in states, 30, f"that {name} is {' or '.join(states)}")
    return listed(name)


def known(name: str) -> list[JobRecord]:
    """What the ledger has of the jobs of a name, which nobody is asked about."""
    return [one for one in Ledger(root() / "jobs.sqlite").find() if one.name == name]


def test_jobs_are_listed_shown_and_read_after_their_notebook_was_closed(start: NotebookMaker) -> None:
    one = start()
    one.run(
        "%%dispatch --name evening --param rate=0.5\nfrom docker_kernel import job\n"
        "print('begins', flush=True); job.log(loss=0.25); open(job.outputs + '/a.txt', 'w').write('x' * 2048)\n"
        f"{HOLD}print('ends')"
    )
    job = wait_for("evening", "running")["id"]
    one.close()
    following = subprocess.Popen(
        [COMMAND, "jobs", "logs", "-f", "evening"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    assert following.stdout.readline() == "begins\n"
    let_go(job)
    output, told = following.communicate(timeout=patient(30))
    assert (following.returncode, output) == (0, "ends\n")
    assert "succeeded after" in told and told.count("\n") == 1
    record = listed("evening")
    assert record["state"] == "succeeded" and record["metrics"] == {"loss": 0.25} and "nonce" not in record
    table = run("jobs", "list")
    assert record["id"] in table.stdout and "evening (rate=0.5)" in table.stdout and "loss=0.25" in table.stdout
    shown = run("jobs", "show", record["id"][:8]).stdout
    assert "a.txt  2 KiB" in shown and "rate=0.5" in shown and "job.log(loss=0.25)" in shown
    assert json.loads(run("jobs", "show", "evening", "--json").stdout)["id"] == record["id"]
    assert run("jobs", "logs", "evening").stdout == "begins\nends\n"


def test_a_job_is_followed_while_its_server_does_and_an_interrupt_leaves_it_alone(notebook: Notebook) -> None:
    notebook.run("%%dispatch --name long\nimport time\nfor i in range(3000): print(i, flush=True); time.sleep(.2)")
    wait_for("long", "running")
    following = subprocess.Popen(
        [COMMAND, "jobs", "logs", "-f", "long"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert following.stdout is not None
    assert following.stdout.readline() == b"0\n"
    following.send_signal(signal.SIGINT)
    _, errors = following.communicate(timeout=patient(30))
    assert following.returncode == 130 and b"goes on; `docker-kernel jobs logs -f" in errors
    assert listed("long")["state"] == "running"
    cancelled = run("jobs", "cancel", "long")
    assert cancelled.returncode == 0 and "is cancelled" in cancelled.stdout
    assert run("jobs", "logs", "-f", "long").returncode == 1
    notebook.run("from docker_kernel import jobs; jobs['long'].wait()")
    assert notebook.value("[jobs['long'].state, jobs['long'].reason]")[0] == "cancelled"
    again = run("jobs", "cancel", "long")
    assert again.returncode == 0 and "has ended already: it is cancelled" in again.stdout


def test_a_cancelled_job_is_not_tried_again_and_one_that_waits_can_be_cancelled(notebook: Notebook) -> None:
    notebook.run(
        "from docker_kernel import dispatch\n"
        "sent = dispatch('import time; time.sleep(600)', name='many', retries=5, sweep={'i': range(10)})"
    )
    ids = notebook.value("[job.id for job in sent]")
    states = {one: json.loads(run("jobs", "show", one, "--json").stdout)["state"] for one in (ids[0], ids[-1])}
    assert states[ids[-1]] == "queued"
    cancelled = run("jobs", "cancel", ids[3], "many")
    assert cancelled.stdout.count("is cancelled.") == 10, "a sweep's name means all of its jobs, and no job twice"
    assert notebook.value("[sent.wait(), {job.state for job in sent} == {'cancelled'}]") == [True, True]
    assert notebook.value("{job.record['attempt'] for job in sent} == {1}") is True


def test_a_job_is_retried_from_the_command_line_with_its_secrets(notebook: Notebook) -> None:
    cell = "import os\nassert os.environ['PASS_PHRASE'][0] == 'z', 'another one'\nprint('passed')"
    notebook.run("import os; os.environ['PASS_PHRASE'] = 'left'")
    notebook.run(f"%%dispatch --name secretive --secret PASS_PHRASE\n{cell}")
    wait_for("secretive", "failed")
    refused = run("jobs", "retry", "secretive")
    assert refused.returncode == 1 and "Secrets are not kept" in refused.stderr and refused.stderr.count("\n") == 1
    retried = run("jobs", "retry", "secretive", PASS_PHRASE="zebra")
    assert retried.returncode == 0 and retried.stdout == "passed\n", retried.stderr
    assert "attempt 2" in retried.stderr and "succeeded after" in retried.stderr
    assert "zebra" not in json.dumps(listed("secretive"))
    notebook.run("from docker_kernel import jobs\nfound = jobs['secretive']")
    assert notebook.value("[found.state, found.record['attempt']]") == ["succeeded", 2]


def test_a_retry_goes_on_when_its_command_is_interrupted(notebook: Notebook) -> None:
    notebook.run("n = 0\nsent = None\ngo = '/opt/docker-kernel/state/go'")
    notebook.run(
        "%%dispatch --name slow\nimport os, time\nprint('0\\n1', flush=True)\n"
        "while not os.path.exists(go): time.sleep(.1)\n"
        "for i in range(2, 30): print(i, flush=True)"
    )
    notebook.run("sent = _")
    job = wait_for("slow", "running")["id"]
    assert run("jobs", "cancel", "slow").returncode == 0
    lock = until(JobFolder(job).lock, 30, "that what followed the job cleans up behind it and lets go of it")
    assert lock is not None
    retrying = subprocess.Popen([COMMAND, "jobs", "retry", "slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        retrying.wait(3)
    lock.close()
    assert retrying.stdout is not None
    assert retrying.stdout.readline() == b"0\n", "it waits for a process that is not done with the job yet"
    live = "import time\nwhile sent.state != 'running': time.sleep(.1)\n"
    assert notebook.run(f"{live}sent.state").shown == "'running'", "it is live again where it was sent"
    retrying.send_signal(signal.SIGINT)
    _, errors = retrying.communicate(timeout=patient(40))
    assert retrying.returncode == 130 and b"goes on" in errors
    notebook.run("open(go, 'w').close()")
    followed = run("jobs", "logs", "-f", "slow")
    assert followed.returncode == 0 and followed.stdout.split() == [str(i) for i in range(30)]
    assert notebook.value("[sent.wait(), sent.state]") == [True, "succeeded"]


def test_what_went_with_its_kernel_cannot_be_retried(start: NotebookMaker) -> None:
    one = start()
    one.run("%%dispatch --name gone\nraise ValueError('a \\x1b]0;title\\x07 of its own')")
    wait_for("gone", "failed")
    one.close()
    shown = run("jobs", "show", "gone").stdout + run("jobs", "list").stdout
    assert "a \N{REPLACEMENT CHARACTER}]0;title" in shown and "\x1b" not in shown
    refused = run("jobs", "retry", "gone")
    assert refused.returncode == 1 and "went with its kernel: run its cell again" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_job_of_a_killed_server_is_brought_home(server: Server, engine: Engine) -> None:
    server.run(f"%%dispatch --name orphan\nprint('begins')\n{HOLD}kept = list(range(1000))")
    server.run("%%dispatch --name endless\nimport time; time.sleep(600)")
    until(lambda: [one.state for name in ("orphan", "endless") for one in known(name)] == ["running"] * 2)
    server.kill()
    kernel = {labels.KIND: labels.KIND_KERNEL, labels.KERNEL_ID: server.kernel_id}
    until(lambda: not background.run_blocking(engine.containers.list(kernel)), 30, "the kernel's end")
    before = background.run_blocking(prune.leftovers(engine))
    let_go(known("orphan")[0].id)
    record = wait_for("orphan", "succeeded")
    assert record["id"] not in [state.labels.get(labels.JOB_ID) for state in before.containers]
    folder = JobFolder(record["id"])
    assert (folder.result / "manifests" / record["result"].removeprefix("sha256:")).exists()
    assert [path.stat().st_mode & 0o077 for path in (folder.path, root() / "jobs.sqlite")] == [0, 0]
    assert run("jobs", "logs", "orphan").stdout == "begins\n"
    assert listed("endless")["state"] == "running"
    assert "is cancelled" in run("jobs", "cancel", "endless").stdout


def test_jobs_that_wait_are_not_started_by_a_command_that_ends(server: Server, engine: Engine) -> None:
    code = "import os, time\nwhile i < 8 and not os.path.exists('/tmp/go'): time.sleep(.05)"
    server.run(f"from docker_kernel import dispatch\nsent = dispatch({code!r}, name='queue', sweep={{'i': range(9)}})")

    def queue() -> list[dict[str, Any]]:
        return [one for one in json.loads(run("jobs", "list", "--all", "--json").stdout) if one["name"] == "queue"]

    def left() -> list[str]:
        found = background.run_blocking(prune.leftovers(engine)).containers
        return [one.name for one in found if one.labels.get(labels.KERNEL_ID) == server.kernel_id]

    def running() -> list[str]:
        return [one.id for one in known("queue") if one.state == "running"]

    begun = until(lambda: ids if len(ids := running()) == 8 else [], 60, "the start of eight jobs")
    server.kill()
    for job in begun:
        let_go(job)
    until(lambda: sum(one["state"] == "succeeded" for one in queue()) == 8, 60, "the end of eight jobs")
    waiting = [one["id"] for one in queue() if one["state"] == "queued"]
    assert len(waiting) == 1 and left() == []
    followed = run("jobs", "logs", "-f", waiting[0])
    assert followed.returncode == 0, followed.stderr
    assert left() == []
    states = background.run_blocking(engine.containers.list({labels.KIND: labels.KIND_STATE}))
    assert server.kernel_id not in [one.labels.get(labels.KERNEL_ID) for one in states]


def test_a_job_that_nobody_can_look_at_now_is_not_lost(own_folders: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[targets.far]\nkind = "docker"\nengine = "tcp://127.0.0.1:1"\n')
    placed = {"containers": ["0" * 64], "network": ""}
    far = JobRecord(
        group="0" * 12, owner="notebook:/x", kernel_id="x", name="far", target="far", state="running", placed=placed
    )
    ledger = Ledger(root() / "jobs.sqlite")
    ledger.save(far)
    try:
        listed = run("jobs", "list", "--json", DOCKER_KERNEL_CONFIG=str(config))
        found = next(one for one in json.loads(listed.stdout) if one["name"] == "far")
        assert found["state"] == "running" and "No engine answers at" in found["reason"]
        refused = run("jobs", "cancel", "far", DOCKER_KERNEL_CONFIG=str(config))
        assert refused.returncode == 1 and "No engine answers at" in refused.stderr, refused
        assert ledger.get(far.id).state == "running"
        # The config file does not name its target any more.
        assert "There is no target 'far'" in run("jobs", "cancel", "far").stderr
    finally:
        ledger.delete(far.id)


def test_old_jobs_are_forgotten(notebook: Notebook) -> None:
    for number in range(2):
        notebook.run(f"%%dispatch --name forget --wait\nblob = bytes(100_000) + b'{number}'")
    notebook.run("%%dispatch --name still-there\nimport time; time.sleep(600)")
    wait_for("still-there", "running")
    records = [one for one in json.loads(run("jobs", "list", "--all", "--json").stdout) if one["name"] == "forget"]
    assert all(JobFolder(one["id"]).path.exists() for one in records)
    assert run("jobs", "prune", "--older-than", "1h").stdout == "There is no job to forget.\n"
    asked = run("jobs", "prune", "--older-than", "0")
    assert asked.returncode == 1 and "say --yes" in asked.stderr
    pruned = run("jobs", "prune", "--older-than", "0", "-y")
    assert pruned.returncode == 0 and pruned.stdout.startswith("Forgot ")
    assert not any(JobFolder(one["id"]).path.exists() for one in records)
    left = json.loads(run("jobs", "list", "--all", "--json").stdout)
    assert [one["name"] for one in left] == ["still-there"]
    run("jobs", "cancel", "still-there")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["jobs", "show", "no-such-job"], 1, "There is no job 'no-such-job': `docker-kernel jobs list` shows them."),
        (["jobs", "logs", "-f", ""], 1, "There is no job ''"),
        (["jobs", "cancel", "ffffffffffff"], 1, "There is no job 'ffffffffffff'"),
        (["jobs", "retry", "no-such-job"], 1, "There is no job"),
        (["jobs", "list", "--limit", "0"], 1, "--limit is the number of jobs to list, not 0."),
        (["jobs", "prune", "--older-than", "soon"], 2, "write an age such as 90m, 12h, 7d or 0, not 'soon'"),
        (["targets", "check", "locl"], 1, "There is no target 'locl' (did you mean 'local'?)"),
    ],
)
def test_a_wrong_name_is_one_sentence(arguments: list[str], code: int, sentence: str) -> None:
    failed = run(*arguments)
    assert failed.returncode == code
    assert sentence in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.engine
def test_targets_are_listed_and_checked(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[targets.small]\nkind = "local"\nmemory = "1g"\n'
        '[targets.mars]\nkind = "rocket"\nfuel = "lots"\napi_token = "hunter2"\n'
    )
    env = {"DOCKER_KERNEL_CONFIG": str(config)}
    shown = run("targets", "list", **env)
    assert shown.returncode == 0 and "memory = 1073741824" in shown.stdout and 'fuel = "lots"' in shown.stdout
    assert "hunter2" not in shown.stdout
    assert run("targets", "check", "small", "local", **env).returncode == 0
    checked = run("targets", "check", **env)
    assert checked.returncode == 1 and "there is no kind 'rocket' of target" in " ".join(checked.stdout.split())
    diagnosis = run("doctor", **env).stdout
    assert "small (local), mars (rocket)" in diagnosis


def beside(packages: Path) -> str:
    """Where Python finds packages: there, too."""
    return os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))


def test_a_plugin_as_the_docs_write_it_is_a_target(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "targets.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "my_package.py").write_text(f"{code}\nRocketTarget.__abstractmethods__ = frozenset()\n")
    about = tmp_path / "my_package-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[docker_kernel.targets]\nrocket = my_package:RocketTarget\nbroken = no_such_package:Target\n"
    )
    config = tmp_path / "config.toml"
    env = {"DOCKER_KERNEL_CONFIG": str(config), "PYTHONPATH": beside(tmp_path)}
    config.write_text('[targets.moon]\nkind = "rocket"\nlaunch_pad = "Kourou"\nmemory = "1g"\n')
    checked = run("targets", "check", "moon", **env)
    assert checked.returncode == 0 and "Kourou" in checked.stdout, checked
    config.write_text('[targets.moon]\nkind = "rocket"\nlaunchpad = "Kourou"\n[targets.bad]\nkind = "broken"\n')
    refused = " ".join(run("targets", "check", "moon", **env).stdout.replace("│", " ").split())
    assert "there is no setting 'launchpad' (did you mean 'launch_pad'?)" in refused
    broken = run("targets", "check", "bad", **env)
    assert broken.returncode == 1 and "'broken' cannot be used" in broken.stdout and not broken.stderr


def test_a_plugin_without_settings_of_its_own_gets_its_table(tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(
        "from docker_kernel.targets.base import Check, Target\n"
        "class BareTarget(Target):\n"
        "    kind = 'bare'\n"
        "    async def check(self):\n"
        "        return [Check('table', f'{self.config.memory} {self.config.model_extra}', True)]\n"
        "BareTarget.__abstractmethods__ = frozenset()\n"
    )
    about = tmp_path / "my_package-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[docker_kernel.targets]\nbare = my_package:BareTarget\n")
    config = tmp_path / "config.toml"
    config.write_text('[targets.moon]\nkind = "bare"\nfuel = "lots"\nmemory = "1k"\n')
    env = {"DOCKER_KERNEL_CONFIG": str(config), "PYTHONPATH": beside(tmp_path)}
    assert "1024 {'fuel': 'lots'}" in run("targets", "check", "moon", **env).stdout


def test_targets_that_cannot_be_reached_fail_the_check(tmp_path: Path) -> None:
    checked = run("targets", "check", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert checked.returncode == 1 and "No engine answers" in checked.stdout


def test_output_is_read_once_however_it_is_written(own_folders: Path) -> None:
    folder = JobFolder("0" * 12)
    folder.make()
    tail = OutputTail(folder)
    assert tail.read(1) == b""
    folder.add_output(b"one\n")
    assert tail.read(1) == b"one\n" and tail.read(1) == b""
    half = b"x" * (MAX_OUTPUT // 2)
    folder.add_output(half)
    assert tail.read(1) == half
    folder.add_output(b"two\n")
    assert tail.read(1) == b"two\n"
    # A new follower reads the job's log from its beginning.
    folder.restart()
    folder.add_output(b"one\n")
    assert tail.read(1) == b""
    folder.add_output(half)
    folder.add_output(b"two\nthree\n")
    assert tail.read(1) + tail.read(1) == b"three\n"
    # Another attempt is another output.
    folder.restart()
    folder.add_output(b"one\n")
    assert tail.read(2) + tail.read(2) == b"one\n"
    folder.remove()
