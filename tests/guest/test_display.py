"""A job's live display: what it shows, and what reaches a frontend, also after its cell has ended."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pytest

from docker_kernel.batch.job_folder import root
from docker_kernel.batch.ledger import Ledger
from docker_kernel.guest import display
from docker_kernel.guest.job import Job
from tests.conftest import ImageMaker, NotebookMaker, SpecMaker
from tests.notebook import Notebook, let_go
from tests.patience import patient

WIDGET = display.WIDGET
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def record(**changes: Any) -> dict[str, Any]:
    now = time.time()
    return {
        "id": "c0ffee123456", "group": "5eed5eed5eed", "name": "", "target": "local", "state": "running",
        "reason": "", "params": {},
        "created": now - 75, "started": now - 70, "ended": None, "attempt": 1, "metrics": {}, **changes,
    }  # fmt: skip


def make(**changes: Any) -> Job:
    return Job(None, record(**changes))  # type: ignore[arg-type]


class Tags(HTMLParser):
    """The tags and attributes of an HTML text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.depth = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.depth += tag not in ("br", "col")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1


def test_a_job_is_shown_with_bar_time_metrics_and_log() -> None:
    job = make(name="train", progress=0.42, remaining=90.0, metrics={"loss": 0.123456})
    job._receive({"event": "output", "text": "epoch 1\nepoch 2\n"})
    shown = display.render(job, "epoch 2 of 5")
    for part in ("train", "c0ffee123456", "local", "running", "1 min 15 s", "42%", "1 min 30 s left", "loss = 0.1235"):
        assert part in shown["text/html"]
    assert '<progress value="0.420" max="1">' in shown["text/html"]
    assert "epoch 2 of 5" in shown["text/html"]
    assert "epoch 1\nepoch 2</pre>" in shown["text/html"]
    assert "running 42%" in shown["text/plain"]
    assert "epoch 1\nepoch 2" in shown["text/plain"]


def test_a_state_that_may_be_left_as_it_is_says_of_when_it_is_and_how_to_get_on() -> None:
    now = time.strftime("%Y-%m-%d %H:%M")
    sweep = [make(params={"n": 1}), make(params={"n": 2}, state="succeeded", ended=time.time())]
    for shown, key in ((display.render(make()), "c0ffee123456"), (display.render_sweep(sweep), "5eed5eed5eed")):
        for text in (shown["text/plain"], html.unescape(shown["text/html"])):
            assert f"As of {now}" in text and f'jobs["{key}"] shows it as it is now.' in text
    for shown in (display.render(make(state="failed", ended=1.0)), display.render_sweep(sweep[1:] * 2)):
        assert "As of" not in shown["text/plain"] + shown["text/html"], "what has ended stays so"


def test_the_end_tells_the_reason_and_how_to_go_on() -> None:
    shown = display.render(make(state="failed", reason="out of memory", progress=0.4, ended=time.time()))
    assert "out of memory" in shown["text/html"]
    assert "<progress" not in shown["text/html"]
    assert 'jobs["c0ffee123456"].retry()' in shown["text/plain"]


@pytest.mark.parametrize("state", ["running", "failed"])
def test_whatever_a_job_says_is_text(state: str) -> None:
    changes = {"metrics": {EVIL: 1.0}, "params": {EVIL: EVIL}, "name": EVIL, "reason": EVIL, "target": EVIL}
    job = make(state=state, progress=0.5, **changes)
    job._receive({"event": "output", "text": EVIL + "\x1b[31mred\x1b[0m\x1b]0;title\x07\n"})
    pages = [display.render(job, EVIL), display.render_sweep([job, job]), display.render_jobs([job])]
    for page in pages:
        tags = Tags(page["text/html"])
        assert not tags.found & {"script", "img"}
        assert tags.attributes <= {"style", "title", "value", "max"}
        assert tags.depth == 0
        assert "\x1b" not in page["text/html"] + page["text/plain"]
    assert "red</pre>" in pages[0]["text/html"]


