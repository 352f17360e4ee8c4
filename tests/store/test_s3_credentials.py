"""Where keys come from, and keys that expire in the middle of a training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.local_http import Handler, served
from vila_core.errors import StoreError, Unreachable, UserError
from vila_core.store import Store, open_store
from vila_core.store.s3_credentials import Renewing
from vila_core.store.s3_settings import S3Settings

TOKEN = "header.claims-of-vila-step.signature"
GIVES = """<?xml version="1.0" encoding="UTF-8"?>
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <AssumedRoleUser><Arn></Arn><AssumeRoleId></AssumeRoleId></AssumedRoleUser>
    <Credentials>
      <AccessKeyId>KEY{number}</AccessKeyId>
      <SecretAccessKey>secret-{number}</SecretAccessKey>
      <Expiration>{expires}</Expiration>
      <SessionToken>session-{number}</SessionToken>
    </Credentials>
    <SubjectFromWebIdentityToken>system:serviceaccount:vila:vila-step</SubjectFromWebIdentityToken>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>16F26F081E432DEF</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>"""  # what MinIO answers
REFUSES = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<Error><Type>Sender</Type><Code>ExpiredTokenException</Code>
<Message>Token expired: current date/time must be before the expiration date/time</Message></Error>
<RequestId>1</RequestId></ErrorResponse>"""


@dataclass
class Sts:
    """A token service: what it was asked, and how it answers."""

    asked: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answer: tuple[int, str] | None = None  # None: keys
    life_s: float = 3600.0
    url: str = ""


@pytest.fixture
def sts() -> Iterator[Sts]:
    state = Sts()

    class Service(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            state.asked.append({name: values[0] for name, values in parse_qs(body).items()})
            state.paths.append(self.path)
            expires = datetime.now(UTC) + timedelta(seconds=state.life_s)
            keys = GIVES.format(
                number=len(state.asked), expires=expires.strftime("%Y-%m-%dT%H:%M:%SZ")
            )
            status, text = state.answer or (200, keys)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    with served(Service) as state.url:
        yield state


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VILA_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("VILA_S3_TIMEOUT", "5")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
    return file


def keys() -> tuple[str, str, str | None]:
    """What a request would be signed with."""
    found = S3Settings.from_environment().credentials().retrieve()
    return found.access_key, found.secret_key, found.session_token


def test_without_any_the_ways_are_named() -> None:
    with pytest.raises(UserError, match=r"set AWS_ACCESS_KEY_ID and .* AWS_PROFILE, or AWS_WEB_ID"):
        open_store("s3://bucket/x")


def test_at_aws_without_any_the_machine_is_asked_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VILA_S3_ENDPOINT")
    started = time.monotonic()
    with pytest.raises(UserError, match="needs credentials"):
        open_store("s3://bucket/x").read("k")
    assert time.monotonic() - started < 10


def test_variables_come_first(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert keys() == ("a", "b", None)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "c")
    assert keys() == ("a", "b", "c")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="set AWS_SECRET_ACCESS_KEY"):
        keys()


def test_a_profile_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = e%f\n"
        "[team]\naws_access_key_id = g\naws_secret_access_key = h\naws_session_token = i\n"
        "[half]\naws_access_key_id = j\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert keys() == ("d", "e%f", None)
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert keys() == ("g", "h", "i")
    for profile, told in (
        ("none", r"keys: has no profile 'none' \(AWS_PROFILE\); it has: default, team, half"),
        ("half", "keys: profile 'half' has no aws_secret_access_key"),
    ):
        monkeypatch.setenv("AWS_PROFILE", profile)
        with pytest.raises(UserError, match=told):
            keys()
    file.write_text("not [ini")
    with pytest.raises(UserError, match="keys: is not a file of AWS credentials"):
        keys()
    file.unlink()
    with pytest.raises(UserError, match="keys: can't be read: No such file"):
        keys()


def test_the_file_in_the_home_folder_is_found(tmp_path: Path) -> None:
    file = tmp_path / "home" / ".aws" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text("[default]\naws_access_key_id=a\naws_secret_access_key=b\n")
    assert keys() == ("a", "b", None)


