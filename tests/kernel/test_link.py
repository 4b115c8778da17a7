"""The link against a hostile guest: code in a kernel that speaks its protocol by hand."""

from __future__ import annotations

import json
import resource
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docker_kernel import background
from docker_kernel.errors import JobError, LinkError
from docker_kernel.kernel import link
from tests.conftest import NotebookMaker
from tests.notebook import HOLD, Notebook, let_go
from tests.patience import patient

CONNECT = """
import json, socket
from docker_kernel.guest.link import SOCKET
def connect(role="kernel"):
    sock = socket.socket(socket.AF_UNIX); sock.settimeout(SECONDS); sock.connect(SOCKET)
    sock.sendall(json.dumps({"role": role}).encode() + b"\\n")
    return sock
def ask(**request):
    with connect() as sock:
        sock.sendall(json.dumps({"type": "request", "id": 1, **request}).encode() + b"\\n")
        return json.loads(sock.makefile().readline())
"""

START = {
    "manifest": json.dumps(
        {
            "version": 1, "python": "3.11.2", "cloudpickle": "3", "packs": [], "modules": {}, "left_out": [],
            "env": {}, "cwd": "/", "sys_path": [],
        }
    ),
    "environment": "",
    "kind": "cell",
    "source": "1",
}  # fmt: skip


@pytest.fixture
def hostile(notebook: Notebook) -> Notebook:
    assert notebook.run(f"SECONDS = {patient(10)}\n{CONNECT}").status == "ok"
    return notebook


@pytest.mark.parametrize(
    "extra",
    [
        {"image": "debian"},
        {"mounts": ["/:/host"]},
        {"privileged": True},
        {"devices": ["/dev/sda"]},
        {"target": 7},
        {"workspace": "/etc"},
        {"timeout": -1},
        {"environment": "../../etc"},
        {"manifest": "{}"},
        {"manifest": '{"version": 2}'},
    ],
)
def test_a_kernel_cannot_ask_for_more_than_a_job(hostile: Notebook, extra: dict[str, object]) -> None:
    answer = hostile.value(f"ask(method='job.start', params={ {**START, **extra}!r})")
    assert "refused" in answer["error"], answer


def test_a_kernel_cannot_see_the_jobs_of_another(hostile: Notebook, start: NotebookMaker) -> None:
    other = start()
    other.run("%%dispatch\n1")
    job = other.value("__import__('docker_kernel').jobs[-1].id")
    for method in ("job.get", "job.logs", "job.cancel"):
        answer = hostile.value(f"ask(method={method!r}, params={{'job': {job!r}}})")
        assert answer["error"] == f"This kernel has no job {job}."
    assert job not in json.dumps(hostile.value("ask(method='job.list', params={})"))


def test_requests_that_do_not_exist_are_refused(hostile: Notebook) -> None:
    assert "There is no request 'engine.run'" in hostile.value("ask(method='engine.run', params={})")["error"]
    assert "refused" in hostile.value("ask(method='job.get', params={'job': '../x'})")["error"]


@pytest.mark.parametrize(
    "garbage",
    [
        "b'\\xff\\xfe\\n'",
        "b'{}\\n'",
        "b'[]\\n'",
        "b'null\\n'",
        'b\'{"type": "request"}\\n\'',
        'b\'{"type": "request", "id": [], "method": 1, "params": 2}\\n\'',
        "b'[' * 99999 + b'\\n'",
    ],
)
def test_garbage_costs_only_the_one_who_sent_it(hostile: Notebook, garbage: str) -> None:
    hostile.run(f"sock = connect(); sock.sendall({garbage}); end = sock.recv(1)", timeout=15)
    assert hostile.value("end.decode()") == ""
    assert hostile.run("%local 1 + 1", timeout=15).shown == "2"


def test_an_endless_line_is_cut_off_and_the_hosts_memory_does_not_grow(hostile: Notebook) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = (
        "sock = connect(); sent = 0\ntry:\n    while sent < 200 << 20:\n        sent += sock.send(b'x' * (1 << 20))\n"
        "except OSError: pass\nprint(sent < 40 << 20)"
    )
    assert hostile.run(code, timeout=30).text == "True\n"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    assert hostile.run("%local 1 + 1", timeout=15).shown == "2"


