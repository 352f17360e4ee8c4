"""What servers refuse, and settings that can't be: told with what to do about it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from minio import Minio

from tests import s3_server
from tests.ceph_server import KMS_KEY, REAL
from tests.local_http import Handler, served
from vila_core.errors import StoreError, Unreachable, UserError
from vila_core.store import Store, open_store, s3_upload

BAD = [
    ("VILA_S3_ENDPOINT", "http://minio:9000/path", "is not an endpoint"),
    ("VILA_S3_ENDPOINT", "http://minio:port", "is not an endpoint"),
    ("VILA_S3_ENDPOINT", "http://me:secret@minio:9000", "is not an endpoint"),
    ("VILA_S3_TIMEOUT", "-1", "is not a number of seconds above zero"),
    ("VILA_S3_PARALLEL", "0", "is not a number from 1 to 64"),
    ("VILA_S3_STYLE", "dns", "is not one of path, virtual"),
    ("VILA_S3_VERIFY", "no", "is not one of etag, read"),
    ("VILA_S3_ENCRYPTION", "aes", "is not a kind of encryption; fix: sse-s3, sse-kms or sse-kms:K"),
    ("VILA_S3_ENCRYPTION", "sse-c", "is not supported: whoever loses the customer's key loses the"),
    ("AWS_CA_BUNDLE", "/none.pem", "is no file of PEM certificates: No such file"),
    ("AWS_CA_BUNDLE", __file__, "is no file of PEM certificates"),
    ("AWS_REGION", "not a region", "is not the name of a region"),
]


@pytest.mark.parametrize(("name", "value", "told"), BAD, ids=lambda each: str(each)[:30])
def test_settings_that_cannot_be(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told) as caught:
        open_store("s3://bucket/x")
    assert f"{name}=" in str(caught.value)


@pytest.mark.parametrize("bucket", ["Upper", "ab", "under_score", "-x-"])
def test_names_that_no_bucket_has(s3_store: Store, bucket: str) -> None:
    with pytest.raises(UserError, match=f"s3://{bucket}: is not the name of a bucket"):
        open_store(f"s3://{bucket}/x")


class Refusing(Handler):
    """Answers everything with one error."""

    status, code, headers_, body = 403, "AccessDenied", {}, None

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = self.body or f"<Error><Code>{self.code}</Code><Message>told</Message></Error>"
        self.send_response_only(self.status)
        headers = {"Content-Type": "application/xml", **self.headers_}
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer


@contextlib.contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, **how: object) -> Iterator[Store]:
    handler = type("Handler", (Refusing,), how)
    with served(handler) as url:
        settings = {**s3_server.CREDENTIALS, "VILA_S3_ENDPOINT": url, "VILA_S3_TIMEOUT": "2"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield open_store("s3://bucket/x")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "AccessDenied",
            r"access denied; fix: credentials that may write there \(s3:PutObject\): t",
        ),
        ("ExpiredToken", "the session token has expired; fix: new keys"),
        ("TokenRefreshRequired", "the session token has expired; fix: new keys"),
        ("InvalidTokenId", "the session token is not one of these keys; check AWS_SESSION_TOKEN"),
        ("AuthorizationHeaderMalformed", "is in another region; fix: AWS_REGION=eu-north-1"),
        ("XMinioStorageFull", "no space left in the store"),
        ("NotImplemented", r"lacks something that a store needs \(conditional writes"),
        ("KMS.NotFoundException", "fix: check VILA_S3_ENCRYPTION and the key's policy"),
        ("SomethingNew", "SomethingNew: told"),
    ],
)
def test_codes_of_servers(monkeypatch: pytest.MonkeyPatch, code: str, told: str) -> None:
    with refusing(
        monkeypatch, code=code, headers_={"x-amz-bucket-region": "eu-north-1"}
    ) as store, pytest.raises(StoreError, match=told) as caught:  # fmt: skip
        store.write("k", b"v")
    assert str(caught.value).startswith("s3://bucket/x/k: can't be written: ")
    assert s3_server.CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_rights_are_named_by_what_was_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with refusing(monkeypatch) as store:
        for call, right in (
            (lambda: store.read("k"), "s3:GetObject"),
            (lambda: store.etag("k"), "s3:GetObject"),
            (lambda: store.delete("k"), "s3:DeleteObject"),
            (lambda: list(store.list()), "s3:ListBucket"),
            (lambda: store.upload("k", tmp_path / "file"), "s3:PutObject"),
            (lambda: store.download("k", tmp_path / "other"), "s3:GetObject"),
        ):
            with pytest.raises(StoreError, match=right):
                call()


def test_what_a_head_cannot_say_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing(monkeypatch, code="ExpiredToken", status=400) as store:
        with pytest.raises(StoreError, match="the session token has expired"):
            store.etag("k")
        with pytest.raises(StoreError, match="the session token has expired"):
            store.exists("k")


def test_a_clock_that_is_wrong_is_told_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    there = datetime.datetime.now(UTC) - datetime.timedelta(minutes=42)
    date = there.strftime("%a, %d %b %Y %H:%M:%S GMT")
    with refusing(
        monkeypatch, code="RequestTimeTooSkewed", headers_={"Date": date}
    ) as store, pytest.raises(
        StoreError, match=r"clock is 42 minutes ahead of the server's; fix: set the clock of this"
    ):  # fmt: skip
        store.read("k")


@pytest.mark.parametrize("body", ["<html>welcome</html>", "no XML"])
@pytest.mark.parametrize("kind", ["text/html", "application/xml"])
@pytest.mark.parametrize("status", [200, 404])
def test_what_is_no_s3_server(
    monkeypatch: pytest.MonkeyPatch, body: str, kind: str, status: int
) -> None:
    how = {"status": status, "body": body, "headers_": {"Content-Type": kind}}
    with refusing(monkeypatch, **how) as store:
        if status == 200:
            if body == "no XML":
                with pytest.raises(StoreError, match=r"is no S3 server .*VILA_S3_ENDPOINT"):
                    list(store.list())
        else:
            with pytest.raises(StoreError):
                store.read("k")


def test_a_proxy_that_fails_is_unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    how = {"status": 502, "body": "<html>bad gateway</html>", "headers_": {"Content-Type": "a/b"}}
    with refusing(monkeypatch, **how) as store:
        monkeypatch.setenv("VILA_S3_TIMEOUT", "0.2")
        with pytest.raises(Unreachable):
            open_store(store.uri).download("k", tmp_path / "file")
        with pytest.raises(Unreachable):
            store.read("k")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """An authority of our own, and what it has signed for 127.0.0.1: cert.pem and key.pem."""
    now = datetime.datetime.now(UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def build(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    basic = x509.BasicConstraints(ca=True, path_length=None)
    ca = build("test authority", root).add_extension(basic, critical=True)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = build("127.0.0.1", key).add_extension(address, critical=False)
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(ca.sign(root, hashes.SHA256()).public_bytes(pem))
    (tmp_path / "cert.pem").write_bytes(leaf.sign(root, hashes.SHA256()).public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return tmp_path


def test_an_authority_of_ones_own(
    authority: Path, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = ["-c", str(authority / "cert.pem"), "-k", str(authority / "key.pem")]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), *files]
    server = subprocess.Popen(
        command,
        env={**os.environ, **s3_server.CREDENTIALS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        monkeypatch.setenv("VILA_S3_ENDPOINT", f"https://127.0.0.1:{port}")
        told = r"certificate is not trusted; fix: AWS_CA_BUNDLE=the file of the authority"
        with pytest.raises(StoreError, match=told):
            open_store("s3://bucket/x").read("k")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
        with pytest.raises(StoreError, match="no such bucket"):
            open_store("s3://bucket/x").write("k", b"v")
        monkeypatch.delenv("AWS_CA_BUNDLE")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
        with pytest.raises(StoreError, match="no such bucket"):
            open_store("s3://bucket/x").write("k", b"v")
    finally:
        server.kill()
        server.wait()


def test_tls_where_there_is_none(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.environ["VILA_S3_ENDPOINT"]
    monkeypatch.setenv("VILA_S3_ENDPOINT", plain.replace("http:", "https:"))
    with pytest.raises(StoreError, match=r"speaks no TLS; fix: http:// in VILA_S3_ENDPOINT"):
        open_store("s3://bucket/x").read("k")


def test_virtual_style_asks_the_buckets_own_host(
    s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = os.environ["VILA_S3_ENDPOINT"].rsplit(":", 1)[1]
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def local(host: str, *rest: object, **more: object) -> object:
        asked.append(host)
        return look_up("127.0.0.1", *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", local)
    monkeypatch.setenv("VILA_S3_ENDPOINT", f"http://s3.localhost:{port}")
    monkeypatch.setenv("VILA_S3_STYLE", "virtual")
    with contextlib.suppress(StoreError):
        open_store(s3_store.uri).read("k")
    assert set(asked) == {f"{s3_server.BUCKET}.s3.localhost"}


def head(store: Store, key: str) -> dict[str, str]:
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    keys = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    client = Minio(os.environ["VILA_S3_ENDPOINT"][7:], *keys, secure=False, region="us-east-1")
    found = client.stat_object(bucket, f"{prefix}/{key}").metadata or {}
    return {name.lower(): value for name, value in found.items()}


@pytest.fixture(params=["s3", REAL])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(os.urandom(11 * 2**20))
    return tmp_path / "file"


def test_encrypted_by_a_key_of_the_server(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "PART", 5 * 2**20)
    monkeypatch.setenv("VILA_S3_ENCRYPTION", f"sse-kms:{KMS_KEY}")
    encrypted = open_store(store.uri)
    encrypted.write("small", b"v", create_only=True)
    tag = encrypted.etag("small")
    encrypted.swap("small", b"w", expected=tag)
    assert encrypted.read("small") == b"w"
    encrypted.upload("large", file)
    encrypted.download("large", file.with_name("down"))
    assert file.with_name("down").read_bytes() == file.read_bytes()
    for key in ("small", "large"):
        assert head(store, key)["x-amz-server-side-encryption"] == "aws:kms"


def test_sse_s3(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA_S3_ENCRYPTION", "sse-s3")
    encrypted = open_store(s3_store.uri)
    encrypted.write("k", b"v")
    assert encrypted.read("k") == b"v"
    assert head(s3_store, "k")["x-amz-server-side-encryption"] == "AES256"


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_a_real_server_without_the_key_refuses(
    real_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_S3_ENCRYPTION", "sse-kms:no-such-key")
    with pytest.raises(StoreError, match="k: can't be written"):
        open_store(real_store.uri).write("k", b"v")


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_a_real_server_tells_a_wrong_clock(
    real_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_store.write("k", b"v")
    late = datetime.datetime.now(UTC) + datetime.timedelta(hours=2)
    monkeypatch.setattr("minio.time.utcnow", lambda: late)
    with pytest.raises(StoreError, match=r"this machine's clock is .*fix: set the clock"):
        real_store.read("k")
    with pytest.raises(StoreError, match=r"this machine's clock is .*fix: set the clock"):
        real_store.etag("k")


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_a_real_bucket_that_is_read_only(real_store: Store, file: Path) -> None:
    keys = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    client = Minio(os.environ["VILA_S3_ENDPOINT"][7:], *keys, secure=False, region="us-east-1")
    bucket = f"read-only-{uuid.uuid4().hex}"
    client.make_bucket(bucket)
    store = open_store(f"s3://{bucket}")
    store.write("k", b"v")
    deny = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject", "s3:DeleteObject"]}
    statement = {**deny, "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    client.set_bucket_policy(
        bucket, json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    assert store.read("k") == b"v"
    for call in (
        lambda: store.write("k", b"w"),
        lambda: store.write("k", b"w", create_only=True),
        lambda: store.upload("k", file),
    ):
        with pytest.raises(StoreError, match="credentials that may write there"):
            call()
    with pytest.raises(StoreError, match="credentials that may delete there"):
        store.delete("k")
    assert store.read("k") == b"v"


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_a_real_bucket_that_is_missing(real_store: Store, file: Path) -> None:
    none = open_store(f"s3://none-{uuid.uuid4().hex}")
    for call in (
        lambda: none.read("k"),
        lambda: none.write("k", b"v"),
        lambda: none.upload("k", file),
        lambda: none.download("k", file),
        lambda: list(none.list()),
    ):
        with pytest.raises(StoreError, match="there is no such bucket; create it"):
            call()
