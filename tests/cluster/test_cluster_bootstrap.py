"""`vila cluster bootstrap` on real S3 servers, and on what MinIO's administration API takes."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.crypto import decrypt, encrypt
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from typer.testing import CliRunner
from urllib3 import HTTPResponse

from tests.api_server import ApiServer
from tests.ceph_server import REAL
from tests.cluster.complete import config_for, secret, written
from tests.cluster.scripted import Answer, Script, running
from vila_core.errors import UserError
from vila_ops.cli.cluster import app
from vila_ops.cluster import s3
from vila_ops.cluster.bootstrap import Team, bootstrap, dvc_remote
from vila_ops.cluster.outcome import Done
from vila_ops.cluster.policies import bucket_policy, merged_policy, store_policy, team_policy


@pytest.fixture(params=["s3", REAL])
def server(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.getfixturevalue(
        "s3_environment" if request.param == "s3" else "real_environment"
    )


@pytest.fixture
def place(server: dict[str, str]) -> s3.Place:
    uri = f"s3://team-{uuid.uuid4().hex[:8]}/platform"
    return s3.Place.of(uri, server["VILA_S3_ENDPOINT"], "us-east-1")


@pytest.fixture
def keys(server: dict[str, str]) -> s3.Keys:
    return s3.Keys(server["AWS_ACCESS_KEY_ID"], server["AWS_SECRET_ACCESS_KEY"], "the test")


@pytest.fixture
def client(place: s3.Place, keys: s3.Keys) -> Iterator[Minio]:
    with s3.connected(place, keys) as (found, _):
        yield found


def outcomes(found: Any) -> dict[str, str]:
    return {each.name: each.outcome for each in found}


def test_a_bucket_is_made_once(place: s3.Place, keys: s3.Keys, client: Minio) -> None:
    first = outcomes(bootstrap(place, keys))
    assert first == {"bucket": "created", "versioning": "created", "lifecycle": "created"}
    assert set(outcomes(bootstrap(place, keys)).values()) == {"unchanged"}
    assert client.get_bucket_versioning(place.bucket).status == "Enabled"
    for body in (b"one", b"two"):
        client.put_object(place.bucket, "key", io.BytesIO(body), 3)
    client.remove_object(place.bucket, "key")
    versions = list(client.list_objects(place.bucket, include_version=True))
    assert len([each for each in versions if not each.is_delete_marker]) == 2


def test_rules_of_others_are_left(place: s3.Place, keys: s3.Keys, client: Minio) -> None:
    client.make_bucket(place.bucket)
    theirs = Rule(
        ENABLED, rule_filter=Filter(prefix="tmp/"), rule_id="theirs", expiration=Expiration(days=3)
    )
    client.set_bucket_lifecycle(place.bucket, LifecycleConfig([theirs]))
    assert outcomes(bootstrap(place, keys))["lifecycle"] == "created"
    rules = client.get_bucket_lifecycle(place.bucket).rules
    assert sorted(str(rule.rule_id) for rule in rules) == [
        "theirs",
        "vila-old-versions",
        "vila-unfinished-uploads",
    ]
    assert outcomes(bootstrap(place, keys))["lifecycle"] == "unchanged"


def test_teams_by_the_buckets_policy(place: s3.Place, keys: s3.Keys, client: Minio) -> None:
    teams = [Team.parse("vision=arn:aws:iam:::user/tester")]
    assert outcomes(bootstrap(place, keys, teams=teams))["teams"] == "created"
    assert outcomes(bootstrap(place, keys, teams=teams))["teams"] == "unchanged"
    more = [*teams, Team.parse("language=arn:aws:iam:::user/tester")]
    assert outcomes(bootstrap(place, keys, teams=more))["teams"] == "changed"
    found = json.loads(client.get_bucket_policy(place.bucket))
    resources = {text for each in found["Statement"] for text in each["Resource"]}
    assert f"arn:aws:s3:::{place.bucket}/teams/vision/*" in resources
    assert f"arn:aws:s3:::{place.bucket}/teams/language/*" in resources


def test_a_team_without_a_user_needs_minio(place: s3.Place, keys: s3.Keys) -> None:
    found = list(bootstrap(place, keys, teams=[Team("vision")]))
    assert found[-1].outcome == "failed"
    assert "--team NAME=arn:aws:iam:::user/USER" in found[-1].fix
    with pytest.raises(UserError, match="small letters"):
        Team.parse("Vision Team")


@pytest.mark.slow
@pytest.mark.needs_s3_real
def test_keys_that_are_not_accepted(real_environment: dict[str, str]) -> None:
    place = s3.Place.of("s3://vila/x", real_environment["VILA_S3_ENDPOINT"], "us-east-1")
    keys = s3.Keys(real_environment["AWS_ACCESS_KEY_ID"], "wrong", "the Secret y")
    [found] = bootstrap(place, keys)
    assert (found.name, found.outcome) == ("bucket", "failed")
    assert found.fix == "the keys in the Secret y are not accepted: others are needed"


def test_a_server_that_never_comes() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    place = s3.Place.of("s3://vila/x", url, "us-east-1")
    [found] = bootstrap(place, s3.Keys("a", "b"), patience_s=0.1)
    assert (found.name, found.outcome) == ("server", "failed")


# ---- what runs and teams may do ------------------------------------------------------------------


def _may(policy: dict[str, Any], action: str, resource: str) -> bool:
    import fnmatch

    return any(
        action in each["Action"]
        and any(fnmatch.fnmatch(f"arn:aws:s3:::{resource}", text) for text in each["Resource"])
        for each in policy["Statement"]
    )


def test_runs_may_use_the_bucket_and_not_change_it() -> None:
    policy = store_policy("vila")
    assert _may(policy, "s3:PutObject", "vila/platform/runs/r1")
    assert _may(policy, "s3:ListBucket", "vila")
    assert not _may(policy, "s3:PutObject", "other/x")
    for action in ("s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutLifecycleConfiguration"):
        assert not _may(policy, action, "vila")


def test_a_team_writes_its_own_part_and_reads_the_store() -> None:
    policy = team_policy("vila", "platform", "vision")
    assert _may(policy, "s3:PutObject", "vila/teams/vision/x")
    assert _may(policy, "s3:GetObject", "vila/platform/runs/r1")
    assert not _may(policy, "s3:PutObject", "vila/platform/runs/r1")
    assert not _may(policy, "s3:GetObject", "vila/teams/language/x")


def test_statements_of_others_stay_in_the_policy() -> None:
    theirs = {"Sid": "theirs", "Effect": "Deny"}
    before = {"Id": "p", "Version": "2012-10-17", "Statement": [theirs]}
    ours = bucket_policy("vila", "platform", {"vision": "arn:aws:iam:::user/v"})
    after = merged_policy(before, ours)
    assert after["Statement"][0] == theirs
    assert after["Id"] == "p"
    assert merged_policy(after, ours) == after


# ---- MinIO's administration ----------------------------------------------------------------------

ROOT = s3.Keys("root", "root-secret", "the test")
KEYS = s3.Keys("runner", "runner-secret", "the test")
NO_USER = Answer(404, {"Code": "XMinioAdminNoSuchUser", "Message": "no such user"})
NO_POLICY = Answer(404, {"Code": "XMinioAdminNoSuchPolicy", "Message": "no such policy"})


def _made(*admin: Answer, teams: tuple[Team, ...] = ()) -> tuple[list[Done], Script]:
    """Bootstrap where the bucket is complete, and the administration answers so."""
    rules = "".join(
        f"<Rule><ID>vila-{name}</ID><Status>Enabled</Status><Filter><Prefix/></Filter>{body}</Rule>"
        for name, body in (
            (
                "unfinished-uploads",
                "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>"
                "</AbortIncompleteMultipartUpload>",
            ),
            (
                "old-versions",
                "<NoncurrentVersionExpiration><NoncurrentDays>30</NoncurrentDays>"
                "</NoncurrentVersionExpiration>",
            ),
        )
    )
    bucket = [
        Answer(200, ""),
        Answer(200, ""),
        Answer(200, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"),
        Answer(200, f"<LifecycleConfiguration>{rules}</LifecycleConfiguration>"),
    ]
    with running(*bucket, *admin) as script:
        place = s3.Place.of("s3://vila/platform", script.url, "us-east-1")
        found = list(bootstrap(place, KEYS, ROOT, teams=teams))
    assert outcomes(found[:3]) == dict.fromkeys(("bucket", "versioning", "lifecycle"), "unchanged")
    return found[3:], script


def test_minios_user_of_runs_is_made_with_its_policy() -> None:
    no_body = Answer(200, "")
    attached = Answer(200, secret=encrypt(b"{}", "root-secret"))
    [done], script = _made(NO_POLICY, no_body, NO_USER, no_body, NO_USER, attached)
    assert (done.outcome, done.detail) == ("changed", "runner with policy vila-vila")
    calls = script.asked[4:]
    paths = [(method, urlsplit(path).path.rpartition("/v3/")[2]) for method, path, _ in calls]
    assert paths == [
        ("GET", "info-canned-policy"),
        ("PUT", "add-canned-policy"),
        ("GET", "user-info"),
        ("PUT", "add-user"),
        ("GET", "user-info"),
        ("POST", "idp/builtin/policy/attach"),
    ]
    assert json.loads(calls[1][2]) == store_policy("vila")
    assert parse_qs(urlsplit(calls[3][1]).query) == {"accessKey": ["runner"]}
    user = _decrypted(script.raw[7])
    assert user == {"status": "enabled", "secretKey": "runner-secret"}
    assert _decrypted(script.raw[9]) == {"policies": ["vila-vila"], "user": "runner"}


def _decrypted(body: bytes) -> Any:
    """Read what only the holder of the root's secret can: the same box is used both ways."""

    response = HTTPResponse(io.BytesIO(body), preload_content=False)
    return json.loads(decrypt(response, "root-secret"))


