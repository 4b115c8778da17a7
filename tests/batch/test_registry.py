"""The registry's client, against real registries: open, with a password, with a token service, with a CA of its own."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docker_kernel.batch.registry import MANIFESTS, Registry
from docker_kernel.engine import registry_credentials
from docker_kernel.errors import ConfigError, JobError
from tests.batch.test_result_store import TokenService
from tests.engines import OwnRegistry, Relay, free_port, need
from tests.patience import patient

DATA = os.urandom(3_000_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
USERS = "ada:$2b$04$7/8mEnLi7qPw5LkBneR4I.Y7u/GwuSM3S4lTQQHCzrTEFpuYHX/X.\n"
"""A file of htpasswd's: the password is s3cret."""

OTHER = f"sha256:{'0' * 64}"


def pieces(data: bytes = DATA) -> Iterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


def put(registry: Registry, repository: str = "team/one") -> None:
    registry.upload(repository, DIGEST, len(DATA), pieces)


def kept(server: OwnRegistry, digest: str) -> bool:
    return (server.folder / "data/docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:]).exists()


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[OwnRegistry]:
    need("docker-registry")
    server = OwnRegistry(folder, settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def test_blobs_and_manifests_are_kept(own_registry: OwnRegistry) -> None:
    registry = Registry(f"{own_registry.address}/team")
    repository = registry.repository("kept")
    assert repository == "team/kept" and registry.check() == "answers"
    assert not registry.has_blob(repository, DIGEST)
    put(registry, repository)
    put(registry, repository)  # harmless where it is there
    assert registry.has_blob(repository, DIGEST) and not registry.has_blob(repository, OTHER)
    assert registry.blob(repository, DIGEST) == DATA
    layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": len(DATA), "digest": DIGEST}
    config = {**layer, "mediaType": "application/vnd.docker.container.image.v1+json"}
    content = {"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": config, "layers": [layer]}
    assert registry.manifest(repository, "latest") is None
    registry.put_manifest(repository, "latest", content, MANIFESTS[0])
    found = registry.manifest(repository, "latest")
    assert found is not None and found.content == content
    assert registry.manifest(repository, found.digest) == found


def test_what_is_not_there_is_said(own_registry: OwnRegistry) -> None:
    with pytest.raises(JobError, match=r"did not give sha256:000000000000 of team/one \(404"):
        Registry(own_registry.address).blob("team/one", OTHER)


def test_an_upload_that_is_not_what_its_digest_says_is_refused(own_registry: OwnRegistry) -> None:
    with pytest.raises(JobError, match=r"did not keep an image layer for team/wrong.*digest"):
        Registry(own_registry.address).upload("team/wrong", OTHER, len(DATA), pieces)
    assert not kept(own_registry, OTHER)


def test_what_fails_while_pieces_are_made_ends_the_upload(own_registry: OwnRegistry) -> None:
    closed = []

    def broken() -> Iterator[bytes]:
        try:
            yield DATA[:1_000_000]
            raise JobError("the state was changed")
        finally:
            closed.append(True)

    with pytest.raises(JobError, match="the state was changed"):
        Registry(own_registry.address).upload("team/broken", DIGEST, len(DATA), broken)
    assert closed == [True]
    assert not Registry(own_registry.address).has_blob("team/broken", DIGEST)


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_not_a_byte_more_or_less_is_sent_than_was_said(own_registry: OwnRegistry, size: int) -> None:
    relay = Relay(own_registry.port)
    try:
        with pytest.raises(JobError, match="not as large as it was said to be"):
            Registry(relay.address).upload("team/size", DIGEST, size, pieces)
        assert relay.sent < size + 2000
    finally:
        relay.close()


@pytest.mark.parametrize("address", ["", "/team", "host/Team", "host/a b", "host/../x"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match=r"write HOST\[:PORT\]/PREFIX"):
        Registry(address)


def test_who_speaks_plain_http() -> None:
    assert [Registry(one).origin.partition(":")[0] for one in ("127.0.0.1:5000", "localhost/x", "r.org/x")] == [
        "http", "http", "https",
    ]  # fmt: skip
    assert Registry("http://r.org:5000/x").origin == "http://r.org:5000"


def test_nobody_answers() -> None:
    started = time.monotonic()
    with pytest.raises(JobError, match=r"cannot be reached: .*; is `registry` right, and is it up\?"):
        Registry(f"127.0.0.1:{free_port()}").check()
    assert time.monotonic() - started < patient(10)


def test_a_registry_that_starts_again_during_an_upload(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        attempts = []

        def slow() -> Iterator[bytes]:
            attempts.append(True)
            for number, piece in enumerate(pieces()):
                if number == 15 and len(attempts) == 1:
                    server.kill()
                    server.start()
                yield piece

        Registry(server.address).upload("team/one", DIGEST, len(DATA), slow)
        assert len(attempts) == 2
        assert Registry(server.address).blob("team/one", DIGEST) == DATA


def test_a_registry_that_is_killed_during_an_upload(tmp_path: Path) -> None:
    with serving(tmp_path) as server:

        def deadly() -> Iterator[bytes]:
            for number, piece in enumerate(pieces()):
                if number == 15:
                    server.kill()
                yield piece

        registry, started = Registry(server.address), time.monotonic()
        with pytest.raises(JobError, match=f"The registry {server.address} cannot be reached"):
            registry.upload("team/one", DIGEST, len(DATA), deadly)
        assert time.monotonic() - started < patient(15)
        server.start()
        assert not registry.has_blob("team/one", DIGEST)
        put(registry)
        assert registry.blob("team/one", DIGEST) == DATA


def test_a_registry_whose_disk_is_full(tmp_path: Path) -> None:
    need("docker-registry")
    (tmp_path / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path / "data")], check=True)
    try:
        with serving(tmp_path) as server:
            with pytest.raises(JobError, match="as its disk is full: free space there"):
                put(Registry(server.address))
            assert not kept(server, DIGEST)
    finally:
        subprocess.run(["umount", str(tmp_path / "data")], check=True)


def test_a_password(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(USERS)
    with serving(tmp_path, auth={"htpasswd": {"realm": "team", "path": str(tmp_path / "users")}}) as server:
        asked = []

        def known(host: str) -> tuple[str, str]:
            asked.append(host)
            return "ada", "s3cret"

        registry = Registry(server.address, known)
        put(registry)
        assert registry.blob("team/one", DIGEST) == DATA
        assert set(asked) == {server.address}
        for credentials in (lambda host: None, lambda host: ("ada", "wrong")):
            with pytest.raises(JobError, match=rf"\(401 .*; `docker login {server.address}` first"):
                put(Registry(server.address, credentials))


def test_a_password_of_docker_s_own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users").write_text(USERS)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    with serving(tmp_path, auth={"htpasswd": {"realm": "team", "path": str(tmp_path / "users")}}) as server:
        command = ["docker", "login", "-u", "ada", "--password-stdin", server.address]
        subprocess.run(command, input=b"s3cret", check=True, capture_output=True, timeout=patient(30))
        assert registry_credentials(server.address) == ("ada", "s3cret")
        put(Registry(server.address, registry_credentials))


def test_a_token_service(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    service = TokenService(tmp_path)
    token = {"realm": service.realm, "service": "registry", "issuer": "test"}
    try:
        with serving(tmp_path, auth={"token": {**token, "rootcertbundle": str(tmp_path / "tokens.pem")}}) as server:
            registry = Registry(server.address, lambda host: ("ada", "s3cret"))
            put(registry)
            assert registry.blob("team/one", DIGEST) == DATA
            put(registry, "team/two")
        assert service.asked == [
            (f"repository:team/{name}:pull,push", "Basic YWRhOnMzY3JldA==") for name in ("one", "two")
        ]
    finally:
        service.server.shutdown()
        service.server.server_close()


def test_a_ca_of_its_own(authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = {"certificate": str(authority / "cert.pem"), "key": str(authority / "key.pem")}
    with serving(tmp_path, http={"tls": tls}) as server:
        with pytest.raises(JobError, match=rf"not trusted here .*certs.d/{server.address}/ca.crt"):
            put(Registry(f"https://{server.address}/team"))
        monkeypatch.setenv("PIP_CERT", str(authority / "ca.pem"))
        put(Registry(f"https://{server.address}/team"))
        monkeypatch.delenv("PIP_CERT")
        trusted = tmp_path / ".config/docker/certs.d" / server.address
        trusted.mkdir(parents=True)
        shutil.copy(authority / "ca.pem", trusted / "ca.crt")
        assert Registry(f"https://{server.address}/team").blob("team/one", DIGEST) == DATA


def test_no_other_host_gets_the_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a store that uploads are sent on to, nor the registry those that ~/.netrc has for it."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login netrc password netrc\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    seen: dict[str, list[str | None]] = {"registry": [], "store": []}

    def server(name: str) -> http.server.ThreadingHTTPServer:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen[name].append(self.headers["Authorization"])
                if self.headers["Authorization"] is None:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="team"')
                else:
                    self.send_response(202)
                    self.send_header("Location", f"http://127.0.0.1:{store.server_port}/there")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_PUT(self) -> None:
                seen[name].append(self.headers["Authorization"])
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        return made

    registry, store = server("registry"), server("store")
    try:
        put(Registry(f"127.0.0.1:{registry.server_port}", lambda host: ("ada", "s3cret")))
    finally:
        for one in (registry, store):
            one.shutdown()
            one.server_close()
    assert seen == {"registry": [None, "Basic YWRhOnMzY3JldA=="], "store": [None]}