def test_large_requests_at_once_do_not_make_the_hosts_memory_grow(hostile: Notebook) -> None:
    """Nor do they break the link of a host that is busy, as it is here to begin with."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = (
        f"manifest = {{**{json.loads(START['manifest'])!r}, 'left_out': [dict(name='x', type='y', hint='h', "
        "reason='r' * 7_000_000)]}\n"
        "params = {'manifest': json.dumps(manifest), 'environment': ''}\nsock = connect(); sock.settimeout(None)\n"
        "for number in range(12):\n"
        "    message = {'type': 'request', 'id': number, 'method': 'job.plan', 'params': params}\n"
        "    sock.sendall(json.dumps(message).encode() + b'\\n')\n"
        "replies = sock.makefile()\nerrors = [json.loads(replies.readline()).get('error') for _ in range(12)]\n"
        "print(errors.count(None), *{*errors} - {None})"
    )
    background.loop().call_soon_threadsafe(time.sleep, 3)
    reply = hostile.run(code, timeout=120)
    assert reply.text == "12\n", reply.traceback
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150 << 10, grown


def test_large_requests_with_large_answers_do_not_wait_for_each_other(
    hostile: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "MAX_PENDING_BYTES", 1 << 20)
    code = (
        f"params = {{**{START!r}, 'params': [dict(text='x' * 2_000_000)]}}\nsock = connect(); sock.settimeout(None)\n"
        "for number in range(4):\n"
        "    message = {'type': 'request', 'id': number, 'method': 'job.start', 'params': params}\n"
        "    sock.sendall(json.dumps(message).encode() + b'\\n')\n"
        "replies = sock.makefile()\nprint(sum(len(replies.readline()) > 2_000_000 for _ in range(4)))"
    )
    reply = hostile.run(code, timeout=120)
    assert reply.text == "4\n", reply.traceback


def test_a_guest_that_poses_as_the_host_side_is_replaced(hostile: Notebook) -> None:
    assert hostile.run("%local 1 + 1").shown == "2"
    hostile.run("fake = connect('host'); fake.recv(100)")
    lost = hostile.run("%local 1 + 1", timeout=15)
    assert lost.shown == "2" or "The link to the Jupyter server broke" in lost.value
    assert hostile.run("%local 1 + 1", timeout=15).shown == "2"
    assert hostile.manager.is_alive()


def test_a_job_that_ends_while_the_link_is_broken_is_not_waited_for_in_vain(hostile: Notebook) -> None:
    hostile.run(f"%%dispatch\n{HOLD}late = 'here'")
    hostile.run("job = _")
    job = hostile.value("job.id")
    hostile.run("fake = connect('host'); fake.recv(100)")
    let_go(job)
    assert hostile.run("job.result(); print(late)", timeout=30).text == "here\n"


def test_a_relay_that_takes_no_more_is_replaced(start: NotebookMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SEND_SECONDS", 1)
    one = start()
    assert one.run("%local 1 + 1").shown == "2"
    stop = "import os, signal\nfor pid in filter(str.isdigit, os.listdir('/proc')):\n    "
    stop += "'guest/link.py' in open(f'/proc/{pid}/cmdline').read() and os.kill(int(pid), signal.SIGSTOP)"
    assert one.run(stop).status == "ok"
    stopped = one.container._link
    with pytest.raises(LinkError, match="takes no messages"):
        for _ in range(20):
            background.run_blocking(stopped.send({"type": "event", "event": {"text": "x" * 1_000_000}}))
    lost = one.run("%local 1 + 1", timeout=20)
    assert lost.shown == "2" or "The link to the Jupyter server broke" in lost.value
    assert one.run("%local 1 + 1", timeout=20).shown == "2"
    assert one.container._link is not stopped


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["job.start", "job.get", "job.cancel", "job.logs", "job.list"]) | st.text(max_size=10),
    params=st.dictionaries(st.sampled_from([*START, "job", "name", "cwd", "cpus"]) | st.text(max_size=5), JSON),
)
def test_whatever_is_asked_is_answered_or_refused(notebook: Notebook, method: str, params: dict[str, object]) -> None:
    async def ask() -> object:
        container = notebook.container
        if container._service is None:
            await container._on_request("job.list", {})
        return await container._service.handle(method, params)

    try:
        answer = background.run_blocking(ask())
        assert answer == {"jobs": []} or method == "job.list"
    except JobError as error:
        assert str(error)
