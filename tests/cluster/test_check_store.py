"""What the check says of a store: real servers, and answers that no good server gives."""

from __future__ import annotations

import email.utils
import socket
import time
import uuid
from pathlib import Path

import pytest

from tests.ceph_server import REAL
from tests.cluster.complete import config_for
from tests.cluster.scripted import Answer, running
from tests.s3_server import BUCKET
from vila_ops.cluster import s3
from vila_ops.cluster.check_store import clock, probe, store
from vila_ops.doctor import Check


@pytest.fixture(params=["s3", REAL])
def server(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.getfixturevalue(
        "s3_environment" if request.param == "s3" else "real_environment"
    )


def place_of(server: dict[str, str], bucket: str = BUCKET) -> s3.Place:
    uri = f"s3://{bucket}/{uuid.uuid4().hex}"
    return s3.Place.of(uri, server["VILA_S3_ENDPOINT"], "us-east-1")


def keys_of(server: dict[str, str]) -> s3.Keys:
    access, secret = server["AWS_ACCESS_KEY_ID"], server["AWS_SECRET_ACCESS_KEY"]
    return s3.Keys(access, secret, "the test")


def by_name(place: s3.Place, keys: s3.Keys | Check) -> dict[str, Check]:
    return {each.name: each for each in probe(place, keys, "vila cluster bootstrap mine")}


def test_all_rights_and_nothing_left(server: dict[str, str]) -> None:
    place = place_of(server)
    found = by_name(place, keys_of(server))
    assert found["rights"].detail == "write, read, list, create only, write in parts, delete"
    assert found["clock of store"].level == "ok"
    assert not [each for each in found.values() if each.level == "error"]
    with s3.connected(place, keys_of(server)) as (client, _):
        assert list(client.list_objects(BUCKET, prefix=place.prefix, recursive=True)) == []
        uploads = client._list_multipart_uploads(BUCKET, prefix=place.prefix)
        assert not uploads.uploads


def test_a_bucket_that_is_not_there(server: dict[str, str]) -> None:
    found = by_name(place_of(server, f"absent-{uuid.uuid4().hex[:8]}"), keys_of(server))
    assert found["bucket"].level == "error"
    assert found["bucket"].fix == "vila cluster bootstrap mine"


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_wrong_keys(real_environment: dict[str, str]) -> None:
    keys = s3.Keys(real_environment["AWS_ACCESS_KEY_ID"], "wrong", "the Secret x")
    found = by_name(place_of(real_environment), keys)
    assert found["store"].level == "error"
    assert "the Secret x" in found["store"].fix
    assert "wrong" not in "".join(each.detail + each.fix for each in found.values())


def test_without_keys_server_and_clock_are_looked_at(s3_environment: dict[str, str]) -> None:
    reason = Check("store", "unknown", "no keys")
    found = list(probe(place_of(s3_environment), reason, ""))
    assert [each.level for each in found] == ["ok", "ok", "unknown"]


def _refusal(code: str, status: int = 403) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>so</Message><Resource>/b</Resource></Error>"
    return Answer(status, body, {"Content-Type": "application/xml"})


GOOD = Answer(200, "", {"ETag": '"0"'})


def test_a_read_only_store(tmp_path: Path) -> None:
    del tmp_path
    answers = [Answer(200, ""), Answer(200, ""), _refusal("AccessDenied"), _refusal("AccessDenied")]
    with running(*answers) as script:
        found = by_name(s3.Place.of("s3://vila/x", script.url, "us-east-1"), s3.Keys("a", "b"))
    assert found["right to write"].level == "error"
    assert "AccessDenied" in found["right to write"].detail
    assert "vila cluster bootstrap" in found["right to write"].fix


def test_clocks_that_differ() -> None:
    def told(seconds: float) -> Check:
        date = email.utils.formatdate(time.time() - seconds, usegmt=True)
        return next(clock("clock", {"Date": date}))

    assert told(0).level == "ok"
    assert told(120).level == "warning"
    far = told(3600)
    assert far.level == "error"
    assert "3600 s ahead" in far.detail or "3601 s ahead" in far.detail
    assert "timedatectl" in far.fix
    assert "behind" in told(-3600).detail
    assert next(clock("clock", {})).level == "unknown"


def test_a_server_that_refuses_the_clock() -> None:
    skewed = _refusal("RequestTimeTooSkewed")
    with running(Answer(200, ""), Answer(200, ""), skewed) as script:
        place = s3.Place.of("s3://vila/x", script.url, "us-east-1")
        found = by_name(place, s3.Keys("a", "b"))
    assert found["right to write"].fix.startswith("timedatectl")


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as probe_:
        probe_.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe_.getsockname()[1]}"
    found = by_name(s3.Place.of("s3://vila/x", url, "us-east-1"), s3.Keys("a", "b"))
    assert found["store"].level == "error"
    assert "external_endpoint" in found["store"].fix


def test_an_address_inside_the_cluster(
    api_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for endpoint in ("http://minio.vila.svc:9000", "http://minio:9000"):
        config = config_for(api_server, tmp_path, monkeypatch, endpoint)
        [found] = store(None, config, "")
        assert found.level == "unknown"
        assert "port-forward service/minio 9000:9000" in found.fix
