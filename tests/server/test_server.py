"""The server extension: what a browser asks it, and what it must not be talked into. A real server, a real engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from docker_kernel import background
from docker_kernel.engine import Engine
from docker_kernel.errors import ImageMissing
from docker_kernel.server.handlers import POLL
from tests.conftest import SpecMaker
from tests.containerize.conftest import docker, write_notebook
from tests.engines import paused
from tests.patience import patient
from tests.server.conftest import Server

CELL = """\
alpha: float = 0.5  # how much counts
kind = 'daily'
print(f"{kind} {alpha * 2}")"""
SECRET = "correct-horse-battery-staple"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"

Name = Callable[[], str]


@pytest.fixture(scope="session")
def notebook(server: Server, make_spec: SpecMaker) -> str:
    """A notebook in a folder with a credential, and in a file with another."""
    folder = server.root / "reports"
    spec = {"name": make_spec(env={"SERVICE_PASSWORD": SECRET}), "display_name": "Docker Python", "language": "python"}
    write_notebook(folder / "Sales of May.ipynb", CELL, "%time 1 + 1", kernelspec=spec)
    (folder / "data.csv").write_text("a,b\n1,2\n")
    (folder / ".env").write_text(f"SERVICE_PASSWORD={SECRET}\n")
    (folder / "settings.py").write_text(f'TOKEN = "{TOKEN}"\n')
    return "reports/Sales of May.ipynb"


def test_the_wizard_learns_what_the_notebook_says(server: Server, notebook: str) -> None:
    found = server.get("notebook", {"path": notebook})
    assert found["names"] == ["sales-of-may", "reports/sales-of-may"]
    assert found["registries"] == ["down"]
    assert [(one["name"], one["type"], one["default"], one["help"]) for one in found["parameters"]] == [
        ("alpha", "float", 0.5, "how much counts"),
        ("kind", "str", "daily", ""),
    ]
    assert "not Python" in found["notes"][0]


def check(server: Server, path: str, *edits: dict[str, str], tag: str = "one") -> dict[str, tuple[str, str]]:
    problems = server.get("check", {"path": path, "tag": tag, "parameters": edits})["parameters"]
    return {name: (one["field"], one["message"]) for name, one in problems.items()}


def test_a_name_is_checked_as_it_is_typed(server: Server, notebook: str) -> None:
    assert server.get("check", {"path": notebook, "tag": "team/report:2026-01"})["name"] == "team/report:2026-01"
    for bad in ("", "Report", "a b", "a//b", "-a", "a:", "a:-x", "a" * 300, "a:" + "b" * 129):
        found = server.get("check", {"path": notebook, "tag": bad})
        assert not found["name"], bad
        assert "cannot be an image's name" in found["problem"], bad
    with_registry = server.get("check", {"path": notebook, "tag": "report", "registry": "down"})
    assert with_registry["name"] == "127.0.0.1:1/team/report:latest"


def test_edits_of_parameters_are_checked(server: Server, notebook: str) -> None:
    assert check(server, notebook, {"name": "alpha", "default": "0.25", "help": "new"}) == {}
    assert check(server, notebook, {"name": "alpha", "default": "lots"}) == {
        "alpha": ("default", "The default of alpha must be a number (float), not 'lots'.")
    }
    assert check(server, notebook, {"name": "kind", "type": "flot"})["kind"][0] == "type"
    assert check(server, notebook, {"name": "kind", "type": "date"})["kind"] == (
        "default",
        "The default of kind must be a date (as 2026-01-31), not 'daily'.",
    )
    assert check(server, notebook, {"name": "kind", "type": "Literal['daily', 'weekly']", "default": "weekly"}) == {}
    assert "no parameter gone" in check(server, notebook, {"name": "gone"})["gone"][1]


def test_a_review_has_what_goes_in_and_no_credential(server: Server, notebook: str) -> None:
    answer = server.ask("docker-kernel/plan", {"path": notebook, "tag": "report", "exclude": ["/data.csv"]})
    found = answer.json()
    assert found["name"] == "report:latest"
    assert found["environment"]["reference"] == "docker-kernel/python:latest"
    assert {one["path"] for one in found["files"]["rows"]} == {"Sales of May.ipynb", "settings.py"}
    left_out = {one["path"]: one["reason"] for one in found["left_out"]["rows"]}
    assert ".env" in left_out
    assert "--exclude" in left_out["data.csv"]
    assert "ipykernel" in {one["name"] for one in found["packages"]["rows"]}
    assert found["size"] > 50e6
    assert any(one["where"] == "settings.py line 1" for one in found["findings"])
    assert SECRET not in answer.text
    assert TOKEN not in answer.text


def test_an_image_is_built_and_runs(server: Server, notebook: str, name: Name) -> None:
    wish = {
        "path": notebook,
        "tag": name(),
        "parameters": [{"name": "alpha", "default": "21", "help": "half of it"}],
    }
    begun = server.get("builds", wish)
    assert (begun["state"], begun["notebook"], begun["name"]) == ("running", notebook, wish["tag"])
    assert begun["id"] in {one["id"] for one in server.get("builds")["builds"]}
    build = server.ended(begun["id"])
    assert build["state"] == "made", build
    assert [one["name"] for one in build["steps"]][-1] == "image"
    assert build["image"]["reference"] == wish["tag"]
    assert build["image"]["command"].startswith("mkdir -p out && docker run ")
    assert build["image"]["command"].endswith(f" {wish['tag']}")
    ran = docker("run", "--rm", wish["tag"])
    assert "daily 42.0" in ran.stdout + ran.stderr
    # What was left out of the parameters is none.
    refused = docker("run", "--rm", wish["tag"], "-p", "kind=weekly", check=False)
    assert refused.returncode == 2


def test_several_builds_at_once_do_not_hold_up_the_server(server: Server, notebook: str, name: Name) -> None:
    server.ask("stall")
    ids = [server.get("builds", {"path": notebook, "tag": name()})["id"] for _ in range(3)]
    server.get("plan", {"path": notebook, "tag": "report"})
    builds = [server.ended(one) for one in ids]
    stall = server.ask("stall").json()["seconds"]
    print(f"the server's loop stood still for {stall * 1000:.0f} ms at most")
    assert [one["state"] for one in builds] == ["made"] * 3
    assert stall < patient(1)


def test_a_build_is_cancelled(server: Server, engine: Engine, notebook: str, name: Name) -> None:
    large = server.root / "large"
    write_notebook(large / "large.ipynb", CELL)
    with (large / "data.bin").open("wb") as file:
        file.truncate(600 << 20)
    tag = name()
    begun = server.get("builds", {"path": "large/large.ipynb", "tag": tag})
    cancelling = server.ask(f"docker-kernel/builds/{begun['id']}", method="DELETE").json()
    assert cancelling["state"] == "cancelling"
    server.ask(f"docker-kernel/builds/{begun['id']}", method="DELETE")
    build = server.ended(begun["id"])
    assert (build["state"], build["image"]) == ("cancelled", None)
    with pytest.raises(ImageMissing):
        background.run_blocking(engine.images.inspect(tag))
    # Cancelling what has ended changes nothing.
    assert server.ask(f"docker-kernel/builds/{begun['id']}", method="DELETE").json() == build
    (large / "data.bin").unlink()


def test_a_push_that_fails_says_so_and_secrets_stop_it_before(server: Server, notebook: str, name: Name) -> None:
    tag = name()
    wish = {"path": notebook, "tag": tag, "registry": "down", "push": True}
    build = server.ended(server.get("builds", wish)["id"])
    assert build["state"] == "failed"
    assert "not pushed, as secrets may be in it: " in build["message"]
    found = server.get("plan", wish)["findings"]
    wish["allow"] = [one["id"] for one in found]
    build = server.ended(server.get("builds", wish)["id"])
    assert build["state"] == "failed"
    assert "127.0.0.1:1 did not take it" in build["message"]
    docker("rmi", f"127.0.0.1:1/team/{tag}")


def test_a_poll_waits_for_what_is_new(server: Server, notebook: str, name: Name) -> None:
    version = server.get("builds")["version"]
    began = time.monotonic()
    with pytest.raises(requests.ReadTimeout):
        server.session.get(f"{server.url}docker-kernel/builds?since={version}", timeout=1)
    assert time.monotonic() - began >= 1
    begun = server.get("builds", {"path": notebook, "tag": name()})
    assert server.get(f"builds?since={version}")["version"] > version
    server.ended(begun["id"])
    # A version of another life of the server's is answered at once.
    began = time.monotonic()
    server.get("builds?since=7")
    assert time.monotonic() - began < min(patient(10), POLL)


@pytest.mark.parametrize(
    "path",
    [
        "../outside.ipynb",
        "reports/../../outside.ipynb",
        "/../outside.ipynb",
        "..%2foutside.ipynb",
        ".hidden/one.ipynb",
        "reports/missing.ipynb",
        "reports/data.csv/x.ipynb",
        "reports/\0.ipynb",
    ],
)
@pytest.mark.parametrize("what", ["notebook", "check", "plan", "builds"])
def test_only_notebooks_that_the_server_shows_are_read(server: Server, notebook: str, path: str, what: str) -> None:
    for place in (server.folder / "outside.ipynb", server.root / ".hidden" / "one.ipynb"):
        write_notebook(place, f"secret = '{SECRET}'")
    answer = server.ask(f"docker-kernel/{what}", {"path": path, "tag": "one"})
    assert answer.status_code == 404, answer.text
    assert answer.json()["message"] == f"There is no notebook {path.strip('/')}."


def test_bad_wishes_are_refused_with_a_sentence(server: Server, notebook: str) -> None:
    for wish in ([], {}, {"path": ""}, {"path": notebook, "more": 1}, {"path": notebook, "kernel_id": "$(id)"}, "x"):
        assert "The request cannot be read: " in server.refused("plan", wish)
    assert "no registry 'other.example/x'" in server.refused("plan", {"path": notebook, "registry": "other.example/x"})
    assert "no longer there" in server.refused("plan", {"path": notebook, "kernel_id": "a" * 36})
    edits = [{"name": "alpha", "default": "lots"}]
    assert "must be a number" in server.refused("builds", {"path": notebook, "tag": "a", "parameters": edits})
    assert "cannot be an image's name" in server.refused("builds", {"path": notebook, "tag": "A"})
    (server.root / "none.ipynb").write_text("{}")
    assert "it has no cells" in server.refused("plan", {"path": "none.ipynb"})
    assert server.ask(f"docker-kernel/builds/{'0' * 32}").status_code == 404
    assert "a:latest" not in {one["name"] for one in server.get("builds")["builds"]}


REQUESTS = [
    ("POST", "notebook"),
    ("POST", "check"),
    ("POST", "plan"),
    ("POST", "builds"),
    ("GET", "builds"),
    ("GET", f"builds/{'0' * 32}"),
    ("DELETE", f"builds/{'0' * 32}"),
]


@pytest.mark.parametrize(("method", "what"), REQUESTS)
def test_strangers_are_turned_away(server: Server, notebook: str, method: str, what: str) -> None:
    url = f"{server.url}docker-kernel/{what}"
    stranger = requests.request(method, url, json={"path": notebook}, timeout=patient(60), allow_redirects=False)
    assert stranger.status_code == 403
    # A logged-in browser that another site sends here has the cookie, and not the page's token.
    browser = requests.Session()
    browser.get(f"{server.url}?token={server.token}", timeout=patient(60))
    assert browser.cookies
    crossed = browser.request(method, url, json={"path": notebook}, timeout=patient(60), allow_redirects=False)
    if method == "GET":
        assert crossed.status_code in (200, 404)
        crossed = browser.get(url, headers={"Origin": "https://other.example", "Referer": "https://other.example/"})
        assert "Access-Control-Allow-Origin" not in crossed.headers
    else:
        assert crossed.status_code == 403


@pytest.fixture(scope="module")
def spectated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    chosen = "--ServerApp.authorizer_class=tests.server.authorizer.Spectator"
    one = Server(tmp_path_factory.mktemp("spectated"), chosen)
    write_notebook(one.root / "one.ipynb", CELL)
    yield one
    one.close()


def test_an_authorizer_decides(spectated: Server) -> None:
    wish = {"path": "one.ipynb", "tag": "one"}
    assert spectated.get("notebook", wish)["names"] == ["one"]
    assert spectated.get("builds")["builds"] == []
    assert "not authorized to read on resource: kernels" in spectated.refused("plan", wish, 403)
    assert "not authorized to write on resource: containerize" in spectated.refused("builds", wish, 403)
    assert spectated.ask(f"docker-kernel/builds/{'0' * 32}", method="DELETE").status_code == 403


def test_a_frontend_is_told_that_an_interrupt_cannot_be_delivered(server: Server, make_spec: SpecMaker) -> None:
    kernel = server.ask("api/kernels", {"name": make_spec()}).json()["id"]
    try:
        with paused(f"docker-kernel-{kernel}"):
            answer = server.ask(f"api/kernels/{kernel}/interrupt", method="POST")
        assert answer.status_code == 503
        assert answer.json()["message"].startswith("The interrupt did not reach the kernel.")
    finally:
        server.ask(f"api/kernels/{kernel}", method="DELETE")


def test_a_running_kernels_own_environment_is_taken(server: Server, notebook: str, name: Name) -> None:
    spec = json.loads((server.root / notebook).read_text())["metadata"]["kernelspec"]["name"]
    kernel = server.ask("api/kernels", {"name": spec}).json()["id"]
    try:
        [container] = docker("ps", "-q", "--filter", f"label=io.docker-kernel.kernel-id={kernel}").stdout.split()
        place = "/usr/local/lib/python3.11/dist-packages/made_here.py"
        docker("exec", "-u", "0", container, "sh", "-c", f"mkdir -p $(dirname {place}) && echo 'x = 7' > {place}")
        review = server.get("plan", {"path": notebook, "tag": "report", "kernel_id": kernel})
        assert review["environment"]["running"]
        build = server.ended(server.get("builds", {"path": notebook, "tag": name(), "kernel_id": kernel})["id"])
        assert build["state"] == "made", build
        ran = docker("run", "--rm", "--entrypoint", "cat", build["name"], place)
        assert ran.stdout == "x = 7\n"
    finally:
        server.ask(f"api/kernels/{kernel}", method="DELETE")


def test_builds_end_with_the_server(engine: Engine, tmp_path: Path, name: Name, python_image: str) -> None:
    one = Server(tmp_path)
    try:
        write_notebook(one.root / "large.ipynb", CELL)
        with (one.root / "data.bin").open("wb") as file:
            file.truncate(600 << 20)
        tag = name()
        one.get("builds", {"path": "large.ipynb", "tag": tag})
    finally:
        one.close()
    with pytest.raises(ImageMissing):
        background.run_blocking(engine.images.inspect(tag))
    assert not list(Path("/var/tmp").glob("docker-kernel-*/data.bin"))


def test_nothing_else_needs_jupyter_server() -> None:
    program = (
        "import sys; sys.modules['jupyter_server'] = None; import docker_kernel.server, docker_kernel.cli, "
        "docker_kernel.kernel.provisioner, docker_kernel.containerize.image; assert 'tornado.web' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=patient(60), check=False
    )
    assert done.returncode == 0, done.stderr
