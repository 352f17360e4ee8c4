"""Which cluster is meant: kubeconfig files, contexts, a pod's own account; TLS and clocks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

from components.kube import objects
from components.kube.errors import NoAnswer, Request, silence
from tests.cluster.certificates import serving
from tests.cluster.scripted import QUICK, Answer, running
from vila_core.errors import UserError
from vila_ops.cluster.config import ClusterConfig, load_cluster
from vila_ops.cluster.connect import kubernetes_api


def cluster(context: str | None = None) -> ClusterConfig:
    return load_cluster("kind").model_copy(update={"context": context})


def kubeconfig(path: Path, servers: dict[str, str], current: str | None = None) -> Path:
    user = {"name": "jo", "user": {"token": "secret-token"}}
    values: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}} for name, url in servers.items()],
        "users": [user],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "jo"}} for name in servers
        ],
    }
    path.write_text(yaml.safe_dump(values | ({"current-context": current} if current else {})))
    return path


@pytest.fixture(autouse=True)
def _no_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_context_of_the_config_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Answer(body={"gitVersion": "v1.31.0"})) as script:
        first = kubeconfig(tmp_path / "a", {"other": "http://127.0.0.1:1"}, "other")
        second = kubeconfig(tmp_path / "b", {"mine": script.url})
        monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{tmp_path / 'absent'}")
        api = kubernetes_api(cluster("mine"), QUICK)
        assert objects.get(api, "/version")["gitVersion"] == "v1.31.0"


def test_an_unknown_context_names_the_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kubeconfig(tmp_path / "config", {"kind-vila": "http://x", "prod": "http://y"})
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(UserError, match=r"kind-vil: is not in .*did you mean 'kind-vila'"):
        kubernetes_api(cluster("kind-vil"))
    with pytest.raises(UserError, match=r"zz: is not in .*known: kind-vila, prod\."):
        kubernetes_api(cluster("zz"))
    with pytest.raises(UserError, match=r"no current context; fix: .*kind-vila, prod"):
        kubernetes_api(cluster())


def test_without_a_kubeconfig_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no kubeconfig \(~/.kube/config\); fix"):
        kubernetes_api(cluster("kind-vila"))
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with pytest.raises(UserError, match=r"no kubeconfig \(/nowhere/config\)"):
        kubernetes_api(cluster("kind-vila"))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text", "contexts: [{name: c}]"])
def test_a_broken_kubeconfig_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(UserError, match=str(tmp_path / "config")):
        kubernetes_api(cluster("c"))


def test_in_a_pod_the_service_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    from components.kube import client

    (tmp_path / "token").write_text("account-token")
    shutil.copy(certifi.where(), tmp_path / "ca.crt")
    monkeypatch.setattr(client, "ACCOUNT", tmp_path)
    for name, file in (("SERVICE_TOKEN_FILENAME", "token"), ("SERVICE_CERT_FILENAME", "ca.crt")):
        monkeypatch.setattr(incluster_config, name, str(tmp_path / file))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    api: Any = kubernetes_api(cluster("kind-vila"))
    assert api.server == "https://10.0.0.1:443 (service account)"
    assert api.configuration.get_api_key_with_prefix("authorization") == "bearer account-token"


def test_clocks_and_certificates_are_explained() -> None:
    asked = Request("GET", "https://c/api/v1/pods", "https://c (context prod)")
    for text, says in (
        ("certificate verify failed: certificate is not yet valid", "set the clock"),
        ("certificate verify failed: certificate has expired", "check the clock"),
        ("certificate verify failed: unable to get local issuer", "not signed by the CA"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not speak TLS"),
        ("Failed to resolve 'c'", "can't be resolved"),
    ):
        assert says in str(silence(asked, OSError(text)))


@pytest.mark.parametrize(
    ("begins", "ends", "trusted", "says"),
    [
        (-1, 1, "it", None),
        (1, 2, "it", "is not valid yet by this machine's clock; fix: set the clock"),
        (-2, -1, "it", "has expired by this machine's clock; fix: check the clock"),
        (-1, 1, "another", "is not signed by the CA in the kubeconfig"),
    ],
)
def test_certificates_of_a_real_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begins: int,
    ends: int,
    trusted: str,
    says: str | None,
) -> None:
    pytest.importorskip("cryptography")
    context = serving(tmp_path, "it", begins=begins, ends=ends)
    serving(tmp_path, "another")
    with running(Answer(body={"gitVersion": "v1.31.0"}), tls=context) as script:
        path = kubeconfig(tmp_path / "config", {"mine": script.url}, "mine")
        values = yaml.safe_load(path.read_text())
        values["clusters"][0]["cluster"]["certificate-authority"] = str(tmp_path / f"{trusted}.crt")
        path.write_text(yaml.safe_dump(values))
        monkeypatch.setenv("KUBECONFIG", str(path))
        api = kubernetes_api(cluster(), QUICK)
        if says is None:
            assert objects.get(api, "/version")["gitVersion"] == "v1.31.0"
            return
        with pytest.raises(NoAnswer) as caught:
            objects.get(api, "/version")
    assert says in str(caught.value)
    assert "(context mine)" in str(caught.value)


def test_no_token_is_in_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "Unauthorized"}
    with running(Answer(401, refused)) as script:
        path = kubeconfig(tmp_path / "config", {"mine": script.url}, "mine")
        monkeypatch.setenv("KUBECONFIG", str(path))
        before = json.dumps(path.read_text())
        with pytest.raises(Exception, match="credentials have expired") as caught:
            objects.get(kubernetes_api(cluster(), QUICK), "/version")
        assert "secret-token" not in str(caught.value)
        assert json.dumps(path.read_text()) == before
