"""Results at URLs, and SageMaker's contract."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import bridge_address
from tests.runner.conftest import Runner


@pytest.fixture(scope="module")
def store(engine: Any) -> Iterator[Any]:
    """An S3 that containers on the engine's bridge reach."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="0.0.0.0", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="a", aws_secret_access_key="b",
        region_name="us-east-1",
    )  # fmt: skip
    client.create_bucket(Bucket="reports")
    client.port = port
    yield client
    server.stop()


def credentials(port: int, gateway: str) -> tuple[str, ...]:
    values = {
        "AWS_ENDPOINT_URL": f"http://{gateway}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    return tuple(part for name, value in values.items() for part in ("-e", f"{name}={value}"))


@pytest.fixture(scope="module")
def gateway() -> str:
    """This machine's address on the engine's default bridge."""
    return bridge_address()


def test_s3(image: str, docker_run: Runner, out: Path, store: Any, gateway: str) -> None:
    code = "import os; os.mkdir('deep'); open('deep/made.txt', 'w').write('x'); 1/0"
    ran = docker_run(
        image, "--output", "s3://reports/july", "-p", f"code={code}", options=credentials(store.port, gateway)
    )
    assert ran.code == 1, ran.log + ran.complaint
    found = {one["Key"]: one["Size"] for one in store.list_objects_v2(Bucket="reports")["Contents"]}
    assert set(found) == {"july/output.ipynb", "july/output.html", "july/files/deep/made.txt"}
    for name in ("output.ipynb", "output.html"):
        assert store.get_object(Bucket="reports", Key=f"july/{name}")["Body"].read() == (out / name).read_bytes()
    assert "could not be written" not in ran.log


def test_url_alone_needs_no_folder(image: str, docker_run: Runner, store: Any, gateway: str) -> None:
    options = ("--read-only", "--user", "4321:4321", *credentials(store.port, gateway))
    ran = docker_run(image, options=(*options, "-e", "DOCKER_KERNEL_OUTPUT=s3://reports/alone"), mount=False)
    assert ran.code == 0, ran.log + ran.complaint
    page = store.get_object(Bucket="reports", Key="alone/output.html")["Body"].read()
    assert b"the end" in page


def test_store_that_refuses(image: str, docker_run: Runner, out: Path, store: Any, gateway: str) -> None:
    ran = docker_run(image, "--output", "s3://nosuch/place", options=credentials(store.port, gateway))
    assert ran.code == 74
    assert "s3://nosuch/place: output.ipynb could not be written" in ran.log
    assert "not everything could be brought to s3://nosuch/place" in ran.log
    assert "the end" in ran.log and "the end" in (out / "output.html").read_text()


def test_store_that_comes_back(image: str, docker_run: Runner, out: Path, gateway: str) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
    code = "code=import os, time\nwhile not os.path.exists('/output/go'): time.sleep(0.1)"
    ran = docker_run(image, "--output", "s3://later/place", "-p", code, options=credentials(port, gateway))
    ran.said("s3://later/place: output.ipynb could not be written")
    server = ThreadedMotoServer(ip_address="0.0.0.0", port=port, verbose=False)
    server.start()
    try:
        client = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id="a", aws_secret_access_key="b",
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket="later")
        (out / "go").touch()
        assert ran.code == 0, ran.log
        assert b"the end" in client.get_object(Bucket="later", Key="place/output.html")["Body"].read()
    finally:
        server.stop()


def test_other_file_systems_of_fsspec(image: str, docker_run: Runner, out: Path) -> None:
    ran = docker_run(image, "--output", "file:///output/deeper", "-p", "code=open('made.txt','w').close()")
    assert ran.code == 0, ran.log
    assert (out / "deeper" / "output.html").read_bytes() == (out / "output.html").read_bytes()
    assert (out / "deeper" / "files" / "made.txt").exists()


@pytest.fixture
def ml(tmp_path: Path) -> Path:
    """What SageMaker mounts at /opt/ml."""
    root = tmp_path / "ml"
    for name in ("input/config", "input/data/training", "model", "output/data"):
        (root / name).mkdir(parents=True)
    (root / "input/config/hyperparameters.json").write_text(
        json.dumps(
            {
                "number": "7",
                "alpha": "0.25",
                "code": json.dumps(
                    "import os; e = os.environ; print(number, alpha, e['SM_HP_NUMBER'], e['SM_CHANNELS']);"
                    "open(e['SM_MODEL_DIR'] + '/m.bin', 'w').write(open(e['SM_CHANNEL_TRAINING'] + '/d.csv').read());"
                    "print(e['SM_CURRENT_HOST'], e['SM_OUTPUT_DATA_DIR'])"
                ),
                "sagemaker_region": '"eu-west-1"',
            }
        )
    )
    (root / "input/config/resourceconfig.json").write_text('{"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}')
    (root / "input/data/training/d.csv").write_text("1,2")
    for path in [root, *root.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    return root


def test_sagemaker(image: str, docker_run: Runner, ml: Path) -> None:
    ran = docker_run(image, "train", options=("-v", f"{ml}:/opt/ml"), mount=False)
    assert ran.code == 0, ran.log + ran.complaint
    assert '7 0.25 7 ["training"]' in ran.log and "algo-2 /opt/ml/output/data" in ran.log
    assert (ml / "model" / "m.bin").read_text() == "1,2"
    assert "the end" in (ml / "output" / "data" / "output.html").read_text()
    assert not (ml / "output" / "failure").exists()


def test_sagemaker_failures(image: str, docker_run: Runner, ml: Path) -> None:
    options = ("-v", f"{ml}:/opt/ml")
    ran = docker_run(image, "train", options=(*options, "-e", "PARAM_code=1/0"), mount=False)
    assert ran.code == 1
    assert "ZeroDivisionError: division by zero" in (ml / "output" / "failure").read_text()
    assert "ZeroDivisionError" in (ml / "output" / "data" / "output.ipynb").read_text()
    (ml / "input/config/hyperparameters.json").write_text('{"nmuber": "7"}')
    assert docker_run(image, "train", options=options, mount=False).code == 2
    assert "number" in (ml / "output" / "failure").read_text()
