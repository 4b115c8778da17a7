"""Results through real stores: a registry without and with a token service, and S3 as moto serves it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import requests

import docker_kernel
from docker_kernel.batch.result_store import RegistryStore, ResultFolder, ResultStore, SigningStore, result_store
from docker_kernel.errors import ConfigError, JobError
from docker_kernel.guest import snapshot
from docker_kernel.guest.deliver import DeliveryFailed, deliver
from tests.engines import answers, free_port
from tests.patience import patient, until

JOB = "0123456789ab"


@contextlib.contextmanager
def registry(folder: Path, **settings: Any) -> Iterator[str]:
    """A real registry; its address."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    content = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": True}},
        **settings,
        "http": {"addr": f"127.0.0.1:{port}", **settings.get("http", {})},
    }
    (folder / "registry.yml").write_text(json.dumps(content))
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "registry.yml")], stdout=log, stderr=log, cwd=folder
        )
    try:
        until(lambda: answers(port), what="the registry's start")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def capture(tmp_path: Path) -> Any:
    """Captures variables into a state folder of its own; returns the folder and the digest."""
    state = tmp_path / "state"

    def make(**variables: Any) -> tuple[str, str]:
        return str(state), snapshot.capture(variables, {}, str(state), deleted=[]).digest

    return make


def not_used(event: dict[str, Any]) -> None:
    raise AssertionError(event)


def fetched(store: ResultStore, digest: str, folder: Path) -> dict[str, Any]:
    """The variables of a result that was brought from a store."""
    place = ResultFolder(folder)
    store.fetch(JOB, digest, place)
    assert place.complete(digest)
    return snapshot.restore(str(folder), snapshot.read_manifest(str(folder), digest), {})[0]


def send(store: ResultStore, state: str, digest: str) -> None:
    deliver(state, digest, {"inline": 100, "store": store.settings(JOB, None)}, not_used)


def anonymous(host: str) -> None:
    return None


def test_a_result_larger_than_may_be_brought_is_refused(capture: Any, tmp_path: Path) -> None:
    state, digest = capture(x=b"z" * 200_000, y=b"y" * 200_000)
    manifest = (Path(state) / "manifests" / digest[7:]).read_bytes()
    place = ResultFolder(tmp_path / "here", 300_000)
    place.write("manifests", digest, [manifest])
    with pytest.raises(JobError, match=r"larger than the 293 KiB that may be brought here: raise `max_result`"):
        place.missing_blobs(digest)
    # A manifest may say what it likes: what arrives counts, also what another try has brought.
    lied = json.loads(manifest)
    for pack in lied["packs"]:
        pack["sizes"], pack["buffers"] = [0], [[blob, 0] for blob, _ in pack["buffers"]]
    text = json.dumps(lied).encode()
    false = "sha256:" + hashlib.sha256(text).hexdigest()
    ResultFolder(tmp_path / "here").write("manifests", false, [text])
    brought = 0
    for _ in range(2):
        place = ResultFolder(tmp_path / "here", 300_000)
        missing = sorted(place.missing_blobs(false), key=lambda blob: (Path(state) / "blobs" / blob[7:]).stat().st_size)
        with pytest.raises(JobError, match="larger than the 293 KiB"):
            for blob in missing:
                place.write("blobs", blob, [(Path(state) / "blobs" / blob[7:]).read_bytes()])
                brought += 1
    assert brought and not ResultFolder(tmp_path / "here").complete(false)


def test_a_small_result_goes_into_the_log(capture: Any) -> None:
    state, digest = capture(x=[1, 2], y=b"z" * 100_000)
    events: list[dict[str, Any]] = []
    deliver(state, digest, {"inline": 200_000, "store": None}, events.append)
    assert {event["event"] for event in events} == {"blob"}
    assert max(len(event["data"]) for event in events) <= 64 << 10
    pieces: dict[str, bytes] = {}
    for event in events:
        pieces[event["digest"]] = pieces.get(event["digest"], b"") + base64.b64decode(event["data"])
    assert pieces[digest] == (Path(state) / "manifests" / digest[7:]).read_bytes()
    assert len(pieces) == len(list(Path(state).glob("*/*")))


def test_a_large_result_needs_a_store(capture: Any) -> None:
    state, digest = capture(x=b"z" * 100_000)
    with pytest.raises(DeliveryFailed, match=r"9[78]\.\d KiB and only 1\.0 KiB .* set result_url"):
        deliver(state, digest, {"inline": 1024, "store": None}, not_used)


