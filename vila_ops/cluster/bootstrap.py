"""`vila cluster bootstrap`: bucket, versioning, lifecycle, who may do what, and DVC's remote.

Everything may be done again at any time: what is there and right stays as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila_core.errors import UserError
from vila_ops.cluster import s3
from vila_ops.cluster.admin import Admin
from vila_ops.cluster.outcome import Done
from vila_ops.cluster.policies import (
    bucket_policy,
    merged_policy,
    store_policy,
    team_policy,
    team_prefix,
)

if TYPE_CHECKING:
    from minio import Minio

RULES = "vila-"
"""Names of lifecycle rules and policies that start so are ours; others are left alone."""
UNFINISHED_DAYS = 7
OLD_VERSIONS_DAYS = 30
_MISSING = ("NoSuchLifecycleConfiguration", "NoSuchBucketPolicy", "NoSuchBucket")


@dataclass(frozen=True)
class Team:
    """A team with a part of the bucket: its name, and its user as S3's policies name it."""

    name: str
    principal: str | None = None

    @classmethod
    def parse(cls, text: str) -> Team:
        """Read NAME, or NAME=ARN. Raises UserError."""
        name, _, principal = text.partition("=")
        if not name.replace("-", "").isalnum() or not name.islower():
            raise UserError(f"--team {text}: small letters, digits and '-' are needed for a name.")
        return cls(name, principal or None)


def bootstrap(
    place: s3.Place,
    keys: s3.Keys,
    root: s3.Keys | None = None,
    *,
    teams: Sequence[Team] = (),
    patience_s: float = 60.0,
) -> Iterator[Done]:
    """Yield what becomes of each part of the store.

    `keys` are those that runs use. `root` are an administrator's of a MinIO: with them the user of
    `keys` and the policies are made; elsewhere `keys` must own the bucket, and teams are users
    that exist. `patience_s` is how long to wait for a server that is starting. Nothing is raised
    for what fails: it is told.
    """
    with s3.connected(place, root or keys) as (client, pool):
        failed = _wait(client, place, patience_s)
        if failed is not None:
            yield failed
            return
        parts: list[tuple[str, Callable[[], Done]]] = [
            ("bucket", lambda: _bucket(client, place)),
            ("versioning", lambda: _versioning(client, place)),
            ("lifecycle", lambda: _lifecycle(client, place)),
        ]
        if root is not None:
            admin = Admin(place, root, pool)
            parts.append(("user", lambda: _user(admin, place, keys)))
            parts += [(f"team {each.name}", _maker(_team, admin, place, each)) for each in teams]
        elif teams:
            parts.append(("teams", lambda: _bucket_policy(client, place, teams)))
        for name, part in parts:
            try:
                yield part()
            except s3.failures() as error:
                yield Done(name, "failed", s3.said(error), _fix(error, root if root else keys))
                if name == "bucket":
                    return


def dvc_remote(project: Path, url: str, endpoint: str, keys: s3.Keys | None = None) -> Done:
    """Make `url` the default DVC remote of the project that holds `project`.

    What is read back is verified. The endpoint, and `keys` if they are given, go to
    .dvc/config.local, which git ignores. Raises UserError where there is no DVC project.
    """
    from vila_core.data.versions import find_root, open_repo
    from vila_ops.data.versions import REMOTE

    root = find_root(project.expanduser().absolute())
    shared = {"url": url, "verify": True}
    local = {"endpointurl": endpoint}
    if keys is not None:
        local |= {"access_key_id": keys.access, "secret_access_key": keys.secret}
    with open_repo(root) as repo:
        before = json.dumps(_plain(repo.config["remote"].get(REMOTE)), sort_keys=True, default=str)
        default = repo.config["core"].get("remote")
        with repo.config.edit("repo") as settings:
            settings["remote"][REMOTE] = {**settings["remote"].get(REMOTE, {}), **shared}
            settings["core"]["remote"] = REMOTE
        with repo.config.edit("local") as settings:
            settings["remote"][REMOTE] = {**settings["remote"].get(REMOTE, {}), **local}
        (root / ".dvc" / "config.local").chmod(0o600)
        after = json.dumps(_plain(repo.config["remote"].get(REMOTE)), sort_keys=True, default=str)
    detail = f"{url} in {root}, verified on pull; endpoint in .dvc/config.local"
    if default == REMOTE and before == after:
        return Done("dvc remote", "unchanged", detail)
    fix = "git add .dvc/config && git commit -m 'DVC remote of the cluster'"
    return Done("dvc remote", "changed" if default else "created", detail, fix)