def test_a_rotated_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    text = "[default]\naws_access_key_id={}\naws_secret_access_key=b\n"
    file.write_text(text.format("old"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    provider = S3Settings.from_environment().credentials()
    assert provider.retrieve().access_key == "old"
    (tmp_path / "new").write_text(text.format("new"))
    (tmp_path / "new").replace(file)
    assert provider.retrieve().access_key == "new"
    file.unlink()
    assert provider.retrieve().access_key == "new", "as long as there is no other"


def test_a_service_account(sts: Sts, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VILA_S3_STS_ENDPOINT", sts.url)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:minio:iam:::role/vila")
    assert keys() == ("KEY1", "secret-1", "session-1")
    assert sts.asked == [
        {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "WebIdentityToken": TOKEN,
            "RoleSessionName": "vila",
            "RoleArn": "arn:minio:iam:::role/vila",
        }
    ]
    assert sts.paths == ["/"], "servers log URLs: the token must not be in one"


def test_keys_are_renewed_with_the_newest_token(
    sts: Sts, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_S3_STS_ENDPOINT", sts.url)
    sts.life_s = 3
    provider = S3Settings.from_environment().credentials()
    assert provider.retrieve() is provider.retrieve()
    token.write_text("another")
    deadline = time.monotonic() + 20
    while provider.retrieve().access_key == "KEY1":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert sts.asked[1]["WebIdentityToken"] == "another"


def test_a_failure_to_renew_is_borne_while_the_keys_are_good(
    sts: Sts, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("vila_core.store.s3_credentials.time.time", lambda: now[0])
    monkeypatch.setenv("VILA_S3_STS_ENDPOINT", sts.url)
    provider = S3Settings.from_environment().credentials()
    assert isinstance(provider, Renewing)
    provider.retrieve()
    now[0] += 3000
    assert provider.retrieve().access_key == "KEY1"
    sts.answer = (500, "")
    now[0] += 310  # less than five minutes of an hour are left
    assert provider.retrieve().access_key == "KEY1"
    tried = len(sts.asked)
    assert tried > 1
    provider.retrieve()
    assert len(sts.asked) == tried, "not with every request"
    now[0] += 400
    with pytest.raises(Unreachable, match="the token service does not answer"):
        provider.retrieve()
    sts.answer = None
    assert provider.retrieve().access_key != "KEY1"


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (
            400,
            REFUSES,
            r"ExpiredTokenException: Token expired: .*; fix: a token in .*token that is",
        ),
        (403, "<html>no</html>", r"gives no keys for the service account \(HTTP status 403\)"),
        (200, "<html>hello</html>", "its answer holds no keys; fix: VILA_S3_STS_ENDPOINT"),
        (200, "hello", "its answer holds no keys"),
    ],
)
def test_refusals_are_told_without_the_token(
    sts: Sts, token: Path, monkeypatch: pytest.MonkeyPatch, status: int, text: str, told: str
) -> None:
    monkeypatch.setenv("VILA_S3_STS_ENDPOINT", sts.url)
    sts.answer = (status, text)
    with pytest.raises(StoreError, match=told) as caught:
        open_store("s3://bucket/x").read("k")
    assert TOKEN not in str(caught.value)


def test_bad_settings_of_a_service_account(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9: the token service does not answer"):
        keys()  # MinIO's own address, without another one
    monkeypatch.setenv("VILA_S3_STS_ENDPOINT", "minio:9000")
    with pytest.raises(UserError, match="VILA_S3_STS_ENDPOINT=minio:9000: is not an endpoint"):
        keys()
    monkeypatch.delenv("VILA_S3_STS_ENDPOINT")
    token.unlink()
    with pytest.raises(UserError, match=r"AWS_WEB_IDENTITY_TOKEN_FILE=.*token: No such file"):
        keys()


def test_a_store_by_a_service_account(
    s3_environment: dict[str, str], s3_store: Store, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto is S3 and token service on one address, as MinIO is."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/vila")
    store = open_store(s3_store.uri)
    store.write("k", b"v")
    assert store.read("k") == b"v"
    access_key, _, session = keys()
    assert access_key.startswith("ASIA")
    assert session


def test_the_agent_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    class Agent(Handler):
        def do_GET(self) -> None:
            found = {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c"}
            found["Expiration"] = "2099-01-01T00:00:00Z"
            text = json.dumps(found).encode()
            good = self.headers["Authorization"] == "pod-token"
            self.send_response(200 if good else 403)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with served(Agent) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token")
        assert keys() == ("a", "b", "c")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong")
        with pytest.raises(Unreachable, match="AWS_CONTAINER_CREDENTIALS_… names gives no keys"):
            keys()
