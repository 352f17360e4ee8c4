"""Webhooks are signed, go where they are meant to and nowhere else, and give no secret away."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from receivers import receiving

from components.registry import HistoryEntry
from tests.local_http import Handler, served
from vila_core.errors import UserError
from vila_ops.registry.delivering import Refused, Undelivered
from vila_ops.registry.mirror_settings import MirrorSettings, Webhook, read_settings
from vila_ops.registry.webhooks import _is_public, event, post, retry_after, secret_key, verify

KEY = b"a key of thirty-two bytes or so!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def hook(url: str, **more: Any) -> Webhook:
    values = {"url": url, "secret": {"env": "HOOK_SECRET"}, "timeout_s": 2, "allow_http": True,
              "allow_private": True}  # fmt: skip
    return Webhook.model_validate({**values, **more})


def entry(**more: Any) -> HistoryEntry:
    values: dict[str, Any] = {
        "seq": 7, "kind": "promote", "version": 3, "alias": "champion", "before": 2, "who": "ada",
        "when": "2026-11-29T10:00:00.000+00:00", "why": "better", "evidence": {"passed": True},
    }  # fmt: skip
    return HistoryEntry(**{**values, **more})


def test_a_receiver_can_tell_who_sent_it() -> None:
    with receiving() as receiver:
        assert post(hook(receiver.url), "deploy", "mini", entry()) == {"status": 200}
    body, headers = receiver.bodies[0], receiver.headers[0]
    assert verify(KEY, headers, body)
    assert not verify(b"another key of the same length..", headers, body)
    assert not verify(KEY, headers, body + b" ")
    assert not verify(KEY, {**headers, "webhook-id": "other"}, body)
    assert not verify(KEY, headers, body, now=time.time() + 301)  # played again later
    assert not verify(KEY, {}, body)
    assert not verify(KEY, {**headers, "webhook-signature": "v1,\u00e9"}, body)
    # By hand, as the specification has it.
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    data = json.loads(body)["data"]
    assert (data["model"], data["alias"], data["version"], data["before"]) == (
        "mini", "champion", 3, 2
    )  # fmt: skip
    assert headers["webhook-id"] == data["entry"] == entry().digest()


def test_the_known_answer_of_the_specification() -> None:
    """The example of the Standard Webhooks libraries, so that theirs verify ours."""
    key = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verify(key, headers, b'{"test": 2432232314}', now=1614265330)


def test_secrets_and_huge_evidence_stay_out_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-secret-token")
    made = event("mini", entry(why="used a-secret-token", evidence={"api_key": "x"}))
    assert "a-secret-token" not in json.dumps(made)
    assert made["data"]["evidence"] == {"api_key": "***"}
    huge = event("mini", entry(evidence={"passed": False, "rows": ["x" * 100] * 1000}))
    assert huge["data"]["evidence"] == {"passed": False, "left_out": True}


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "100.64.0.1", "0.0.0.0", "::1",
     "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::",
     "64:ff9b::a9fe:a9fe", "224.0.0.1", "255.255.255.255", "::"],
)  # fmt: skip
def test_addresses_inside_of_a_network_are_known(address: str) -> None:
    assert not _is_public(address)


def test_addresses_of_the_internet_are_known() -> None:
    for address in ("1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"):
        assert _is_public(address)


def test_a_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only one of its addresses does: which is taken is not the sender's choice."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (at, 443)) for at in ("1.1.1.1", "10.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    connected: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: connected.append(a))
    with pytest.raises(Refused, match=r"hooks.test is at 10.0.0.1.*allow_private: true"):
        post(hook("https://hooks.test/", allow_private=False), "deploy", "mini", entry())
    assert not connected


def test_redirects_are_not_followed() -> None:
    with (
        receiving() as inner,
        receiving((307, {"Location": inner.url})) as outer,
        pytest.raises(Refused, match="redirect"),
    ):
        post(hook(outer.url), "deploy", "mini", entry())
    assert not inner.bodies


def test_no_proxy_of_the_environment_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with receiving() as receiver:
        post(hook(receiver.url), "deploy", "mini", entry())


def test_a_name_that_is_not_known_is_tried_again() -> None:
    with pytest.raises(Undelivered, match="no address is known"):
        post(hook("http://no-such-host.invalid/"), "deploy", "mini", entry())


def test_retry_after_as_number_and_date() -> None:
    assert retry_after("120") == 120
    assert retry_after("-5") == 0
    assert retry_after("99999999999") == 86_400
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    found = retry_after(at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    assert found is not None
    assert 97 < found <= 101
    assert retry_after("soon") is None
    assert retry_after(None) is None


@pytest.mark.parametrize("secret", ["whsec_???", "whsec_c2hvcnQ=", "hunter2"])
def test_secrets_that_are_none_are_told_without_showing_them(secret: str) -> None:
    with pytest.raises(UserError) as raised:
        secret_key(secret)
    assert secret not in str(raised.value)


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A receiver behind TLS for the name localhost, and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    present = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(present - datetime.timedelta(days=1))
        .not_valid_after(present + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "cert.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = tmp_path / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )

    class Answering(Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, private)
    with served(Answering, context, quiet=True) as url:
        yield url.replace("127.0.0.1", "localhost") + "/hook", file


def test_certificates_are_checked(tls: tuple[str, Path]) -> None:
    url, file = tls
    assert post(hook(url, ca_file=str(file)), "deploy", "mini", entry()) == {"status": 204}
    with pytest.raises(Undelivered, match="certificate verify failed"):
        post(hook(url), "deploy", "mini", entry())
    other = url.replace("localhost", "127.0.0.1")
    with pytest.raises(Undelivered, match="certificate"):
        post(hook(other, ca_file=str(file)), "deploy", "mini", entry())


def settings_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("webhooks: {a: {url: 'http://h/', secret: {env: X}}}", "is not https"),
        ("webhooks: {a: {url: 'ftp://h/', secret: {env: X}}}", "give https://HOST/PATH"),
        ("webhooks: {A: {url: 'https://h/', secret: {env: X}}}", "can't name a target"),
        ("webhooks: {a: {url: 'https://h/', secret: {env: X}}}\nwandb: {a: {}}", "names two"),
        ("webhooks: {a: {url: 'https://h/', secret: {}}}", "name one of env"),
        ("webhooks: {a: {url: 'https://h/', secret: {env: X}, urll: 1}}", "did you mean 'url'"),
        ("wandb: {w: {kinds: [approve]}}", "approve moves none"),
        ("huggingface: {h: {repo: nobody}}", "give OWNER/NAME"),
        ("hooks: {}", "unknown key"),
    ],
)
def test_a_wrong_configuration_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=r"registry\.yaml") as raised:
        read_settings(settings_file(tmp_path, text))
    assert told in str(raised.value)


def test_secrets_written_into_the_file_are_refused_and_not_shown(tmp_path: Path) -> None:
    for text in (
        "webhooks: {a: {url: 'https://h/', secret: hunter2hunter2}}",
        "webhooks: {a: {url: 'https://me:hunter2hunter2@h/', secret: {env: X}}}",
        "huggingface: {h: {repo: a/b, token: hunter2hunter2}}",
        "wandb: {w: {api_key: {value: hunter2hunter2}}}",
        "webhooks: {a: {url: 'https://h/', secret: {env: 'hunter2-hunter2hunter2'}}}",
    ):
        with pytest.raises(UserError) as raised:
            read_settings(settings_file(tmp_path, text))
        assert "hunter2" not in str(raised.value)


def test_a_secret_comes_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    with receiving() as receiver:
        post(hook(receiver.url, secret={"file": str(file)}), "deploy", "mini", entry())
    assert verify(KEY, receiver.headers[0], receiver.bodies[0])


def test_a_secret_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_SECRET")
    with pytest.raises(UserError, match=r"webhooks.deploy.secret: the variable HOOK_SECRET"):
        post(hook("https://hooks.test/"), "deploy", "mini", entry())


def test_without_a_configuration_there_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VILA_REGISTRY_CONFIG", raising=False)
    assert read_settings() == MirrorSettings()