def test_through_a_registry(capture: Any, tmp_path: Path) -> None:
    with registry(tmp_path) as host:
        store = result_store(f"oci+http://{host}/team", anonymous)
        assert "token" not in store.settings(JOB, None)
        state, digest = capture(x=41, blob=b"z" * 3_000_000, other=list(range(1000)))
        send(store, state, digest)
        # A registry's garbage collection keeps what our artifact names.
        subprocess.run(
            ["docker-registry", "garbage-collect", str(tmp_path / "registry.yml")], check=True, capture_output=True
        )
        assert fetched(store, digest, tmp_path / "here") == {
            "x": 41, "blob": b"z" * 3_000_000, "other": list(range(1000)),
        }  # fmt: skip

        # What is there is neither sent nor fetched again.
        begun = (tmp_path / "registry.log").read_text().count("http.request.method=PATCH")
        before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "here").glob("*/*"))]
        send(store, state, digest)
        store.fetch(JOB, digest, ResultFolder(tmp_path / "here"))
        assert (tmp_path / "registry.log").read_text().count("http.request.method=PATCH") == begun
        assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "here").glob("*/*"))] == before

        store.remove(JOB)
        store.remove(JOB)
        assert not requests.head(f"http://{host}/v2/team/results/manifests/{JOB}", timeout=patient(5)).ok


def test_a_registry_that_collected_blobs_between_head_and_artifact(capture: Any, tmp_path: Path) -> None:
    with registry(tmp_path) as host:
        store = result_store(f"oci+http://{host}", anonymous)
        state, digest = capture(blob=b"z" * 100_000)
        send(store, state, digest)
        # The links by which a repository knows its blobs go; HEAD of a cached blob may say yes all the same.
        for link in (tmp_path / "store").glob("**/_layers/sha256/*/link"):
            link.unlink()
        send(store, state, digest)
        assert fetched(store, digest, tmp_path / "here")["blob"] == b"z" * 100_000


def test_what_a_registry_changed_or_lost_is_refused(capture: Any, tmp_path: Path) -> None:
    with registry(tmp_path) as host:
        store = result_store(f"oci+http://{host}/team", anonymous)
        state, digest = capture(x=b"z" * 100_000)
        send(store, state, digest)
        blob = next(path for path in (Path(state) / "blobs").iterdir() if path.stat().st_size >= 100_000)
        data = tmp_path / "store/docker/registry/v2/blobs/sha256" / blob.name[:2] / blob.name / "data"
        content = bytearray(data.read_bytes())
        content[5000] ^= 1
        data.write_bytes(content)
        with pytest.raises(JobError, match="was changed after the job wrote it"):
            store.fetch(JOB, digest, ResultFolder(tmp_path / "here"))
        assert not (tmp_path / "here" / "blobs" / blob.name).exists()
        assert not list((tmp_path / "here").glob("**/*.new"))
        data.unlink()
        with pytest.raises(JobError, match=r"is not in .* any more: run the job again"):
            store.fetch(JOB, digest, ResultFolder(tmp_path / "there"))
    with pytest.raises(JobError, match="cannot be reached from here"):
        store.fetch(JOB, digest, ResultFolder(tmp_path / "there"))
    with pytest.raises(JobError, match="cannot be reached"):
        store.check()


