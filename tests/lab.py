"""One JupyterLab with Docker Python for all browser tests of a run, and the browser that they look at it with."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from docker_kernel import background, kernelspec, labels
from docker_kernel.engine import ContainerState, Engine
from tests.jupyter_server import address_of
from tests.patience import patient

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, ViewportSize

run = background.run_blocking

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ABSENT = "docker-kernel/absent:latest"


SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"
IN_DOCS = (
    *("lab", "job", "job_dark", "job_failed", "sweep", "sweep_dark", "scheduled-run"),
    *(f"containerize-{page}" for page in ("button", "name", "parameters", "review", "build", "images")),
)
START_MS = 1000 * patient(20)
"""Milliseconds for a kernel's start, or a cell's end."""

WINDOW: ViewportSize = {"width": 1100, "height": 760}
SCALE = 1.5 if "DOCKER_KERNEL_SCREENSHOTS" in os.environ else 1
"""Pixels are drawn by the processor: more of them only where the docs show them."""


class Lab:
    """A running JupyterLab server with folders of its own."""

    def __init__(self, engine: Engine, folder: Path, url: str, token: str) -> None:
        self.engine = engine
        self.folder = folder
        self.workspace = folder / "workspace"
        self.url = url
        self.token = token

    def api(self, path: str, method: str = "GET") -> Any:
        """An answer of the server's REST API."""
        request = urllib.request.Request(
            f"{self.url}api/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=patient(20)) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def address(self, path: str = "lab") -> str:
        """The address of one of its pages, as it is without what earlier pages had open."""
        return f"{self.url}{path}?token={self.token}&reset"

    def containers(self) -> list[ContainerState]:
        """The containers of this server's kernels."""
        found = run(self.engine.containers.list({labels.KIND: labels.KIND_KERNEL}))
        return [state for state in found if state.labels[labels.CONNECTION_FILE].startswith(str(self.folder))]

    def end_sessions(self) -> None:
        for session in self.api("sessions"):
            self.api(f"sessions/{session['id']}", "DELETE")


@pytest.fixture(scope="session", name="lab")
def lab_fixture(engine: Engine, python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab whose launcher has Docker Python, one with little memory, and one whose image is missing."""
    folder = tmp_path_factory.mktemp("lab")
    names = ("config", "data", "runtime", "workspaces", "settings", "workspace", "ipython")
    config, data, runtime, workspaces, settings, workspace, ipython = (folder / name for name in names)
    for path in (config, data, runtime, workspaces, settings, workspace, ipython):
        path.mkdir()
    _install(engine, data / "kernels")
    notices = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notices.parent.mkdir(parents=True)
    notices.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(data),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "JUPYTERLAB_WORKSPACES_DIR": str(workspaces),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "IPYTHONDIR": str(ipython),
        "JUPYTER_TOKEN": token,
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"),
        *("--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True"),
    ]
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    lab = Lab(engine, folder, "", token)
    try:
        lab.url = address_of(server, runtime, log)
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        left = lab.containers()
        for state in left:
            run(engine.containers.remove(state.id))
    assert not left, "the server ended, and left containers of its kernels"


def _install(engine: Engine, kernels: Path) -> None:
    scipy = "docker-kernel/scipy:latest"
    run(kernelspec.install(engine, kernels, kernelspec.stanza(image=scipy)))
    small = kernelspec.stanza(memory="256m")
    run(kernelspec.install(engine, kernels, small, name="small", display_name="Docker Python, small"))
    spec_file = run(kernelspec.install(engine, kernels, {}, name="absent", display_name="Docker Python, absent"))[0]
    spec = json.loads((spec_file / "kernel.json").read_text())
    spec["metadata"]["kernel_provisioner"]["config"]["image"] = ABSENT
    (spec_file / "kernel.json").write_text(json.dumps(spec))


@pytest.fixture(scope="module", name="browser")
def browser_fixture() -> Iterator[Browser]:
    """Of a module, as no other loop can run in this thread while it is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", name="window")
def window_fixture(browser: Browser) -> Iterator[BrowserContext]:
    """A browser window whose pages share a cache: what JupyterLab loads, they load once."""
    context = browser.new_context(viewport=WINDOW, device_scale_factor=SCALE, reduced_motion="reduce")
    context.set_default_timeout(START_MS)
    yield context
    context.close()


@pytest.fixture(name="page")
def page_fixture(lab: Lab, window: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page in the browser's window; what it shows at the test's end is kept as a picture."""
    page = window.new_page()
    watch(page)
    try:
        yield page
    finally:
        keep(page, request.node.name.removeprefix("test_"))
        if page.url.startswith(lab.url):
            page.evaluate("localStorage.clear()")
        page.close()
        lab.end_sessions()
        for path in (*lab.workspace.glob("[!.]*"), *lab.folder.glob("settings/**/themes.jupyterlab-settings")):
            path.unlink()


_not_whole: weakref.WeakSet[Page] = weakref.WeakSet()
"""Pages that were not loaded whole."""


def watch(page: Page) -> None:
    """Know whether a page is loaded whole: see `expect_loaded`."""

    def note(request: Request) -> None:
        if "ERR_NETWORK_CHANGED" in (request.failure or ""):
            _not_whole.add(page)

    page.on("requestfailed", note)


def load(loads: Callable[[], object]) -> None:
    """Go to an address, or reload a page, as often as the network changes meanwhile."""
    from playwright.sync_api import Error

    for _ in range(20):
        try:
            loads()
            return
        except Error as error:
            if "ERR_NETWORK_CHANGED" not in str(error):
                raise
    pytest.fail("the network changed each time that a page was loaded")


def expect_loaded(page: Page, there: Locator, text: str = "") -> None:
    """Wait until a page that is being loaded has an element with a text.

    Chromium gives up what it loads when a network interface of the machine comes or goes (ERR_NETWORK_CHANGED), as with
    each container. What the page then lacks, only loading it again brings.
    """
    from playwright.sync_api import expect

    end = time.monotonic() + START_MS / 1000
    while True:
        try:
            return expect(there).to_contain_text(text, timeout=1000)
        except AssertionError:
            if page in _not_whole:
                _not_whole.discard(page)
                load(page.reload)
            elif time.monotonic() > end:
                raise


def keep(page: Page, name: str) -> None:
    """Keep a picture of what the page shows."""
    folders = [SCREENSHOTS]
    if name in IN_DOCS and "DOCKER_KERNEL_SCREENSHOTS" in os.environ:
        folders.append(Path(os.environ["DOCKER_KERNEL_SCREENSHOTS"]))
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png")