def test_a_sweep_has_a_row_for_each_job_and_counts() -> None:
    jobs = [make(id=f"job{n}", params={"n": n}, state="succeeded" if n < 3 else "queued") for n in range(40)]
    jobs[10] = make(id="job10", params={"n": 10}, progress=0.5, metrics={"loss": 0.5})
    shown = display.render_sweep(jobs)
    assert shown["text/html"].count("<tr>") == 41
    for part in ("1 running", "36 queued", "3 succeeded", "n=39", "50%", "loss = 0.5"):
        assert part in shown["text/html"], part
    assert shown["text/plain"].splitlines()[0] == "40 jobs on local: 1 running, 36 queued, 3 succeeded"
    assert shown["text/plain"].splitlines()[-2] == "and 20 more"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0.0 s"), (3.14, "3.1 s"), (59.9, "59 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert display.duration(seconds) == words


def shown(name: str, **more: Any) -> dict[str, Any]:
    return {"event": "display", "data": {"text/plain": name}, "metadata": {}, "transient": {}, "update": False, **more}


def texts(outputs: display.Outputs) -> list[str]:
    return [one["data"]["text/plain"] for one in outputs.now()]


def test_outputs_are_updated_cleared_and_bounded() -> None:
    outputs = display.Outputs()
    for event in [shown("a"), shown("b", transient={"display_id": "x"})]:
        outputs.receive(event)
    outputs.receive(shown("c", transient={"display_id": "x"}, update=True))
    assert texts(outputs) == ["a", "c"]
    outputs.receive({"event": "clear", "wait": True})
    assert texts(outputs) == ["a", "c"]
    outputs.receive(shown("d"))
    assert texts(outputs) == ["d"]
    for number in range(300):
        outputs.receive(shown(str(number)))
    assert len(texts(outputs)) == display.MAX_OUTPUTS
    assert texts(outputs)[-1] == "299"
    outputs.receive({"event": "clear", "wait": False})
    assert texts(outputs) == []


def test_outputs_from_before_come_first_and_once() -> None:
    outputs = display.Outputs()
    outputs.receive(shown("b"))
    outputs.receive(shown("c"))
    outputs.begin_with([shown("a"), shown("b")])
    assert texts(outputs) == ["a", "b", "c"]