def test_what_minio_has_already_is_left() -> None:
    info = Answer(200, {"policyName": "other,vila-vila", "status": "enabled"})
    works = Answer(200, "")
    policy = Answer(200, store_policy("vila"))
    [done], script = _made(policy, info, works, info)
    assert done.outcome == "unchanged"
    assert {method for method, _, _ in script.asked[4:]} == {"GET", "HEAD"}


def test_a_team_gets_a_policy() -> None:
    info = Answer(200, {"policyName": "vila-vila"})
    user = (Answer(200, store_policy("vila")), info, Answer(200, ""), info)
    [_, team], script = _made(*user, NO_POLICY, Answer(200, ""), teams=(Team("vision"),))
    assert (team.name, team.outcome) == ("team vision", "changed")
    assert "mc admin policy attach ALIAS vila-team-vision" in team.fix
    assert json.loads(script.asked[-1][2]) == team_policy("vila", "platform", "vision")


def test_a_server_without_minios_administration() -> None:
    [done], _ = _made(Answer(404, "<html>not here</html>"))
    assert done.outcome == "failed"
    assert "no administration of MinIO" in done.detail


# ---- the command, and DVC ------------------------------------------------------------------------


def test_the_job_takes_everything_from_its_environment(
    s3_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VILA_STORE", f"s3://job-{uuid.uuid4().hex[:8]}/platform")
    first = CliRunner().invoke(app, ["bootstrap"])
    assert first.exit_code == 0, first.output
    assert first.output.count("created") == 3
    again = json.loads(CliRunner().invoke(app, ["bootstrap", "--json"]).output)
    assert {each["outcome"] for each in again} == {"unchanged"}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    lines = [f"{name.lower()} = {s3_environment[name]}" for name in s3_environment if "KEY" in name]
    file.write_text("\n".join(["[default]", *lines]))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    by_file = json.loads(CliRunner().invoke(app, ["bootstrap", "--json"]).output)
    assert {each["outcome"] for each in by_file} == {"unchanged"}
    monkeypatch.delenv("VILA_STORE")
    nothing = CliRunner().invoke(app, ["bootstrap"])
    assert isinstance(nothing.exception, UserError)
    assert "vila cluster bootstrap NAME" in str(nothing.exception)


def test_a_clusters_secrets_are_used(
    api_server: ApiServer,
    s3_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_for(api_server, tmp_path, monkeypatch, s3_environment["VILA_S3_ENDPOINT"])
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    with written(config, tmp_path / "mine.yaml") as name:
        missing = CliRunner().invoke(app, ["bootstrap", name])
        assert isinstance(missing.exception, UserError)
        assert "no keys of the store" in str(missing.exception)
        values = {key: s3_environment[key] for key in names}
        api_server.kube.add(secret("vila-store-credentials", "kubeflow", values))
        done = CliRunner().invoke(app, ["bootstrap", name])
        assert done.exit_code == 0, done.output


def test_the_dvc_remote_of_a_project(
    s3_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dvc", reason="the extra 'versioning' is not installed")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    project = tmp_path / "project"
    project.mkdir()
    with pytest.raises(UserError):
        dvc_remote(project, "s3://vila/dvc", "http://minio:9000")
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    from dvc.repo import Repo

    Repo.init(str(project)).close()
    keys = s3.Keys("runner", "runner-secret")
    first = dvc_remote(project, "s3://vila/dvc", "http://minio:9000")
    assert first.outcome == "created"
    shared = (project / ".dvc" / "config").read_text()
    assert "url = s3://vila/dvc" in shared
    assert "verify = True" in shared
    assert "minio:9000" not in shared
    local = project / ".dvc" / "config.local"
    assert "endpointurl = http://minio:9000" in local.read_text()
    assert "runner" not in local.read_text()
    assert dvc_remote(project, "s3://vila/dvc", "http://minio:9000").outcome == "unchanged"
    assert dvc_remote(project, "s3://vila/dvc", "http://minio:9000", keys).outcome == "changed"
    assert "secret_access_key = runner-secret" in local.read_text()
    assert "runner" not in (project / ".dvc" / "config").read_text()
    assert local.stat().st_mode & 0o077 == 0
    ignored = subprocess.run(
        ["git", "check-ignore", ".dvc/config.local"], cwd=project, capture_output=True, text=True
    )
    assert ignored.returncode == 0
