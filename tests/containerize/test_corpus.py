"""Notebooks of many shapes, each made an image and run with changed parameters, give what nbclient gives there."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docker_kernel import background, images, kernelspec, labels
from docker_kernel.containerize.image import NotebookImage, containerize
from docker_kernel.containerize.request import Request
from docker_kernel.engine import Engine, File, archive
from docker_kernel.errors import EngineError
from docker_kernel.guest import parameters
from tests import kept
from tests.containerize.comparable import comparable, difference
from tests.containerize.corpus import CASES, FOLDER, STACK, Case
from tests.patience import patient

run = background.run_blocking

REPOSITORY = "docker-kernel-test/corpus"
AT_ONCE = 2
"""Notebooks that are built and run at once: as many as the smallest machine has processors."""

SECONDS = patient(150)


@dataclass(frozen=True)
class Ran:
    """What came of one notebook: of its image's run, and of nbclient's own.

    Args:
        log: what the image's run printed.
        source: the notebook as it was.
        out, alone: the folders that were at /output.
        report: of nbclient_alone.py.
    """

    image: NotebookImage
    source: dict[str, Any]
    code: int
    log: str
    out: Path
    executed: dict[str, Any]
    alone: Path
    expected: dict[str, Any]
    report: dict[str, Any]


class Bench:
    """Makes and runs the notebooks of this test run, some at once, in the order of their tests."""

    def __init__(self, engine: Engine, folder: Path, kernel: str, stack: Future[None]) -> None:
        self._engine, self._folder, self._kernel, self._stack = engine, folder, kernel, stack
        self._pool = ThreadPoolExecutor(AT_ONCE)
        # What runs notebooks is fetched once.
        self._building = threading.Lock()
        self._ran: dict[str, Future[Ran]] = {}

    def start(self, cases: list[Case]) -> None:
        for case in cases:
            self._ran[case.name] = self._pool.submit(self._run, case)

    def result(self, case: Case) -> Ran:
        return self._ran[case.name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for number in range(len(CASES)):
            try:
                run(self._engine.images.remove(f"{REPOSITORY}:{number}"))
            except EngineError:
                continue

    def _run(self, case: Case) -> Ran:
        kernel = self._kernel
        if case.stack:
            self._stack.result()
            kernel = f"docker-{case.kernel}"
        folder = self._folder / str(CASES.index(case))
        workspace, out, alone = (folder / name for name in ("workspace", "out", "alone"))
        for one in (folder, workspace):
            one.mkdir()
        for one in (out, alone):
            one.mkdir()
            one.chmod(0o777)
        notebook = case.workspace(workspace)
        source = json.loads(notebook.read_text(encoding="utf-8"))
        tag = f"{REPOSITORY}:{CASES.index(case)}"
        with self._building:
            image = run(containerize(Request(notebook, tag, kernel=kernel), engine=self._engine))
        given = [part for pair in case.given.items() for part in ("-p", "=".join(pair))]
        ran = self._docker(out, [], image.reference, *given)
        (out / "log").write_text(ran.stdout)
        report = self._alone(case, image, source, alone)
        return Ran(
            image=image,
            source=source,
            code=ran.returncode,
            log=ran.stdout,
            out=out,
            executed=json.loads((out / "output.ipynb").read_text(encoding="utf-8")),
            alone=alone,
            expected=json.loads((alone / "out.ipynb").read_text(encoding="utf-8")),
            report=report,
        )

    def _alone(self, case: Case, image: NotebookImage, source: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Run the same notebook with the same parameters, by nbclient and nothing of ours, in the same image."""
        found = image.plan.parameters
        values = parameters.check(found, {name: parameters.Text(text) for name, text in case.given.items()})
        (folder / "in.ipynb").write_text(json.dumps(parameters.inject(source, found, values)), encoding="utf-8")
        shutil.copy(Path(__file__).parent / "nbclient_alone.py", folder)
        cwd = Path("/notebook") / Path(image.plan.path).parent
        options = ["--entrypoint", image.plan.environment.python, "--env", "HOME=/tmp/home"]
        script = ["/output/nbclient_alone.py", "/output", case.kernel, str(cwd)]
        ran = self._docker(folder, options, image.reference, *script)
        assert ran.returncode == 0, ran.stdout
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return report

    def _docker(self, out: Path, options: list[str], *command: str) -> subprocess.CompletedProcess[str]:
        name = f"docker-kernel-test-{uuid.uuid4().hex[:12]}"
        start = ["docker", "run", "--rm", "--name", name, "--network", "none", "--volume", f"{out}:/output"]
        try:
            return subprocess.run(
                [*start, *options, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        finally:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def bench(
    request: pytest.FixtureRequest,
    engine: Engine,
    python_image: str,
    spec: str,
    own_folders: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    """All notebooks that are asked for, under way from the first test on."""
    asked = {
        item.callspec.id for item in request.session.items if item.path == request.path and "bench" in item.fixturenames
    }
    cases = [case for case in CASES if case.name in asked]
    with ThreadPoolExecutor(1) as builder:
        stack: Future[None] = Future()
        if any(case.stack for case in cases):
            stack = builder.submit(make_stack, engine, python_image, own_folders / "data" / "kernels")
        made = Bench(engine, tmp_path_factory.mktemp("corpus"), spec, stack)
        try:
            made.start(cases)
            yield made
        finally:
            made.close()


def make_stack(engine: Engine, python_image: str, kernels: Path) -> None:
    """An image with more packages and a second kernel, and a kernelspec for each of its kernels."""

    def make(tag: str) -> None:
        bare = f"{tag}-bare"
        used = [run(images.build(engine, "python", packages=STACK, tag=bare))]
        try:
            used = run(engine.images.inspect(bare))["RepoTags"]
            bash = f"FROM {bare}\nUSER 0:0\nRUN python3 -m bash_kernel.install --prefix /usr/local\n"
            context = archive([File("Dockerfile", bash.encode())])
            run(engine.images.build(context, tag, {}, {labels.KIND: labels.KIND_BUILD}, lambda event: None))
        finally:
            for reference in used:
                run(engine.images.remove(reference))

    tag = kept.image(engine, "stack", (run(engine.images.inspect(python_image))["Id"], *STACK), make)
    run(kernelspec.install(engine, kernels, {"image": tag}, all_kernels=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_runs_a_notebook_as_nbclient_does(bench: Bench, case: Case) -> None:
    ran = bench.result(case)
    assert {one.name for one in ran.image.plan.parameters} == case.parameters
    assert ran.report["error"] == case.error
    assert ran.code == case.code, ran.log
    shown = [*(cell.get("outputs") for cell in ran.executed["cells"]), ran.executed["metadata"].get("widgets")]
    text = "\n".join(_texts(shown))
    assert case.says in text
    ids = [cell["id"] for cell in ran.source.get("cells", ()) if "id" in cell]
    assert not ids or set(ids) <= {cell.get("id") for cell in ran.executed["cells"]}
    executed, expected = comparable(ran.executed), comparable(ran.expected)
    if case.error == "DeadKernelError":
        for cell in (*executed[:-1], *expected[:-1]):
            cell.pop("execution_count", None)  # a kernel that ends itself may have had no time to say it
    found = difference(executed, expected)
    assert not found, found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_notebook_writes_comes_out(bench: Bench, case: Case) -> None:
    import nbformat

    ran = bench.result(case)
    nbformat.validate(nbformat.from_dict(ran.executed))
    assert digests(ran.out / "files") == ran.report["written"]
    own = ("output.ipynb", "output.html", "files", "log")
    theirs = ("in.ipynb", "out.ipynb", "report.json", "nbclient_alone.py")
    assert digests(ran.out, own) == digests(ran.alone, theirs)
    assert "not what it should be" not in ran.log
    page = (ran.out / "output.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")


def digests(folder: Path, but: tuple[str, ...] = ()) -> dict[str, str]:
    """The files below a folder that can be read, by their relative path."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] not in but]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _texts(value: Any) -> Iterator[str]:
    """All texts in JSON, lines joined."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        yield "".join(value)
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def test_the_corpus_is_what_its_readme_says() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [
        [part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    named = {row[0].strip("`"): row for row in rows}
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.ipynb")}
    assert there == set(named) == {case.path for case in CASES}
    public = [case.path for case in CASES if case.public]
    assert len(CASES) >= 20 and len(public) >= 10
    for path in public:
        digest = hashlib.sha256((FOLDER / path).read_bytes()).hexdigest()
        assert named[path][-1].strip("`") == digest, f"{path} was modified"
        assert (FOLDER / "licences" / f"{Path(path).parts[1]}.txt").is_file()