def _plain(settings: Any) -> dict[str, Any]:
    return dict(settings or {})


def _maker(part: Callable[..., Done], *arguments: Any) -> Callable[[], Done]:
    return lambda: part(*arguments)


def _wait(client: Minio, place: s3.Place, patience_s: float) -> Done | None:
    """Wait for a server that is starting; return what is wrong if it does not answer."""
    from minio.error import S3Error

    deadline = time.monotonic() + patience_s
    while True:
        try:
            client.bucket_exists(place.bucket)
            return None
        except S3Error as error:
            if error.code not in ("ServiceUnavailable", "XMinioServerNotInitialized"):
                return None  # it answers: what it refuses is told by the part that needs it
            last: Exception = error
        except s3.failures() as error:
            last = error
        if time.monotonic() > deadline:
            detail = f"{place.endpoint}: {s3.said(last)}"
            return Done("server", "failed", detail, "is the server running, and the address right?")
        time.sleep(1.0)


def _bucket(client: Minio, place: s3.Place) -> Done:
    from minio.error import S3Error

    if s3.bucket_exists(client, place.bucket):
        return Done("bucket", "unchanged", place.bucket)
    try:
        client.make_bucket(place.bucket, location=place.region)
    except S3Error as error:
        if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise
        return Done("bucket", "unchanged", place.bucket)
    return Done("bucket", "created", place.bucket)


def _versioning(client: Minio, place: s3.Place) -> Done:
    from minio.commonconfig import ENABLED
    from minio.versioningconfig import VersioningConfig

    if client.get_bucket_versioning(place.bucket).status == ENABLED:
        return Done("versioning", "unchanged", "on")
    client.set_bucket_versioning(place.bucket, VersioningConfig(ENABLED))
    return Done("versioning", "created", "on: what is overwritten or deleted can be brought back")


def _lifecycle(client: Minio, place: s3.Place) -> Done:
    """Set our rules beside those of others."""
    from minio.error import S3Error
    from minio.lifecycleconfig import LifecycleConfig

    try:
        found = client.get_bucket_lifecycle(place.bucket)
    except S3Error as error:
        if error.code not in _MISSING:
            raise
        found = None
    rules = list(found.rules) if found else []
    others = [rule for rule in rules if not (rule.rule_id or "").startswith(RULES)]
    ours = _rules()
    told = (
        f"unfinished uploads end after {UNFINISHED_DAYS} days, "
        f"old versions after {OLD_VERSIONS_DAYS}"
    )
    now = {rule.rule_id: _facts(rule) for rule in rules if rule not in others}
    if now == {rule.rule_id: _facts(rule) for rule in ours}:
        return Done("lifecycle", "unchanged", told)
    client.set_bucket_lifecycle(place.bucket, LifecycleConfig([*others, *ours]))
    return Done("lifecycle", "changed" if now else "created", told)