class Frontend:
    """What a frontend hears of a kernel after a cell was sent, whether that has ended or not."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook
        self.messages: list[dict[str, Any]] = []
        self.ended: int | None = None
        self.request = ""

    def send(self, code: str) -> None:
        self.request = self.notebook.client.execute(code)

    def until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        deadline = time.monotonic() + patient(timeout)
        while not condition():
            assert time.monotonic() < deadline, (self.latest(), self.values(), self.buttons())
            try:
                message = self.notebook.client.get_iopub_msg(timeout=1)
            except Exception:
                continue
            self.messages.append(message)
            idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
            if idle and message["parent_header"].get("msg_id") == self.request:
                self.ended = len(self.messages)

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Messages of some kinds; of displays, those of this cell."""
        found = [one for one in self.messages if one["msg_type"] in kinds]
        other = [one for one in found if one["parent_header"].get("msg_id") != self.request]
        return [one for one in found if one not in other or one["msg_type"].startswith("comm_")]

    def latest(self, kind: str = "text/html") -> str:
        """The first display as it is now."""
        first = self.of("display_data")
        if not first:
            return ""
        name = first[0]["content"]["transient"]["display_id"]
        same = [
            one
            for one in self.of("display_data", "update_display_data")
            if one["content"]["transient"]["display_id"] == name
        ]
        return str(same[-1]["content"]["data"].get(kind, ""))

    def comm(self, action: str, comm_id: str, **data: Any) -> None:
        """Send what a frontend says about a widget."""
        client = self.notebook.client
        client.shell_channel.send(client.session.msg(action, {"comm_id": comm_id, "data": data}))

    def show(self) -> dict[str, Any]:
        """Render the widgets: from now on a frontend shows them. Returns the state of each."""
        view = self.of("display_data")[0]["content"]["data"][WIDGET]["model_id"]
        self.comm("comm_msg", view, method="update", state={"_view_count": 1}, buffer_paths=[])
        return self.models()

    def models(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for message in self.of("comm_open", "comm_msg"):
            content = message["content"]
            if message["msg_type"] == "comm_open":
                found[content["comm_id"]] = {}
            # Those of earlier cells go on.
            if content["comm_id"] in found:
                found[content["comm_id"]].update(content["data"].get("state") or {})
        return found

    def values(self) -> str:
        """All texts of the widgets."""
        return " ".join(str(one["value"]) for one in self.models().values() if "value" in one)

    def buttons(self) -> list[str]:
        return [one["description"] for one in self.models().values() if one.get("description")]

    def button(self, text: str) -> str:
        """The id of the button that says something."""
        return next(name for name, one in self.models().items() if one.get("description") == text)


SLOW = """\
%%dispatch --name slow
import time
for step in range(40):
    job.progress(step / 40, loss=1 / (1 + step))
    print("step", step)
    time.sleep(0.25)"""


@pytest.fixture
def frontend(notebook: Notebook) -> Iterator[Frontend]:
    notebook.run("from docker_kernel import job, jobs")
    yield Frontend(notebook)
    notebook.run("for one in list(jobs):\n    one.cancel()\n    one.wait()")


def test_widgets_go_on_after_their_cell_and_end_as_html(frontend: Frontend) -> None:
    hold = "\n    while step == 8 and not os.path.exists('/tmp/go'):\n        time.sleep(0.05)"
    frontend.send(SLOW.replace("40", "12").replace("import time", "import os, time") + hold)
    frontend.until(lambda: bool(frontend.of("display_data")))
    bundle = frontend.of("display_data")[0]["content"]["data"]
    assert set(bundle) == {WIDGET, "text/html", "text/plain"}
    frontend.show()
    frontend.until(lambda: frontend.ended is not None and "step 5" in frontend.values())
    assert any(
        "value" in one and one.get("max") == 1.0 and 0.2 < one["value"] < 1 for one in frontend.models().values()
    )
    assert not frontend.of("update_display_data"), "it would make the widgets anew"
    let_go(next(one.id for one in Ledger(root() / "jobs.sqlite").find() if one.state == "running"))
    frontend.until(lambda: "succeeded" in frontend.latest())
    assert frontend.latest(WIDGET) == "", "a job's end must be readable without a kernel"
    assert "step 11" in frontend.latest()
    assert "loss = " in frontend.latest()


def test_updates_are_few_and_carry_what_has_changed(frontend: Frontend) -> None:
    frontend.send(
        "%%dispatch\nimport time\nfor n in range(400):\n    job.progress(n / 400, loss=n)\n    print(n)\n"
        "    time.sleep(0.01)"
    )
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()
    began = time.monotonic()
    frontend.until(lambda: "succeeded" in frontend.latest())
    updates = [one for one in frontend.of("comm_msg") if one["content"]["data"].get("method") == "update"]
    refreshes = 5 * (time.monotonic() - began) + 5
    assert len(updates) <= 6 * refreshes
    assert sum(len(str(one["content"])) for one in updates) < 300_000


def test_the_button_cancels_and_does_not_hold_the_kernel_up(frontend: Frontend) -> None:
    frontend.send(SLOW.replace("40", "4000"))
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()
    frontend.until(lambda: "step 3" in frontend.values())
    frontend.comm("comm_msg", frontend.button("Cancel"), method="custom", content={"event": "click"})
    began = time.monotonic()
    assert frontend.notebook.run("print('free')").text == "free\n"
    assert time.monotonic() - began < patient(5)
    frontend.until(lambda: "cancelled" in frontend.latest())


def test_a_failed_job_can_be_retried_by_its_button(frontend: Frontend) -> None:
    frontend.send("%%dispatch\nimport time\ntime.sleep(2)\nraise ValueError('first')")
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()
    frontend.until(lambda: "failed" in frontend.latest() and len(frontend.of("display_data")) > 1)
    offered = frontend.of("display_data")[-1]["content"]["data"]
    assert WIDGET in offered
    frontend.comm("comm_msg", frontend.button("Retry"), method="custom", content={"event": "click"})
    frontend.until(lambda: "failed" not in frontend.latest())
    assert frontend.latest(WIDGET)
    frontend.until(lambda: "failed" in frontend.latest())


def test_a_button_that_fails_says_why(frontend: Frontend) -> None:
    """What the job started from is gone: `%%local` jobs work on the live state."""
    frontend.send("from docker_kernel import dispatch\ndispatch('1/0', wait=False, name='zero')")
    frontend.until(lambda: "failed" in frontend.latest())
    frontend.notebook.run("jobs['zero'].record['live'] = True; jobs['zero'].id = 'gone'")
    frontend.comm("comm_msg", frontend.button("Retry"), method="custom", content={"event": "click"})
    frontend.until(lambda: "gone" in frontend.values())
    frontend.notebook.run("jobs[-1].id = jobs[-1].record['id']")


def test_a_frontend_that_refuses_widgets_gets_html(frontend: Frontend) -> None:
    frontend.send(SLOW)
    frontend.until(lambda: bool(frontend.of("display_data")))
    for name in frontend.models():
        frontend.comm("comm_close", name)
    frontend.until(lambda: frontend.ended is not None and "step 6" in frontend.latest())
    assert frontend.latest(WIDGET) == ""
    assert len(frontend.of("update_display_data")) > 2


def test_a_frontend_that_says_nothing_gets_html_too(frontend: Frontend) -> None:
    frontend.send(SLOW)
    frontend.until(lambda: "step 12" in frontend.latest())
    assert frontend.ended is not None
    assert "<progress" in frontend.latest()
    assert "step 12" in frontend.latest("text/plain")


def test_rich_outputs_appear_below(frontend: Frontend) -> None:
    frontend.send(
        "%%dispatch\nimport time\nfrom IPython.display import HTML, display\ndisplay(HTML('<i>first</i>'))\n"
        "time.sleep(2)\ndisplay(HTML('<i>second</i>'))"
    )
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()

    def in_widgets() -> str:
        return str([one.get("outputs") for one in frontend.models().values()])

    frontend.until(lambda: "first" in in_widgets())
    frontend.until(lambda: "succeeded" in frontend.latest() and len(frontend.of("display_data")) == 3)
    placed = [one["content"]["data"]["text/html"] for one in frontend.of("display_data")[1:]]
    assert placed == ["<i>first</i>", "<i>second</i>"]


def test_a_cell_that_runs_again_ends_its_last_display(frontend: Frontend) -> None:
    notebook = frontend.notebook

    def send() -> None:
        request = {"code": "jobs['again']", "silent": False, "store_history": False, "allow_stdin": False}
        message = notebook.client.session.msg("execute_request", request, metadata={"cellId": "cell-1"})
        notebook.client.shell_channel.send(message)
        frontend.request = message["header"]["msg_id"]
        frontend.ended = None
        frontend.until(lambda: frontend.ended is not None)

    notebook.run(SLOW.replace("--name slow", "--name again --detach"))
    send()
    send()
    frontend.until(lambda: len(frontend.of("comm_close")) >= 5)
    shown = frontend.of("display_data")[0]["content"]["data"][WIDGET]["model_id"]
    assert shown == "docker-kernel-" + notebook.value("jobs['again'].id"), "a kernel after this one makes it anew"
    notebook.run("from docker_kernel.guest.display import _by_cell")
    closed = "sum(not one._closed for _, one in _by_cell['cell-1'])"
    assert notebook.value(closed) == 1


def test_the_list_of_jobs_is_a_table_with_the_newest_first(frontend: Frontend) -> None:
    notebook = frontend.notebook
    for name in ("older", "newer"):
        notebook.run(f"%dispatch --detach --name {name} 1 + 1")
        notebook.run(f"jobs['{name}'].wait()")
    for cell in ("%jobs", "jobs"):
        found = notebook.run(cell).displays[-1]
        assert found["text/html"].index("newer") < found["text/html"].index("older")
        assert found["text/plain"].index("newer") < found["text/plain"].index("older")
        assert "<table" in found["text/html"]


def test_a_sweep_is_one_table_that_sends_changed_rows(frontend: Frontend) -> None:
    frontend.send("%%dispatch --name lr --sweep rate=[0.1,0.2,0.3]\njob.progress(0.5, loss=rate)\nassert rate < 0.3")
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()
    frontend.until(lambda: "2 succeeded" in frontend.latest() and "1 failed" in frontend.latest())
    assert frontend.latest().count("rate=0.") >= 3
    assert "loss = 0.2" in frontend.latest()
    assert frontend.button("Retry failed")


def test_two_hundred_jobs_are_light(frontend: Frontend) -> None:
    frontend.send("%%dispatch --sweep n=range(200)\nimport time\ntime.sleep(600)")
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()
    opened = frontend.of("comm_open")
    assert len(opened) < 50
    assert sum(len(str(one["content"])) for one in opened) < 150_000
    began = time.monotonic()
    frontend.until(lambda: "running" in frontend.values() and time.monotonic() > began + 3)
    frontend.comm("comm_msg", frontend.button("Cancel all"), method="custom", content={"event": "click"})
    frontend.until(lambda: "200 cancelled" in frontend.latest(), timeout=120)
    sent = sum(len(str(one["content"])) for one in frontend.of("comm_msg"))
    assert sent < 250_000 * (time.monotonic() - began)
    assert len(frontend.of("comm_msg")) < 60 * (time.monotonic() - began)


def test_a_display_is_attached_again_after_a_restart(start: NotebookMaker) -> None:
    notebook = start()
    notebook.run("from docker_kernel import job, jobs")
    notebook.run(
        "%%dispatch --name long\nimport time\nimport IPython.display as d\nd.display(d.HTML('<i>early</i>'))\n"
        + "for step in range(60):\n    job.progress(step / 60)\n    print('step', step)\n    time.sleep(1.5)"
    )
    notebook.run("while not jobs['long'].tail():\n    pass")
    notebook.restart()
    frontend = Frontend(notebook)
    notebook.run("from docker_kernel import jobs")
    frontend.send("jobs['long']")
    frontend.until(lambda: bool(frontend.of("display_data")))
    frontend.show()
    frontend.until(lambda: "step 0\n" in frontend.values() and "early" in str(frontend.models()))
    last = max(int(number) for number in re.findall(r"step (\d+)", frontend.values()))
    frontend.until(lambda: f"step {last + 2}\n" in frontend.values())
    notebook.run("jobs['long'].cancel()\njobs['long'].wait()")


def test_a_page_finds_its_widgets_again_after_a_restart(start: NotebookMaker) -> None:
    notebook = start()
    notebook.run("from docker_kernel import job, jobs")
    before = Frontend(notebook)
    before.send("%%dispatch --name fails\n1 / 0")
    before.until(lambda: "ZeroDivisionError" in before.latest())
    before.send(SLOW.replace("range(40)", "range(400)"))
    before.until(lambda: len(before.of("display_data")) == 1)
    page = before.of("display_data")[0]["content"]["data"]
    job = notebook.value("jobs[-1].id")
    assert page[WIDGET]["model_id"] == f"docker-kernel-{job}"
    assert f'jobs["{job}"] shows it as it is now.' in page["text/plain"], "for who shows no widgets"
    assert f"jobs[&quot;{job}&quot;] shows it as it is now." in before.values(), "for a page whose kernel has gone"
    notebook.restart()
    after = Frontend(notebook)
    notebook.client.comm_info("jupyter.widget")
    after.until(lambda: job in after.values() and "ZeroDivisionError" in after.values())
    assert page[WIDGET]["model_id"] in after.models()
    after.until(lambda: "step 1\n" in after.values())
    failed = notebook.value("__import__('docker_kernel').jobs['fails'].id")
    assert f"docker-kernel-{failed}-foot" in after.models(), "the button to retry"
    assert not after.of("display_data", "update_display_data"), "which would belong to no cell"
    after.comm("comm_msg", after.button("Cancel"), method="custom", content={"event": "click"})
    after.until(lambda: "cancelled" in after.values())


def test_an_image_without_ipywidgets_shows_html(
    make_spec: SpecMaker, make_image: ImageMaker, python_image: str, start: NotebookMaker
) -> None:
    remove = "RUN python3 -m pip uninstall -y --break-system-packages ipywidgets"
    image = make_image(f"FROM {python_image}\nUSER 0\n{remove}\n")
    notebook = start(make_spec(image=image))
    frontend = Frontend(notebook)
    frontend.send("from docker_kernel import dispatch\ndispatch('print(6 * 7)')")
    frontend.until(lambda: "succeeded" in frontend.latest())
    assert WIDGET not in frontend.of("display_data")[0]["content"]["data"]
    assert "42" in frontend.latest()
