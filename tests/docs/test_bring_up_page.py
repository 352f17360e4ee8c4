"""The page on bringing up a cluster: what needs no cluster runs, and what it names is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from page_commands import ROOT, commands

from vila_ops.cluster.config import load_cluster
from vila_ops.cluster.manifests import manifests

PAGE = ROOT / "docs" / "how-to" / "bring-up-a-cluster.md"
TEXT = PAGE.read_text()


def vila(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "vila_ops.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "KUBECONFIG": "/dev/null", "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_commands_that_need_no_cluster_work() -> None:
    found = commands(PAGE)
    assert found == ["vila cluster render kind", "vila cluster render gpu-cluster"]
    for command in found:
        done = vila(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        made = list(yaml.safe_load_all(done.stdout))
        assert made == manifests(load_cluster(command.split()[-1]))


def test_what_it_says_to_edit_is_there() -> None:
    made = manifests(load_cluster("gpu-cluster"))
    there = {(item["kind"], item["metadata"]["name"]) for item in made}
    kinds = "ClusterQueue|ResourceQuota|NetworkPolic(?:y|ies)|Ingress|ServiceMonitor|Job"
    kinds += "|PersistentVolumeClaim"
    named = set()
    for kind, names in re.findall(rf"({kinds})s? ((?:`[\w-]+`(?:, )?)+)", TEXT):
        kind = "NetworkPolicy" if kind == "NetworkPolicies" else kind
        named |= {(kind, name) for name in re.findall(r"`([\w-]+)`", names)}
    assert len(named) >= 10
    assert named <= there
    for account in ("vila-step", "vila-train", "vila-dashboard", "vila-bootstrap"):
        assert f"`{account}`" in TEXT
        assert ("ServiceAccount", account) in there
    assert ("Role", "vila-user") in there


@pytest.mark.slow
def test_every_vila_command_is_one() -> None:
    indented = re.findall(r"^ +(vila [^\n|]+)", TEXT, re.MULTILINE)
    seen = {tuple(shlex.split(line)[1:3]) for line in indented}
    assert {("cluster", "apply"), ("cluster", "check"), ("run", "quickstart")} <= seen
    for line in sorted(set(indented)):
        _, *words = shlex.split(line.partition(" >")[0])
        command = words[:2] if words[0] in ("cluster", "dashboard") else words[:1]
        done = vila(*command, "--help")
        assert done.returncode == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in done.stdout, f"{line}: {option}"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_an_overlay_of_ones_own(tmp_path: Path, where: str) -> None:
    """Copied and changed as the page says: the quota is the copy's, the image the config's."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    copy = tmp_path / "k8s" / "overlays" / "ours" if where == "beside" else tmp_path / "ours"
    shutil.copytree(tmp_path / "k8s" / "overlays" / "gpu-cluster", copy)
    for path in copy.rglob("kustomization.yaml"):
        text = path.read_text()
        if where == "elsewhere":
            text = text.replace("../../../", "../../k8s/").replace("../../base", "../k8s/base")
            text = text.replace("../../components", "../k8s/components")
        path.write_text(text)
    whole = copy / "kustomization.yaml"
    values = yaml.safe_load(whole.read_text())
    operation = {"op": "replace", "path": "/spec/hard/pods", "value": "3"}
    target = {"kind": "ResourceQuota", "name": "vila-services"}
    values["patches"].append({"target": target, "patch": yaml.safe_dump([operation])})
    whole.write_text(yaml.safe_dump(values))
    config = yaml.safe_load((ROOT / "configs" / "clusters" / "gpu-cluster.yaml").read_text())
    config |= {"overlay": str(copy), "images": config["images"] | {"ops": "r.example.org/ops:7"}}
    ours = tmp_path / "ours.yaml"
    ours.write_text(yaml.safe_dump(config))
    done = vila("cluster", "render", str(ours))
    assert done.returncode == 0, done.stderr
    made = {
        (item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)
    }
    assert made["ResourceQuota", "vila-services"]["spec"]["hard"]["pods"] == "3"
    pod = made["Deployment", "vila-dashboard"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "r.example.org/ops:7"