class TokenService:
    """A registry's token service as docker/distribution specifies it: RS256, the certificate in the header."""

    def __init__(self, folder: Path) -> None:
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )
        (folder / "tokens.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.x5c = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
        self.lifetime = 300
        self.asked: list[tuple[str, str]] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                service.asked.append((query["scope"][0], self.headers.get("Authorization", "")))
                data = json.dumps({"token": service.token(query["scope"][0]), "expires_in": service.lifetime}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, scope: str) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        def encode(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": "test", "aud": "registry", "sub": "", "iat": now, "nbf": now - 5, "exp": now + self.lifetime,
            "jti": "1", "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self.x5c]}
        text = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(claims).encode())}"
        return f"{text}.{encode(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def test_a_registry_with_tokens_gives_a_job_one_for_its_repository(capture: Any, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    service = TokenService(tmp_path)
    auth = {
        "token": {
            "realm": service.realm, "service": "registry", "issuer": "test",
            "rootcertbundle": str(tmp_path / "tokens.pem"),
        }
    }  # fmt: skip
    try:
        with registry(tmp_path, auth=auth) as host:
            store = RegistryStore(f"oci+http://{host}/team", lambda name: ("me", "secret") if name == host else None)
            settings = store.settings(JOB, 60)
            assert service.asked[-1][0] == "repository:team/results:pull,push"
            assert service.asked[-1][1] == "Basic " + base64.b64encode(b"me:secret").decode()
            assert "secret" not in json.dumps(settings)
            state, digest = capture(x=b"z" * 100_000)
            deliver(state, digest, {"inline": 100, "store": settings}, not_used)
            assert fetched(store, digest, tmp_path / "here")["x"] == b"z" * 100_000
            # The job's token opens nothing else.
            headers = {"Authorization": f"Bearer {settings['token']}"}
            other = requests.post(f"http://{host}/v2/team/images/blobs/uploads/", headers=headers, timeout=patient(5))
            assert other.status_code == 401
            with pytest.raises(JobError, match=r"tokens live for 300 s, and this job may take 900 s"):
                store.settings(JOB, 900)
            service.lifetime = -600
            stale = store.settings(JOB, None)
            state, digest = capture(x=b"y" * 100_000)
            with pytest.raises(DeliveryFailed, match="may have expired while the job ran"):
                deliver(state, digest, {"inline": 100, "store": stale}, not_used)
    finally:
        service.server.shutdown()
        service.server.server_close()


