"""The pages on access: examples are configs; keys, limits and times are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from page_commands import ROOT

from vila_ops.web import audit, guard, limits, revoked, sessions
from vila_ops.web.oidc_config import Allow, OidcConfig, Roles, load_oidc
from vila_ops.web.roles import Role

REFERENCE = (ROOT / "docs" / "reference" / "dashboard-access.md").read_text()
HOW_TO = (ROOT / "docs" / "how-to" / "dashboard-login-with-oidc.md").read_text()
BLOCKS = re.findall(r"((?:^    .*\n)+)", HOW_TO, re.M)
CONFIGS = [yaml.safe_load(block) for block in BLOCKS if block.lstrip().startswith("issuer:")]


@pytest.mark.parametrize("values", CONFIGS, ids=lambda values: values["issuer"].split("/")[2])
def test_examples_are_configs(
    values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA_OIDC_SECRET", "s")
    monkeypatch.setenv("VILA_SESSION_KEY", "k" * 64)
    (tmp_path / "oidc.yaml").write_text(yaml.safe_dump(values))
    assert load_oidc(tmp_path / "oidc.yaml").callback == "https://vila.example.com/login/callback"


def test_there_are_examples_and_a_fix_for_each_refusal() -> None:
    assert len(CONFIGS) == 4
    source = (ROOT / "vila_ops" / "web" / "oidc.py").read_text()
    source += (ROOT / "vila_ops" / "web" / "oidc_config.py").read_text()
    for said in ("begun in another browser, or long ago", "does not take our client_id and secret"):
        assert said in HOW_TO
        assert said in source


def test_every_key_is_told() -> None:
    table = REFERENCE.partition("## An OpenID provider")[2].partition("## Sessions")[0]
    told = set(re.findall(r"`([a-z_.]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    keys = set(OidcConfig.model_fields) - {"roles", "allow"}
    keys |= {f"roles.{name}" for name in Roles.model_fields}
    keys |= {f"allow.{name}" for name in Allow.model_fields}
    assert told == keys


def test_numbers_are_those_of_the_code() -> None:
    assert (limits.LOGINS, limits.WRITES, limits.READS) == ((10, 0.1), (30, 0.5), (300, 30))
    assert f"{limits.MOST_KEPT:,} are remembered" in REFERENCE
    assert f"within {guard.ANSWER_SECONDS:.0f} s is given up" in REFERENCE
    assert guard.MOST_BYTES == 2**20
    assert f"within {revoked.FRESH_SECONDS:.0f} s by every other process" in REFERENCE
    assert f"{sessions.HOURS:.0f} hours with a token" in REFERENCE
    assert f"{audit.MOST_WAITING:,} entries are kept in memory" in REFERENCE
    for role in Role:
        assert f"| `{role.name}` |" in REFERENCE