def _rules() -> list[Any]:
    from minio.commonconfig import ENABLED, Filter
    from minio.lifecycleconfig import (
        AbortIncompleteMultipartUpload,
        NoncurrentVersionExpiration,
        Rule,
    )

    every = Filter(prefix="")
    return [
        Rule(
            ENABLED,
            rule_filter=every,
            rule_id=f"{RULES}unfinished-uploads",
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(UNFINISHED_DAYS),
        ),
        Rule(
            ENABLED,
            rule_filter=every,
            rule_id=f"{RULES}old-versions",
            noncurrent_version_expiration=NoncurrentVersionExpiration(OLD_VERSIONS_DAYS),
        ),
    ]


def _facts(rule: Any) -> tuple[Any, ...]:
    unfinished = rule.abort_incomplete_multipart_upload
    old = rule.noncurrent_version_expiration
    return (
        rule.status,
        unfinished.days_after_initiation if unfinished else None,
        old.noncurrent_days if old else None,
    )


def _user(admin: Admin, place: s3.Place, keys: s3.Keys) -> Done:
    """Make the user of the runs' keys, who may do in the bucket what a store does, and no more."""
    policy = f"{RULES}{place.bucket}"
    made = admin.policy(policy, store_policy(place.bucket))
    if not keys.access:
        fix = f"mc admin policy attach ALIAS {policy} --user USER"
        return Done("user", "skipped", f"{keys.source} is used: it needs policy {policy}", fix)
    made |= admin.user(keys.access, keys.secret, works=lambda: _works(place, keys))
    made |= admin.attach(policy, user=keys.access)
    return Done("user", "changed" if made else "unchanged", f"{keys.access} with policy {policy}")


def _works(place: s3.Place, keys: s3.Keys) -> bool:
    """Return whether the server takes the keys."""
    with s3.connected(place, keys) as (client, _):
        try:
            client.bucket_exists(place.bucket)
        except s3.failures() as error:
            return s3.code_of(error) == "AccessDenied"
        return True


def _team(admin: Admin, place: s3.Place, team: Team) -> Done:
    policy = f"{RULES}team-{team.name}"
    made = admin.policy(policy, team_policy(place.bucket, place.prefix, team.name))
    where = f"s3://{place.bucket}/{team_prefix(team.name)}"
    fix = f"mc admin policy attach ALIAS {policy} --user USER (or --group GROUP)"
    return Done(f"team {team.name}", "changed" if made else "unchanged", f"{policy}: {where}", fix)


def _bucket_policy(client: Minio, place: s3.Place, teams: Sequence[Team]) -> Done:
    """Give users that exist their teams' parts of the bucket, by its policy."""
    from minio.error import S3Error

    nameless = [team.name for team in teams if team.principal is None]
    if nameless:
        return Done(
            "teams",
            "failed",
            f"{', '.join(nameless)}: without MinIO's root keys a team needs a user that exists",
            "--team NAME=arn:aws:iam:::user/USER, or MINIO_ROOT_USER and MINIO_ROOT_PASSWORD",
        )
    before: Mapping[str, Any] = {}
    try:
        before = json.loads(client.get_bucket_policy(place.bucket))
    except S3Error as error:
        if error.code not in _MISSING:
            raise
    principals = {team.name: str(team.principal) for team in teams}
    after = merged_policy(before, bucket_policy(place.bucket, place.prefix, principals))
    told = ", ".join(f"{name}: s3://{place.bucket}/{team_prefix(name)}" for name in principals)
    if after == before:
        return Done("teams", "unchanged", told)
    client.set_bucket_policy(place.bucket, json.dumps(after))
    return Done("teams", "changed" if before else "created", told)


def _fix(error: Exception, keys: s3.Keys) -> str:
    code = s3.code_of(error)
    if code in ("SignatureDoesNotMatch", "InvalidAccessKeyId"):
        return f"the keys in {keys.source} are not accepted: others are needed"
    if code in ("AccessDenied", "AllAccessDisabled"):
        return f"the keys in {keys.source} may not do that: use an administrator's"
    if code in ("NotImplemented", "MethodNotAllowed", "MalformedXML"):
        return "the server has no such feature: runs work without it"
    return "vila cluster check"
