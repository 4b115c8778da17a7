"""Notebook jobs of jupyter-scheduler in containers, through a real server's REST API."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_kernel import background, images, labels
from docker_kernel.containerize.image import containerize
from docker_kernel.containerize.request import Request
from docker_kernel.engine import ContainerState, Engine
from docker_kernel.errors import EngineError
from docker_kernel.kernelspec import install
from tests.notebook import HOLD, let_go
from tests.patience import patient, until
from tests.scheduler.server import Refused, Server, needs_scheduler

pytestmark = needs_scheduler

run = background.run_blocking

REPORT = """\
rows: int = 3
title = "plain"
"""
BODY = """\
import pathlib
pathlib.Path("made").mkdir(exist_ok=True)
pathlib.Path("made/table.csv").write_text("x\\n" * rows)
print(title, rows, pathlib.Path("beside.txt").exists())
"""
IMAGE = "docker-kernel-test/scheduled-report:1"


def written(path: Path, *cells: str) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "docker-python", "display_name": "Docker Python", "language": "python"}
    nbformat.write(notebook, path)


def printed(path: Path) -> str:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


@pytest.fixture(scope="module")
def server(engine: Engine, python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("scheduler"))
    run(install(engine, one.folder / "data" / "kernels", {"image": python_image}, progress=images.silent))
    data = one.folder / "shared"
    data.mkdir()
    (data / "input.csv").write_text("from outside")
    settings = {"image": python_image, "memory": "300m", "network": "none", "mounts": [f"{data}:/data:ro"]}
    run(install(engine, one.folder / "data" / "kernels", settings, "bounded", progress=images.silent))
    written(one.root / "report.ipynb", REPORT, BODY)
    written(one.root / "long.ipynb", "import time\nprint('begun')\ntime.sleep(600)")
    written(one.root / "failing.ipynb", "print('before')", "raise ValueError('no such luck')")
    one.start()
    try:
        yield one
    finally:
        if not one.running:
            one.start()
        for job in one.api("jobs")["jobs"]:
            one.api(f"jobs/{job['job_id']}", "DELETE")
            assert not containers(engine, job["job_id"])
        one.end()


def containers(engine: Engine, job_id: str) -> list[ContainerState]:
    """The containers of a job."""
    from docker_kernel.scheduler.runs import record_id

    return run(engine.containers.list({labels.JOB_ID: record_id(job_id)}))


@pytest.fixture(scope="module")
def image(server: Server, engine: Engine) -> Iterator[str]:
    """An image of the report."""
    yield run(containerize(Request(server.root / "report.ipynb", tag=IMAGE), engine=engine)).reference
    run(engine.images.remove(IMAGE))


def test_kernelspecs_images_and_the_host_are_environments(server: Server, image: str) -> None:
    found = {one["name"]: one for one in server.api("runtime_environments")}
    assert found["Container: docker-python"]["description"].endswith("of the kernel Docker Python")
    assert all(one["label"] == name for name, one in found.items())
    assert found[f"Image: {image}"]["description"] == "The image of the notebook report.ipynb"
    assert next(iter(found)).startswith("Container: ")
    assert any(not name.startswith(("Container: ", "Image: ")) for name in found)
    assert not any("docker-kernel/scheduled" in name for name in found)


def test_a_job_runs_with_its_parameters_and_everything_can_be_downloaded(server: Server, engine: Engine) -> None:
    job_id = server.create("report.ipynb", "Container: docker-python", parameters={"rows": "5", "title": "it's {x} #1"})
    job = server.until(job_id, "COMPLETED")
    assert job["start_time"] >= job["create_time"] and job["end_time"] > job["start_time"]
    files = server.downloaded(job_id)
    assert set(files) == {"ipynb", "html", "input", "files"}
    assert printed(files["ipynb"]) == "it's {x} #1 5 False\n"
    assert "it's {x} #1 5" in files["html"].read_text()
    assert (files["files"] / "made" / "table.csv").read_text() == "x\n" * 5
    assert server.job(job_id)["downloaded"]
    until(lambda: not containers(engine, job_id), what="the end of its containers")
    with pytest.raises(EngineError):
        run(engine.images.inspect(f"docker-kernel/scheduled:{job_id}"))


def test_an_image_runs_as_it_is(server: Server, image: str) -> None:
    job_id = server.create("report.ipynb", f"Image: {image}", parameters={"title": "by image"})
    server.until(job_id, "COMPLETED")
    assert printed(server.downloaded(job_id)["ipynb"]) == "by image 3 False\n"


def test_an_image_of_another_notebook_is_refused(server: Server, image: str) -> None:
    job_id = server.create("failing.ipynb", f"Image: {image}")
    job = server.until(job_id, "FAILED")
    assert job["status_message"].startswith(f"failing.ipynb is not what the image {image} was made of")


def test_wrong_parameters_are_refused_at_once(server: Server) -> None:
    with pytest.raises(Refused, match="rows must be a whole number"):
        server.create("report.ipynb", "Container: docker-python", parameters={"rows": "many"})
    with pytest.raises(Refused, match=r"There is no parameter titel.*title"):
        server.create("report.ipynb", "Container: docker-python", parameters={"titel": "x"})
    with pytest.raises(Refused, match="timeout must be a number of seconds"):
        server.create("report.ipynb", "Container: docker-python", runtime_environment_parameters={"timeout": "soon"})


def test_the_notebooks_folder_goes_along_if_that_is_asked_for(server: Server) -> None:
    folder = server.root / "project"
    folder.mkdir()
    written(folder / "report.ipynb", REPORT, BODY)
    (folder / "beside.txt").write_text("here")
    job_id = server.create("project/report.ipynb", "Container: docker-python", package_input_folder=True)
    server.until(job_id, "COMPLETED")
    files = server.downloaded(job_id)
    assert printed(files["ipynb"]) == "plain 3 True\n"
    assert (files["files"] / "beside.txt").read_text() == "here"


def test_a_failure_says_why_and_leaves_the_notebook_as_far_as_it_came(server: Server) -> None:
    job_id = server.create("failing.ipynb", "Container: docker-python")
    job = server.until(job_id, "FAILED")
    assert job["status_message"] == "ValueError: no such luck"
    files = server.downloaded(job_id)
    assert printed(files["ipynb"]) == "before\n"
    assert "no such luck" in files["html"].read_text()


def test_a_run_has_its_kernelspecs_limits_network_and_mounts(server: Server) -> None:
    look = "import os\nprint(open('/data/input.csv').read(), sorted(os.listdir('/sys/class/net')))"
    written(server.root / "bounded.ipynb", look, "x = bytearray(1 << 30)")
    job_id = server.create("bounded.ipynb", "Container: bounded")
    job = server.until(job_id, "FAILED")
    assert "memory" in job["status_message"].lower()
    assert printed(server.downloaded(job_id)["ipynb"]) == "from outside ['lo']\n"


def test_a_timeout_ends_a_job(server: Server) -> None:
    # Long enough for the notebook to begin.
    wish = {"timeout": math.ceil(patient(2))}  # jupyter-scheduler keeps whole numbers
    job_id = server.create("long.ipynb", "Container: docker-python", runtime_environment_parameters=wish)
    job = server.until(job_id, "FAILED")
    assert f"took longer than its timeout of {wish['timeout']:g} s" in job["status_message"]
    assert printed(server.downloaded(job_id)["ipynb"]) == "begun\n"


def running(server: Server, engine: Engine, notebook: str = "long.ipynb") -> tuple[str, ContainerState]:
    """A job whose notebook has begun."""
    job_id = server.create(notebook, "Container: docker-python")
    server.until(job_id, "IN_PROGRESS")

    def begun() -> list[ContainerState]:
        found = containers(engine, job_id)
        return found if found and b"cell 1 of 1" in run(engine.containers.logs(found[0].id)) else []

    return job_id, until(begun, 60, "the begin of its notebook")[0]


def test_stop_stops_the_container_and_keeps_what_there_is(server: Server, engine: Engine) -> None:
    job_id, _ = running(server, engine)
    server.api(f"jobs/{job_id}", "PATCH", {"status": "STOPPED"})
    server.until(job_id, "STOPPED")
    assert not [one for one in containers(engine, job_id) if one.running]
    assert set(server.downloaded(job_id)) == {"ipynb", "html", "input"}


def test_a_job_that_is_not_begun_can_be_stopped_and_deleted(server: Server, engine: Engine) -> None:
    one = server.create("long.ipynb", "Container: docker-python")
    two = server.create("long.ipynb", "Container: docker-python")
    server.api(f"jobs/{one}", "PATCH", {"status": "STOPPED"})
    server.api(f"jobs/{two}", "DELETE")
    server.until(one, "STOPPED")
    time.sleep(3)
    assert not containers(engine, one) and not containers(engine, two)
    assert two not in [job["job_id"] for job in server.api("jobs")["jobs"]]


def test_deleting_a_running_job_removes_its_container(server: Server, engine: Engine) -> None:
    job_id, _ = running(server, engine)
    server.api(f"jobs/{job_id}", "DELETE")
    assert not containers(engine, job_id)


def test_a_job_whose_container_is_gone_is_not_left_in_progress(server: Server, engine: Engine) -> None:
    job_id, container = running(server, engine)
    run(engine.containers.remove(container.id))
    job = server.until(job_id, "FAILED")
    assert job["status_message"] == "Its container was removed"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_servers_restart_loses_no_job(server: Server, engine: Engine, how: int) -> None:
    from docker_kernel.scheduler.runs import record_id

    written(
        server.root / "waiting.ipynb",
        f"print('begun')\n{HOLD}open('after.txt', 'w').write('all of it')",
    )
    lasting, container = running(server, engine)
    ending, _ = running(server, engine, "waiting.ipynb")
    queued = server.create("report.ipynb", "Container: docker-python")
    server.end(how)
    assert run(engine.containers.inspect(container.id)).running
    # One of them ends while no server is there.
    let_go(record_id(ending))
    until(lambda: not any(one.running for one in containers(engine, ending)), what="the end of its run")
    server.start()
    assert server.job(lasting)["status"] == "IN_PROGRESS"
    server.until(ending, "COMPLETED")
    assert (server.downloaded(ending)["files"] / "after.txt").read_text() == "all of it"
    server.until(queued, "COMPLETED")
    server.api(f"jobs/{lasting}", "PATCH", {"status": "STOPPED"})
    server.until(lasting, "STOPPED")


def test_a_schedule_runs_its_jobs_in_containers(server: Server) -> None:
    made = server.api(
        "job_definitions",
        "POST",
        {
            "input_uri": "report.ipynb",
            "runtime_environment_name": "Container: docker-python",
            "name": "every minute",
            "schedule": "* * * * *",
            "timezone": "UTC",
            "output_formats": ["ipynb"],
            "parameters": {"rows": "7"},
        },
    )
    definition = made["job_definition_id"]
    deadline = time.monotonic() + patient(100)
    while not (jobs := server.api(f"jobs?job_definition_id={definition}")["jobs"]):
        assert time.monotonic() < deadline, server.log()
        time.sleep(1)
    server.api(f"job_definitions/{definition}", "PATCH", {"active": False})
    server.until(jobs[0]["job_id"], "COMPLETED")
    assert printed(server.downloaded(jobs[0]["job_id"])["ipynb"]) == "plain 7 False\n"
    now = server.api(f"job_definitions/{definition}/jobs", "POST", {"parameters": {"rows": "8"}})["job_id"]
    server.until(now, "COMPLETED")
    server.api(f"job_definitions/{definition}", "DELETE")
    assert not server.api(f"jobs?job_definition_id={definition}")["jobs"]


def test_the_host_s_environments_run_as_they_did(server: Server) -> None:
    import nbformat

    (name,) = [
        one["name"]
        for one in server.api("runtime_environments")
        if not one["name"].startswith(("Container: ", "Image: "))
    ][:1]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.executable)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    nbformat.write(notebook, server.root / "native.ipynb")
    job_id = server.create("native.ipynb", name)
    while server.job(job_id)["status"] == "STOPPED":  # what jupyter-scheduler calls it until its process is there
        time.sleep(0.5)
    server.until(job_id, "COMPLETED")
    assert "docker" not in printed(server.downloaded(job_id)["ipynb"])
    assert json.loads(server.downloaded(job_id)["ipynb"].read_text())["cells"]