def test_a_registry_that_takes_only_passwords_is_refused(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text("me:$2y$05$LTFYDZzPHa6hIR1cPQSJEOXlUHpsvvLa1F3S8kQ5ldvkTFA4IFqG6\n")
    with registry(tmp_path, auth={"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}) as host:
        store = result_store(f"oci+http://{host}/team", lambda name: ("me", "secret"))
        with pytest.raises(JobError, match="takes nothing but passwords, which a job must not have"):
            store.settings(JOB, None)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[SigningStore]:
    """S3 on an address of its own, as containers would reach it."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-jobs")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert requests.put(f"http://{host}:{port}/bucket", timeout=patient(10)).ok
    try:
        store = result_store("s3://bucket/results", anonymous)
        assert isinstance(store, SigningStore)
        yield store
    finally:
        server.stop()


def test_through_s3_with_a_signed_address(s3: SigningStore, capture: Any, tmp_path: Path) -> None:
    assert s3.check() == "answers, and signs uploads"
    settings = s3.settings(JOB, 60)
    assert settings["kind"] == "put" and "not-for-jobs" not in json.dumps(settings)
    state, digest = capture(x=41, blob=b"z" * 9_000_000)
    deliver(state, digest, {"inline": 100, "store": settings}, not_used)
    assert fetched(s3, digest, tmp_path / "here") == {"x": 41, "blob": b"z" * 9_000_000}

    other = tmp_path / "other"
    elsewhere = snapshot.capture({"x": 42}, {}, str(other), deleted=[]).digest
    with pytest.raises(JobError, match="another result's"):
        s3.fetch(JOB, elsewhere, ResultFolder(tmp_path / "there"))
    s3.remove(JOB)
    s3.remove(JOB)
    with pytest.raises(JobError, match="any more: run the job again"):
        s3.fetch(JOB, digest, ResultFolder(tmp_path / "there"))


IN_A_JOB = """
import json, sys
sys.path[:0] = ["/package", "/cloudpickle"]
from docker_kernel.guest.deliver import deliver
deliver(*json.load(sys.stdin), print)
"""


def deliver_in_a_container(image: str, state: str, digest: str, settings: dict[str, Any]) -> None:
    """Deliver a result from a container, which knows nothing of the host's settings."""
    package, pickler = Path(docker_kernel.__file__).parent, Path(cloudpickle.__file__).parent
    mounts = {package: "/package/docker_kernel", pickler: "/cloudpickle/cloudpickle", Path(state): state}
    done = subprocess.run(
        [
            "docker", "run", "--rm", "-i", "--network", "host",
            *(f"--volume={source}:{place}:ro" for source, place in mounts.items()),
            "--entrypoint", "python3", image, "-B", "-c", IN_A_JOB,
        ],
        input=json.dumps([state, digest, {"inline": 100, "store": settings}]),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def trust_by(way: str, ca: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "certs.d":
        folder = Path.home() / ".config/docker/certs.d" / host
        folder.mkdir(parents=True)
        shutil.copy(ca, folder / "ca.crt")
    else:
        monkeypatch.setenv(way, str(ca))


@pytest.mark.parametrize("way", ["certs.d", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_through_a_registry_with_a_ca_of_its_own(
    authority: Path, python_image: str, capture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    tls = {"certificate": str(authority / "cert.pem"), "key": str(authority / "key.pem")}
    with registry(tmp_path, http={"tls": tls}) as address:
        url = f"oci+https://{address}/team"
        with pytest.raises(JobError, match=rf"not trusted here .*certs.d/{address}/ca.crt"):
            result_store(url, anonymous).check()
        trust_by(way, authority / "ca.pem", address, monkeypatch)
        store = result_store(url, anonymous)
        assert store.check() == "answers, and asks for no credential"
        state, digest = capture(x=41, blob=b"z" * 200_000)
        settings = store.settings(JOB, None)
        assert len(json.dumps(settings)) < 4000, "public CAs are not sent along"
        deliver_in_a_container(python_image, state, digest, settings)
        assert fetched(store, digest, tmp_path / "here") == {"x": 41, "blob": b"z" * 200_000}
        store.remove(JOB)
        assert not requests.head(
            f"https://{address}/v2/team/results/manifests/{JOB}", verify=str(authority / "ca.pem"), timeout=10
        ).ok


@pytest.mark.parametrize("way", ["PIP_CERT", "AWS_CA_BUNDLE"])
def test_through_s3_with_a_ca_of_its_own(
    authority: Path, python_image: str, capture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    port, ca = free_port(), authority / "ca.pem"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    command += ["--ssl-cert", str(authority / "cert.pem"), "--ssl-key", str(authority / "key.pem")]
    for name, value in (
        ("XDG_DATA_HOME", str(tmp_path / "share")),
        ("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "not-for-jobs"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port), 60, "moto's start")
        assert requests.put(f"https://127.0.0.1:{port}/bucket", verify=str(ca), timeout=10).ok
        with pytest.raises(JobError, match=r"cannot be read: .*CERTIFICATE_VERIFY_FAILED"):
            result_store("s3://bucket/results", anonymous).check()
        trust_by(way, ca, "", monkeypatch)
        store = result_store("s3://bucket/results", anonymous)
        assert store.check() == "answers, and signs uploads"
        state, digest = capture(x=41, blob=b"z" * 200_000)
        deliver_in_a_container(python_image, state, digest, store.settings(JOB, 60))
        assert fetched(store, digest, tmp_path / "here") == {"x": 41, "blob": b"z" * 200_000}
    finally:
        server.kill()
        server.wait()


def test_a_bundle_with_a_flipped_bit_is_refused(s3: SigningStore, capture: Any, tmp_path: Path) -> None:
    state, digest = capture(blob=b"z" * 100_000)
    send(s3, state, digest)
    path = s3._path(JOB)
    content = bytearray(s3._files.cat_file(path))
    content[-500] ^= 1
    s3._files.pipe_file(path, bytes(content))
    with pytest.raises(JobError, match="was changed after the job wrote it"):
        s3.fetch(JOB, digest, ResultFolder(tmp_path / "here"))
    s3._files.pipe_file(path, b'{"files": [["../blobs", "sha256:x", 1]]}\n')
    with pytest.raises(JobError, match="bundle was changed"):
        s3.fetch(JOB, digest, ResultFolder(tmp_path / "here"))


@pytest.mark.parametrize("url", ["file:///results", "/results", "results"])
def test_a_folder_is_no_store(url: str) -> None:
    with pytest.raises(ConfigError, match=r"name a registry .* or a store that can sign uploads"):
        result_store(url, anonymous)


def test_a_store_that_nothing_is_installed_for() -> None:
    with pytest.raises(ConfigError, match="result_url = 'nosuch://x'"):
        result_store("nosuch://x", anonymous)


def test_memory_stays_small(capture: Any, tmp_path: Path) -> None:
    """300 MB there and back again: neither side holds more than pieces of it."""
    with registry(tmp_path) as host:
        state, digest = capture(blob=bytearray(300 << 20))
        script = f"""
import resource, sys
from pathlib import Path
from docker_kernel.batch.result_store import ResultFolder, result_store
from docker_kernel.guest.deliver import deliver
store = result_store("oci+http://{host}/team", lambda host: None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
deliver({state!r}, {digest!r}, {{"inline": 100, "store": store.settings("{JOB}", None)}}, None)
store.fetch("{JOB}", {digest!r}, ResultFolder(Path({str(tmp_path / "here")!r})))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=patient(120), check=False
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 30 << 10  # KiB
    assert ResultFolder(tmp_path / "here").complete(digest)
