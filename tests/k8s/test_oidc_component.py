"""The component that lets people log in at an OpenID provider: whole, and its config is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.k8s.rendered import K8S, one
from vila_ops.cluster.patch import Manifest
from vila_ops.cluster.references import dangling, secrets_by_hand
from vila_ops.cluster.render import render


@pytest.fixture
def made(tmp_path: Path) -> list[Manifest]:
    parts = {
        "resources": ["overlays/gpu-cluster"],
        "components": ["components/oidc"],
    }
    text = {
        name: [os.path.relpath(K8S / one, tmp_path) for one in held] for name, held in parts.items()
    }
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(head | text))
    return render(tmp_path)


def test_nothing_of_it_leads_nowhere(made: list[Manifest]) -> None:
    assert dangling(made) == []
    needed = secrets_by_hand(made)["vila", "vila-dashboard-oidc"]
    assert needed == {"client_secret", "session_key"}


def test_its_config_is_one(made: list[Manifest], tmp_path: Path) -> None:
    pytest.importorskip("joserfc")
    from vila_ops.web.oidc_config import load_oidc

    text = one(made, "ConfigMap", "vila-dashboard-oidc")["data"]["oidc.yaml"]
    for name in ("client_secret", "session_key"):
        (tmp_path / name).write_text("s" * 64)
    (tmp_path / "oidc.yaml").write_text(text.replace("/run/vila/oidc-secrets", str(tmp_path)))
    config = load_oidc(tmp_path / "oidc.yaml")
    rule = one(made, "Ingress", "vila-dashboard")["spec"]["rules"][0]
    assert config.url == f"https://{rule['host']}"
    pod = one(made, "Deployment", "vila-dashboard")["spec"]["template"]["spec"]
    environment = {held["name"]: held.get("value") for held in pod["containers"][0]["env"]}
    assert environment["VILA_DASHBOARD_OIDC"] == "/run/vila/oidc/oidc.yaml"
