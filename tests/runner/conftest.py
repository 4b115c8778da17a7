"""What the tests of notebook images share: one image, whose notebook does what its parameter `code` says."""

from __future__ import annotations

import json
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.engine import Engine
from tests.patience import patient, until
from tests.runner.image import Images

SECONDS = patient(60)


@dataclass
class Ran:
    """A container that has ended, or that runs: then `code` waits for it."""

    name: str
    process: subprocess.Popen[str]
    lines: list[str]
    errors: list[str]
    readers: list[threading.Thread]

    @property
    def code(self) -> int:
        code = self.process.wait(SECONDS)
        for reader in self.readers:
            reader.join(SECONDS)
        return code

    @property
    def log(self) -> str:
        assert self.code is not None
        return "".join(self.lines)

    @property
    def complaint(self) -> str:
        """What was said on standard error."""
        assert self.code is not None
        return "".join(self.errors)

    def markers(self, nonce: str = "-") -> list[dict[str, Any]]:
        begin = f"##docker-kernel {nonce} "
        return [json.loads(line[len(begin) :]) for line in self.log.splitlines() if line.startswith(begin)]

    def said(self, text: str) -> None:
        """Wait for a text in the log."""

        def there() -> bool:
            over = self.process.poll() is not None
            found = any(text in line for line in self.lines)
            assert found or not over, f"{text!r} not in {self.lines}{self.errors}"
            return found

        until(there, 60, f"the text {text!r}")


Runner = Callable[..., Ran]


@pytest.fixture(scope="session")
def images(engine: Engine, python_image: str) -> Iterator[Images]:
    made = Images(engine)
    yield made
    made.close()


@pytest.fixture(scope="session")
def image(images: Images) -> str:
    """Its notebook has the parameters `code` and `tolerated`, which it runs, a number, and what it must be given."""
    return images.make(
        [
            {"cell_type": "markdown", "source": "# A report"},
            "code: str = 'pass'  # what to do\nalpha = 0.1  # how much\nday: 'date | None' = None\nnumber: int = 1",
            "exec(code)",
            {"source": "tolerated = 'pass'\nexec(tolerated)", "metadata": {"tags": ["raises-exception"]}},
            "print('the end')\nalpha",
        ],
        files={"data.txt": b"data", "sub/more.txt": b"more"},
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for results that every user may write to."""
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def docker_run(out: Path) -> Iterator[Runner]:
    """Starts containers as a user does; results go to `out`."""
    names: list[str] = []

    def run(image: str, *arguments: str, options: tuple[str, ...] = (), mount: bool = True) -> Ran:
        names.append(f"docker-kernel-test-{uuid.uuid4().hex[:12]}")
        command = ["docker", "run", "--rm", "--name", names[-1], *(["-v", f"{out}:/output"] if mount else []), *options]
        process = subprocess.Popen(
            [*command, image, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        ran = Ran(names[-1], process, [], [], [])
        ran.readers += [
            threading.Thread(target=lambda: ran.lines.extend(process.stdout or ()), daemon=True),
            threading.Thread(target=lambda: ran.errors.extend(process.stderr or ()), daemon=True),
        ]
        for reader in ran.readers:
            reader.start()
        return ran

    yield run
    for name in names:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)
