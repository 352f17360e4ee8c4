"""Who may do what in the bucket: what S3's policy language says of runs and of teams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Policy = dict[str, Any]
VERSION = "2012-10-17"
OURS = "vila"
"""Ids of statements that start so are ours; others are left alone."""

_LOOK = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
_READ = ["s3:GetObject"]
_WRITE = [
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
]


def store_policy(bucket: str) -> Policy:
    """Return what runs may do: look, read, write and delete in the bucket, and not change it."""
    return _policy(
        _statement("Look", [*_LOOK, "s3:GetBucketVersioning"], [_bucket(bucket)]),
        _statement("Use", [*_READ, *_WRITE], [f"{_bucket(bucket)}/*"]),
    )


def team_prefix(team: str) -> str:
    """Return the part of the bucket that is a team's own."""
    return f"teams/{team}"


def team_policy(bucket: str, shared: str, team: str) -> Policy:
    """Return what a team may do: everything in its own part, and read the shared store."""
    return _policy(*_team(bucket, shared, team))


def bucket_policy(bucket: str, shared: str, principals: Mapping[str, str]) -> Policy:
    """Return the bucket's policy that gives users, by team, what `team_policy` says."""
    statements = []
    for team, principal in sorted(principals.items()):
        for statement in _team(bucket, shared, team):
            name = team.title().replace("-", "")
            sid = f"{OURS}{name}{statement['Sid'].removeprefix(OURS)}"
            who = {"AWS": [principal]}
            statements.append({**statement, "Sid": sid, "Principal": who})
    return _policy(*statements)


def merged_policy(before: Mapping[str, Any], ours: Policy) -> Policy:
    """Return a policy with our statements in place of our former ones of the same ids."""
    known = {statement["Sid"] for statement in ours["Statement"]}
    others = [each for each in before.get("Statement", []) if each.get("Sid") not in known]
    kept = {key: value for key, value in before.items() if key != "Statement"}
    return {**kept, "Version": VERSION, "Statement": [*others, *ours["Statement"]]}


def _team(bucket: str, shared: str, team: str) -> list[dict[str, Any]]:
    own = team_prefix(team)
    readable = [f"{_bucket(bucket)}/{shared}/*"] if shared else []
    prefixes = [own, f"{own}/*"] + ([shared, f"{shared}/*"] if shared else [])
    look = _statement("Look", ["s3:ListBucket"], [_bucket(bucket)])
    look["Condition"] = {"StringLike": {"s3:prefix": prefixes}}
    return [
        _statement("Find", ["s3:GetBucketLocation"], [_bucket(bucket)]),
        look,
        _statement("Read", _READ, [f"{_bucket(bucket)}/{own}/*", *readable]),
        _statement("Write", _WRITE, [f"{_bucket(bucket)}/{own}/*"]),
    ]


def _statement(name: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {
        "Sid": f"{OURS}{name}",
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": resources,
    }


def _policy(*statements: dict[str, Any]) -> Policy:
    return {"Version": VERSION, "Statement": list(statements)}


def _bucket(bucket: str) -> str:
    return f"arn:aws:s3:::{bucket}"
