"""What a kernel may ask of its host side, also one that speaks the link's protocol by hand."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_kernel import background, labels
from docker_kernel.batch.broker import StartRequest
from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.batch.record import JobRecord
from docker_kernel.engine import ContainerState, Engine
from docker_kernel.errors import DockerKernelError
from docker_kernel.kernel import guest_files
from tests.conftest import NotebookMaker, SpecMaker
from tests.notebook import Notebook
from tests.patience import patient, until
from tests.weight import weigh

run = background.run_blocking

MANIFEST = {
    "version": 1, "python": "", "cloudpickle": "", "packs": [], "modules": {}, "left_out": [], "env": {}, "cwd": "",
    "sys_path": [],
}  # fmt: skip


def valid(**changes: Any) -> dict[str, Any]:
    return {"manifest": json.dumps(MANIFEST), "environment": "", "kind": "cell", "source": "1", **changes}


def ask(notebook: Notebook, method: str, params: dict[str, Any]) -> str:
    """What the host side answers to a request that code in the kernel makes by hand."""
    text = json.dumps(json.dumps(params))
    reply = notebook.run(
        "import json\nfrom docker_kernel.guest.link import Channel, RemoteError\n"
        "hand = globals().get('hand') or Channel.connect()\n"
        f"try: print(json.dumps(hand.request({method!r}, json.loads({text}), timeout={patient(30)})))\n"
        "except RemoteError as error: print('refused:', error)"
    )
    assert reply.status == "ok", reply.traceback
    return reply.text.strip()


def jobs_of(engine: Engine, notebook: Notebook) -> list[ContainerState]:
    filters = {labels.KIND: labels.KIND_JOB, labels.KERNEL_ID: notebook.container.kernel_id}
    return run(engine.containers.list(filters))


@pytest.fixture(scope="module")
def limited(make_spec: SpecMaker, workspace: Path) -> Iterator[Notebook]:
    """A kernel with limits and with a secret in its environment."""
    one = Notebook(make_spec(memory="300m", cpus=1, env={"PRIVATE_SETTING": "b81c-not-for-inspect"}), workspace)
    yield one
    one.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": "debian"}, "image: Extra inputs are not permitted"),
        ({"mounts": ["/:/host"]}, "mounts: Extra inputs"),
        ({"privileged": True}, "privileged: Extra inputs"),
        ({"kind": "pod"}, "kind: Input should be"),
        ({"target": "elsewhere"}, "There is no target 'elsewhere'"),
        ({"target": 3}, "target: Input should be a valid string"),
        ({"workspace": "/etc"}, "workspace: Input should be"),
        ({"memory": "64g"}, "A job's memory may be 300 MiB at most here"),
        ({"memory": "-1"}, "is no size"),
        ({"cpus": 64.0}, "A job's cpus may be 1 at most here"),
        ({"cpus": -1.0}, "cpus: Input should be greater than 0"),
        ({"timeout": float("inf")}, "timeout: Input should be"),
        ({"environment": "../x"}, "environment: String should match"),
        ({"inputs": {"data": "/etc"}}, "--input data: '/etc' is not among the `inputs` of [targets.local]"),
        ({"inputs": {"data": "some-volume"}}, "'some-volume' is not among the `inputs`"),
        ({"inputs": {"../x": "s3://bucket/x"}}, "inputs.../x"),
        ({"gpus": "all"}, "Jobs have no GPU there"),
        ({"replicas": 2, "memory": "200m"}, "memory may be 300 MiB at most here, and 2 replicas of 200 MiB have more"),
        ({"replicas": 2, "cpus": 0.6}, "cpus may be 1 at most here, and 2 replicas of 0.6 have more"),
        ({"replicas": 9}, "A job may have 8 replicas at most there, as many as there may be jobs at once"),
        ({"replicas": 10_000}, "replicas: Input should be"),
        ({"params": []}, "params: List should have at least 1"),
        ({"params": [{"not a name": 1}]}, "params.0"),
        ({"params": [{}] * 2001}, "params: List should have at most 2000"),
        ({"secrets": {"A": 1}}, "secrets.A: Input should be a valid string"),
        ({"env": {"LD PRELOAD": "x"}}, "env.LD PRELOAD"),
        ({"manifest": "{}"}, "The snapshot's manifest is refused: version"),
        ({"manifest": "not json"}, "The snapshot's manifest is refused"),
        ({"manifest": json.dumps({**MANIFEST, "packs": [{"blob": "../../x"}]})}, "The snapshot's manifest is refused"),
        ({"manifest": json.dumps({**MANIFEST, "more": 1})}, "The snapshot's manifest is refused: more"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_kernel_may_not_ask_is_refused(
    engine: Engine, limited: Notebook, changes: dict[str, Any], sentence: str
) -> None:
    answer = ask(limited, "job.start", valid(**changes))
    assert answer.startswith("refused: ") and sentence in answer
    assert not jobs_of(engine, limited)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ("{'source': 'x' * (9 << 20)}", "source: String should have at most"),
        (
            "{'params': [{'x': 'y' * 100_000}] * 90}",
            "parameters and inputs have 8.6 MiB together, and 8 MiB is the most: keep what is large in variables",
        ),
        (
            "{'inputs': {f'i{n}': 's3://bucket/' + 'x' * 2000 for n in range(90)}, 'params': [{}] * 60}",
            "parameters and inputs have 10.4 MiB together",
        ),
    ],
    ids=["source", "params", "inputs"],
)
def test_a_request_that_weighs_too_much_is_refused(
    engine: Engine, limited: Notebook, changes: str, sentence: str
) -> None:
    reply = limited.run(
        "from docker_kernel.guest.link import Channel, RemoteError\nhand = Channel.connect()\n"
        f"try: hand.request('job.start', {{**{valid(workspace='copy')!r}, **{changes}}})\n"
        "except RemoteError as error: print('refused:', error)"
    )
    assert reply.text.startswith("refused: ") and sentence in reply.text, reply
    assert not jobs_of(engine, limited)


def test_unknown_requests_and_jobs_are_refused(limited: Notebook) -> None:
    assert "There is no request 'engine.create'" in ask(limited, "engine.create", {})
    assert "This kernel has no job" in ask(limited, "job.get", {"job": "0" * 12})
    assert "job: String should match" in ask(limited, "job.cancel", {"job": "../x"})
    assert "Extra inputs" in ask(limited, "job.list", {"kernel": "other"})


def test_a_kernel_sees_and_cancels_only_its_own_jobs(limited: Notebook, notebook: Notebook) -> None:
    notebook.run("%%dispatch\nimport time; time.sleep(600)")
    notebook.run("mine = _")
    job = notebook.value("mine.id")
    for method in ("job.get", "job.logs", "job.cancel"):
        assert f"This kernel has no job {job}" in ask(limited, method, {"job": job})
    assert job not in ask(limited, "job.list", {})
    assert notebook.value("mine.state in ('starting', 'running')")
    notebook.run(f"mine.cancel(); mine.wait({patient(20)})")
    assert notebook.value("mine.state") == "cancelled"


def test_a_jobs_container_has_its_kernels_rights_and_no_secret(engine: Engine, limited: Notebook) -> None:
    limited.run("%%dispatch --memory 200m\nimport time; time.sleep(600)")
    (state,) = until(lambda: [one for one in jobs_of(engine, limited) if one.running])
    inspected = subprocess.run(["docker", "inspect", state.id], capture_output=True, check=True, text=True).stdout
    (raw,) = json.loads(inspected)
    host = raw["HostConfig"]
    assert not host["Privileged"] and host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Devices"]
    assert host["Memory"] == 200 << 20 and host["NanoCpus"] == 10**9 and host["SecurityOpt"] == ["no-new-privileges"]
    assert {mount["Destination"] for mount in raw["Mounts"]} == {guest_files.STATE}, "a job has no live workspace"
    keys = limited.container.launch.keys
    for secret in ("b81c-not-for-inspect", keys.hmac, keys.curve_secret):
        assert secret not in inspected
    limited.run("_.cancel()")
    assert until(lambda: not jobs_of(engine, limited))


def test_replicas_share_what_a_job_may_have(engine: Engine, limited: Notebook) -> None:
    limited.run("%%dispatch --replicas 2\nimport time; time.sleep(600)")
    states = until(lambda: [one for one in jobs_of(engine, limited) if one.running][1:] and jobs_of(engine, limited))
    for state in states:
        inspected = subprocess.run(["docker", "inspect", state.id], capture_output=True, check=True, text=True).stdout
        host = json.loads(inspected)[0]["HostConfig"]
        assert (host["Memory"], host["NanoCpus"]) == (150 << 20, 5 * 10**8)
    limited.run("_.cancel()")
    assert until(lambda: not jobs_of(engine, limited))


def test_what_the_jobs_of_a_request_share_is_there_once_and_memory_comes_back(
    tmp_path: Path, python_image: str
) -> None:
    size = 4 << 20
    weight = weigh(tmp_path, size, jobs=8)
    assert weight.disk < 1.5 * size and weight.kept < 3 * size, (weight.disk, weight.peak, weight.kept)
    assert "attempt 2" in weight.retried and "succeeded after" in weight.retried, weight.retried
    assert "twice = 2 * n\n" + "#" * size in weight.shown


def test_a_notebook_has_all_its_jobs_however_many(limited: Notebook) -> None:
    limited.run("from docker_kernel import jobs\nbefore = len(jobs)")
    owner = f"kernel:{limited.container.kernel_id}"
    kept: dict[str, Any] = {"group": "g", "owner": owner, "kernel_id": "k", "target": "local", "settled": True}
    records = [JobRecord(**kept, name=f"n{i}", state="succeeded", created=i + 1, ended=i + 2) for i in range(1200)]
    ledger = Ledger(root() / "jobs.sqlite")
    ledger.save(*records)
    try:
        assert limited.value("[len(jobs) - before, jobs['n0'].created, jobs[0].name]") == [1200, 1, "n0"]
        listed = limited.run("%jobs").shown
        assert listed.count("\n") == 200 and listed.endswith(
            "There are older ones: jobs.to_frame() and jobs[...] have all."
        )
    finally:
        ledger.delete(*(record.id for record in records))


def test_jobs_at_the_same_time_do_not_meet(limited: Notebook) -> None:
    limited.run("from docker_kernel import dispatch, jobs\nsent = [dispatch(f'v{i} = {i} * 3') for i in range(4)]")
    limited.run(f"for one in sent: one.result({patient(60)})")
    assert limited.value("[v0, v1, v2, v3, all(one.state == 'succeeded' for one in sent)]") == [0, 3, 6, 9, True]


def test_jobs_may_store_the_same_at_the_same_time(limited: Notebook) -> None:
    code = "import time; time.sleep(2 - time.time() % 2); same = bytes(20_000_000)"
    limited.run(f"from docker_kernel import dispatch\nsent = [dispatch({code!r}) for _ in range(4)]")
    reply = limited.run(f"for one in sent: one.result({patient(60)})")
    assert reply.status == "ok" and limited.value("[one.state for one in sent]") == ["succeeded"] * 4


def test_a_job_whose_container_is_removed_is_lost(engine: Engine, limited: Notebook) -> None:
    limited.run("%%dispatch\nprint('on its way', flush=True)\nimport time; time.sleep(600)")
    limited.run("victim = _")
    (state,) = until(lambda: [one for one in jobs_of(engine, limited) if one.running])
    run(engine.containers.remove(state.id))
    limited.run(f"victim.wait({patient(20)})")
    assert limited.value("victim.state") in ("lost", "failed")
    assert limited.run("victim.result()").name == "JobFailed"


def test_a_job_on_the_live_workspace_goes_with_its_kernel(engine: Engine, start: NotebookMaker) -> None:
    one = start()
    kernel_id = one.container.kernel_id
    one.client.execute("%%local\nimport time; time.sleep(600)")
    assert until(lambda: jobs_of(engine, one))
    one.manager.shutdown_kernel(now=True)
    filters = {labels.KIND: labels.KIND_JOB, labels.KERNEL_ID: kernel_id}
    assert until(lambda: not run(engine.containers.list(filters)))


METHODS = [
    "job.start",
    "job.plan",
    "job.get",
    "job.cancel",
    "job.retry",
    "job.logs",
    "job.events",
    "job.fetch",
    "job.list",
    "workspace.withheld",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from([*StartRequest.model_fields, "job", "file", "paths"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*METHODS, ""]), st.dictionaries(NAMES, JSON))
def test_no_request_crashes_the_host_side(limited: Notebook, method: str, params: dict[str, Any]) -> None:
    if limited.container._service is None:
        ask(limited, "job.list", {})
    with contextlib.suppress(DockerKernelError):
        run(limited.container._service.handle(method, params))
